package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	agentrouter "github.com/tetrateio/agentrouter-go"
	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

func (p *program) projectsCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "projects",
		Short:   "List your projects",
		Long:    "Lists the projects in which you may act, and your role in each.",
		Example: "  tare api projects",
		Args:    cli.NoArguments(),
		RunE: runCall(p, func(ctx context.Context, s *session, _ []string) (*aikeysv1.ListProjectsResponse, error) {
			return s.Projects().List(ctx)
		}, p.printProjects),
	}
}

func (p *program) printProjects(reply *aikeysv1.ListProjectsResponse) error {
	if len(reply.Projects) == 0 {
		p.printNote("You may act in no project; an owner can add you.")
		return nil
	}
	t := &table{columns: []column{{head: "PROJECT", canShrink: true}, {head: "ROLE"}, {head: "JOINED", dropRank: 1}, {head: "DEFAULT", dropRank: 2}}}
	now := time.Now()
	for i := range reply.Projects {
		each, isDefault := &reply.Projects[i], ""
		if each.SessionDefault {
			isDefault = "yes"
		}
		t.addRow(cell{each.CustomerID + "/" + each.ProjectID, bold}, cell{string(each.Role), plain}, cell{relativeTime(each.JoinedAt, now), plain}, cell{isDefault, plain})
	}
	return p.printTable(t)
}

func (p *program) tokensCommand() *cobra.Command {
	return p.group(&cobra.Command{
		Use:   "tokens",
		Short: "Create, list and revoke API keys of this service",
		Long: `API keys of this service, with which you and your programs call it and its data planes. An API key has your permissions,
or fewer: it can be limited to some projects.`,
		Example: `  tare api tokens create nightly-eval --projects chat --out nightly-eval.key
  tare api tokens list
  tare api tokens revoke 01M7W0BTX000000000000000AK`,
	}, p.tokensListCommand(), p.tokensCreateCommand(), p.tokensRevokeCommand())
}

func (p *program) tokensListCommand() *cobra.Command {
	inProject, all := false, false
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List your API keys, or those of a project",
		Long: `Lists your API keys; with --all, also revoked and expired ones. With --in-project it lists the API keys with which
members can act in the project; owners only.`,
		Example: `  tare api tokens list
  tare api tokens list --in-project --all`,
		Args: cli.NoArguments("--in-project"),
	}
	cmd.Flags().BoolVar(&inProject, "in-project", false, "list the API keys that can act in the project")
	cmd.Flags().BoolVar(&all, "all", false, "also list revoked and expired API keys")
	cmd.RunE = runCall(p, func(ctx context.Context, s *session, _ []string) (*aikeysv1.ListTokensResponse, error) {
		calls := s.Tokens().With(when(!all, agentrouter.ActiveTokens()))
		if inProject {
			return calls.ListInProject(ctx, s.customer, s.project)
		}
		return calls.List(ctx)
	}, p.printTokens)
	return cmd
}

func (p *program) printTokens(reply *aikeysv1.ListTokensResponse) error {
	if len(reply.Tokens) == 0 {
		p.printNote("There is no such API key.")
		return nil
	}
	t := &table{columns: []column{
		{head: "ID"}, {head: "NAME", canShrink: true}, {head: "USER", dropRank: 3}, {head: "PROJECTS", dropRank: 2, canShrink: true}, {head: "STATE"},
		{head: "EXPIRES", dropRank: 1}, {head: "LAST USED", dropRank: 4},
	}}
	now := time.Now()
	for i := range reply.Tokens {
		each := &reply.Tokens[i]
		look := green
		if each.State != aikeysv1.TokenStateActive {
			look = red
		}
		t.addRow(cell{each.TokenID, plain}, cell{each.Name, bold}, cell{each.UserID, plain}, cell{formatReach(each), plain},
			cell{string(each.State), look}, cell{cmp.Or(relativeTime(each.ExpiresAt, now), never), plain}, cell{cmp.Or(relativeTime(each.LastUsedAt, now), never), plain})
	}
	return p.printTable(t)
}

