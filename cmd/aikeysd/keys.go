package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/impl/keysetcheck"
	"github.com/agentrouter/aikeys/impl/providers"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/sealer"
)

func (p *program) keysCommand() *cobra.Command {
	return cli.Group(&cobra.Command{
		Use:     "keys",
		Short:   "Find out whether a key-encryption key is in use; make fingerprints",
		GroupID: groupOperate,
		Long: `Answers questions about the key-encryption keys (KEKs) under which the database's secrets are sealed. The KEKs
themselves are managed with "secrets-svc keys". Also makes the fingerprints by which leaked secrets are found.`,
		Example: `  aikeysd keys in-use --kek local:5f0c1a2b
  aikeysd keys fingerprint`,
	}, p.keysInUseCommand(), p.keysFingerprintCommand())
}

func (p *program) keysInUseCommand() *cobra.Command {
	var kek string
	cmd := &cobra.Command{
		Use:   "in-use",
		Short: "Count the envelopes that need a key-encryption key",
		Long: `Counts the envelopes in the database that are sealed under a key-encryption key (KEK), and prints the number. It counts
the envelopes of provider keys, active and revoked, and of the canary, which binds the database to its keyset. None of
these envelopes opens without that KEK.

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

// fingerprintWindow is how many keys are read at once.
const fingerprintWindow = 500

func (p *program) keysFingerprintCommand() *cobra.Command {
	a := p.newAdmin()
	a.settings = append(databaseSettings(), "sealer", "sealer-old", "sealer-cert", "sealer-key", "sealer-ca")
	a.cfg.Of("db-max-conns").Preset(rewrapConns)
	cmd := &cobra.Command{
		Use:   "fingerprint",
		Short: "Make the fingerprints of keys that have none",
		Long: `Makes keyed fingerprints for the keys that have none. These keys were registered before the service made fingerprints,
or by a process that may not open the canary. A leaked key without fingerprints is not found by its secret, and its
duplicates are not noticed. The command opens the secret of each such key, and records that in the system trail. With
secrets-svc, it needs the right "open".

The service may run at the same time. You can stop the command at any time and run it again.

Exit codes: 0 all keys have fingerprints, 1 it failed or was stopped, 2 the command line or a setting is wrong, 3 all
keys have fingerprints except those that can't be read.`,
		Example: `  aikeysd keys fingerprint
  aikeysd keys fingerprint --sealer secrets+unix:/run/secrets-svc/api.sock`,
	}
	return a.command(cmd, func() error { return nil }, func(ctx context.Context) error {
		return a.withSealer(func(s sealer.Sealer) error { return a.makeFingerprints(ctx, s) })
	})
}

func (a *admin) makeFingerprints(ctx context.Context, s sealer.Sealer) error {
	checker := keysetcheck.New(a.store, s, keysetcheck.OpenOnly)
	if err := checker.Check(ctx); err != nil {
		return err
	}
	key, err := checker.Fingerprints(ctx)
	if err != nil {
		return err
	}
	catalogue, err := providers.Load()
	if err != nil {
		return err
	}
	start := models.SystemEvent{Type: models.EventFingerprintsMade, After: models.StateInJSON(map[string]string{"sealer": a.cfg.sealerName()})}
	if err := a.store.RecordSystemEvent(ctx, start); err != nil {
		return err
	}
	made, unreadable := 0, 0
	for after := ""; ; {
		keys, err := a.store.SealedKeys(ctx, after, fingerprintWindow)
		if err != nil || len(keys) == 0 {
			return a.printFingerprints(made, unreadable, err)
		}
		after = keys[len(keys)-1].ID
		without, err := a.store.WithoutFingerprints(ctx, keys)
		if err != nil {
			return a.printFingerprints(made, unreadable, err)
		}
		for _, k := range without {
			switch err := a.makeFingerprint(ctx, s, key, catalogue, k); {
			case errors.Is(err, sealer.ErrUnknownKEK), errors.Is(err, sealer.ErrBinding), errors.Is(err, sealer.ErrMalformed), errors.Is(err, sealer.ErrInvalidBinding):
				unreadable++
			case err != nil:
				return a.printFingerprints(made, unreadable, err)
			default:
				made++
			}
		}
	}
}

// makeFingerprint opens a version of a key, and stores its fingerprints.
func (a *admin) makeFingerprint(ctx context.Context, s sealer.Sealer, key keysetcheck.FingerprintKey, catalogue *providers.Catalogue, k models.Key) error {
	opened, err := s.Open(ctx, sealer.Binding{
		CustomerID: k.CustomerID, ProjectID: k.ProjectID, KeyID: k.ID, Provider: sealer.ProviderAt(k.Provider, k.Destination), Version: k.Version,
	}, k.Envelope)
	if err != nil {
		return err
	}
	defer opened.Wipe()
	secret := string(opened.Reveal())
	if secret == providers.NoSecret {
		return nil
	}
	provider, _ := catalogue.Lookup(k.Provider) // a customer's own server takes no credential with fields
	made, err := key.Of(k.CustomerID, provider.SecretParts(secret)...)
	if err != nil {
		return err
	}
	return a.store.Transact(ctx, func(tx *models.Tx) error { return tx.AddFingerprints(k.CustomerID, k.ID, k.Version, made) })
}

// printFingerprints prints how many fingerprints were made. It returns err, or an error if some keys can't be read.
func (a *admin) printFingerprints(made, unreadable int, err error) error {
	if said := a.Say("made the fingerprints of %d versions of keys", made); said != nil || err != nil {
		return errors.Join(err, said)
	}
	if unreadable == 0 {
		return nil
	}
	a.exit = exitUnreadable
	return fmt.Errorf("%d versions can't be read, and have no fingerprints; see: aikeysd check --deep", unreadable)
}
