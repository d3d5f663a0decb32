package dataplane

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/internal/position"
	"github.com/agentrouter/aikeys/internal/secret"
	"github.com/agentrouter/aikeys/internal/verdict"
)

const (
	// maxAnswer bounds the body of an answer. It has room for a secret of 16 KiB, escaped, and a long position.
	maxAnswer = 256 << 10
	// maxDetail is the contract's limit for the sentence about a refusal, in bytes of UTF-8.
	maxDetail = 4 * 1024
	// maxValid stands for no limit on the validity of a credential.
	maxValid = 100 * 365 * 24 * time.Hour
)

// fetchKey sends a fetch and returns the answer, a key or a refusal. After a broken connection it tries once more: the
// replica may be gone, and another may answer. If there is an error, e is nil. The error is a refusal that may not be
// cached, errLate, or another error that wraps ErrUnavailable.
func (r *Resolver) fetchKey(ctx context.Context, req Request) (e *entry, err error) {
	body := r.fetchRequest(req)
	var params gen.FetchKeyParams
	var enforces []string
	if r.cfg.Restrictions {
		enforces = append(enforces, "restrictions")
	}
	if r.cfg.Limits {
		enforces = append(enforces, "limits")
	}
	params.AgentrouterEnforces = optional(strings.Join(enforces, ", "))
	sent := r.clock.Now()
	r.health.requestSent(sent)
	var status int
	var answer []byte
	for range 2 {
		status, answer, err = r.send(ctx, func(ctx context.Context) (*http.Response, error) {
			return r.client.FetchKey(ctx, &params, body)
		})
		if err == nil || ctx.Err() != nil {
			break
		}
	}
	r.metrics.fetchTime.Observe((r.clock.Now() - sent).Seconds())
	if err == nil {
		e, err = readAnswer(req, status, answer)
		clear(answer) // it has the key in it
	}
	var failure error // of the control plane, not of this request
	switch {
	case errors.As(err, new(unreachable)):
		failure = err
	case e != nil && errors.Is(e.err, ErrDataPlaneUnauthenticated):
		failure = e.err
		r.refuseCredential(sent)
	case e != nil:
		r.credential.setAccepted(sent)
	}
	r.health.requestDone(sent, r.clock.Now(), failure)
	switch {
	case err != nil:
		return nil, err
	case e.err != nil && !isCacheable(e.err):
		return nil, e.err
	case !r.setExpiry(e, sent):
		return nil, errLate
	}
	return e, nil
}

// fetchRequest returns the body of a fetch.
func (r *Resolver) fetchRequest(req Request) gen.FetchRequest {
	body := gen.FetchRequest{
		CustomerID: optional(req.CustomerID), ProjectID: optional(req.ProjectID), UserID: optional(req.UserID),
		Provider: optional(req.Provider), KeyID: optional(req.KeyID),
	}
	if req.Credential != "" {
		body.Credential = new(secret.New(req.Credential))
	}
	if req.limited != "" {
		body.Limited = strings.Split(req.limited, ",")
	}
	if r.cfg.CustomProviders && (IsCustom(req.Provider) || req.KeyID != "") {
		body.CustomProviders = new(true)
	}
	return body
}

// send sends a request and reads the whole answer, within FetchTimeout. The status is 0 if there is no answer; then the
// error is of type unreachable.
func (r *Resolver) send(
	ctx context.Context, do func(context.Context) (*http.Response, error),
) (status int, body []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.FetchTimeout)
	defer cancel()
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
func readAnswer(req Request, status int, body []byte) (*entry, error) {
	if status == http.StatusOK {
		return readKey(req, body)
	}
	var problem gen.Problem
	_ = json.Unmarshal(body, &problem) // a body that is not a problem document has no type
	slug := path.Base(problem.Type)
	switch status {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		switch slug {
		case "issuer-unavailable":
			return nil, errIssuer
		case "token-unavailable":
			return nil, ErrTokenUnavailable
		}
		return nil, unreachable{fmt.Errorf("the control plane answers %d", status)}
	}
	refused := refusals[problemAnswer{status, slug}]
	if refused == nil {
		return nil, fmt.Errorf("%w: the control plane answers %d", ErrUnavailable, status)
	}
	isStopped := slices.Contains([]error{ErrKeyRevoked, ErrKeyDisabled, ErrKeyExpired}, refused)
	if isStopped && len(problem.Detail) <= maxDetail {
		refused = &Refusal{refused, problem.Detail}
	}
	e := &entry{err: refused, provider: req.Provider, user: req.UserID, keyID: req.KeyID}
	if req.CustomerID != "" && req.ProjectID != "" {
		e.project = project{req.CustomerID, req.ProjectID}
	}
	return e, nil
}

