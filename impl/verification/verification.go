// Package verification tests secrets at their providers, with the requests that the catalogue has for that: a Verifier a secret that is to be
// registered, and Keys a stored key. Requests go to the catalogue's hosts alone, follow no redirects, and are short. No error, log or
// verdict holds any part of a secret or of an answer.
//
// The package may import impl/exchange, impl/providers, models, sealer and internal.
package verification

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/agentrouter/aikeys/impl/exchange"
	"github.com/agentrouter/aikeys/impl/providers"
	"github.com/agentrouter/aikeys/internal/ratelimit"
	"github.com/agentrouter/aikeys/internal/verdict"
)

// Outcome is what a test says of a secret.
type Outcome string

// The outcomes.
const (
	Valid       Outcome = "valid"
	Rejected    Outcome = "rejected"    // the provider said so
	Unreachable Outcome = "unreachable" // nothing is known
)

// Result is an outcome and its reason, which is empty if the outcome says all.
type Result struct {
	Outcome Outcome
	Reason  string
}

// The reasons, as the API's document describes them.
const (
	reasonRestricted     = "restricted"
	reasonQuotaExhausted = "quota_exhausted"
	reasonLeaked         = "leaked"
	reasonExternalID     = "external_id"
	reasonRateLimited    = "rate_limited"
	reasonBlocked        = "blocked"
	reasonClock          = "clock"
	reasonNoConnection   = "no_connection"
	reasonTimeout        = "timeout"
	reasonUnknown        = "unknown_answer"
	reasonUnsupported    = "unsupported"
	reasonBusy           = "busy"
	reasonOff            = "off"
)

// TurnedOff is the result for a secret that was to be tested where the operator allows no tests.
func TurnedOff() Result { return Result{Unreachable, reasonOff} }

const (
	// timeout bounds a test.
	timeout     = 8 * time.Second
	dialTimeout = 5 * time.Second
	// maxSkew is how far a provider's clock may be from ours. Beyond it, a refused signature says nothing about the key.
	maxSkew = 10 * time.Second
	// maxBody is how much of an answer is read.
	maxBody = 64 << 10
	// maxTests is how many tests a process has under way. Further ones are not made. Of these, one user and the users of one customer may
	// have fewer, so that others can have theirs, and all users leave room for the tests that the service makes by itself.
	maxTests, maxOfUsers, maxOfCustomer, maxOfUser = 32, maxTests - retesters, 12, 4
)

// perUser is how often a user may have secrets tested, so that nobody uses the service to try secrets out.
var perUser = ratelimit.Rate{PerSecond: 0.5, Burst: 20}

// Config holds the settings of a Verifier.
type Config struct {
	// Upstreams replace the scheme and the host of providers, by slug, for tests.
	Upstreams map[string]*url.URL
	// Transport sends the requests; nil is one of its own, which uses HTTPS_PROXY and NO_PROXY.
	Transport http.RoundTripper
	// Exchanger exchanges client secrets and roles for tokens, which is their test. If it is nil, a new one uses Transport.
	Exchanger *exchange.Exchanger
}

// Verifier tests secrets. It is safe for concurrent use.
type Verifier struct {
	client    *http.Client
	upstreams map[string]*url.URL
	exchanger *exchange.Exchanger
	users     *ratelimit.Limiter[string]

	mu       sync.Mutex
	underWay map[string]int // tests of each user, of each customer, and under "" of all; guarded by mu
}

// New returns a Verifier.
func New(cfg Config) *Verifier {
	if cfg.Exchanger == nil {
		cfg.Exchanger = exchange.New(cfg.Transport)
	}
	if cfg.Transport == nil {
		cfg.Transport = &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: dialTimeout}).DialContext,
			TLSHandshakeTimeout:   dialTimeout,
			ResponseHeaderTimeout: timeout,
			IdleConnTimeout:       30 * time.Second,
			MaxIdleConns:          maxTests,
			ForceAttemptHTTP2:     true,
		}
	}
	return &Verifier{
		client: &http.Client{
			Transport: cfg.Transport, Timeout: timeout,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		upstreams: cfg.Upstreams, exchanger: cfg.Exchanger, users: ratelimit.New[string](perUser), underWay: map[string]int{},
	}
}

// Verify tests a secret of the provider's form for a user, who is named as customer/user.
func (v *Verifier) Verify(ctx context.Context, user string, p providers.Provider, secret string) Result {
	if !canTest(p) {
		return Result{Unreachable, reasonUnsupported}
	}
	release, admitted := v.admit(user)
	if !admitted {
		return Result{Unreachable, reasonBusy}
	}
	defer release()
	customer, _, _ := strings.Cut(user, "/")
	return v.test(ctx, p, customer, "", secret)
}

// canTest reports whether credentials of a provider can be tested.
func canTest(p providers.Provider) bool { return p.Verify != nil }

