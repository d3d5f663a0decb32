package main

import (
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/models"
)

func (p *program) migrateCommand() *cobra.Command {
	return cli.Group(&cobra.Command{
		Use:     "migrate",
		Short:   "Bring the database's schema up to date, or show it",
		GroupID: groupOperate,
		Long: `Brings the database's schema up to date, or lists what has been applied. "aikeysd serve" updates the schema when it
starts. If the service's own database user may not change the schema, set AIKEYS_MIGRATE=never and run these commands as
a user that may.`,
		Example: `  aikeysd migrate status
  AIKEYS_DATABASE_URL_FILE=/run/secrets/admin-url aikeysd migrate up`,
	}, p.migrateUpCommand(), p.migrateStatusCommand())
}

func (p *program) migrateUpCommand() *cobra.Command {
	cfg := newConfig()
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Apply the migrations that are missing",
		Args:  cli.NoArguments(),
		Long: `Applies the migrations that are missing, each in its own transaction. It may run while the service does. Several may
run at once: they take turns.`,
		Example: `  aikeysd migrate up
  aikeysd migrate up --database-url postgres://aikeys@db.internal/aikeys`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := cfg.load(p.Environ); err != nil {
				return err
			}
			return p.withStore(cfg, func(store *models.Store) error {
				applied, err := store.Migrate(cmd.Context())
				if err != nil {
					return err
				}
				if applied == 0 {
					return p.Say("%s is up to date", databaseName(cfg.DatabaseURL))
				}
				return p.Say("%s is up to date, after %s", databaseName(cfg.DatabaseURL), migrations(applied))
			})
		},
	}
	cfg.AddFlags(cmd.Flags(), databaseSettings()...)
	return cmd
}

func (p *program) migrateStatusCommand() *cobra.Command {
	cfg := newConfig()
	cmd := &cobra.Command{
		Use:     "status",
		Short:   "List the migrations, and when each was applied",
		Args:    cli.NoArguments(),
		Long:    `Lists the migrations that this version of aikeysd knows, and when each was applied to the database.`,
		Example: `  aikeysd migrate status`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := cfg.load(p.Environ); err != nil {
				return err
			}
			if err := requireDatabase(cfg.DatabaseURL); err != nil {
				return err
			}
			return p.withStore(cfg, func(store *models.Store) error {
				steps, err := store.Migrations(cmd.Context())
				if err != nil {
					return err
				}
				table := p.NewTable("VERSION", "NAME", "APPLIED")
				for _, step := range steps {
					applied := "pending"
					switch {
					case step.IsNewer:
						applied = "by a newer version of aikeysd"
					case !step.AppliedAt.IsZero():
						applied = step.AppliedAt.UTC().Format(time.RFC3339)
					}
					table.Row(strconv.FormatInt(step.Version, 10), step.Name, applied)
				}
				return table.Flush()
			})
		},
	}
	cfg.AddFlags(cmd.Flags(), databaseSettings()...)
	return cmd
}

// databaseSettings are the settings of commands that need only the database.
func databaseSettings() []string {
	return []string{"database-url", "database-url-file", "database-direct-url", "database-direct-url-file", "insecure"}
}
