// Package exchange exchanges the credentials of clouds for tokens, at the clouds' own token services. A fetch waits for
// an exchange for at most [maxWait]. A token service that hangs or fails is not asked again for a while, so it delays
// only the keys that need it. Tokens are kept in memory for each version of a key. All fetches of the version share one
// exchange.
//
// The package may import impl/providers, and nothing else of ours. Its errors quote no part of a credential. From a
// token service's answer, they quote only the code of a refusal.
package exchange

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/agentrouter/aikeys/impl/providers"
)

var (
	// ErrRefused says that a token service does not accept the credential.
	ErrRefused = errors.New("the cloud's token service refuses the credential")
	// ErrOpenRole says that a role can be assumed without the customer's external id. It wraps ErrRefused.
	ErrOpenRole = fmt.Errorf("%w: the role's trust policy does not require the external id", ErrRefused)
	// ErrUnavailable says that a token service gives no token at the moment.
	ErrUnavailable = errors.New("the cloud's token service does not answer")
)

const (
	// maxWait is how long a fetch waits for an exchange. Data planes wait longer for a fetch.
	maxWait = 1500 * time.Millisecond
	// timeout bounds an exchange, which continues if its callers leave. dialTimeout bounds its connection.
	timeout, dialTimeout = 5 * time.Second, 5 * time.Second
	maxIdleConns         = 32
	// unavailablePause and refusedPause are the times between a failed exchange and the next one.
	unavailablePause, refusedPause = 2 * time.Second, 15 * time.Second
	// maxLife is how long a token is used, at most.
	maxLife = time.Hour
	// maxAtOnce bounds the exchanges under way with one service.
	maxAtOnce = 16
	// maxHeld is the number of keys whose tokens are kept.
	maxHeld = 10_000
	// maxBody is how much of an answer is read, and maxToken how long a token may be.
	maxBody, maxToken = 64 << 10, 15 << 10
)

// Roles assumes roles in AWS. Assume returns a token made with the role, and how long it is valid. Errors: ErrRefused,
// ErrUnavailable.
type Roles interface {
	Assume(ctx context.Context, role providers.Role) (token string, life time.Duration, err error)
}

// Exchanger exchanges credentials for tokens. It is safe for concurrent use.
type Exchanger struct {
	client  *http.Client
	roles   Roles
	flights singleflight.Group

	mu       sync.Mutex // guards the fields below
	held     map[string]outcome
	services map[string]chan struct{} // by their names; a channel holds a value for each exchange under way
}

// New returns an Exchanger; transport is that of NewClient.
func New(transport http.RoundTripper) *Exchanger {
	return &Exchanger{client: NewClient(transport, timeout), held: map[string]outcome{}, services: map[string]chan struct{}{}}
}

// NewClient returns an HTTP client for requests with customers' credentials. It follows no redirects, and a request takes at most timeout.
// With a nil transport it makes its own, which uses HTTPS_PROXY and NO_PROXY.
func NewClient(transport http.RoundTripper, timeout time.Duration) *http.Client {
	client := &http.Client{
		Transport: transport, Timeout: timeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	if transport == nil {
		client.Transport = &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: dialTimeout}).DialContext,
			TLSHandshakeTimeout:   dialTimeout,
			ResponseHeaderTimeout: timeout,
			IdleConnTimeout:       30 * time.Second,
			MaxIdleConns:          maxIdleConns,
			ForceAttemptHTTP2:     true,
		}
	}
	return client
}

// SetRoles has the Exchanger assume roles. Without it, credentials that name a role get ErrUnavailable. It must come before the first use.
func (x *Exchanger) SetRoles(roles Roles) { x.roles = roles }

// outcome is the state of a key's token. An old token still serves while the service is unavailable.
type outcome struct {
	token   string
	expires time.Time
	next    time.Time // when the next exchange may be made
	err     error     // of the last exchange
}

// Complete sets the token of a credential that has a Grant. key identifies one version of a key's secret.
func (x *Exchanger) Complete(ctx context.Context, key string, c *providers.Credential) error {
	if c.Grant == nil {
		return nil
	}
	held := x.recall(key)
	if time.Now().Before(held.next) {
		return held.complete(c)
	}
	grant := *c.Grant
	renewed := x.flights.DoChan(key, func() (any, error) {
		return x.renew(context.WithoutCancel(ctx), key, grant), nil
	})
	wait := time.NewTimer(maxWait)
	defer wait.Stop()
	select {
	case result := <-renewed:
		if got, ok := result.Val.(outcome); ok {
			return got.complete(c)
		}
		return ErrUnavailable
	case <-ctx.Done():
		return ctx.Err()
	case <-wait.C:
		held.err = ErrUnavailable
		return held.complete(c)
	}
}

// Try tests a credential: it makes an exchange and drops the token. Errors: ErrRefused, ErrUnavailable.
func (x *Exchanger) Try(ctx context.Context, grant providers.Grant) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	_, _, err := x.exchange(ctx, grant)
	return err
}

