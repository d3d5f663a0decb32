package dataplane

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"time"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
)

const (
	// maxAnswer bounds the body of an answer: a secret of 16 KiB, escaped, with a long position.
	maxAnswer = 256 << 10
	// maxTries is how often a fetch is sent whose answers are overtaken by events.
	maxTries = 3
	// maxValid is as good as for ever.
	maxValid = 100 * 365 * 24 * time.Hour
)

// issuerUnavailable is the problem of session tokens that can't be checked. It says nothing of the control plane: else
// strangers with made-up ones would keep everybody from it.
const issuerUnavailable = "issuer-unavailable"

var errIssuer = fmt.Errorf("%w: the issuer of the caller's token can't be reached", ErrUnavailable)

var errSilent = fmt.Errorf("%w: it does not answer", ErrUnavailable)

// unreachable is a failure that says something of the control plane, not of this request: others need not try now.
type unreachable struct{ cause error }

func (u unreachable) Error() string { return fmt.Sprintf("%v: %v", ErrUnavailable, u.cause) }

// Unwrap leaves the cause out: a deadline of ours is none of the caller's.
func (unreachable) Unwrap() error { return ErrUnavailable }

// fly fetches an answer and hands it to all who share the flight. It ends by its own timeout.
func (r *Resolver) fly(ctx context.Context, f *flight, req Request) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.FetchTimeout)
	defer cancel()
	for try := 1; try <= maxTries; try++ {
		r.store.begin(f)
		sent := r.clock.Now()
		e, asOf, err := r.ask(ctx, req)
		if err != nil {
			r.store.end(f, nil, err)
			return
		}
		if !remembered(e.err) && e.err != nil {
			r.store.end(f, nil, e.err)
			return
		}
		e.id = f.id
		if r.date(e, sent) && r.store.settle(f, e, asOf, try == maxTries) {
			return
		}
		r.metrics.discarded.Inc()
	}
	r.store.end(f, nil, fmt.Errorf("%w: %w", ErrUnavailable, errOvertaken))
}

// date sets until when an answer may be used, counted from before it was asked for. It returns false if it may not be
// used at all any more: the caller's credential has expired, or the answer took longer than a lease lasts and no lease
// vouches for it.
func (r *Resolver) date(e *entry, sent time.Duration) bool {
	now := r.clock.Now()
	if e.err != nil {
		e.aged, e.valid = sent+r.cfg.NegativeTTL, sent+maxValid
	} else {
		e.aged, e.valid = sent+r.cfg.MaxAge, sent+e.valid
	}
	e.fresh = min(e.aged, e.valid)
	inTime := r.leased(now) || now-sent <= time.Duration(r.term.Load())+r.cfg.MaxStale
	return now < e.valid && inTime
}

// ask sends a fetch. A connection that breaks is tried once more: the replica at its end may have gone, and another has
// its place. The error wraps ErrUnavailable: there was no answer. A refusal is an answer.
func (r *Resolver) ask(ctx context.Context, req Request) (e *entry, asOf Position, err error) {
	sent := r.clock.Now()
	r.health.begin(sent)
	var status int
	var body []byte
	for range 2 {
		status, body, err = r.post(ctx, func(ctx context.Context) (*http.Response, error) {
			return r.client.FetchKey(ctx, req.body())
		})
		if err == nil || ctx.Err() != nil {
			break
		}
	}
	r.metrics.fetchTime.Observe((r.clock.Now() - sent).Seconds())
	if err == nil {
		e, asOf, err = r.read(req, status, body)
	}
	failure := error(nil)
	switch {
	case errors.As(err, new(unreachable)):
		failure = err
	case e != nil && errors.Is(e.err, ErrDataPlaneUnauthenticated):
		failure = e.err
		r.standing.refuse(r.clock.Now())
	case e != nil:
		r.standing.accept(sent)
	}
	r.health.end(sent, r.clock.Now(), failure)
	return e, asOf, err
}

