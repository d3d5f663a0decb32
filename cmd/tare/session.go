package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	agentrouter "github.com/tetrateio/agentrouter-go"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/internal/netaddr"
	"github.com/agentrouter/aikeys/internal/secret"
)

// The environment variables that the SDKs read too.
const (
	baseURLVariable = "AGENTROUTER_BASE_URL"
	apiKeyVariable  = "AGENTROUTER_API_KEY" //nolint:gosec // G101: the name of a variable
)

// errNotLoggedIn means that a command needs an API key and found none.
var errNotLoggedIn = errors.New("you are not logged in")

// access is the address of the service, the API key to use there, and where tare found the key.
type access struct {
	baseURL           string
	apiKey            secret.Text
	insecure          bool   // http:// to another machine is allowed
	customer, project string // empty means the session's own
	keyFrom           string // where the key was found, for people
	profile           string // the profile that the key is from, empty for other keys
	storedIn          string // where the key of the profile is stored, for people
	gateway           string // the gateway's address in the profile
}

// credential returns what apiKey is, in words for messages.
func (a *access) credential() string {
	if isSessionToken(a.apiKey) {
		return "session token"
	}
	return "API key"
}

// session is a client of the service that remembers the last response.
type session struct {
	*agentrouter.Client
	access
	responses *responseRecorder
}

// resolveAccess decides which service to call and with which key: flags win over the environment, and the environment wins
// over the profile. With --profile, the environment is ignored.
func (p *program) resolveAccess() (access, error) {
	a := access{baseURL: p.flags.baseURL, insecure: p.flags.insecure}
	if p.flags.profile == "" {
		a.baseURL = cmp.Or(a.baseURL, p.Getenv(baseURLVariable))
		a.apiKey, a.keyFrom = secret.New(p.Getenv(apiKeyVariable)), apiKeyVariable
	}
	if a.apiKey.Reveal() == "" || a.baseURL == "" {
		if err := p.fillFromProfile(&a); err != nil {
			return access{}, err
		}
	}
	p.registerSecret(a.apiKey)
	a.customer = cmp.Or(p.flags.customer, a.customer)
	a.project = cmp.Or(p.flags.project, a.project)
	switch {
	case a.apiKey.Reveal() == "":
		return access{}, errNotLoggedIn
	case a.baseURL == "":
		return access{}, cli.Usagef("no base URL: set %s, or use --base-url", baseURLVariable)
	}
	var err error
	a.baseURL, err = normalizeBaseURL(a.baseURL, a.insecure)
	return a, err
}

// fillFromProfile uses the profile for the values that neither the flags nor the environment set. It uses the profile's
// key, customer and project only with the profile's own address.
func (p *program) fillFromProfile(a *access) error {
	all, err := p.loadProfiles()
	if err != nil {
		return err
	}
	name := cmp.Or(p.flags.profile, all.Current)
	used, err := all.find(name)
	if err != nil && p.flags.profile != "" {
		return err
	}
	a.baseURL = cmp.Or(a.baseURL, used.BaseURL)
	isOwnAddress := isSameAddress(a.baseURL, used.BaseURL)
	if isOwnAddress {
		a.insecure, a.gateway = a.insecure || used.Insecure, used.Gateway
	}
	storedIn := used.storedIn()
	if a.apiKey.Reveal() != "" || storedIn == "" {
		return nil
	}
	if !isOwnAddress {
		return cli.Usagef("the credential of the profile %q is only for %s; set %s, or log in elsewhere with: tare login --base-url URL --profile NAME",
			name, used.BaseURL, apiKeyVariable)
	}
	if used.APIKey.Reveal() == "" {
		if err := p.readKeyring(&used); err != nil {
			return err
		}
	}
	a.apiKey, a.profile, a.keyFrom, a.storedIn = used.APIKey, name, fmt.Sprintf("profile %q", name), storedIn
	a.customer, a.project = used.Customer, used.Project
	return nil
}

func isSameAddress(a, b string) bool {
	first, errA := normalizeBaseURL(a, true)
	second, errB := normalizeBaseURL(b, true)
	return a == b || errA == nil && errB == nil && first == second
}

// normalizeBaseURL returns the base URL without a trailing slash.
func normalizeBaseURL(address string, insecure bool) (string, error) {
	return normalizeURL("the base URL", address, insecure)
}

// normalizeURL returns a URL without a trailing slash. Errors do not quote the URL, because it may contain a password.
// They refer to it with the text what, such as "the base URL".
func normalizeURL(what, address string, insecure bool) (string, error) {
	u, err := url.Parse(address)
	switch {
	case err != nil || u.Host == "" || u.Opaque != "" || (u.Scheme != "https" && u.Scheme != "http"):
		return "", cli.Usagef("%s must be like https://aikeys.example.com", what)
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return "", cli.Usagef("%s must have no user, query or fragment", what)
	case u.Scheme == "http" && !insecure && !netaddr.IsLoopback(u.Hostname()):
		return "", cli.Usagef("%s is http:// to another machine, so your API key and the provider keys could be read "+
			"on the way; use https://, or --insecure on a network that nobody else can reach", what)
	}
	return strings.TrimRight(u.String(), "/"), nil
}

// connect opens the session of this run. No connection is made before the first call.
func (p *program) connect(ctx context.Context) (*session, error) {
	a, err := p.connectable(ctx)
	if err != nil {
		return nil, err
	}
	if a.profile == "" {
		return p.openSession(ctx, a)
	}
	keys := &keySource{program: p, access: a}
	s, err := p.openSession(ctx, a, agentrouter.WithAPIKeySource(keys.current),
		agentrouter.WithHTTPClient(&http.Client{Transport: keys}))
	if err == nil {
		keys.next = s.responses
	}
	return s, err
}

