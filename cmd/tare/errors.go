package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	agentrouter "github.com/tetrateio/agentrouter-go"
	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

// The exit codes. "tare help exit-codes" lists them.
const (
	exitOK              = cli.ExitOK
	exitFailure         = cli.ExitFailure
	exitUsage           = cli.ExitUsage
	exitUnauthenticated = 3
	exitDenied          = 4
	exitNotFound        = 5
	exitConflict        = 6
	exitUnavailable     = 7
	exitPending         = 8
	exitDeclined        = 9
	exitStopped         = 130
)

// exitCode is one row of the documented list.
type exitCode struct {
	code    int
	meaning string
}

func exitCodes() []exitCode {
	return []exitCode{
		{exitOK, "success"},
		{exitFailure, "an unexpected failure: a fault in the service, an invalid answer, a file that cannot be written"},
		{exitUsage, "the command line, a setting, or a value in it is wrong"},
		{exitUnauthenticated, "no session: no API key, or the service does not accept it"},
		{exitDenied, "permission denied: your role does not suffice, or you are not a member of the project"},
		{exitNotFound, "not found, or not visible to you"},
		{exitConflict, "conflict: the name is taken, the key is revoked or others have changed it, or the project would lose its last owner"},
		{exitUnavailable, "unavailable: no connection, no answer in time, or too many requests; try again later"},
		{exitPending, "the key is revoked or disabled, but not every data plane has confirmed yet"},
		{exitDeclined, "you were asked and did not confirm; nothing was done"},
		{exitStopped, "stopped by a signal, such as Ctrl-C"},
	}
}

// errNoSuchKey means that no active key has the name that an argument gives.
var errNoSuchKey = errors.New("no active key has that id or name")

// hintedError is an error with a hint at what to do next.
type hintedError struct {
	error
	hint string
}

func (e hintedError) Unwrap() error { return e.error }

// hintIfSent adds a hint to the error of a write that was sent but got no response: the service may have carried it out.
func hintIfSent(ctx context.Context, err error, hint string) error {
	var noResponse *agentrouter.ConnectionError
	var dial *net.OpError
	wasSent := errors.As(err, &noResponse) && !(errors.As(err, &dial) && dial.Op == "dial")
	if wasSent || ctx.Err() != nil {
		return hintedError{err, hint}
	}
	return err
}

// diagnosis is what tare says about an error.
type diagnosis struct {
	code    int
	message string // one line for each complaint
	hints   []string
}

// reportError prints why a command failed and what to do next, and returns the exit code.
func (p *program) reportError(ctx context.Context, err error) int {
	d := p.diagnose(ctx, err)
	if hinted := (hintedError{}); errors.As(err, &hinted) {
		d.hints = append([]string{hinted.hint}, d.hints...)
	}
	if !p.isForPeople() && p.printErrorDocument(d, err) == nil {
		return d.code
	}
	for line := range strings.Lines(d.message) {
		p.printNote("tare: " + strings.TrimSpace(line))
	}
	for _, hint := range d.hints {
		p.printNote("  " + hint)
	}
	return d.code
}

// errorDocument is an error in the form that -o json and -o yaml print on standard error, for programs to read. If the
// service answered with an error, the document has the members of the service's problem document.
type errorDocument struct {
	Type      string                `json:"type,omitempty"`
	Title     string                `json:"title,omitempty"`
	Status    int                   `json:"status,omitempty"`
	Code      string                `json:"code,omitempty"`
	Detail    string                `json:"detail"`
	Errors    []aikeysv1.FieldError `json:"errors,omitempty"`
	RequestID string                `json:"request_id,omitempty"`
	Hints     []string              `json:"hints,omitempty"`
	ExitCode  int                   `json:"exit_code"`
}

