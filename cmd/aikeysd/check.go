package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/agentrouter/aikeys/impl/canary"
	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/impl/tracing"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/local"
)

func (p *program) checkCommand() *cobra.Command {
	cfg := newSettings()
	cmd := &cobra.Command{
		Use:     "check",
		Short:   "Check settings, database, schema and keyset",
		GroupID: groupOperate,
		Args:    cobra.NoArgs,
		Long: `Checks that the service could start with these settings: that they are sound, that the database answers and its
schema is current, and that the keyset opens this database. It also counts the keys that are sealed with the current
key-encryption key and with others. It makes neither database nor keyset, and may run beside the service.

Exits with 1 if a check fails.`,
		Example: `  aikeysd check
  aikeysd check --database-url postgres://aikeys@db.internal/aikeys --sealer local:/etc/aikeys/keyset.json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := cfg.load(p.environ); err != nil {
				return err
			}
			return p.check(cmd.Context(), cfg)
		},
	}
	cfg.addFlags(cmd.Flags())
	return cmd
}

// errChecks says that a check failed; the table says which.
var errChecks = errors.New("a check failed; see the table")

func (p *program) check(ctx context.Context, cfg *settings) error {
	c := &checker{program: p, cfg: cfg}
	table := p.newTable("CHECK", "RESULT", "DETAIL")
	defer c.close()
	steps := []struct {
		name string
		run  func(context.Context) (detail string, err error)
	}{
		{"settings", c.settings}, {"database", c.database}, {"schema", c.schema}, {"keyset", c.keyset}, {"keys", c.keys},
	}
	failed := false
	for _, step := range steps {
		if failed {
			table.row(step.name, "-", "not checked: see above")
			continue
		}
		detail, err := step.run(ctx)
		if failed = err != nil; failed {
			table.row(step.name, "FAILED", oneLine(err.Error()))
			continue
		}
		table.row(step.name, "ok", detail)
	}
	if err := table.flush(); err != nil {
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
	cfg    *settings
	store  *models.Store
	sealer sealer.Sealer
}

func (c *checker) close() {
	if c.store != nil {
		_ = c.store.Close() // nothing was written
	}
}

// settings have been loaded; what is left are the files that they name, and the variables of others.
func (c *checker) settings(context.Context) (string, error) {
	if _, err := tracing.Endpoint(c.getenv); err != nil {
		return "", err
	}
	if c.cfg.TLSCert != "" {
		if _, err := httpapi.LoadCertificates(c.cfg.TLSCert, c.cfg.TLSKey, nil); err != nil {
			return "", err
		}
	}
	return "public API on " + c.cfg.Listen + ", ops on " + c.cfg.OpsListen, nil
}

func (c *checker) database(ctx context.Context) (_ string, err error) {
	if err := requireFile(c.cfg.DatabaseURL); err != nil {
		return "", err
	}
	if c.store, err = models.Open(c.cfg.DatabaseURL, models.Options{MaxConns: 2}); err != nil {
		return "", err
	}
	began := time.Now()
	if err := c.store.Ping(ctx); err != nil {
		return "", unreachable(c.cfg, err)
	}
	return fmt.Sprintf("%s answers, in %s", databaseName(c.cfg.DatabaseURL), time.Since(began).Round(time.Microsecond)), nil
}

func (c *checker) schema(ctx context.Context) (string, error) {
	steps, err := c.store.Migrations(ctx)
	if err != nil {
		return "", err
	}
	if pending := pendingOf(steps); pending > 0 {
		return "", fmt.Errorf("%w: it lacks %s; run: aikeysd migrate up", errPending, migrations(pending))
	}
	return "current, with " + migrations(len(steps)), nil
}

func (c *checker) keyset(ctx context.Context) (_ string, err error) {
	path := c.cfg.keysetPath()
	if _, err := os.Stat(path); err != nil {
		return "", missing(err, "keyset", path)
	}
	if c.sealer, err = local.Open(path); err != nil {
		return "", err
	}
	switch _, err := c.store.Canary(ctx); { // the keeper would make one
	case errors.Is(err, models.ErrNotFound):
		return "sound; the database is bound to no keyset yet, the first start of serve binds it", nil
	case err != nil:
		return "", err
	}
	if _, err := canary.New(c.store, c.sealer).Value(ctx); err != nil {
		return "", err
	}
	return path + " opens this database", nil
}

func (c *checker) keys(ctx context.Context) (string, error) {
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
