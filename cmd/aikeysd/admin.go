package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/database"
)

func (p *program) adminCommand() *cobra.Command {
	return cli.Group(&cobra.Command{
		Use:     "admin",
		Short:   "Manage members, API keys, provider keys and data planes, directly in the database",
		GroupID: groupOperate,
		Long: `Manages the members of projects, their API keys, and the credentials of data planes, directly in the database: anyone
who can read the database's URL is trusted. The service need not run. A running service applies a change from its next
request on, and gateways apply it within a second. The events of a project record every change to it. The system trail
("aikeysd admin events") has these changes, the changes of data planes, and who listed what a project has. Both name the
operator: the user and the name of the machine on which the command ran.`,
		Example: `  aikeysd admin member set --customer acme --project chat --user alice --role owner
  (umask 077; aikeysd admin token create --customer acme --project chat --user alice > alice.token)
  (umask 077; aikeysd admin dataplane create --name edge-1 --customer acme > edge-1.token)`,
	}, p.memberCommand(), p.tokenCommand(), p.keyCommand(), p.providerCommand(), p.dataPlaneCommand(), p.fetchesCommand(), p.systemEventsCommand())
}

// admin is one run of a command that works on the database. It holds the command's flags and, once opened, the
// database.
type admin struct {
	*program
	cfg                     *config
	customer, project, user string // from flags, if the command has them
	idFlags                 []identifier
	settings                []string // settings that the command has flags for
	mayCreate               bool     // whether the command may create a SQLite database that is missing
	anySchema               bool     // whether the command works with a schema that is not up to date
	reads                   bool     // whether the command lists a project's data: the project must exist, and the system trail gets an event
	name                    string   // of the command

	store    *models.Store
	operator operator
}

// newAdmin returns an admin for a command that works on the whole database. newProjectAdmin is for one project.
func (p *program) newAdmin() *admin {
	return &admin{program: p, cfg: newConfig(), settings: databaseSettings(), operator: newOperator(p.Getenv)}
}

// newProjectAdmin returns an admin for a command on one project, and gives the command the flags --customer and --project.
func (p *program) newProjectAdmin(cmd *cobra.Command) *admin {
	a := p.newAdmin()
	cmd.Flags().StringVar(&a.customer, "customer", "", "customer that the project belongs to (required)")
	cmd.Flags().StringVar(&a.project, "project", "", "project (required)")
	a.idFlags = []identifier{{"--customer", &a.customer, true}, {"--project", &a.project, true}}
	return a
}

// addUserFlag gives the command the flag --user.
func (a *admin) addUserFlag(cmd *cobra.Command, isRequired bool) {
	need := "optional"
	if isRequired {
		need = "required"
	}
	cmd.Flags().StringVar(&a.user, "user", "", "user id, as API keys or the issuer's session tokens name the user ("+need+")")
	a.idFlags = append(a.idFlags, identifier{"--user", &a.user, isRequired})
}

// command completes a command that works on the database. It adds the flags of the database settings after the
// command's own flags. When the command runs, it reports all errors in its flags and in the settings together. If there
// are no errors, it opens the database and calls act. check checks the command's own flags; it may be nil.
func (a *admin) command(cmd *cobra.Command, check func() error, act func(ctx context.Context) error) *cobra.Command {
	names := make([]string, len(a.idFlags))
	for i, id := range a.idFlags {
		names[i] = id.flag
	}
	cmd.Args = cli.NoArguments(names...)
	a.cfg.AddFlags(cmd.Flags(), a.settings...)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		a.name = cmd.CommandPath()
		err := errors.Join(checkIDs(a.idFlags), a.cfg.load(a.Environ))
		if check != nil {
			err = errors.Join(err, check())
		}
		if err == nil {
			err = a.withStore(cmd.Context(), act)
		}
		return err
	}
	return cmd
}

