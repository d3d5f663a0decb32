package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/models"
	modelsdb "github.com/agentrouter/aikeys/models/database"
	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/local"
)

// The variables of aikeysd that name its database.
const (
	databaseVariable     = "AIKEYS_DATABASE_URL"
	databaseFileVariable = "AIKEYS_DATABASE_URL_FILE"
)

// settle is how long services that run may take to read a keyset again, and to end a seal that had begun before.
const settle = 2 * time.Second

var (
	errNoDatabase = errors.New("whether an envelope needs the key is in aikeysd's database: name it with --database-url or " +
		databaseVariable + ", or say --i-have-checked")
	errNeeded = errors.New("the key is needed")
)

// retirement is what "keys retire" is told besides the key.
type retirement struct {
	databaseURL string
	checked     bool
}

func (p *program) retireKeyCommand() *cobra.Command {
	var r retirement
	return p.newKeyCommand(&cobra.Command{
		Use:   "retire",
		Short: "Take a key out of use that no envelope needs",
		Long: `Retires a key: envelopes sealed with it do not open until "secrets-svc keys enable" brings it back. It is refused
while aikeysd's database holds such an envelope, and for the primary key. The database is counted once more after the
services that run have read the keyset again; what was sealed with the key meanwhile brings the key back at once.

Keep the backups of the keyset for as long as backups of the database: an old database needs its old keys.`,
		Example: `  secrets-svc keys retire --namespace main --id local:5f0c1a2b --database-url sqlite:data/aikeys.db
  AIKEYS_DATABASE_URL_FILE=/run/secrets/database-url secrets-svc keys retire --namespace main --id local:5f0c1a2b`,
	}, keySpec{id: true, flags: func(flags *pflag.FlagSet) {
		flags.StringVar(&r.databaseURL, "database-url", "", "aikeysd's database: `URL` as in its setting of that name ["+databaseVariable+"]")
		flags.BoolVar(&r.checked, "i-have-checked", false, "retire without asking a database, as when several have been asked")
	}, act: func(ctx context.Context, k *keyring) error { return k.retire(ctx, r) }})
}

func (k *keyring) retire(ctx context.Context, r retirement) error {
	if err := k.requireRetirable(); err != nil {
		return err
	}
	databaseURL, err := k.database(r.databaseURL)
	switch {
	case err != nil:
		return err
	case databaseURL == "" && !r.checked:
		return errNoDatabase
	case databaseURL == "":
		err = local.Retire(k.path(), k.id)
	default:
		err = k.retireCounted(ctx, databaseURL)
	}
	if err != nil {
		return err
	}
	k.Note("%s is retired; \"secrets-svc keys enable --namespace %s --id %s\" brings it back", k.id, k.namespace, k.id)
	return nil
}

func (k *keyring) requireRetirable() error {
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
	}
	return nil
}

// database is the URL of the database to ask; empty when none is given.
func (k *keyring) database(flag string) (string, error) {
	if flag != "" {
		if mayHoldPassword(flag) {
			return "", cli.Usagef("--database-url: every user of this machine can see it in the process list, so it may hold no password; use %s, or a file and %s",
				databaseVariable, databaseFileVariable)
		}
		return flag, nil
	}
	file := k.Getenv(databaseFileVariable)
	if file == "" {
		return k.Getenv(databaseVariable), nil
	}
	content, err := os.ReadFile(file)
	if err != nil {
		return "", cli.Usagef("%s: %s", databaseFileVariable, err)
	}
	return strings.TrimSpace(string(content)), nil
}

// mayHoldPassword errs on the safe side: what can't be read may hold one.
func mayHoldPassword(databaseURL string) bool {
	u, err := url.Parse(databaseURL)
	if err != nil {
		return true
	}
	_, inUser := u.User.Password()
	return inUser || u.Query().Has("password") || u.Query().Has("sslpassword")
}

// retireCounted retires the key between two counts. A service that has not read the keyset again may still seal with the
// key after the first one; the second finds that out, and nothing is lost.
func (k *keyring) retireCounted(ctx context.Context, databaseURL string) (err error) {
	if path, ok := strings.CutPrefix(databaseURL, "sqlite:"); ok {
		if _, err := os.Stat(path); err != nil { // to open it would make it
			if errors.Is(err, fs.ErrPermission) {
				err = fmt.Errorf("%w; run \"aikeysd check\" as a user who may; if it counts no key under %s, say --i-have-checked in place of the URL", err, k.id)
			}
			return fmt.Errorf("database: %w", err)
		}
	}
	store, err := modelsdb.Open(databaseURL, models.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	if err := k.requireUnneeded(ctx, store); err != nil {
		return err
	}
	if err := local.Retire(k.path(), k.id); err != nil {
		return err
	}
	select {
	case <-time.After(settle):
		err = k.requireUnneeded(ctx, store)
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		return errors.Join(fmt.Errorf("it is enabled again: %w", err), local.Enable(k.path(), k.id))
	}
	return nil
}

// requireUnneeded returns errNeeded, with a count, while envelopes of the database are sealed with the key.
func (k *keyring) requireUnneeded(ctx context.Context, store *models.Store) error {
	counts, err := store.KeysByKEK(ctx)
	if err != nil {
		return err
	}
	if n := counts[k.id]; n > 0 {
		return fmt.Errorf("%w: %d of the database's keys are sealed with %s; run \"aikeysd rewrap\" first", errNeeded, n, k.id)
	}
	canary, err := store.Canary(ctx)
	if err != nil && !errors.Is(err, models.ErrNotFound) {
		return err
	}
	if err == nil && canary.KEKID == k.id {
		return fmt.Errorf("%w: the database's canary is sealed with %s; run \"aikeysd rewrap\" first", errNeeded, k.id)
	}
	return nil
}
