package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/models"
)

func (p *program) keysCommand() *cobra.Command {
	return cli.Group(&cobra.Command{
		Use:     "keys",
		Short:   "Find out whether a key-encryption key is in use; make fingerprints",
		GroupID: groupOperate,
		Long: `Answers questions about the key-encryption keys (KEKs) under which the database's secrets are sealed. The KEKs
themselves are managed with "secrets-svc keys". Or makes the fingerprints by which leaked secrets are found.`,
		Example: `  aikeysd keys in-use --kek local:5f0c1a2b
  aikeysd keys fingerprint`,
	}, p.keysInUseCommand(), p.keysFingerprintCommand())
}

func (p *program) keysInUseCommand() *cobra.Command {
	var kek string
	cmd := &cobra.Command{
		Use:   "in-use",
		Short: "Count the envelopes that need a key-encryption key",
		Long: `Counts the envelopes in the database that are sealed under a key-encryption key (KEK), and prints the number: those of
provider keys, active and revoked, and the canary that binds the database to its keyset. None of them could be opened
without that KEK.

Run it before "secrets-svc keys retire": a KEK that the database needs must not be retired. If the count is above 0, run
"aikeysd rewrap" and count again. After the primary KEK has changed, wait two seconds before you count: until then, a
running service may still seal under the old one. The command reads only the database, and needs no keyset.

If several databases are sealed under the KEK, run it for each of them.

Exit codes: 0 no envelope needs the KEK, 1 some do or it failed, 2 the command line or a setting is wrong.`,
		Example: `  aikeysd keys in-use --kek local:5f0c1a2b
  AIKEYS_DATABASE_URL_FILE=/run/secrets/database-url aikeysd keys in-use --kek local:5f0c1a2b`,
	}
	a := p.newAdmin()
	cmd.Flags().StringVar(&kek, "kek", "", "`id` of the key-encryption key, as \"aikeysd check\" and \"secrets-svc keys list\" show it (required)")
	return a.command(cmd, func() error {
		if kek == "" {
			return cli.Usagef("--kek: is required")
		}
		return nil
	}, func(ctx context.Context) error {
		keys, err := a.store.KeysByKEK(ctx)
		if err != nil {
			return err
		}
		needed := keys[kek]
		canary, err := a.store.Canary(ctx)
		if err != nil && !errors.Is(err, models.ErrNotFound) {
			return err
		}
		if err == nil && canary.KEKID == kek {
			needed++
		}
		if err := a.Say("%d envelopes need %s", needed, kek); err != nil || needed == 0 {
			return err
		}
		return fmt.Errorf("%s is in use in %s; before you retire it, run: aikeysd rewrap%s", kek, databaseName(a.cfg.DatabaseURL), a.cfg.databaseFlags())
	})
}