// withStore opens the database and calls act. Only some commands may create a missing database. The others return an
// error, because on a new, empty database nobody would notice that the path was wrong.
func (a *admin) withStore(ctx context.Context, act func(ctx context.Context) error) error {
	isMissing, err := databaseMissing(a.cfg.DatabaseURL)
	if err != nil {
		return err
	}
	path := absolute(strings.TrimPrefix(a.cfg.DatabaseURL, sqlitePrefix))
	if isMissing && !a.mayCreate {
		return fmt.Errorf("there is no database at %s; the first start of \"aikeysd serve\" makes one, and so does \"aikeysd admin member set\" with a first owner", path)
	}
	options := a.cfg.storeOptions()
	options.Process = models.Process{Operator: a.operator.name, Command: a.name}
	if a.store, err = database.Open(a.cfg.DatabaseURL, options); err != nil {
		return err
	}
	if !a.anySchema {
		err = requireSchema(ctx, a.cfg, a.store)
		if err == nil && isMissing {
			a.Note("made a new database at %s", path)
		}
	}
	if err == nil && a.reads {
		if err = a.requireProject(ctx); err == nil {
			err = a.store.RecordSystemEvent(ctx, models.SystemEvent{Type: models.EventProjectRead, CustomerID: a.customer, ProjectID: a.project})
		}
	}
	if err == nil {
		err = act(ctx)
	}
	return errors.Join(unreachable(a.cfg, err), a.store.Close())
}

// identifier is a flag that holds an id.
type identifier struct {
	flag     string
	value    *string
	required bool
}

var opaqueID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// checkIDs names all ids that are missing or malformed. "-", "." and ".." are refused because they have another meaning in a path.
func checkIDs(ids []identifier) (err error) {
	for _, id := range ids {
		switch text := *id.value; {
		case text == "" && !id.required:
		case text == "":
			err = errors.Join(err, cli.Usagef("%s: is required", id.flag))
		case !opaqueID.MatchString(text) || text == "-" || text == "." || text == "..":
			err = errors.Join(err, cli.Usagef("%s: must be 1 to 64 characters of A-Z, a-z, 0-9, dot, underscore and dash, and not just - or . or ..", id.flag))
		}
	}
	return err
}

// member is the user that the command is about.
func (a *admin) member() models.Caller {
	return models.Caller{CustomerID: a.customer, ProjectID: a.project, UserID: a.user}
}

// operator is the actor of the events that the operator's own commands write.
type operator struct {
	name string
	ids  *models.IDs
}

func newOperator(getenv func(name string) string) operator {
	return operator{name: cli.Operator(getenv), ids: &models.IDs{}}
}

// event returns an event whose actor is the operator.
func (o operator) event(tx *models.Tx, what models.EventType, about models.Caller) models.Event {
	return models.Event{
		ID: o.ids.Next(models.EventIDPrefix, time.UnixMicro(tx.Now)), CustomerID: about.CustomerID, ProjectID: about.ProjectID,
		Type: what, Outcome: models.OutcomeAllowed, At: tx.Now, ActorUserID: o.name, ActorMethod: models.MethodAdmin, MemberID: about.UserID,
	}
}

// projectName returns the project's name in messages, such as acme/chat.
func (a *admin) projectName() string { return a.customer + "/" + a.project }

// projectInDatabase is projectName with the database, for messages about a change.
func (a *admin) projectInDatabase() string {
	return a.projectName() + " in " + databaseName(a.cfg.DatabaseURL)
}

// projectCommand returns another admin command on the same project and database, for the user to paste.
func (a *admin) projectCommand(name string) string {
	return fmt.Sprintf("aikeysd admin %s --customer %s --project %s%s", name, a.customer, a.project, a.cfg.databaseFlags())
}

// projectExists reports whether the project exists. Every project has an owner.
func (a *admin) projectExists(ctx context.Context) (bool, error) {
	members, err := a.store.ListMembers(ctx, a.member(), "", 1)
	return len(members) > 0, err
}

// requireProject returns an error if the project does not exist.
func (a *admin) requireProject(ctx context.Context) error {
	exists, err := a.projectExists(ctx)
	if err == nil && !exists {
		return fmt.Errorf("there is no project %s; is it spelled right? \"aikeysd admin member set\" makes one, with its first owner", a.projectInDatabase())
	}
	return err
}

// formatTime shows a time in microseconds since 1970 to the second, and 0 as "never".
func formatTime(micros int64) string {
	if micros == 0 {
		return "never"
	}
	return time.UnixMicro(micros).UTC().Format(time.RFC3339)
}

// formatMillis shows a time in microseconds since 1970 to the millisecond.
func formatMillis(micros int64) string {
	return time.UnixMicro(micros).UTC().Format("2006-01-02T15:04:05.000Z07:00")
}

// formatCount shows a number in a table.
func formatCount(n int64) string { return strconv.FormatInt(n, 10) }

// formatKeys is a number of keys in words.
func formatKeys(n int64) string {
	if n == 1 {
		return "1 key"
	}
	return formatCount(n) + " keys"
}

// orDash returns the text, or a dash if it is empty.
func orDash(text string) string { return cmp.Or(text, "-") }
