package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/impl/secrets"
	"github.com/agentrouter/aikeys/internal/lifecycle"
	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/local"
)

func (p *program) keysCommand() *cobra.Command {
	return cli.Group(&cobra.Command{
		Use:   "keys",
		Short: "Create, list, promote, retire and enable key-encryption keys",
		Long: `Manages the key-encryption keys (KEKs) of namespaces. The commands change keyset files. A running service reads them
again within a second, so no restart is needed. No key is ever deleted.

A rotation has two steps, because every service that may get an envelope must have the key that wraps it. First create
the new key, and copy the keyset to every machine that has the namespace. Then make the key primary everywhere. After
that, re-wrap what is sealed with the old key ("aikeysd rewrap"), and retire the old key.

Run these commands as the service's user. Each change adds a line with the operator to the audit log, or to standard
error if the audit log is not a file.`,
		Example: `  secrets-svc keys create --namespace main
  secrets-svc keys list
  secrets-svc keys primary --namespace main --id local:5f0c1a2b`,
	}, p.createKeyCommand(), p.listKeysCommand(), p.primaryKeyCommand(), p.enableKeyCommand(), p.retireKeyCommand())
}

// keyring is the target of a command on keys: the namespace and the key.
type keyring struct {
	*program
	cfg       *config
	namespace string
	id        string
}

func (k *keyring) path() string { return keysetPath(k.cfg.Keys, k.namespace) }

// missing reports whether the namespace has no keyset.
func (k *keyring) missing() bool {
	_, err := os.Stat(k.path())
	return errors.Is(err, fs.ErrNotExist)
}

// keySpec describes a command on keys.
type keySpec struct {
	readsOnly bool // changes nothing, and lists all namespaces without --namespace
	id        bool // takes the id of a key
	act       func(k *keyring) error
}

func (p *program) newKeyCommand(cmd *cobra.Command, spec keySpec) *cobra.Command {
	k := &keyring{program: p, cfg: newConfig()}
	cmd.Args = cli.NoArguments("--namespace", "--id")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := k.load(spec); err != nil {
			return err
		}
		if err := cli.HideMemory(); err != nil {
			return err
		}
		if spec.readsOnly {
			return k.explain(spec.act(k))
		}
		return k.actRecorded(cmd, spec.act)
	}
	k.cfg.AddFlags(cmd.Flags(), "keys")
	if !spec.readsOnly {
		k.cfg.AddFlags(cmd.Flags(), "audit-log")
	}
	cmd.Flags().StringVar(&k.namespace, "namespace", "", "`name` of the namespace in the clients file")
	if spec.id {
		cmd.Flags().StringVar(&k.id, "id", "", "`id` of the key, as \"secrets-svc keys list\" prints it")
	}
	return cmd
}

// actRecorded changes the keyset, and adds a line with the operator to the audit log. If it can't open the log, it changes nothing. If
// the log is standard output, which gets the command's result, the line goes to standard error.
func (k *keyring) actRecorded(cmd *cobra.Command, act func(k *keyring) error) (err error) {
	var closers lifecycle.Closers
	audit, err := k.cfg.openAudit(k.Stderr, &closers)
	if err != nil {
		return fmt.Errorf("%w; nothing was changed", err)
	}
	defer func() { err = errors.Join(err, closers.Close()) }()
	before, _ := local.List(k.path()) // empty without a keyset; act reports any other error
	err = k.explain(act(k))
	after, lost := local.List(k.path())
	if lost == nil && slices.Equal(before, after) {
		return err
	}
	if lost == nil {
		lost = audit.KeysChanged(context.WithoutCancel(cmd.Context()), cli.Operator(k.Getenv), cmd.CommandPath(), k.namespace, k.id, before, after)
	}
	if lost != nil {
		lost = fmt.Errorf("%s of namespace %s was changed, and the audit log does not have it: %w", k.id, k.namespace, lost)
	}
	return errors.Join(err, lost)
}

