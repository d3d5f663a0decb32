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
	"github.com/agentrouter/aikeys/internal/position"
	"github.com/agentrouter/aikeys/internal/secret"
)

const (
	// maxAnswer bounds the body of an answer: a secret of 16 KiB, escaped, with a long position.
	maxAnswer = 256 << 10
	// maxTries is how often a fetch is sent whose answers are older than events that have arrived.
	maxTries = 3
	// maxValid stands for no limit on the validity of a credential.
	maxValid = 100 * 365 * 24 * time.Hour
)

// issuerUnavailable is the problem type for session tokens that can't be checked.
const issuerUnavailable = "issuer-unavailable"

// runFetch fetches an answer for all callers that share the fetch. It ends within FetchTimeout.
func (r *Resolver) runFetch(ctx context.Context, p *pendingFetch, req Request) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.FetchTimeout)
	defer cancel()
	for try := 1; try <= maxTries; try++ {
		sent := r.clock.Now()
		e, asOf, err := r.fetchKey(ctx, req)
		if err == nil && e.err != nil && !isCacheable(e.err) {
			err = e.err
		}
		if err != nil {
			r.store.failFetch(p, err)
			return
		}
		e.id = p.id
		if r.setExpiry(e, sent) && r.store.commitFetch(p, e, asOf, try == maxTries) {
			return
		}
		r.metrics.discarded.Inc()
	}
	r.store.failFetch(p, errOutdated)
}

// fetchKey sends a fetch and reads the answer. A broken connection is tried once more: the replica may be gone, and
// another one answers in its place. A refusal is an entry; the error wraps ErrUnavailable and means no answer.
func (r *Resolver) fetchKey(ctx context.Context, req Request) (e *entry, asOf position.Position, err error) {
	body := gen.FetchRequest{
		CustomerID: optional(req.CustomerID), ProjectID: optional(req.ProjectID), UserID: optional(req.UserID),
		Provider: optional(req.Provider), KeyID: optional(req.KeyID),
	}
	if req.Credential != "" {
		body.Credential = new(secret.New(req.Credential))
	}
	sent := r.clock.Now()
	r.health.requestSent(sent)
	var status int
	var answer []byte
	for range 2 {
		status, answer, err = r.send(ctx, func(ctx context.Context) (*http.Response, error) {
			return r.client.FetchKey(ctx, body)
		})
		if err == nil || ctx.Err() != nil {
			break
		}
	}
	r.metrics.fetchTime.Observe((r.clock.Now() - sent).Seconds())
	if err == nil {
		e, asOf, err = readAnswer(req, status, answer)
	}
	var failure error // of the control plane, not of this request
	switch {
	case errors.As(err, new(unreachable)):
		failure = err
	case e != nil && errors.Is(e.err, ErrDataPlaneUnauthenticated):
		failure = e.err
		r.credential.setRefused(r.clock.Now())
	case e != nil:
		r.credential.setAccepted(sent)
	}
	r.health.requestDone(sent, r.clock.Now(), failure)
	return e, asOf, err
}

// send sends a request and reads the whole answer. Errors are of type unreachable.
func (r *Resolver) send(
	ctx context.Context, do func(context.Context) (*http.Response, error),
) (status int, body []byte, err error) {
	response, err := do(ctx)
	if err == nil {
		defer func() { _ = response.Body.Close() }()
		body, err = io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	}
	if err != nil {
		if ctx.Err() != nil {
			r.closeIdle() // the other kept connections may hang as well
		}
		return 0, nil, unreachable{err}
	}
	return response.StatusCode, body, nil
}

