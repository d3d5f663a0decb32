package main

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	schema "github.com/agentrouter/aikeys/models/migrations"
)

func (p *program) migrateCommand() *cobra.Command {
	return cli.Group(&cobra.Command{
		Use:     "migrate",
		Short:   "Update the database's schema, or show its state",
		GroupID: groupOperate,
		Long: `Brings the database's schema up to date, or lists what has been applied. "aikeysd serve" updates the schema when it
starts. If the service's own database user may not change the schema, set AIKEYS_MIGRATE=never and run these commands as
a user that may.`,
		Example: `  aikeysd migrate status
  AIKEYS_DATABASE_URL_FILE=/run/secrets/admin-url aikeysd migrate up
  aikeysd migrate grants --user aikeys_app | psql --dbname aikeys`,
	}, p.migrateUpCommand(), p.migrateStatusCommand(), p.migrateGrantsCommand())
}

func (p *program) migrateUpCommand() *cobra.Command {
	a := p.newAdmin()
	a.mayCreate, a.anySchema = true, true
	return a.command(&cobra.Command{
		Use:   "up",
		Short: "Apply the migrations that are missing",
		Long: `Applies the migrations that are missing, each in its own transaction. The service may run at the same time. Several of
these commands may run at once: they take turns.`,
		Example: `  aikeysd migrate up
  aikeysd migrate up --database-url postgres://aikeys@db.internal/aikeys`,
	}, nil, func(ctx context.Context) error {
		applied, err := a.store.Migrate(ctx)
		if err != nil {
			return err
		}
		if applied == 0 {
			return a.Say("%s is up to date", databaseName(a.cfg.DatabaseURL))
		}
		return a.Say("%s is up to date, after %s", databaseName(a.cfg.DatabaseURL), migrations(applied))
	})
}

func (p *program) migrateStatusCommand() *cobra.Command {
	a := p.newAdmin()
	a.anySchema = true
	return a.command(&cobra.Command{
		Use:     "status",
		Short:   "List the migrations, and when each was applied",
		Long:    `Lists the migrations that this version of aikeysd knows, and when each was applied to the database.`,
		Example: `  aikeysd migrate status`,
	}, nil, func(ctx context.Context) error {
		steps, err := a.store.Migrations(ctx)
		if err != nil {
			return err
		}
		table := a.NewTable("VERSION", "NAME", "APPLIED")
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
}

func (p *program) migrateGrantsCommand() *cobra.Command {
	var user, schemaName string
	cmd := &cobra.Command{
		Use:   "grants",
		Short: "Print the SQL that gives the service's database user its rights",
		Long: `Prints the SQL that gives a PostgreSQL user the rights that "aikeysd serve" needs, and no more: the user may add and read
events and records of fetches, but not change or delete them. Run the SQL as the owner of the tables, and again after
each migration. The command itself connects to nothing.`,
		Example: `  aikeysd migrate grants --user aikeys_app | psql --dbname aikeys
  aikeysd migrate grants --user aikeys_app --schema aikeys`,
		Args: cli.NoArguments("--user", "--schema"),
		RunE: func(*cobra.Command, []string) error {
			if user == "" {
				return cli.Usagef("--user: is required")
			}
			if schemaName == "" {
				return cli.Usagef("--schema: must not be empty")
			}
			return p.Say("%s", strings.TrimSpace(schema.ServiceUser(schemaName, user)))
		},
	}
	cmd.Flags().StringVar(&user, "user", "", "`name` of the PostgreSQL user that the service connects as (required)")
	cmd.Flags().StringVar(&schemaName, "schema", "public", "`name` of the schema that has the tables")
	return cmd
}

// databaseSettings are the settings of commands that need only the database.
func databaseSettings() []string {
	return []string{"database-url", "database-url-file", "database-direct-url", "database-direct-url-file", "insecure"}
}
