package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/impl/keysetcheck"
	"github.com/agentrouter/aikeys/impl/rewrap"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/sealer"
)

// exitUnreadable is the exit code of a re-wrap that did all it could, and found keys that can't be read.
const exitUnreadable = 3

const (
	// rewrapRate is the default of --rate: it leaves reads most of their speed where the database shares two processors
	// with the service.
	rewrapRate = 2000
	// rewrapConns is how many connections to Postgres the job holds: it uses one at a time.
	rewrapConns = 2
	// rewrapSettle is longer than a sealer may take to learn of a new primary KEK: ours, and that of a service, which
	// goes on sealing under the old one until then.
	rewrapSettle = 1500 * time.Millisecond
	// dryRunSample is how many envelopes a dry run tries under each KEK.
	dryRunSample = 100
)

var errUnreadableKeys = errors.New("some keys can't be read, and were left as they are; see the list")

func (p *program) rewrapCommand() *cobra.Command {
	cfg := newConfig()
	var (
		rate   int
		dryRun bool
	)
	cmd := &cobra.Command{
		Use:     "rewrap",
		Short:   "Put all keys under the primary key-encryption key, while the service runs",
		GroupID: groupOperate,
		Args:    cli.NoArguments(),
		Long: `Puts every key, revoked ones too, and the canary under the primary key-encryption key: after another one was made
primary, or to move all secrets to another sealer. In the latter case --sealer is where they go and --sealer-old where
they come from, and every aikeysd has to run with both before. Otherwise no secret is opened but for a sample. At
secrets-svc it needs "rewrap" and "status"; to move secrets there, "seal" and "open" as well.

The service may run meanwhile. What is to be done stands in the keys' rows, so the command can be stopped or killed at
any time and run again, and several may run at once. Each new envelope is verified before it is written, and written
only if the key has not changed since. Keys that can't be read are listed at the end and left as they are.

Exit codes: 0 all is under the primary key-encryption key, 1 it failed or was stopped, 2 the command line or a setting
is wrong, 3 all is done but for keys that can't be read.`,
		Example: `  aikeysd rewrap --dry-run
  aikeysd rewrap --rate 500
  aikeysd rewrap --sealer secrets+unix:/run/secrets-svc/api.sock --sealer-old local:/etc/aikeys/keyset.json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			err := cfg.load(p.Environ)
			if rate < 0 {
				err = errors.Join(err, cli.Usagef("--rate: must be a whole number of keys a second, or 0 for no limit"))
			}
			if err == nil {
				err = p.withRewrap(cmd.Context(), cfg, func(store *models.Store, s sealer.Sealer) error {
					job := rewrap.Config{Store: store, Sealer: s, Rate: float64(rate)}
					if dryRun {
						return p.rewrapDryRun(cmd.Context(), job)
					}
					return p.rewrap(cmd.Context(), cfg, job)
				})
			}
			return err
		},
	}
	cmd.Flags().IntVar(&rate, "rate", rewrapRate, "keys to re-wrap each second at the most; 0 sets no limit")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false,
		fmt.Sprintf("write nothing: count what would be done, and try up to %d keys under each key-encryption key", dryRunSample))
	cfg.AddFlags(cmd.Flags(), append(databaseSettings(), sealerSettings()...)...)
	return cmd
}

// sealerSettings are the settings that say where the key-encryption keys are.
func sealerSettings() []string {
	return []string{"sealer", "sealer-old", "sealer-cert", "sealer-key", "sealer-ca"}
}

// withRewrap opens the database and the sealer, neither of which it makes.
func (p *program) withRewrap(ctx context.Context, cfg *config, use func(*models.Store, sealer.Sealer) error) error {
	if err := requireDatabase(cfg.DatabaseURL); err != nil {
		return err
	}
	if path, isFile := cfg.keysetPath(); isFile {
		if missing, err := fileMissing(path); err != nil || missing {
			return errors.Join(err, fmt.Errorf("there is no keyset at %s; \"aikeysd serve\" makes one", absolute(path)))
		}
	}
	opened, closeSealer, err := cfg.openSealer(cli.NewLogger(p.Stderr, cli.LogText, slog.LevelWarn.String()))
	if err != nil {
		return err
	}
	cfg.DBMaxConns = rewrapConns
	err = p.withStore(cfg, func(store *models.Store) error {
		if err := requireSchema(ctx, cfg, store); err != nil {
			return err
		}
		return use(store, opened)
	})
	if errors.Is(err, sealer.ErrUnavailable) {
		err = unreachableSealer(cfg, err)
	}
	return errors.Join(err, closeSealer())
}

func (p *program) rewrap(ctx context.Context, cfg *config, job rewrap.Config) error {
	if len(cfg.SealerOld) > 0 {
		p.Note("moving secrets to %s: every aikeysd must run with it and with %s already, or can't open what has moved",
			cfg.sealerName(), cfg.Of("sealer-old").Variable())
	}
	job.Settle = rewrapSettle
	progress := newRewrapProgress(p.Stderr)
	job.Report = progress.report
	result, err := rewrap.New(job).Run(ctx)
	progress.finish(result.Progress)
	if errors.Is(err, keysetcheck.ErrWrongKEK) {
		return fmt.Errorf("%w; check %s and %s; nothing was changed", err, cfg.Of("sealer").Variable(), cfg.Of("sealer-old").Variable())
	}
	if ctx.Err() != nil {
		return fmt.Errorf("stopped after %s of %d; run it again to go on", keysText(result.Rewrapped), result.Total)
	}
	if err != nil {
		return fmt.Errorf("%w; %s of %d re-wrapped so far, and a second run goes on from there", err, keysText(result.Rewrapped), result.Total)
	}
	return p.rewrapped(ctx, job, result)
}

// rewrapped tells what a job came to, that is over.
func (p *program) rewrapped(ctx context.Context, job rewrap.Config, result rewrap.Result) error {
	inspector, err := rewrap.NewInspector(ctx, job.Store, job.Sealer)
	if err != nil {
		return err
	}
	keks, err := inspector.Count(ctx)
	if err != nil {
		return err
	}
	what := "all that can be read is"
	if len(result.Unreadable) == 0 {
		what = "all keys are"
	}
	if result.Canary {
		what += ", and the canary is,"
	}
	if err := p.Say("re-wrapped %s; %s under %s now", keysText(result.Rewrapped), what, result.Primary); err != nil {
		return err
	}
	if err := newSealReport(known(keks, result.Unreadable), result.Unreadable).print(p, false); err != nil {
		return err
	}
	return p.require(result.Unreadable)
}

// known counts as unreadable what the job found to be so, which the rows don't say.
func known(keks []rewrap.KEKKeys, unreadable []rewrap.Unreadable) []rewrap.KEKKeys {
	for _, u := range unreadable {
		for i := range keks {
			if keks[i].ID == u.KEKID && keks[i].OldKEK > 0 {
				keks[i].OldKEK--
				keks[i].Unreadable++
			}
		}
	}
	return keks
}

// require makes keys that can't be read the exit code.
func (p *program) require(unreadable []rewrap.Unreadable) error {
	if len(unreadable) == 0 {
		return nil
	}
	p.exit = exitUnreadable
	return errUnreadableKeys
}

func (p *program) rewrapDryRun(ctx context.Context, job rewrap.Config) error {
	if err := rewrap.New(job).CheckKeyset(ctx); err != nil {
		return err
	}
	inspector, err := rewrap.NewInspector(ctx, job.Store, job.Sealer)
	if err != nil {
		return err
	}
	keks, err := inspector.Count(ctx)
	if err != nil {
		return err
	}
	tried, unreadable, err := inspector.Sample(ctx, dryRunSample)
	if err != nil {
		return err
	}
	goes, err := p.canaryGoes(ctx, job, inspector.Primary())
	if err != nil {
		return err
	}
	if err := p.Say("a dry run, which writes nothing; %s%s would go under %s", keysText(old(keks)), goes, inspector.Primary()); err != nil {
		return err
	}
	table := p.NewTable("\nKEK", "STATE", "KEYS", "WOULD BE", "TRIED", "UNREADABLE")
	for _, kek := range keks {
		sample := find(tried, kek.ID)
		would := "left as they are"
		switch {
		case kek.OldKEK > 0:
			would = "re-wrapped"
		case kek.Unreadable > 0:
			would = "skipped"
		}
		table.Row(kek.ID, string(kek.State), count(kek.All()), would, count(sample.All()), count(sample.Unreadable))
	}
	if err := errors.Join(table.Flush(), newSealReport(nil, unreadable).printUnreadable(p)); err != nil {
		return err
	}
	return p.require(unreadable)
}

// canaryGoes is what a dry run says of the canary, if it would be re-wrapped.
func (p *program) canaryGoes(ctx context.Context, job rewrap.Config, primary string) (string, error) {
	row, err := job.Store.Canary(ctx)
	switch {
	case errors.Is(err, models.ErrNotFound), err == nil && row.KEKID == primary:
		return "", nil
	case err != nil:
		return "", err
	}
	return " and the canary", nil
}

// find returns what was counted under a KEK, nothing if nothing was.
func find(keks []rewrap.KEKKeys, id string) rewrap.KEKKeys {
	for _, kek := range keks {
		if kek.ID == id {
			return kek
		}
	}
	return rewrap.KEKKeys{}
}

// old counts the keys that are under old KEKs and can be read.
func old(keks []rewrap.KEKKeys) (keys int64) {
	for _, kek := range keks {
		keys += kek.OldKEK
	}
	return keys
}

func keysText(keys int64) string {
	if keys == 1 {
		return "1 key"
	}
	return count(keys) + " keys"
}

func count(n int64) string { return strconv.FormatInt(n, 10) }
