package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/agentrouter/aikeys/impl/keysetcheck"
	"github.com/agentrouter/aikeys/impl/providers"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/sealer"
)

// fingerprintWindow is how many keys are read at once.
const fingerprintWindow = 500

func (p *program) keysFingerprintCommand() *cobra.Command {
	a := p.newAdmin()
	a.settings = append(databaseSettings(), "sealer", "sealer-old", "sealer-cert", "sealer-key", "sealer-ca")
	a.cfg.Of("db-max-conns").Preset(rewrapConns)
	cmd := &cobra.Command{
		Use:   "fingerprint",
		Short: "Make the fingerprints of keys that have none",
		Long: `Makes the keyed fingerprints of the keys that have none: those that were registered before the service made any, or by a
process that may not open the canary. Without fingerprints, a key that has leaked is not found by its secret, and no
duplicate of it is noticed. The command opens the secret of each such key, and says so in the system trail; at
secrets-svc it needs the right "open".

The service may run at the same time. You can stop the command at any time and run it again.

Exit codes: 0 all keys have fingerprints, 1 it failed or was stopped, 2 the command line or a setting is wrong, 3 all
have but those that can't be read.`,
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

// printFingerprints prints how far it got, and returns err or that some keys can't be read.
func (a *admin) printFingerprints(made, unreadable int, err error) error {
	if said := a.Say("made the fingerprints of %d versions of keys", made); said != nil || err != nil {
		return errors.Join(err, said)
	}
	if unreadable == 0 {
		return nil
	}
	a.exit = exitUnreadable
	return fmt.Errorf("%d versions can't be read, and have none; see: aikeysd check --deep", unreadable)
}