// complete sets the token of a credential. The error says why the exchange gave no token.
func (o outcome) complete(c *providers.Credential) error {
	now := time.Now()
	life := o.expires.Sub(now)
	if o.token == "" || life <= 0 || errors.Is(o.err, ErrRefused) {
		if o.err == nil {
			return ErrUnavailable
		}
		return o.err
	}
	c.SetToken(o.token, life)
	if o.err == nil {
		c.Refresh = max(0, o.next.Sub(now)) // the same time for all
	}
	return nil
}

// recall returns the state of a key's token.
func (x *Exchanger) recall(key string) outcome {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.held[key]
}

// renew makes an exchange, and returns and stores the new state of the key's token.
func (x *Exchanger) renew(ctx context.Context, key string, grant providers.Grant) outcome {
	if held := x.recall(key); time.Now().Before(held.next) {
		return held // another exchange has ended since the caller looked
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	asked := time.Now()
	token, life, err := x.exchange(ctx, grant)
	if err == nil {
		life = min(life, maxLife)
		return x.hold(key, outcome{token: token, expires: asked.Add(life), next: asked.Add(providers.RefreshAfter(life))})
	}
	failed := x.recall(key)
	failed.err, failed.next = err, time.Now().Add(unavailablePause)
	if errors.Is(err, ErrRefused) {
		failed = outcome{err: err, next: time.Now().Add(refusedPause)}
	}
	return x.hold(key, failed)
}

// hold stores the outcome for a key. It drops expired outcomes and, if there are too many, the outcome of another key.
func (x *Exchanger) hold(key string, o outcome) outcome {
	x.mu.Lock()
	defer x.mu.Unlock()
	if _, known := x.held[key]; !known && len(x.held) >= maxHeld {
		now := time.Now()
		for each, o := range x.held {
			if now.After(o.expires) && now.After(o.next) {
				delete(x.held, each)
			}
		}
		for each := range x.held {
			if len(x.held) < maxHeld {
				break
			}
			delete(x.held, each)
		}
	}
	x.held[key] = o
	return o
}

// exchange sends a grant to its service, once the service has a free slot.
func (x *Exchanger) exchange(ctx context.Context, grant providers.Grant) (token string, life time.Duration, err error) {
	var service string
	var request *http.Request
	switch {
	case grant.Role != nil && x.roles == nil:
		return "", 0, ErrUnavailable
	case grant.Role != nil:
		service = "AWS in " + grant.Role.Region
	default:
		if request, err = http.NewRequestWithContext(ctx, http.MethodPost, grant.URL, strings.NewReader(grant.Form.Reveal())); err != nil {
			return "", 0, ErrRefused // the error quotes the URL
		}
		service = request.URL.Host
	}
	slots := x.slots(service)
	select {
	case slots <- struct{}{}:
		defer func() { <-slots }()
	case <-ctx.Done():
		return "", 0, ErrUnavailable
	}
	if grant.Role != nil {
		return x.roles.Assume(ctx, *grant.Role)
	}
	return x.send(request)
}

// send sends a request to a token service, and reads the answer.
func (x *Exchanger) send(request *http.Request) (token string, life time.Duration, err error) {
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Header.Set("Accept", "application/json")
	request.Header.Set("User-Agent", "agentrouter-aikeys")
	response, err := x.client.Do(request)
	if err != nil {
		return "", 0, ErrUnavailable
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxBody))
	if err != nil {
		return "", 0, ErrUnavailable
	}
	return readToken(response.StatusCode, body)
}

// slots returns the channel that bounds the exchanges with a service.
func (x *Exchanger) slots(service string) chan struct{} {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.services[service] == nil {
		x.services[service] = make(chan struct{}, maxAtOnce)
	}
	return x.services[service]
}

var (
	tokenPattern = regexp.MustCompile(`^[\x21-\x7e]+$`)
	codePattern  = regexp.MustCompile(`^[a-z_]{1,40}$`)
)

// readToken reads the answer of a token service (RFC 6749, section 5).
func readToken(status int, body []byte) (token string, life time.Duration, err error) {
	var answer struct {
		Token     string      `json:"access_token"`
		ExpiresIn json.Number `json:"expires_in"`
		Error     string      `json:"error"`
	}
	invalid := json.Unmarshal(body, &answer) != nil
	switch {
	case !invalid && (status == http.StatusBadRequest || status == http.StatusUnauthorized || status == http.StatusForbidden) &&
		codePattern.MatchString(answer.Error) && answer.Error != "temporarily_unavailable" && answer.Error != "server_error":
		return "", 0, fmt.Errorf("%w: %s", ErrRefused, answer.Error)
	case invalid || status != http.StatusOK || len(answer.Token) > maxToken || !tokenPattern.MatchString(answer.Token):
		return "", 0, ErrUnavailable
	}
	seconds, err := answer.ExpiresIn.Int64()
	if err != nil || seconds <= 0 {
		return "", 0, ErrUnavailable
	}
	return answer.Token, time.Duration(min(seconds, int64(maxLife/time.Second))) * time.Second, nil
}