func (p *program) printErrorDocument(d diagnosis, err error) error {
	document := errorDocument{Detail: d.message, Hints: d.hints, ExitCode: d.code}
	if problem := (*agentrouter.Error)(nil); errors.As(err, &problem) {
		document.Type, document.Title, document.Status, document.Code = problem.Type, problem.Title, problem.Status, problem.Code
		document.Detail, document.Errors, document.RequestID = problem.Detail, problem.Fields, problem.RequestID
	}
	encoded, err := json.Marshal(document)
	if err != nil {
		return err
	}
	text, err := p.formatDocument(p.redactJSON(encoded))
	if err != nil {
		return err
	}
	_, err = io.WriteString(p.Stderr, text)
	return err
}

func (p *program) diagnose(ctx context.Context, err error) diagnosis {
	var (
		usage      *cli.UsageError
		problem    *agentrouter.Error
		argument   *agentrouter.ArgumentError
		noResponse *agentrouter.ConnectionError
		pending    *pendingError
	)
	switch {
	case errors.As(err, &pending) && ctx.Err() != nil:
		return diagnosis{exitStopped, "stopped; " + err.Error(), pending.hints()}
	case errors.As(err, &pending):
		return diagnosis{exitPending, err.Error(), pending.hints()}
	case ctx.Err() != nil || errors.Is(err, errStopped):
		return diagnosis{exitStopped, "stopped", nil}
	case errors.As(err, &usage):
		return diagnosis{exitUsage, err.Error(), nil}
	case errors.Is(err, errNoSuchKey):
		return diagnosis{exitNotFound, err.Error(), nil}
	case errors.Is(err, errDeclined):
		return diagnosis{exitDeclined, err.Error(), nil}
	case errors.Is(err, errSignInEnded):
		return diagnosis{exitUnauthenticated, errSignInEnded.Error(), nil}
	case errors.Is(err, errIssuerUnavailable), errors.Is(err, errKeyringUnreadable), errors.Is(err, errKeyringKept): // they have hints of their own
		return diagnosis{exitUnavailable, cli.OneLine(err.Error()), nil}
	case errors.Is(err, errNotLoggedIn):
		return diagnosis{exitUnauthenticated, errNotLoggedIn.Error(), p.hintAtFirstLogin()}
	case errors.As(err, &problem):
		return p.diagnoseProblem(ctx, problem)
	case errors.As(err, &argument):
		return diagnosis{exitUsage, argument.Field + " " + argument.Message, nil}
	case errors.As(err, &noResponse):
		return p.diagnoseNoResponse(noResponse)
	default:
		return diagnosis{exitFailure, cli.OneLine(err.Error()), nil}
	}
}

// diagnoseProblem diagnoses an error response of the service.
func (p *program) diagnoseProblem(ctx context.Context, e *agentrouter.Error) diagnosis {
	detail := cli.OneLine(e.Detail)
	numbered := fmt.Sprintf("%d from %s: %s", e.Status, p.address(), detail)
	switch {
	case errors.Is(e, agentrouter.ErrUnauthenticated):
		message := p.address() + " does not accept the " + p.session.credential()
		if !strings.Contains(detail, "Authorization:") { // a text about headers does not help users of tare
			message += ": " + detail
		}
		return diagnosis{exitUnauthenticated, message, p.hintAtLogin()}
	case errors.Is(e, agentrouter.ErrPermissionDenied):
		return diagnosis{exitDenied, detail, p.hintAtRole(ctx)}
	case errors.Is(e, agentrouter.ErrNotFound):
		return diagnosis{exitNotFound, detail, p.hintAtList(e)}
	case errors.Is(e, agentrouter.ErrAlreadyExists), e.Status == 409, e.Status == 412:
		return diagnosis{exitConflict, detail, nil}
	case errors.Is(e, agentrouter.ErrInvalidArgument), errors.Is(e, agentrouter.ErrFailedPrecondition):
		message, hints := p.describeFields(ctx, e)
		return diagnosis{exitUsage, message, hints}
	case errors.Is(e, agentrouter.ErrUnavailable), errors.Is(e, agentrouter.ErrResourceExhausted):
		hint := "Try again in a few seconds."
		if e.RetryAfter > 0 {
			hint = fmt.Sprintf("Try again in %s.", e.RetryAfter)
		}
		return diagnosis{exitUnavailable, numbered, []string{hint}}
	}
	var hints []string
	if e.RequestID != "" {
		hints = append(hints, "For support, quote the request "+e.RequestID+".")
	}
	return diagnosis{exitFailure, numbered, append(hints, "Is "+p.address()+" the address of AgentRouter AI Keys?")}
}

