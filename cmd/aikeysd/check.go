package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/impl/keysetcheck"
	"github.com/agentrouter/aikeys/impl/telemetry"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/sealer"
)

func (p *program) checkCommand() *cobra.Command {
	cfg := newConfig()
	var asked checkRequest
	cmd := &cobra.Command{
		Use:     "check",
		Short:   "Check settings, database, schema, keyset, keys and issuer",
		GroupID: groupOperate,
		Args:    cli.NoArguments(),
		Long: `Checks that the settings are sound, that the database answers and its schema is current, that the keyset opens this
database, and that the OpenID Connect issuer, if there is one, can be read. It makes neither database nor keyset, and
may run beside the service.

For each key-encryption key (KEK) it tells the state (primary, enabled, retired, or unknown to the sealer) and counts
the keys under it: "current", "old_kek", which "aikeysd rewrap" puts under the primary one, or "unreadable". It goes by
what the keys' rows say; with --deep it unwraps each data key for a try, and lists the keys that can't be read. That
opens no secret unless --sealer-old is given, and so does not find a changed ciphertext. With --keys it lists a
project's keys and how each is sealed. At secrets-svc it needs "open" and "status", and "rewrap" for --deep.

"not yet" is what the first start of "aikeysd serve" will make: a SQLite database, or a keyset for a database that has
none. If you expected it to be there, look at its path.

Exits with 1 if a check fails, or a key can't be read.`,
		Example: `  aikeysd check
  aikeysd check --deep
  aikeysd check --keys --customer acme --project chat -o json
  aikeysd check --database-url postgres://aikeys@db.internal/aikeys --sealer local:/etc/aikeys/keyset.json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := errors.Join(asked.check(), cfg.loadToServe(p.Environ)); err != nil {
				return err
			}
			return p.check(cmd.Context(), cfg, asked)
		},
	}
	asked.addFlags(cmd.Flags())
	cfg.AddFlags(cmd.Flags())
	return cmd
}

var (
	// errChecks says that a check failed; the table says which.
	errChecks = errors.New("a check failed; see the table")
	// errNotYet and errSkipped are no failures: serve will make what is missing, and what it takes to check is missing.
	errNotYet  = errors.New("is not there yet: serve will make it")
	errSkipped = errors.New("not checked: see above")
)

func (p *program) check(ctx context.Context, cfg *config, asked checkRequest) error {
	c := &checker{program: p, cfg: cfg, asked: asked}
	defer c.close()
	var report checkReport
	failed := false
	for _, step := range []struct {
		name string
		run  func(context.Context) (detail string, err error)
	}{
		{"settings", c.settings}, {"database", c.database}, {"schema", c.schema}, {"keyset", c.keyset}, {"keys", c.keys},
		{"issuer", c.issuer},
	} {
		detail, err := step.run(ctx)
		result := "ok"
		switch {
		case errors.Is(err, errNotYet):
			result, detail = "not yet", err.Error()
		case errors.Is(err, errSkipped):
			result, detail = "-", err.Error()
		case err != nil:
			result, detail, failed = "FAILED", cli.OneLine(err.Error()), true
		}
		report.Checks = append(report.Checks, checkResult{step.name, result, detail})
	}
	report.sealReport = c.seals
	if err := report.print(p, asked); err != nil {
		return err
	}
	if failed {
		return errChecks
	}
	return nil
}

// checker holds what one check leaves for the next.
type checker struct {
	*program
	cfg    *config
	asked  checkRequest
	seals  sealReport    // what the keys are sealed with
	store  *models.Store // nil unless the database answers
	fresh  bool          // whether serve will make the database
	ready  bool          // whether its schema is current
	sealer sealer.Sealer // nil unless the keyset fits
	// closers undo what was opened; nothing was written, so their errors tell nothing.
	closers []func() error
}

func (c *checker) close() {
	for _, closeOne := range c.closers {
		_ = closeOne()
	}
	if c.store != nil {
		_ = c.store.Close() // nothing was written
	}
}

// settings have been loaded; what is left are the variables of others.
func (c *checker) settings(context.Context) (string, error) {
	if _, err := telemetry.Endpoint(c.Getenv); err != nil {
		return "", err
	}
	return "public API on " + c.cfg.Listen + ", data-plane API on " + c.cfg.DataplaneListen + ", ops on " + c.cfg.OpsListen, nil
}

func (c *checker) database(ctx context.Context) (_ string, err error) {
	name := databaseName(c.cfg.DatabaseURL)
	if c.fresh, err = databaseMissing(c.cfg.DatabaseURL); err != nil {
		return "", err
	}
	if c.fresh {
		return "", fmt.Errorf("%s %w", name, errNotYet)
	}
	store, err := models.Open(c.cfg.DatabaseURL, models.Options{MaxConns: 2})
	if err != nil {
		return "", err
	}
	began := time.Now()
	if err := store.Ping(ctx); err != nil {
		return "", errors.Join(unreachable(c.cfg, err), store.Close())
	}
	c.store = store
	return fmt.Sprintf("%s answers, in %s", name, time.Since(began).Round(time.Microsecond)), nil
}

func (c *checker) schema(ctx context.Context) (string, error) {
	if c.store == nil {
		return "", errSkipped
	}
	steps, err := c.store.Migrations(ctx)
	if err != nil {
		return "", err
	}
	if pending := pendingOf(steps); pending > 0 {
		return "", fmt.Errorf("%w: it lacks %s; run: aikeysd migrate up%s", errPending, migrations(pending), c.cfg.databaseFlags())
	}
	c.ready = true
	return "current, with " + migrations(len(steps)), nil
}

func (c *checker) keyset(ctx context.Context) (string, error) {
	if !c.ready && !c.fresh {
		return "", errSkipped
	}
	bound, err := c.bound(ctx)
	if err != nil {
		return "", err
	}
	if err := c.findKeyset(bound); err != nil {
		return "", err
	}
	opened, closeSealer, err := c.cfg.openSealer(slog.New(slog.DiscardHandler))
	if err != nil {
		return "", err
	}
	c.closers = append(c.closers, closeSealer)
	if bound {
		err = keysetcheck.New(c.store, opened).Check(ctx)
	} else {
		_, err = opened.PrimaryKEK(ctx)
	}
	if err != nil {
		return "", unreachableSealer(c.cfg, err)
	}
	c.sealer = opened
	if !bound {
		return c.cfg.sealerName() + " is sound; the database is bound to no keyset yet, the first start of serve binds it", nil
	}
	return c.cfg.sealerName() + " opens this database", nil
}

// findKeyset looks for the file of a local sealer, which opening it would make.
func (c *checker) findKeyset(bound bool) error {
	path, isFile := c.cfg.keysetPath()
	if !isFile {
		return nil
	}
	switch missing, err := fileMissing(path); {
	case err != nil:
		return fmt.Errorf("keyset: %w", err)
	case missing && bound && len(c.cfg.SealerOld) == 0:
		return fmt.Errorf("there is no keyset at %s, and the database is bound to one: put that one there, or its backup", absolute(path))
	case missing:
		return fmt.Errorf("%s %w", absolute(path), errNotYet)
	}
	return nil
}

// bound tells whether the database is bound to a keyset. It asks for the canary itself: its keeper would make one.
func (c *checker) bound(ctx context.Context) (bool, error) {
	if c.fresh {
		return false, nil
	}
	_, err := c.store.Canary(ctx)
	if errors.Is(err, models.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

func (c *checker) issuer(ctx context.Context) (string, error) {
	issuer, err := c.cfg.oidc()
	if err != nil {
		return "", err
	}
	if issuer == nil {
		return "none is configured: API keys alone open sessions", nil
	}
	if err := issuer.Probe(ctx); err != nil {
		return "", err
	}
	return c.cfg.OIDCIssuer + " answers", nil
}