// readAnswer returns the entry for an answer: a key, or a refusal.
func readAnswer(req Request, status int, body []byte) (*entry, position.Position, error) {
	if status == http.StatusOK {
		return readKey(req, body)
	}
	var problem gen.Problem
	_ = json.Unmarshal(body, &problem) // a body that is not a problem document has no type
	slug := path.Base(problem.Type)
	switch status {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		if slug == issuerUnavailable {
			return nil, position.Position{}, errIssuer
		}
		return nil, position.Position{}, unreachable{fmt.Errorf("it answers %d", status)}
	}
	refusal := refusalOf(status, slug)
	if refusal == nil {
		return nil, position.Position{}, fmt.Errorf("%w: it answers %d", ErrUnavailable, status)
	}
	e := &entry{err: refusal, provider: req.Provider, user: req.UserID, keyID: req.KeyID}
	if req.CustomerID != "" && req.ProjectID != "" {
		e.project = project{req.CustomerID, req.ProjectID}
	}
	return e, position.Position{}, nil
}

// readKey returns the entry for a key, or an error if the answer is incomplete or for another request.
func readKey(req Request, body []byte) (*entry, position.Position, error) {
	var got gen.FetchResponse
	invalid := len(body) > maxAnswer || json.Unmarshal(body, &got) != nil
	asOf, err := position.Parse(got.AsOf)
	if invalid || err != nil || !isComplete(&got) || !answersRequest(&got, &req) {
		return nil, position.Position{}, fmt.Errorf("%w: its answer is %w", ErrUnavailable, errProtocol)
	}
	key := &Key{
		ID: got.KeyID, Version: got.Version, CustomerID: got.CustomerID, ProjectID: got.ProjectID,
		Provider: got.Provider, Scope: got.Scope, Reason: got.Reason, BaseURL: got.BaseURL,
		AuthStyle: AuthStyle(got.AuthStyle),
	}
	key.setSecret(got.Secret)
	e := &entry{
		key: key, project: project{got.CustomerID, got.ProjectID}, provider: got.Provider, user: req.UserID,
		keyID: req.KeyID, validUntil: maxValid,
	}
	if got.Caller != nil {
		key.Caller = &Caller{UserID: got.Caller.UserID, TokenID: valueOf(got.Caller.TokenID)}
		e.user, e.token = key.Caller.UserID, key.Caller.TokenID
		if ms := got.Caller.ValidMs; ms != nil {
			e.validUntil = milliseconds(*ms, maxValid)
		}
	}
	return e, asOf, nil
}

// isComplete reports whether an answer has every field that it must have.
func isComplete(got *gen.FetchResponse) bool {
	for _, text := range []string{
		got.KeyID, got.CustomerID, got.ProjectID, got.Provider, got.BaseURL, got.AuthStyle, got.Secret.Reveal(),
	} {
		if text == "" {
			return false
		}
	}
	return got.Version > 0
}

// answersRequest reports whether an answer is for what the request asked.
func answersRequest(got *gen.FetchResponse, req *Request) bool {
	return matches(req.KeyID, got.KeyID) && matches(req.CustomerID, got.CustomerID) &&
		matches(req.ProjectID, got.ProjectID) && matches(req.Provider, got.Provider)
}

// setExpiry turns an entry's validity into times, counted from when the request was sent. It returns false if the
// answer may not be used: the caller's credential has expired, or there is no lease and the answer took longer than a
// lease lasts.
func (r *Resolver) setExpiry(e *entry, sent time.Duration) bool {
	now := r.clock.Now()
	if e.err != nil {
		e.agedAt, e.validUntil = sent+r.cfg.NegativeTTL, sent+maxValid
	} else {
		e.agedAt, e.validUntil = sent+r.cfg.MaxAge, sent+e.validUntil
	}
	e.freshUntil = min(e.agedAt, e.validUntil)
	inTime := r.isLeased(now) || now-sent <= time.Duration(r.leaseTerm.Load())+r.cfg.MaxStale
	return now < e.validUntil && inTime
}

// milliseconds converts a number from the wire to a duration from 0 to limit.
func milliseconds(ms int64, limit time.Duration) time.Duration {
	return time.Duration(min(max(ms, 0), limit.Milliseconds())) * time.Millisecond
}

// optional returns nil for an empty text.
func optional(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

// valueOf returns what p points to, or the zero value.
func valueOf[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