func (p *program) diagnoseNoResponse(e *agentrouter.ConnectionError) diagnosis {
	if e.Timeout() {
		return diagnosis{exitUnavailable, fmt.Sprintf("no answer from %s within %s", p.address(), p.flags.timeout),
			[]string{"Try again, or allow more time with --timeout."}}
	}
	cause := e.Err
	if wrapped := (*url.Error)(nil); errors.As(cause, &wrapped) {
		cause = wrapped.Err
	}
	return diagnosis{exitUnavailable, fmt.Sprintf("no connection to %s: %s", p.address(), cli.OneLine(cause.Error())),
		[]string{"Is the address right, and is the service up? tare profiles list shows your profiles' addresses."}}
}

// address returns the service's address for messages.
func (p *program) address() string {
	if p.session == nil {
		return "the service"
	}
	return p.session.baseURL
}

// Some hints below need another call to the service. If it fails, the hint is left out.

func (p *program) hintAtLogin() []string {
	if p.session == nil || p.session.profile == "" {
		return []string{"The API key comes from " + apiKeyVariable + ". Set another, or unset it and log in with: tare login"}
	}
	again := "Log in again with: tare login --profile " + p.session.profile
	if p.session.keyFrom == keyFromInput {
		return []string{"Is the key complete, and does it belong to this installation? " + again}
	}
	return []string{fmt.Sprintf("The %s comes from the %s. %s", p.session.credential(), p.session.keyFrom, again)}
}

func (p *program) hintAtFirstLogin() []string {
	login := "tare login"
	if p.flags.profile != "" {
		login += " --profile " + p.flags.profile
	}
	return []string{"Log in with: " + login, "Or set " + baseURLVariable + " and " + apiKeyVariable + "."}
}

// hintAtRole says who the user is, and which owners can help.
func (p *program) hintAtRole(ctx context.Context) []string {
	s := p.session
	if s == nil {
		return nil
	}
	ctx, cancel := withShortTimeout(ctx)
	defer cancel()
	me, err := s.WhoAmI(ctx)
	if err != nil {
		return nil
	}
	own := me.CustomerID + "/" + me.ProjectID
	members, err := s.Members().List(ctx, s.customer, s.project)
	if err != nil {
		return []string{fmt.Sprintf("You are %s, not a member of that project. Your session's project is %s.", me.UserID, own)}
	}
	role, owners := "a member", []string{}
	for _, m := range members.Members {
		if m.Role != aikeysv1.RoleOwner {
			continue
		}
		owners = append(owners, m.UserID)
		if m.UserID == me.UserID {
			role = "an owner"
		}
	}
	const most = 5
	if more := len(owners) - most; more > 0 {
		owners = append(owners[:most], fmt.Sprintf("%d more", more))
	}
	return []string{fmt.Sprintf("You are %s, %s of %s. Its owners: %s.",
		me.UserID, role, cmp.Or(s.project, own), strings.Join(owners, ", "))}
}

// noSuchPath is the problem type for a path that the API does not have.
const noSuchPath = "/problems/no-such-path"

func (p *program) hintAtList(e *agentrouter.Error) []string {
	if e.Type == "" || e.Type == noSuchPath { // the server is not AI Keys, or the base URL has a path
		return []string{"Is " + p.address() + " the address of AgentRouter AI Keys, without a path?"}
	}
	return []string{"List what there is with: tare api byok list, tare api byok versions, tare api members list, tare api tokens list"}
}