// readKey returns the entry for a key, or an error if the answer is incomplete or for another request.
func readKey(req Request, body []byte) (*entry, error) {
	var got gen.FetchResponse
	invalid := len(body) > maxAnswer || json.Unmarshal(body, &got) != nil
	asOf, err := position.Parse(got.AsOf)
	if invalid || err != nil || !isComplete(&got) || !answersRequest(&got, &req) {
		return nil, fmt.Errorf("%w: the control plane's answer is %w", ErrUnavailable, errProtocol)
	}
	key := &Key{
		ID: got.KeyID, Version: got.Version, CustomerID: got.CustomerID, ProjectID: got.ProjectID,
		Provider: got.Provider, Scope: got.Scope, Reason: got.Reason, BaseURL: got.BaseURL,
		AuthStyle: AuthStyle(got.AuthStyle), AllOperations: valueOf(got.Operations) == "all", NextIfLimited: valueOf(got.OnLimited) == "next_key",
		Administration: got.Administration, ended: new(atomic.Bool), asOf: asOf,
	}
	key.base, _ = url.Parse(got.BaseURL) // if it can't be parsed, Base returns an error
	for _, r := range got.Routes {
		key.Routes = append(key.Routes, Route{Path: r.Path, Host: valueOf(r.Host), AuthStyle: AuthStyle(r.AuthStyle)})
	}
	key.Answers = readRules(got.Answers)
	var injected []injectedHeader
	for _, h := range got.Inject {
		injected = append(injected, injectedHeader{h.Name, h.Value.Reveal(), h.Mode == "append"})
	}
	key.Dialect = valueOf(got.Dialect)
	if got.Restrict != nil {
		key.Restrictions = &Restrictions{Models: got.Restrict.Models, Operations: got.Restrict.Operations}
	}
	if l := got.Limit; l != nil {
		key.Limits = &Limits{valueOf(l.RequestsPerMinute), valueOf(l.RequestsPerDay), valueOf(l.Concurrent)}
	}
	if key.AuthStyle == AuthNone {
		got.Secret, injected = secret.Text{}, nil // a placeholder: a word that answers may contain
	}
	key.setSecret(got.Secret, injected)
	e := &entry{
		key: key, project: project{got.CustomerID, got.ProjectID}, provider: got.Provider, user: req.UserID,
		keyID: req.KeyID, validUntil: maxValid, refreshFrom: maxValid,
	}
	e.setValidity(&got)
	if got.Caller != nil {
		key.Caller = &Caller{UserID: got.Caller.UserID, TokenID: valueOf(got.Caller.TokenID)}
		e.user, e.token = key.Caller.UserID, key.Caller.TokenID
		if ms := got.Caller.ValidMs; ms != nil {
			e.validUntil = min(e.validUntil, milliseconds(*ms, maxValid))
		}
	}
	return e, nil
}

// setValidity sets how long an entry and its key may be used, counted from the answer.
func (e *entry) setValidity(got *gen.FetchResponse) {
	if ms := got.ExpiresInMs; ms != nil {
		e.validUntil = milliseconds(*ms, maxValid)
		e.refreshFrom = e.validUntil
	}
	if ms := got.EndsInMs; ms != nil {
		e.key.endsAt = milliseconds(*ms, maxValid)
		e.validUntil = min(e.validUntil, e.key.endsAt)
	}
	if ms := got.RefreshInMs; ms != nil {
		e.refreshFrom = milliseconds(*ms, maxValid)
	}
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

// answersRequest reports whether an answer is for the request.
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
		e.agedAt, e.validUntil, e.refreshFrom = sent+r.cfg.NegativeTTL, sent+maxValid, sent+maxValid
	} else {
		if e.refreshFrom < maxValid { // if MaxAge comes earlier, it must not make a request wait either
			e.refreshFrom = min(e.refreshFrom, r.cfg.MaxAge/10*9)
		}
		e.agedAt, e.validUntil, e.refreshFrom = sent+r.cfg.MaxAge, sent+e.validUntil, sent+e.refreshFrom
		if e.key.endsAt != 0 {
			e.key.endsAt += sent
		}
	}
	e.freshUntil = min(e.agedAt, e.validUntil)
	inTime := r.isLeased(now) || now-sent <= time.Duration(r.leaseTerm.Load())+r.cfg.MaxStale
	return now < e.validUntil && inTime
}

// milliseconds converts a number from the wire to a duration from 0 to limit.
func milliseconds(ms int64, limit time.Duration) time.Duration {
	return time.Duration(min(max(ms, 0), limit.Milliseconds())) * time.Millisecond
}

func readRules(from []gen.AnswerRule) (rules verdict.Rules) {
	for _, r := range from {
		rules = append(rules, verdict.Rule{
			Status: r.Status, At: valueOf(r.At), Is: valueOf(r.Is), Begins: valueOf(r.Begins), Means: verdict.Verdict(r.Means),
		})
	}
	return rules
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

// credentialStatus records whether the control plane refuses the data plane's credential. After a refusal, nothing is
// cached until the control plane accepts the credential again. The refusal also stands while the control plane does not
// answer, or answers 429 to this address.
type credentialStatus struct {
	refusedAt  atomic.Int64 // a time.Duration; never if the credential is not refused
	acceptedAt atomic.Int64 // a time.Duration: when the newest accepted request was sent
}

// setRefused records a refused request. It ignores the refusal if a later request was accepted: then the credential has
// been replaced.
func (s *credentialStatus) setRefused(sent, now time.Duration) bool {
	if int64(sent) < s.acceptedAt.Load() {
		return false
	}
	s.refusedAt.Store(int64(now))
	return true
}

// setAccepted records that a request was accepted. A request that was sent before the refusal proves nothing.
func (s *credentialStatus) setAccepted(sent time.Duration) {
	for at := s.acceptedAt.Load(); int64(sent) > at; at = s.acceptedAt.Load() {
		s.acceptedAt.CompareAndSwap(at, int64(sent))
	}
	if at := s.refusedAt.Load(); int64(sent) >= at {
		s.refusedAt.CompareAndSwap(at, int64(never))
	}
}

func (s *credentialStatus) isRefused() bool { return s.refusedAt.Load() != int64(never) }

// refuseCredential is called when the control plane has refused the data plane's credential. Nobody is served any longer: the lease
// ends, the cache is dropped, and uses in progress end.
func (r *Resolver) refuseCredential(sent time.Duration) {
	if r.credential.setRefused(sent, r.clock.Now()) {
		r.leaseEnd.Store(int64(never))
		r.store.dropAll(true)
	}
}