// admit takes a place for a test that a user asks for, or with an empty user the service itself, and reports whether there is one. An
// admitted test calls release.
func (v *Verifier) admit(user string) (release func(), admitted bool) {
	bounds := map[string]int{"": maxTests}
	if user != "" {
		customer, _, _ := strings.Cut(user, "/")
		bounds = map[string]int{"": maxOfUsers, customer: maxOfCustomer, user: maxOfUser}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	for who, most := range bounds {
		if v.underWay[who] >= most {
			return nil, false
		}
	}
	if user != "" && !v.users.Allow(user) {
		return nil, false
	}
	for who := range bounds {
		v.underWay[who]++
	}
	return func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		for who := range bounds {
			if v.underWay[who]--; v.underWay[who] == 0 {
				delete(v.underWay, who)
			}
		}
	}, true
}

// test tests a secret of a customer's; keyID is empty before the key exists.
func (v *Verifier) test(ctx context.Context, p providers.Provider, customerID, keyID, secret string) Result {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	key, err := p.Credential(secret, time.Now())
	if err != nil {
		return Result{Unreachable, reasonUnsupported}
	}
	key.SetHolder(customerID, keyID)
	if key.Grant != nil {
		return v.tryExchange(ctx, *key.Grant)
	}
	result := v.ask(ctx, p, key, secret)
	if key.Style == providers.AuthAWSSigV4 && result.Outcome == Rejected {
		// For some seconds after a wrong secret for the same access key id, AWS may refuse the right one, once (trufflehog's detector).
		result = v.ask(ctx, p, key, secret)
	}
	return result
}

// ask sends the request that tests a key, and judges the answer.
func (v *Verifier) ask(ctx context.Context, p providers.Provider, key providers.Credential, secret string) Result {
	began := time.Now()
	r, rules, err := p.NewTest(ctx, secret, key, began)
	if err != nil {
		return Result{Unreachable, reasonUnsupported}
	}
	if upstream := v.upstreams[p.Slug]; upstream != nil {
		r.URL.Scheme, r.URL.Host = upstream.Scheme, upstream.Host
	}
	isSigned := key.Life > 0
	r.Close = isSigned // AWS repeats its refusal on the same connection
	res, err := v.client.Do(r)
	if err != nil {
		return unanswered(err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxBody))
	if err != nil {
		return unanswered(err)
	}
	result := judge(rules, res.StatusCode, body)
	if result.Outcome == Rejected && isSigned && !agreesOnTime(res.Header, began, time.Now()) {
		return Result{Unreachable, reasonClock}
	}
	return result
}

// agreesOnTime reports whether the time of an answer is that of this process, or absent. What is signed here is not valid elsewhere at
// another time, and the answers to that look like those to a wrong key.
func agreesOnTime(answer http.Header, began, ended time.Time) bool {
	at, err := http.ParseTime(answer.Get("Date"))
	return err != nil || at.After(began.Add(-maxSkew)) && at.Before(ended.Add(maxSkew))
}

// tryExchange tests a client secret or a role by an exchange for a token, which nobody gets.
func (v *Verifier) tryExchange(ctx context.Context, grant providers.Grant) Result {
	err := v.exchanger.Try(ctx, grant)
	switch {
	case err == nil:
		return Result{Valid, ""}
	case errors.Is(err, exchange.ErrOpenRole):
		return Result{Rejected, reasonExternalID}
	case errors.Is(err, exchange.ErrRefused):
		return Result{Rejected, ""}
	case ctx.Err() != nil:
		return Result{Unreachable, reasonTimeout}
	}
	return Result{Unreachable, reasonNoConnection}
}

// unanswered returns the result for a request that got no answer. The error may quote the request, so nothing of it is kept.
func unanswered(err error) Result {
	var timedOut net.Error
	if errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timedOut) && timedOut.Timeout() {
		return Result{Unreachable, reasonTimeout}
	}
	return Result{Unreachable, reasonNoConnection}
}

// judge returns the result for an answer. What is not known to mean that the key is good or bad means neither.
func judge(rules verdict.Rules, status int, body []byte) Result {
	judged, ruled := rules.Match(status, body)
	if !ruled {
		switch {
		case status == http.StatusOK:
			judged = verdict.Accepted
		case status == http.StatusUnauthorized:
			judged = verdict.Rejected
		case status == http.StatusPaymentRequired:
			judged = verdict.QuotaExhausted
		case status == http.StatusTooManyRequests:
			judged = verdict.RateLimited
		}
	}
	switch judged {
	case verdict.Accepted:
		return Result{Valid, ""}
	case verdict.Restricted:
		return Result{Valid, reasonRestricted}
	case verdict.QuotaExhausted:
		return Result{Valid, reasonQuotaExhausted}
	case verdict.Rejected:
		return Result{Rejected, ""}
	case verdict.Leaked:
		return Result{Rejected, reasonLeaked}
	case verdict.RateLimited:
		return Result{Unreachable, reasonRateLimited}
	case verdict.Unrelated:
		return Result{Unreachable, reasonBlocked}
	case verdict.Forbidden, verdict.Unknown:
	}
	return Result{Unreachable, reasonUnknown}
}
