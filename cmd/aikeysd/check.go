package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/impl/canary"
	"github.com/agentrouter/aikeys/impl/tracing"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/local"
)

func (p *program) checkCommand() *cobra.Command {
	cfg := newConfig()
	cmd := &cobra.Command{
		Use:     "check",
		Short:   "Check settings, database, schema, keyset and issuer",
		GroupID: groupOperate,
		Args:    cli.NoArguments(),
		Long: `Checks that the settings are sound, that the database answers and its schema is current, that the keyset opens this
database, and that the OpenID Connect issuer, if there is one, can be read. It also counts the keys that are sealed with
the current key-encryption key and with others. It makes neither database nor keyset, and may run beside the service.

"not yet" is what the first start of "aikeysd serve" will make: a SQLite database, or a keyset for a database that has
none. If you expected it to be there, look at its path.

Exits with 1 if a check fails.`,
		Example: `  aikeysd check
  aikeysd check --database-url postgres://aikeys@db.internal/aikeys --sealer local:/etc/aikeys/keyset.json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := cfg.loadToServe(p.Environ); err != nil {
				return err
			}
			return p.check(cmd.Context(), cfg)
		},
	}
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

func (p *program) check(ctx context.Context, cfg *config) error {
	c := &checker{program: p, cfg: cfg}
	defer c.close()
	table := p.NewTable("CHECK", "RESULT", "DETAIL")
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
		table.Row(step.name, result, detail)
	}
	if err := table.Flush(); err != nil {
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
	store  *models.Store // nil unless the database answers
	fresh  bool          // whether serve will make the database
	ready  bool          // whether its schema is current
	sealer sealer.Sealer // nil unless the keyset fits
}

func (c *checker) close() {
	if c.store != nil {
		_ = c.store.Close() // nothing was written
	}
}

// settings have been loaded; what is left are the variables of others.
func (c *checker) settings(context.Context) (string, error) {
	if _, err := tracing.Endpoint(c.Getenv); err != nil {
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
	path := absolute(c.cfg.keysetPath())
	switch missing, err := fileMissing(path); {
	case err != nil:
		return "", fmt.Errorf("keyset: %w", err)
	case missing && bound:
		return "", fmt.Errorf("there is no keyset at %s, and the database is bound to one: put that one there, or its backup", path)
	case missing:
		return "", fmt.Errorf("%s %w", path, errNotYet)
	}
	keyset, err := local.Open(path)
	if err != nil {
		return "", err
	}
	if bound {
		if _, err := canary.New(c.store, keyset).Value(ctx); err != nil {
			return "", err
		}
	}
	c.sealer = keyset
	if !bound {
		return path + " is sound; the database is bound to no keyset yet, the first start of serve binds it", nil
	}
	return path + " opens this database", nil
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

func (c *checker) keys(ctx context.Context) (string, error) {
	if c.sealer == nil || !c.ready {
		return "", errSkipped
	}
	primary, err := c.sealer.PrimaryKEK(ctx)
	if err != nil {
		return "", err
	}
	counts, err := c.store.KeysByKEK(ctx)
	if err != nil {
		return "", err
	}
	var other int64
	for kek, keys := range counts {
		if kek != primary {
			other += keys
		}
	}
	return fmt.Sprintf("%d sealed with the current key-encryption key (%s), %d with others", counts[primary], primary, other), nil
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