// describeFields says what is wrong with each field, by its flag, and suggests the provider that a misspelt slug means.
func (p *program) describeFields(ctx context.Context, e *agentrouter.Error) (message string, hints []string) {
	complaints := make([]string, 0, len(e.Fields))
	for _, field := range e.Fields {
		isProvider := field.Field == "provider" || field.Field == "user_keys_by_provider"
		unknown, hint := "", ""
		if isProvider {
			unknown, hint = p.findUnknownProvider(ctx)
		}
		switch {
		case unknown != "":
			complaints = append(complaints, errUnknownProvider(unknown).Error())
			hints = append(hints, hint)
		case strings.HasSuffix(field.Message, "."): // a whole sentence
			complaints = append(complaints, cli.OneLine(field.Message))
		default:
			complaints = append(complaints, cli.OneLine(p.flagOf(field.Field)+" "+field.Message))
		}
	}
	if len(complaints) == 0 {
		return cli.OneLine(e.Detail), nil
	}
	return strings.Join(complaints, "\n"), hints
}

// errUnknownProvider repeats the slug only if it looks like one: it may be a secret in the wrong place.
func errUnknownProvider(slug string) error {
	if len(slug) > 20 || !isID(slug) {
		return cli.Usagef("the service knows no such provider")
	}
	return cli.Usagef("the service knows no provider %q", slug)
}

// findUnknownProvider returns the first provider on the command line that the service does not know, and a hint that
// lists the known providers. If it can't read the service's catalogue and the command line names exactly one provider,
// it returns that provider.
func (p *program) findUnknownProvider(ctx context.Context) (slug, hint string) {
	ctx, cancel := withShortTimeout(ctx)
	defer cancel()
	catalogue, err := p.session.Providers().List(ctx)
	if err != nil {
		if len(p.providers) != 1 {
			return "", ""
		}
		return p.providers[0], "List the providers with: tare api providers"
	}
	for _, slug := range p.providers {
		if slug != "" && !slices.ContainsFunc(catalogue.Providers, func(known aikeysv1.ProviderInfo) bool { return string(known.Slug) == slug }) {
			return slug, providerHint(slug, catalogue.Providers)
		}
	}
	return "", ""
}

// flagOf returns the flag that sets a field of the API, or the field's name if the command has no such flag. For a
// secret, it always returns the field's name, because a secret usually comes from a prompt or a file.
func (p *program) flagOf(field string) string {
	flags := map[string]string{"key_id": "key", "user_id": "user", "page_size": "limit", "user_keys_by_provider": "user-keys-for"}
	name := cmp.Or(flags[field], strings.ReplaceAll(field, "_", "-"))
	if field == "secret" || p.command == nil || p.command.Flags().Lookup(name) == nil {
		return field
	}
	return "--" + name
}

// providerHint lists the providers, and suggests the one that is most like the slug.
func providerHint(slug string, providers []aikeysv1.ProviderInfo) string {
	slugs := make([]string, len(providers))
	for i := range providers {
		slugs[i] = string(providers[i].Slug)
	}
	hint := "There are " + strings.Join(slugs, ", ") + "."
	if near := nearestWord(slug, slugs); near != "" {
		hint = "Did you mean " + near + "? " + hint
	}
	return hint
}

// nearestWord returns the first of the words that cobra would suggest for a misspelt command, or nothing.
func nearestWord(typed string, words []string) string {
	if len(typed) < 3 {
		return ""
	}
	menu := &cobra.Command{SuggestionsMinimumDistance: 2}
	for _, word := range words {
		menu.AddCommand(&cobra.Command{Use: word, Run: func(*cobra.Command, []string) {}})
	}
	return append(menu.SuggestionsFor(typed), "")[0]
}
