package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/models"
)

func (p *program) adminCommand() *cobra.Command {
	return cli.Group(&cobra.Command{
		Use:     "admin",
		Short:   "Manage members, API keys and data planes, straight in the database",
		GroupID: groupOperate,
		Long: `Manages the members of projects, their API keys, and the credentials of data planes, straight in the database: whoever
may read the database's URL is trusted. The service need not run; if it does, an act holds from its next request on,
and at gateways within a second. Every act on a project is recorded in its events.`,
		Example: `  aikeysd admin member set --customer acme --project chat --user alice --role owner
  (umask 077; aikeysd admin token create --customer acme --project chat --user alice > alice.token)
  (umask 077; aikeysd admin dataplane create --name edge-1 --customer acme > edge-1.token)`,
	}, p.memberCommand(), p.tokenCommand(), p.dataPlaneCommand(), p.fetchesCommand())
}

// admin is one run of an admin command: the project it acts on, if any, and the database.
type admin struct {
	*program
	cfg               *config
	customer, project string
	user              string
	store             *models.Store
	ids               models.IDs
}

// adminSpec is what one admin command has of its own.
type adminSpec struct {
	// everywhere says that it acts on no project: it has no --customer, --project and --user.
	everywhere bool
	// user says what --user is: required, optional, or absent.
	user string
	// flags adds the command's own flags, check looks at them; nil when there are none.
	flags func(*pflag.FlagSet)
	check func() error
	// bootstraps tells whether this run may make a SQLite database that is not there; nil is never.
	bootstraps func() bool
	// act runs with the database open and its schema in place.
	act func(ctx context.Context, a *admin) error
}

// newAdmin finishes cmd: the flags that all admin commands have, and the way to act.
func (p *program) newAdmin(cmd *cobra.Command, spec adminSpec) *cobra.Command {
	a := &admin{program: p, cfg: newConfig()}
	flags := cmd.Flags()
	ids := a.projectFlags(flags, spec)
	if spec.flags != nil {
		spec.flags(flags)
	}
	names := make([]string, len(ids))
	for i, id := range ids {
		names[i] = id.flag
	}
	cmd.Args = cli.NoArguments(names...)
	a.cfg.AddFlags(flags, databaseSettings()...)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		err := errors.Join(checkIDs(ids), a.cfg.load(p.Environ))
		if spec.check != nil {
			err = errors.Join(err, spec.check())
		}
		if err != nil {
			return err
		}
		return a.run(cmd.Context(), spec)
	}
	return cmd
}

// projectFlags adds the flags that say whom the command is about, and returns them.
func (a *admin) projectFlags(flags *pflag.FlagSet, spec adminSpec) []identifier {
	if spec.everywhere {
		return nil
	}
	flags.StringVar(&a.customer, "customer", "", "customer that the project belongs to (required)")
	flags.StringVar(&a.project, "project", "", "project (required)")
	ids := []identifier{{"--customer", &a.customer, true}, {"--project", &a.project, true}}
	if spec.user != absent {
		flags.StringVar(&a.user, "user", "", "user id, as API keys or the issuer's session tokens name the user ("+spec.user+")")
		ids = append(ids, identifier{"--user", &a.user, spec.user == required})
	}
	return ids
}

// run opens the database and acts. Only a command that bootstraps makes one: any other would act on an empty one, and
// say nothing of a path that is wrong.
func (a *admin) run(ctx context.Context, spec adminSpec) error {
	fresh, err := databaseMissing(a.cfg.DatabaseURL)
	if err != nil {
		return err
	}
	if fresh && (spec.bootstraps == nil || !spec.bootstraps()) {
		return requireDatabase(a.cfg.DatabaseURL)
	}
	return a.withStore(a.cfg, func(store *models.Store) error {
		a.store = store
		if err := requireSchema(ctx, a.cfg, store); err != nil {
			return err
		}
		if fresh {
			a.Note("made a new database at %s", absolute(strings.TrimPrefix(a.cfg.DatabaseURL, sqlitePrefix)))
		}
		return spec.act(ctx, a)
	})
}

// What --user can be.
const (
	absent   = ""
	required = "required"
	optional = "optional"
)

// identifier is a flag that holds an id.
type identifier struct {
	flag     string
	value    *string
	required bool
}

var opaqueID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// checkIDs names all ids that are missing or are none. "-", "." and ".." mean something else in a path.
func checkIDs(ids []identifier) error {
	var complaints []string
	for _, id := range ids {
		switch text := *id.value; {
		case text == "" && !id.required:
		case text == "":
			complaints = append(complaints, id.flag+": is required")
		case !opaqueID.MatchString(text) || text == "-" || text == "." || text == "..":
			complaints = append(complaints, id.flag+": must be 1 to 64 characters of A-Z, a-z, 0-9, dot, underscore and dash, and not just - or . or ..")
		}
	}
	if len(complaints) > 0 {
		return &cli.UsageError{Complaints: complaints}
	}
	return nil
}

// caller is the user whom the command is about.
func (a *admin) caller() models.Caller {
	return models.Caller{CustomerID: a.customer, ProjectID: a.project, UserID: a.user}
}

// adminEvent is an event whose actor is the operator.
func adminEvent(ids *models.IDs, tx *models.Tx, what models.EventType, about models.Caller) models.Event {
	return models.Event{
		ID: ids.Next(models.EventIDPrefix, time.UnixMicro(tx.Now)), CustomerID: about.CustomerID, ProjectID: about.ProjectID,
		Type: what, Outcome: models.OutcomeAllowed, At: tx.Now, ActorMethod: "admin", MemberID: about.UserID,
	}
}

// where is the project as messages name it; place says in which database too, for those that tell of a change.
func (a *admin) where() string { return a.customer + "/" + a.project }
func (a *admin) place() string { return a.where() + " in " + databaseName(a.cfg.DatabaseURL) }

// command is another admin command on the same project in the same database, as one can paste it.
func (a *admin) command(name string) string {
	return fmt.Sprintf("aikeysd admin %s --customer %s --project %s%s", name, a.customer, a.project, a.cfg.databaseFlags())
}

// projectExists tells whether the project is there: one that is has an owner.
func (a *admin) projectExists(ctx context.Context) (bool, error) {
	members, err := a.store.ListMembers(ctx, a.caller(), "", 1)
	return len(members) > 0, err
}

// requireProject refuses a project that is not there.
func (a *admin) requireProject(ctx context.Context) error {
	exists, err := a.projectExists(ctx)
	if err == nil && !exists {
		return fmt.Errorf("there is no project %s; is it spelled right? \"aikeysd admin member set\" makes one, with its first owner", a.place())
	}
	return err
}
