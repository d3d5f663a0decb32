package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/local"
)

func (p *program) retireKeyCommand() *cobra.Command {
	var checked bool
	return p.newKeyCommand(&cobra.Command{
		Use:   "retire",
		Short: "Take a key out of use that no envelope needs",
		Long: `Retires a key: envelopes sealed with it do not open until "secrets-svc keys enable" brings it back. The primary
key can't be retired.

The envelopes are in aikeysd's database, which this program never opens. So ask aikeysd first how many envelopes still
need the key, once for each database whose keys this namespace seals:

  aikeysd keys in-use --kek local:5f0c1a2b

If the answer is 0, retire the key with --i-have-checked. Ask once more two seconds later, when every service has
read the keyset again: a service may have sealed with the key until then. If the answer is no longer 0, enable the key.

Keep the backups of the keyset for as long as backups of the database: an old database needs its old keys.`,
		Example: "  secrets-svc keys retire --namespace main --id local:5f0c1a2b --i-have-checked",
	}, keySpec{id: true, flags: func(flags *pflag.FlagSet) {
		flags.BoolVar(&checked, "i-have-checked", false, "confirm that \"aikeysd keys in-use\" counted 0")
	}, act: func(_ context.Context, k *keyring) error { return k.retire(checked) }})
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
	k.Note("%s is retired; \"secrets-svc keys enable --namespace %s --id %s\" brings it back", k.id, k.namespace, k.id)
	k.Note("in two seconds, run once more: aikeysd keys in-use --kek %s; enable the key if it no longer counts 0", k.id)
	return nil
}
