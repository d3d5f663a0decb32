// Package verification tests secrets at their providers, with requests from the catalogue. A Verifier tests a secret
// that is to be registered, and Keys tests a stored key. This process makes the requests, or DataPlanes has data planes
// make them. Requests of this process go only to the catalogue's hosts, follow no redirects, and are short. No error,
// log or verdict holds any part of a secret or of an answer.
//
// The package may import impl/exchange, impl/providers, models, sealer and internal.
package verification

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/agentrouter/aikeys/impl/exchange"
	"github.com/agentrouter/aikeys/impl/providers"
	"github.com/agentrouter/aikeys/internal/keytests"
	"github.com/agentrouter/aikeys/internal/ratelimit"
	"github.com/agentrouter/aikeys/models"
)

// Result is the outcome of a test of a secret, and its reason, which may be empty.
type Result keytests.Result

// The outcomes.
const (
	Valid       = keytests.Valid
	Rejected    = keytests.Rejected
	Unreachable = keytests.Unreachable
)

// The reasons besides those of package keytests. The API's document describes them.
const (
	reasonExternalID  = "external_id"
	reasonClock       = "clock"
	reasonUnsupported = "unsupported"
	reasonBusy        = "busy"
	reasonNoDataPlane = "no_data_plane"
	reasonOff         = "off"
)

// Unsupported is the result for a secret of a provider without a known test.
func Unsupported() Result { return Result{Unreachable, reasonUnsupported} }

// TurnedOff is the result for a secret that was to be tested although the operator allows no tests.
func TurnedOff() Result { return Result{Unreachable, reasonOff} }

const (
	timeout = keytests.Timeout
	// maxSkew is how far a provider's clock may be from ours. Beyond it, a refused signature says nothing about the key.
	maxSkew = 10 * time.Second
	// maxTests is how many tests a process makes at a time; it refuses further tests. maxOfUsers bounds the tests of
	// all users together, so that there is room for the tests of refused keys. maxOfCustomer bounds the tests of one
	// customer's users, and maxOfUser those of one user, so that others get theirs.
	maxTests, maxOfUsers, maxOfCustomer, maxOfUser = 32, maxTests - retesters, 12, 4
)

// perUser limits how often a user may have secrets tested, so that the service can't be used to try secrets out.
var perUser = ratelimit.Rate{PerSecond: 0.5, Burst: 20}

// Config holds the settings of a Verifier.
type Config struct {
	// Upstreams replace the scheme and the host of providers, by slug, for tests.
	Upstreams map[string]*url.URL
	// Transport sends the requests; nil means a new one, which uses HTTPS_PROXY and NO_PROXY.
	Transport http.RoundTripper
	// Exchanger exchanges client secrets and roles for tokens; the exchange is their test. nil means a new one, which
	// uses Transport.
	Exchanger *exchange.Exchanger
	// DataPlanes makes the tests, except exchanges. If it is nil, this process makes them.
	DataPlanes *DataPlanes
}

// Verifier tests secrets. It is safe for concurrent use.
type Verifier struct {
	client    *http.Client
	upstreams map[string]*url.URL
	exchanger *exchange.Exchanger
	users     *ratelimit.Limiter[string]
	// dataPlanes is nil if this process makes the tests.
	dataPlanes *DataPlanes

	mu       sync.Mutex
	underWay map[string]int // tests of each user, of each customer, and under "" of all; guarded by mu
}

// New returns a Verifier.
func New(cfg Config) *Verifier {
	if cfg.Exchanger == nil {
		cfg.Exchanger = exchange.New(cfg.Transport)
	}
	return &Verifier{
		client:    exchange.NewClient(cfg.Transport, timeout),
		upstreams: cfg.Upstreams, exchanger: cfg.Exchanger, users: ratelimit.New[string](perUser), underWay: map[string]int{},
		dataPlanes: cfg.DataPlanes,
	}
}

// Verify tests a secret of the provider's form for a caller. Call it only if the caller is a member of the project.
func (v *Verifier) Verify(ctx context.Context, caller models.Caller, p providers.Provider, secret string) Result {
	if !v.canTest(p) {
		return Unsupported()
	}
	release, admitted := v.admit(caller.CustomerID + "/" + caller.UserID)
	if !admitted {
		return Result{Unreachable, reasonBusy}
	}
	defer release()
	if v.dataPlanes != nil {
		return v.dataPlanes.testSecret(ctx, caller, p, secret)
	}
	return v.test(ctx, p, caller.CustomerID, "", secret)
}

// canTest reports whether credentials of a provider can be tested. Only data planes connect to custom providers.
func (v *Verifier) canTest(p providers.Provider) bool {
	return p.Verify != nil && (p.Destination == "" || v.dataPlanes != nil)
}

// admit counts a test that a user asks for, and reports whether the limits admit the test. If user is empty, the test
// is the service's own. If admitted is true, the caller must call release after the test.
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
		return Unsupported()
	}
	key.SetHolder(customerID, keyID)
	if key.Grant != nil {
		return v.tryExchange(ctx, *key.Grant)
	}
	began := time.Now()
	test, err := p.NewTest(ctx, secret, key, began)
	if err != nil {
		return Unsupported()
	}
	if upstream := v.upstreams[p.Slug]; upstream != nil {
		test.Request.URL.Scheme, test.Request.URL.Host = upstream.Scheme, upstream.Host
	}
	answer := keytests.Run(ctx, v.client.Do, test)
	if test.Signed && !agreesOnTime(answer, began, time.Now()) {
		return Result{Unreachable, reasonClock}
	}
	return Result(answer.Result)
}

// agreesOnTime reports whether the Date of a refusal agrees with this process's clock. It returns true if there is no
// Date, or if the answer is not a refusal. A provider whose clock differs refuses a signed request, with an answer that
// looks like the answer to a wrong key.
func agreesOnTime(answer keytests.Answer, began, ended time.Time) bool {
	at, err := http.ParseTime(answer.Date)
	return answer.Outcome != Rejected || err != nil || at.After(began.Add(-maxSkew)) && at.Before(ended.Add(maxSkew))
}

// tryExchange tests a client secret or a role by exchanging it for a token, which is dropped.
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
		return Result{Unreachable, keytests.ReasonTimeout}
	}
	return Result{Unreachable, keytests.ReasonNoConnection}
}
