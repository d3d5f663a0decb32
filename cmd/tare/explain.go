package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"

	agentrouter "github.com/tetrateio/agentrouter-go"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

// withHint is an error that knows what to do next.
type withHint struct {
	error
	hint string
}

func (w withHint) Unwrap() error { return w.error }

// uncertain adds a hint to the error of a write that may have been carried out: no answer came, or nobody waited for it.
func uncertain(ctx context.Context, err error, hint string) error {
	var silent *agentrouter.ConnectionError
	var dial *net.OpError
	unsent := errors.As(err, &dial) && dial.Op == "dial"
	if ctx.Err() == nil && (!errors.As(err, &silent) || unsent) {
		return err
	}
	return withHint{err, hint}
}

// explain tells why a command failed and what to do next, and returns the exit code.
func (p *program) explain(ctx context.Context, err error) int {
	code, says, hints := p.diagnose(ctx, err)
	if hinted := (withHint{}); errors.As(err, &hinted) {
		hints = append([]string{hinted.hint}, hints...)
	}
	for line := range strings.Lines(says) {
		p.tell("tare: " + strings.TrimSpace(line))
	}
	for _, hint := range hints {
		p.tell("  " + hint)
	}
	return code
}

// diagnose chooses the exit code, the words for what went wrong, and for what to do about it.
func (p *program) diagnose(ctx context.Context, err error) (code int, says string, hints []string) {
	var (
		usage   *cli.UsageError
		answer  *agentrouter.Error
		refused *agentrouter.ArgumentError
		silent  *agentrouter.ConnectionError
		pending *pendingError
	)
	switch {
	case errors.As(err, &pending) && ctx.Err() != nil:
		return exitStopped, "stopped; " + err.Error(), pending.hints()
	case errors.As(err, &pending):
		return exitPending, err.Error(), pending.hints()
	case ctx.Err() != nil || errors.Is(err, errStopped):
		return exitStopped, "stopped", nil
	case errors.As(err, &usage):
		return exitUsage, err.Error(), nil
	case errors.Is(err, errDeclined):
		return exitDeclined, err.Error(), nil
	case errors.Is(err, errNoSession):
		login := "tare login"
		if p.flags.profile != "" {
			login += " --profile " + p.flags.profile
		}
		return exitUnauthenticated, err.Error(), []string{
			"Log in with: " + login,
			"Or set " + baseURLVariable + " and " + apiKeyVariable + ".",
		}
	case errors.As(err, &answer):
		return p.diagnoseAnswer(ctx, answer)
	case errors.As(err, &refused):
		return exitUsage, refused.Field + " " + refused.Message, nil
	case errors.As(err, &silent):
		return p.diagnoseSilence(silent)
	default:
		return exitFailure, cli.OneLine(err.Error()), nil
	}
}

// diagnoseAnswer is diagnose for an answer of the service.
func (p *program) diagnoseAnswer(ctx context.Context, e *agentrouter.Error) (code int, says string, hints []string) {
	says = cli.OneLine(e.Detail)
	switch {
	case errors.Is(e, agentrouter.ErrUnauthenticated):
		return exitUnauthenticated, p.address() + " does not take the API key: " + says, p.hintsOnSession()
	case errors.Is(e, agentrouter.ErrPermissionDenied):
		return exitDenied, says, p.hintsOnRole(ctx)
	case errors.Is(e, agentrouter.ErrNotFound):
		return exitNotFound, says, p.hintsOnAbsence(e)
	case errors.Is(e, agentrouter.ErrAlreadyExists), e.Status == 409:
		return exitConflict, says, nil
	case errors.Is(e, agentrouter.ErrInvalidArgument), errors.Is(e, agentrouter.ErrFailedPrecondition):
		says, hints = p.onFields(ctx, e)
		return exitUsage, says, hints
	case errors.Is(e, agentrouter.ErrUnavailable), errors.Is(e, agentrouter.ErrResourceExhausted):
		hint := "Try again in a moment."
		if e.RetryAfter > 0 {
			hint = fmt.Sprintf("Try again in %s.", e.RetryAfter)
		}
		return exitUnavailable, fmt.Sprintf("%d from %s: %s", e.Status, p.address(), says), []string{hint}
	default:
		says = fmt.Sprintf("%d from %s: %s", e.Status, p.address(), says)
		if e.RequestID != "" {
			hints = append(hints, "For support, quote the request "+e.RequestID+".")
		}
		return exitFailure, says, append(hints, "Is "+p.address()+" the address of AgentRouter AI Keys?")
	}
}

// diagnoseSilence is diagnose for a call that got no answer.
func (p *program) diagnoseSilence(e *agentrouter.ConnectionError) (code int, says string, hints []string) {
	if e.Timeout() {
		return exitUnavailable, fmt.Sprintf("no answer from %s within %s", p.address(), p.flags.timeout),
			[]string{"Try again, or give it longer with --timeout."}
	}
	cause := e.Err
	if wrapped := (*url.Error)(nil); errors.As(cause, &wrapped) {
		cause = wrapped.Err
	}
	return exitUnavailable, fmt.Sprintf("no connection to %s: %s", p.address(), cli.OneLine(cause.Error())), []string{
		"Is that the address, and is the service up? tare profiles list shows the addresses that you have.",
	}
}

// address is whom the command called, for messages.
func (p *program) address() string {
	if p.session == nil {
		return "the service"
	}
	return p.session.baseURL
}