// keySource gives a session its profile's API key or session token, and renews a session token while a command is
// running. keySource is also a transport: if the service answers 401, keySource renews the session token and repeats
// the request once. The repetition is safe, because the service does not carry out a request that it answers with 401.
type keySource struct {
	*program
	access
	next    http.RoundTripper
	renewed secret.Text // what the last renewal after a 401 returned
}

// current returns the key for the next request.
func (k *keySource) current(ctx context.Context) (string, error) {
	key, err := k.validKey(ctx, k.access)
	if err != nil {
		return "", err
	}
	k.apiKey = key
	return key.Reveal(), nil
}

// RoundTrip implements http.RoundTripper.
func (k *keySource) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := k.next.RoundTrip(request)
	if err != nil || response.StatusCode != http.StatusUnauthorized || !k.replaceRefused(request.Context()) {
		return response, err
	}
	again := request.Clone(request.Context())
	if request.GetBody != nil {
		if again.Body, err = request.GetBody(); err != nil {
			return response, nil //nolint:nilerr // the request can't be repeated
		}
	}
	again.Header.Set("Authorization", "Bearer "+k.apiKey.Reveal())
	_ = response.Body.Close()
	return k.next.RoundTrip(again)
}

// replaceRefused replaces a session token that the service has refused, and reports whether it could. It does not
// replace a token that it has just renewed.
func (k *keySource) replaceRefused(ctx context.Context) bool {
	refused := k.apiKey.Reveal()
	if !isSessionToken(k.apiKey) || refused == k.renewed.Reveal() {
		return false
	}
	key, err := k.renewKey(ctx, k.access, func(key secret.Text) bool { return key.Reveal() == refused })
	if err != nil || key.Reveal() == refused {
		return false
	}
	k.apiKey, k.renewed = key, key
	return true
}

// newTransport returns a transport for a few requests to one host.
func newTransport() *http.Transport {
	return &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		ForceAttemptHTTP2:   true,
		TLSHandshakeTimeout: 10 * time.Second,
		MaxIdleConnsPerHost: 2,
		IdleConnTimeout:     time.Minute,
	}
}

func (p *program) openSession(ctx context.Context, a access, options ...agentrouter.Option) (*session, error) {
	responses := &responseRecorder{next: newTransport()}
	options = append([]agentrouter.Option{
		agentrouter.WithBaseURL(a.baseURL),
		agentrouter.WithAPIKey(a.apiKey.Reveal()),
		agentrouter.WithHTTPClient(&http.Client{Transport: responses}),
		agentrouter.WithTimeout(p.flags.timeout),
		agentrouter.WithUserAgent("tare"),
	}, options...)
	if a.insecure {
		options = append(options, agentrouter.WithInsecureHTTP())
	}
	client, err := agentrouter.New(ctx, options...)
	if err != nil {
		return nil, cli.Usagef("%s", strings.TrimPrefix(err.Error(), "agentrouter: "))
	}
	p.session = &session{Client: client, access: a, responses: responses}
	return p.session, nil
}

// responseRecorder records the body of the last response. If this response is a page of a list, responseRecorder also
// keeps the bodies of the pages before. -o json and -o yaml print the recorded bodies, so that users see fields that
// the SDK does not know yet. Calls must not overlap.
type responseRecorder struct {
	next   http.RoundTripper
	last   bytes.Buffer
	token  string   // the page_token of the last request
	before [][]byte // the pages before the last one
}

// RoundTrip implements http.RoundTripper.
func (r *responseRecorder) RoundTrip(request *http.Request) (*http.Response, error) {
	token := request.URL.Query().Get("page_token")
	switch {
	case token != "" && token == r.nextToken(): // the page after the last one
		r.before = append(r.before, bytes.Clone(r.last.Bytes()))
	case token == "" || token != r.token: // not a retry of the same request
		r.before = nil
	}
	r.token = token
	r.last.Reset()
	response, err := r.next.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	response.Body = struct {
		io.Reader
		io.Closer
	}{io.TeeReader(response.Body, &r.last), response.Body}
	return response, nil
}

// nextToken returns the last response's next_page_token, or "".
func (r *responseRecorder) nextToken() string {
	var page struct {
		Next string `json:"next_page_token"`
	}
	_ = json.Unmarshal(r.last.Bytes(), &page) // a response that is not a page has no next one
	return page.Next
}

// document returns the recorded response. Several pages become one that has the items of all.
func (r *responseRecorder) document() ([]byte, error) {
	if len(r.before) == 0 {
		return r.last.Bytes(), nil
	}
	whole, items := map[string]json.RawMessage{}, map[string][]json.RawMessage{}
	for _, text := range append(slices.Clone(r.before), r.last.Bytes()) {
		page := map[string]json.RawMessage{}
		if err := json.Unmarshal(text, &page); err != nil {
			return nil, err
		}
		delete(whole, "next_page_token")
		for name, value := range page {
			var list []json.RawMessage
			if json.Unmarshal(value, &list) == nil {
				items[name] = append(items[name], list...)
			} else {
				whole[name] = value
			}
		}
	}
	for name, list := range items {
		value, err := json.Marshal(list)
		if err != nil {
			return nil, err
		}
		whole[name] = value
	}
	return json.Marshal(whole)
}
