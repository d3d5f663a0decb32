package dataplane

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/internal/position"
	"github.com/agentrouter/aikeys/internal/secret"
	"github.com/agentrouter/aikeys/internal/verdict"
)

const (
	// maxAnswer bounds the body of an answer: a secret of 16 KiB, escaped, with a long position.
	maxAnswer = 256 << 10
	// maxDetail bounds the sentence about a refusal, as the contract does, in bytes of UTF-8.
	maxDetail = 4 * 1024
	// maxTries is how often a fetch is sent whose answers are older than events that have arrived.
	maxTries = 3
	// maxValid stands for no limit on the validity of a credential.
	maxValid = 100 * 365 * 24 * time.Hour
)

// issuerUnavailable is the problem type for session tokens that can't be checked.
const issuerUnavailable = "issuer-unavailable"

// tokenUnavailable is the problem type for keys whose cloud gives no token.
const tokenUnavailable = "token-unavailable" //nolint:gosec // G101: a name

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
		e, asOf, err = readAnswer(req, status, answer)
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
	return e, asOf, err
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
		if slug == tokenUnavailable {
			return nil, position.Position{}, ErrTokenUnavailable
		}
		return nil, position.Position{}, unreachable{fmt.Errorf("it answers %d", status)}
	}
	refused := refusalOf(status, slug)
	if refused == nil {
		return nil, position.Position{}, fmt.Errorf("%w: it answers %d", ErrUnavailable, status)
	}
	explained := errors.Is(refused, ErrKeyRevoked) || errors.Is(refused, ErrKeyDisabled) || errors.Is(refused, ErrKeyExpired)
	if explained && len(problem.Detail) <= maxDetail {
		refused = &Refusal{refused, problem.Detail}
	}
	e := &entry{err: refused, provider: req.Provider, user: req.UserID, keyID: req.KeyID}
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
		AuthStyle: AuthStyle(got.AuthStyle), AllOperations: valueOf(got.Operations) == "all", NextIfLimited: valueOf(got.OnLimited) == "next_key",
		Administration: got.Administration, ended: new(atomic.Bool), asOf: asOf,
	}
	key.base, _ = url.Parse(got.BaseURL) // or Base returns the error
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
		got.Secret, injected = secret.Text{}, nil // it is a word that answers may have in them
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
	return e, asOf, nil
}