func (k *keyring) load(spec keySpec) error {
	err := k.cfg.Read(k.Environ)
	switch {
	case k.namespace == "" && !spec.readsOnly:
		err = errors.Join(err, cli.Usagef("--namespace: is required"))
	case k.namespace != "" && !secrets.IsNamespace(k.namespace):
		err = errors.Join(err, cli.Usagef("--namespace: must be 1 to 64 characters a-z, 0-9, - and _"))
	}
	if spec.id && k.id == "" {
		err = errors.Join(err, cli.Usagef("--id: is required; \"secrets-svc keys list\" prints the ids"))
	}
	return err
}

// explain adds advice for the operator to an error.
func (k *keyring) explain(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist) && k.namespace == "":
		return fmt.Errorf("%w; the first \"secrets-svc keys create\" creates it", err)
	case errors.Is(err, fs.ErrNotExist) && k.missing():
		return fmt.Errorf("%w; create a keyset with \"secrets-svc keys create --namespace %s\", or restore a backup", err, k.namespace)
	case errors.Is(err, local.ErrInsecureFile):
		return fmt.Errorf("%w; or run this command as the user of the service", err)
	case errors.Is(err, sealer.ErrUnknownKEK):
		return fmt.Errorf("%w; \"secrets-svc keys list --namespace %s\" prints the ids", err, k.namespace)
	}
	return err
}

func (p *program) createKeyCommand() *cobra.Command {
	var primary bool
	cmd := p.newKeyCommand(&cobra.Command{
		Use:   "create",
		Short: "Create a key, and make it primary if it is the first",
		Long: `Adds a new key to a namespace, and prints only its id on standard output. The first key of a namespace is primary. A
later key is primary only with --primary; use that only if the keyset is on a single machine. With several machines,
first copy the keyset to all of them; then use "secrets-svc keys primary" on one, and copy the keyset to all again.

Back up the keyset before anything is sealed with the key. Keep the backup apart from the database.`,
		Example: `  secrets-svc keys create --namespace main
  secrets-svc keys create --namespace main --primary`,
	}, keySpec{act: func(k *keyring) error { return k.create(primary) }})
	cmd.Flags().BoolVar(&primary, "primary", false, "make it primary at once")
	return cmd
}

func (k *keyring) create(primary bool) error {
	first := k.missing()
	id, err := local.AddKEK(k.path())
	if err != nil {
		return err
	}
	k.id = id
	if primary {
		if err := local.SetPrimary(k.path(), id); err != nil {
			return err
		}
	}
	keks, err := local.List(k.path())
	if err != nil {
		return err
	}
	if first {
		k.Note("created a new keyset. If namespace %s had one before, restore its backup instead: the new one can't open what the old one sealed", k.namespace)
	}
	k.Note("back up %s now, apart from the database: without it, nothing opens that this key seals", k.path())
	if keks[0].ID == id {
		k.Note("%s is primary: it seals from now on", id)
	} else {
		k.Note("%s is enabled. Once every machine with this namespace has it: secrets-svc keys primary --namespace %s --id %s",
			id, k.namespace, id)
	}
	return k.Say("%s", id)
}

func (p *program) listKeysCommand() *cobra.Command {
	return p.newKeyCommand(&cobra.Command{
		Use:   "list",
		Short: "List the keys of a namespace, or of all",
		Long: `Lists the ids and states of keys. A primary key seals and opens, an enabled one opens what it has sealed, and a retired one
does nothing. The keys themselves are never shown.`,
		Example: "  secrets-svc keys list\n  secrets-svc keys list --namespace main",
	}, keySpec{readsOnly: true, act: (*keyring).list})
}

func (k *keyring) list() error {
	names := []string{k.namespace}
	if k.namespace == "" {
		var err error
		if names, err = namespacesIn(k.cfg.Keys); err != nil {
			return err
		}
	}
	table := k.NewTable("NAMESPACE", "ID", "STATE")
	for _, name := range names {
		keks, err := local.List(keysetPath(k.cfg.Keys, name))
		if err != nil {
			return err
		}
		for _, kek := range keks {
			table.Row(name, kek.ID, string(kek.State))
		}
	}
	return table.Flush()
}