// formatReach says in which projects an API key can act.
func formatReach(t *aikeysv1.Token) string {
	text := "all"
	if len(t.Projects) > 0 {
		text = strings.Join(t.Projects, " ")
	}
	if len(t.BarredProjects) > 0 {
		text += ", not " + strings.Join(t.BarredProjects, " ")
	}
	return text
}

// newTokenOptions are the flags of "tokens create".
type newTokenOptions struct {
	projects     []string
	expires, out string
}

func (p *program) tokensCreateCommand() *cobra.Command {
	var o newTokenOptions
	cmd := &cobra.Command{
		Use:   "create <name>",
		Short: "Create an API key",
		Long: `Creates an API key for you and prints it on standard output. It is not shown again. With --out, tare writes it to a new
file that only you can read.

The API key can act in all of your projects, or with --projects only in these. It expires after 90 days unless --expires
says otherwise. An API key can't create one that has more projects or expires later than itself.`,
		Example: `  tare api tokens create nightly-eval --projects chat --out nightly-eval.key
  tare api tokens create laptop --expires never
  tare api tokens create ci --projects chat,search --expires 2099-06-30 | vault-put ci`,
		Args:              oneArgument("a name for the API key"),
		ValidArgsFunction: completeNothing,
	}
	flags := cmd.Flags()
	flags.StringSliceVar(&o.projects, "projects", nil, "the only projects in which it can act, by their `ids`, separated by commas")
	flags.StringVar(&o.expires, "expires", "", "when it expires: never, a day (2099-06-30), or a `time` (2099-06-30T09:00:00Z)")
	flags.StringVar(&o.out, "out", "", "write the API key to this new `file` instead of standard output")
	completeNothingFor(cmd, "projects", "expires")
	cmd.RunE = p.withSession(func(ctx context.Context, s *session, args []string) error { return p.createToken(ctx, s, args[0], o) })
	return cmd
}

// apply returns the calls with the options.
func (o newTokenOptions) apply(calls *agentrouter.TokensClient) (*agentrouter.TokensClient, error) {
	if len(o.projects) > 0 {
		calls = calls.With(agentrouter.ForProjects(o.projects...))
	}
	switch o.expires {
	case "":
		return calls, nil
	case never:
		return calls.With(agentrouter.TokenNeverExpires()), nil
	}
	end, err := parseTime("--expires", o.expires)
	return calls.With(agentrouter.TokenExpiresAt(end)), err
}

func (p *program) createToken(ctx context.Context, s *session, name string, o newTokenOptions) error {
	calls, err := o.apply(s.Tokens())
	if err != nil {
		return err
	}
	var file *os.File
	if o.out != "" { // first: if the file can't be created, no API key is
		if file, err = os.OpenFile(filepath.Clean(o.out), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
			return fileError("--out", "create", err)
		}
	}
	callCtx, cancel := p.withTimeout(ctx)
	defer cancel()
	made, err := calls.Create(callCtx, name)
	if err == nil && file != nil {
		_, err = file.WriteString(made.APIKey.Reveal() + "\n")
	}
	if file != nil {
		err = errors.Join(err, file.Close())
		if err != nil {
			_ = os.Remove(o.out) // it may be incomplete
		}
	}
	switch {
	case err != nil && made != nil:
		return hintedError{err, "The API key was created, but not stored: revoke it with tare api tokens revoke " + made.Token.TokenID + "."}
	case err != nil:
		return hintIfSent(ctx, err, "The API key may have been created anyway; tare api tokens list shows it. Revoke it and create another.")
	case file != nil && !p.isForPeople():
		return p.printValue(made.Token)
	case file != nil:
		return p.printDetails(tokenDetails(&made.Token))
	case !p.isForPeople():
		return p.printValue(map[string]any{"token": made.Token, "api_key": made.APIKey.Reveal()})
	}
	p.printNote(fmt.Sprintf("API key %s, for %s; expires: %s. It is not shown again.", made.Token.TokenID, formatReach(&made.Token), cmp.Or(relativeTime(made.Token.ExpiresAt, time.Now()), never)))
	return p.printLine(made.APIKey.Reveal())
}