// setValidity sets for how long an entry and its key may be used, counted from the answer.
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
		e.agedAt, e.validUntil, e.refreshFrom = sent+r.cfg.NegativeTTL, sent+maxValid, sent+maxValid
	} else {
		if e.refreshFrom < maxValid { // an answer that grows old first must not make a request wait either
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

const (
	// downFor is how long no request is sent after the control plane could not be reached, and how long requests may all
	// go unanswered before it counts as hanging.
	downFor = 250 * time.Millisecond
	// refusedFor is how long no request is sent after the control plane refused the data plane's credential. It counts
	// refused requests, and finally accepts none from their address.
	refusedFor = 3 * time.Second
)

// health records whether the control plane answers, as seen by ordinary requests; it sends none of its own. All times
// are the Clock's.
type health struct {
	mu          sync.Mutex    // guards every field
	inFlight    int           // requests sent and not yet answered
	silentSince time.Duration // since when no request in flight was answered
	answeredAt  time.Duration // when a request was last answered
	failure     error         // the outcome of the last request that ended; nil if it was answered
	failedAt    time.Duration
}

// requestSent records that a request is sent.
func (h *health) requestSent(now time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.inFlight == 0 {
		h.silentSince = now
	}
	h.inFlight++
}

// requestDone records the outcome of a request; failure is nil if it was answered. A failure is ignored if another
// request was answered since this one was sent.
func (h *health) requestDone(sent, now time.Duration, failure error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.inFlight--
	switch {
	case failure == nil:
		h.silentSince, h.answeredAt, h.failure = now, now, nil
	case h.answeredAt <= sent:
		h.failedAt, h.failure = now, failure
	}
}

// streamOpened records that the control plane has answered on the stream: requests are worth sending again.
func (h *health) streamOpened(now time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.silentSince, h.answeredAt, h.failure = now, now, nil
}

// downReason returns why a request would be useless now, or nil. Requests that hang count only without a lease: while
// heartbeats arrive, the control plane is merely slow.
func (h *health) downReason(now time.Duration, leased bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	pause := downFor
	if errors.Is(h.failure, ErrDataPlaneUnauthenticated) {
		pause = refusedFor
	}
	if h.failure != nil && now-h.failedAt < pause {
		return h.failure
	}
	if !leased && h.inFlight > 0 && now-h.silentSince >= downFor {
		return errSilent
	}
	return nil
}

// credentialStatus records whether the control plane refuses the data plane's credential. After a refusal it must accept
// the credential again before anything is cached. Silence afterwards, or a limit on this address, does not undo a refusal.
type credentialStatus struct {
	refusedAt  atomic.Int64 // a time.Duration; never if the credential is not refused
	acceptedAt atomic.Int64 // a time.Duration: when the newest request that was accepted was sent
}

// setRefused records a refused request. It ignores the refusal if a later request was accepted: the credential has been replaced since.
func (s *credentialStatus) setRefused(sent, now time.Duration) bool {
	if int64(sent) < s.acceptedAt.Load() {
		return false
	}
	s.refusedAt.Store(int64(now))
	return true
}

// setAccepted records that a request was accepted. One that was sent before the refusal proves nothing.
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

// newTransport returns a pool of direct HTTP/1.1 connections to the control plane. Without HTTP/2, a broken connection
// fails only the request that was on it.
func newTransport(timeout time.Duration) *http.Transport {
	return &http.Transport{
		DialContext:           (&net.Dialer{Timeout: timeout, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout:   timeout,
		ResponseHeaderTimeout: timeout,
		MaxConnsPerHost:       256, // many misses at once wait for a connection
		MaxIdleConnsPerHost:   64,
		IdleConnTimeout:       90 * time.Second,
		DisableCompression:    true,
	}
}

// newClients returns the client for single requests, the client for the stream, and a function that closes the idle
// connections of the first. The stream dials a new connection each time and shares none, so that it never reuses a dead
// one.
func newClients(cfg *Config) (unary, stream *gen.Client, closeIdle func(), err error) {
	base := cfg.HTTPClient
	if base == nil {
		base = &http.Client{
			Transport:     newTransport(cfg.FetchTimeout),
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	streaming := *base
	streaming.Timeout = 0
	transport := base.Transport
	if transport == nil {
		transport = http.DefaultTransport
	}
	if pool, ok := transport.(*http.Transport); ok {
		unshared := pool.Clone()
		unshared.DisableKeepAlives = true
		unshared.DisableCompression = true
		unshared.ResponseHeaderTimeout = 0
		unshared.ForceAttemptHTTP2 = false
		unshared.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
		unshared.Protocols = new(http.Protocols)
		unshared.Protocols.SetHTTP1(true)
		streaming.Transport = unshared
	}
	authorize := gen.WithRequestEditorFn(func(_ context.Context, request *http.Request) error {
		if cfg.Token != nil {
			request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(cfg.Token())) // files end in a newline
		}
		// The empty header is not sent. It allows net/http to repeat the request if a kept connection was closed.
		request.Header["X-Idempotency-Key"] = nil
		return nil
	})
	unary, err = gen.NewClient(cfg.ControlPlane, gen.WithHTTPClient(base), authorize)
	if err != nil {
		return nil, nil, nil, err
	}
	stream, err = gen.NewClient(cfg.ControlPlane, gen.WithHTTPClient(&streaming), authorize)
	return unary, stream, base.CloseIdleConnections, err
}