// namespacesIn returns the namespaces that have a keyset in a folder.
func namespacesIn(folder string) ([]string, error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, fmt.Errorf("folder of keysets: %w", err)
	}
	var names []string
	for _, entry := range entries {
		if name, ok := strings.CutSuffix(entry.Name(), ".json"); ok && secrets.IsNamespace(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

func (p *program) primaryKeyCommand() *cobra.Command {
	return p.newKeyCommand(&cobra.Command{
		Use:   "primary",
		Short: "Make a key primary, so that it seals",
		Long: `Makes a key primary, so that it seals from now on. The former primary key stays enabled, and opens what it has sealed.
Every machine with this namespace must already have the key.`,
		Example: "  secrets-svc keys primary --namespace main --id local:5f0c1a2b",
	}, keySpec{id: true, act: func(k *keyring) error {
		if err := local.SetPrimary(k.path(), k.id); err != nil {
			return err
		}
		k.Note("%s is primary; running services use it within a second. Next: aikeysd rewrap", k.id)
		return nil
	}})
}

func (p *program) enableKeyCommand() *cobra.Command {
	return p.newKeyCommand(&cobra.Command{
		Use:     "enable",
		Short:   "Enable a retired key again",
		Long:    "Enables a retired key again: what is sealed with it opens within a second.",
		Example: "  secrets-svc keys enable --namespace main --id local:5f0c1a2b",
	}, keySpec{id: true, act: func(k *keyring) error {
		if err := local.Enable(k.path(), k.id); err != nil {
			return err
		}
		k.Note("%s is enabled; running services open with it within a second", k.id)
		return nil
	}})
}

func (p *program) retireKeyCommand() *cobra.Command {
	var checked bool
	cmd := p.newKeyCommand(&cobra.Command{
		Use:   "retire",
		Short: "Take a key that no envelope needs out of use",
		Long: `Retires a key: envelopes sealed with it do not open until "secrets-svc keys enable" enables it again. The primary key can't
be retired.

The envelopes are in aikeysd's database, which this program never opens. So first ask aikeysd how many envelopes still
need the key, once for each database whose keys this namespace seals:

  aikeysd keys in-use --kek local:5f0c1a2b

If the answer is 0, retire the key with --i-have-checked. Ask again two seconds later: a service may have sealed with
the key until it has read the keyset again. If the answer is no longer 0, enable the key.

Keep backups of the keyset as long as backups of the database: an old database needs its old keys.`,
		Example: "  secrets-svc keys retire --namespace main --id local:5f0c1a2b --i-have-checked",
	}, keySpec{id: true, act: func(k *keyring) error { return k.retire(checked) }})
	cmd.Flags().BoolVar(&checked, "i-have-checked", false, "confirm that \"aikeysd keys in-use\" counted 0")
	return cmd
}

func (k *keyring) retire(checked bool) error {
	keks, err := local.List(k.path())
	if err != nil {
		return err
	}
	i := slices.IndexFunc(keks, func(kek sealer.KEK) bool { return kek.ID == k.id })
	switch {
	case i < 0:
		return fmt.Errorf("%w: %q is not in the keyset", sealer.ErrUnknownKEK, k.id)
	case keks[i].State == sealer.KEKPrimary:
		return local.ErrPrimary
	case !checked:
		return fmt.Errorf("envelopes may need the key; first run: aikeysd keys in-use --kek %s; if it counts 0, add --i-have-checked", k.id)
	}
	if err := local.Retire(k.path(), k.id); err != nil {
		return err
	}
	k.Note("%s is retired; \"secrets-svc keys enable --namespace %s --id %s\" enables it again", k.id, k.namespace, k.id)
	k.Note("in two seconds, run once more: aikeysd keys in-use --kek %s; enable the key if it no longer counts 0", k.id)
	return nil
}