func tokenDetails(t *aikeysv1.Token) []detail {
	now := time.Now()
	return []detail{
		{"ID", cell{t.TokenID, plain}}, {"Name", cell{t.Name, bold}}, {"State", cell{string(t.State), plain}},
		{"Projects", cell{formatReach(t), plain}}, {"Expires", cell{cmp.Or(formatTime(t.ExpiresAt, now), never), plain}},
	}
}

func (p *program) tokensRevokeCommand() *cobra.Command {
	inProject, cascade := false, false
	cmd := &cobra.Command{
		Use:   "revoke <id>",
		Short: "Revoke an API key, and wait until every data plane has dropped it",
		Long: `Permanently revokes one of your API keys; with --cascade, also the API keys that were created with it. With --in-project,
an owner bars a member's API key from the project; if it can act in no other project, it is revoked.

tare waits for the receipt, which is complete when every data plane has confirmed. If it is not complete within --wait,
the exit code is 8, but the API key is revoked all the same. Revoking again is safe, and shows the receipt.

tare asks for confirmation. Without a terminal, it needs --yes.`,
		Example: `  tare api tokens revoke 01M7W0BTX000000000000000AK
  tare api tokens revoke 01M7W0BTX000000000000000AK --in-project --cascade --yes`,
		Args:              oneArgument("the API key's id"),
		ValidArgsFunction: completeFirst(p.completeOnline(completeTokens)),
	}
	flags := cmd.Flags()
	p.addYes(cmd)
	flags.BoolVar(&inProject, "in-project", false, "bar a member's API key from the project")
	flags.BoolVar(&cascade, "cascade", false, "also revoke the API keys that were created with it")
	wait := addReceiptWait(cmd)
	cmd.RunE = p.withSession(func(ctx context.Context, s *session, args []string) error {
		id, err := keyID(args[0])
		if err != nil || strings.HasPrefix(strings.ToLower(args[0]), keyPrefix) {
			return cli.Usagef("an API key's id is 26 letters and digits; tare api tokens list shows the ids; never give the API key itself")
		}
		id = strings.TrimPrefix(id, keyPrefix)
		if err := p.confirm(ctx, fmt.Sprintf("Revoke the API key %s? It can't be undone.", id)); err != nil {
			return err
		}
		calls := s.Tokens().With(when(cascade, agentrouter.Cascade()))
		return p.awaitStop(ctx, stop{id: id, done: "revoked", wait: *wait, request: p.tokenStop(s, calls, id, inProject)})
	})
	return cmd
}

// tokenStop returns the stop.request for an API key.
func (p *program) tokenStop(s *session, calls *agentrouter.TokensClient, id string, inProject bool,
) func(ctx context.Context, held time.Duration) (*aikeysv1.Receipt, func() error, error) {
	return func(ctx context.Context, held time.Duration) (*aikeysv1.Receipt, func() error, error) {
		ctx, cancel, wait := p.withHold(ctx, held)
		defer cancel()
		revoke := calls.With(wait).Revoke
		if inProject {
			revoke = func(ctx context.Context, id string) (*aikeysv1.RevokeTokenResponse, error) {
				return calls.With(wait).RevokeInProject(ctx, s.customer, s.project, id)
			}
		}
		reply, err := revoke(ctx, id)
		if err != nil {
			return nil, nil, err
		}
		return &reply.Receipt, func() error {
			return p.printResponse(s, func() error {
				return p.printDetails(append(tokenDetails(&reply.Token), receiptDetails(&reply.Receipt, time.Now())...))
			})
		}, nil
	}
}

func completeTokens(ctx context.Context, s *session) ([]string, error) {
	reply, err := s.Tokens().With(agentrouter.ActiveTokens(), agentrouter.PageSize(maxCompletedKeys)).List(ctx)
	if err != nil {
		return nil, err
	}
	return completionItems(reply.Tokens, func(t aikeysv1.Token) (word, description string) { return t.TokenID, t.Name }), nil
}