// post sends a request and reads the answer whole. Errors are of type unreachable.
func (r *Resolver) post(
	ctx context.Context, send func(context.Context) (*http.Response, error),
) (status int, body []byte, err error) {
	response, err := send(ctx)
	if err == nil {
		defer func() { _ = response.Body.Close() }()
		body, err = io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	}
	if err != nil {
		if ctx.Err() != nil {
			r.idle() // the others may hang as well
		}
		return 0, nil, unreachable{err}
	}
	return response.StatusCode, body, nil
}

// read makes an entry of an answer.
func (r *Resolver) read(req Request, status int, body []byte) (*entry, Position, error) {
	if status == http.StatusOK {
		return readKey(req, body)
	}
	var problem gen.Problem
	_ = json.Unmarshal(body, &problem) // what is none has no type
	switch status {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		if path.Base(problem.Type) == issuerUnavailable {
			return nil, Position{}, errIssuer
		}
		return nil, Position{}, unreachable{fmt.Errorf("it answers %d", status)}
	}
	refused := refusal(status, path.Base(problem.Type))
	if refused == nil {
		return nil, Position{}, fmt.Errorf("%w: it answers %d", ErrUnavailable, status)
	}
	return &entry{
		err: refused, project: project{req.CustomerID, req.ProjectID}.known(),
		provider: req.Provider, user: req.UserID, keyID: req.KeyID,
	}, Position{}, nil
}

// known returns the project if it is known in full, else none.
func (p project) known() project {
	if p.customer == "" || p.name == "" {
		return project{}
	}
	return p
}

// complete tells whether an answer has all that it must have.
func complete(got *gen.FetchResponse) bool {
	for _, text := range []string{
		got.KeyID, got.CustomerID, got.ProjectID, got.Provider, got.BaseURL, got.AuthStyle, got.Secret.Reveal(),
	} {
		if text == "" {
			return false
		}
	}
	return got.Version > 0
}

// answers tells whether an answer is one to this request.
func answers(got *gen.FetchResponse, req *Request) bool {
	return fits(req.KeyID, got.KeyID) && fits(req.CustomerID, got.CustomerID) &&
		fits(req.ProjectID, got.ProjectID) && fits(req.Provider, got.Provider)
}

// readKey makes an entry of a key, if it is one for this request.
func readKey(req Request, body []byte) (*entry, Position, error) {
	var got gen.FetchResponse
	garbage := len(body) > maxAnswer || json.Unmarshal(body, &got) != nil
	asOf, err := ParsePosition(got.AsOf)
	if garbage || err != nil || !complete(&got) || !answers(&got, &req) {
		return nil, Position{}, fmt.Errorf("%w: its answer is %w", ErrUnavailable, errGarbage)
	}
	key := &Key{
		ID: got.KeyID, Version: got.Version, CustomerID: got.CustomerID, ProjectID: got.ProjectID,
		Provider: got.Provider, Scope: got.Scope, Reason: got.Reason, BaseURL: got.BaseURL,
		AuthStyle: AuthStyle(got.AuthStyle),
	}
	key.setSecret(got.Secret)
	e := &entry{
		key: key, project: project{got.CustomerID, got.ProjectID}, provider: got.Provider, user: req.UserID,
		keyID: req.KeyID, valid: maxValid,
	}
	if got.Caller != nil {
		key.Caller = &Caller{UserID: got.Caller.UserID, TokenID: value(got.Caller.TokenID)}
		e.user, e.token = key.Caller.UserID, key.Caller.TokenID
		if ms := got.Caller.ValidMs; ms != nil {
			e.valid = milliseconds(*ms, maxValid)
		}
	}
	return e, asOf, nil
}

// milliseconds is a duration that came as a number, within 0 and limit.
func milliseconds(ms int64, limit time.Duration) time.Duration {
	return time.Duration(min(max(ms, 0), limit.Milliseconds())) * time.Millisecond
}
