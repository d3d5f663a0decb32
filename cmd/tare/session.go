package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	agentrouter "github.com/tetrateio/agentrouter-go"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

// The variables of the environment that SDKs read too.
const (
	baseURLVariable = "AGENTROUTER_BASE_URL"
	apiKeyVariable  = "AGENTROUTER_API_KEY" //nolint:gosec // G101: the name of a variable
)

// errNoSession is a command that needs an API key and has none.
var errNoSession = errors.New("you are not logged in")

// access is whom to call and as whom, and where that comes from.
type access struct {
	baseURL           string
	apiKey            secret
	insecure          bool
	customer, project string
	keyFrom           string // for people
	profile           string // empty where the API key is not a profile's
}

// session calls the service, and keeps the last answer as it came.
type session struct {
	*agentrouter.Client
	access
	answers *recorder
}

// access finds out whom to call: flags win over the environment, that over the profile. A profile that is named on the
// command line is a flag. A profile's API key goes to the profile's own address alone, and so does its project.
func (p *program) access() (access, error) {
	a := access{baseURL: p.flags.baseURL, insecure: p.flags.insecure}
	if p.flags.profile == "" {
		if a.baseURL == "" {
			a.baseURL = p.Getenv(baseURLVariable)
		}
		a.apiKey, a.keyFrom = newSecret(p.Getenv(apiKeyVariable)), apiKeyVariable
	}
	if a.apiKey.IsZero() || a.baseURL == "" {
		if err := p.fromProfile(&a); err != nil {
			return access{}, err
		}
	}
	p.hide(a.apiKey)
	if p.flags.customer != "" {
		a.customer = p.flags.customer
	}
	if p.flags.project != "" {
		a.project = p.flags.project
	}
	switch {
	case a.apiKey.IsZero():
		return access{}, errNoSession
	case a.baseURL == "":
		return access{}, cli.Usagef("no base URL: set %s, or use --base-url", baseURLVariable)
	}
	var err error
	a.baseURL, err = checkBaseURL(a.baseURL, a.insecure)
	return a, err
}

// fromProfile fills in what flags and environment do not say.
func (p *program) fromProfile(a *access) error {
	all, err := p.loadProfiles()
	if err != nil {
		return err
	}
	name := p.flags.profile
	if name == "" {
		name = all.Current
	}
	used, err := all.named(name)
	if err != nil && p.flags.profile != "" {
		return err
	}
	own := a.baseURL == "" || sameAddress(a.baseURL, used.BaseURL)
	if a.baseURL == "" {
		a.baseURL = used.BaseURL
	}
	if own {
		a.insecure = a.insecure || used.Insecure
	}
	if !a.apiKey.IsZero() || used.APIKey.IsZero() {
		return nil
	}
	if !own {
		return cli.Usagef("the API key of the profile %q is for %s alone; set %s, or log in there: tare login --base-url URL --profile NAME",
			name, used.BaseURL, apiKeyVariable)
	}
	a.apiKey, a.profile, a.keyFrom = used.APIKey, name, fmt.Sprintf("profile %q", name)
	a.customer, a.project = used.Customer, used.Project
	return nil
}

func sameAddress(one, other string) bool {
	a, errA := checkBaseURL(one, true)
	b, errB := checkBaseURL(other, true)
	return errA == nil && errB == nil && a == b
}

// connect opens the session of this run. It connects to nothing yet.
func (p *program) connect(ctx context.Context) (*session, error) {
	a, err := p.access()
	if err != nil {
		return nil, err
	}
	return p.open(ctx, a)
}

func (p *program) open(ctx context.Context, a access, options ...agentrouter.Option) (*session, error) {
	answers := &recorder{next: transport()}
	options = append([]agentrouter.Option{
		agentrouter.WithBaseURL(a.baseURL),
		agentrouter.WithAPIKey(a.apiKey.reveal()),
		agentrouter.WithHTTPClient(&http.Client{Transport: answers}),
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
	p.session = &session{Client: client, access: a, answers: answers}
	return p.session, nil
}

// transport is for a few requests to one host.
func transport() *http.Transport {
	return &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		ForceAttemptHTTP2:   true,
		TLSHandshakeTimeout: 10 * time.Second,
		MaxIdleConnsPerHost: 2,
		IdleConnTimeout:     time.Minute,
	}
}

// recorder keeps the body of the last answer, so that -o json and yaml show the service's own answer: what the SDK's types
// do not know yet included. Its calls come one after the other.
type recorder struct {
	next http.RoundTripper
	last bytes.Buffer
}

// RoundTrip implements http.RoundTripper.
func (r *recorder) RoundTrip(request *http.Request) (*http.Response, error) {
	r.last.Reset()
	response, err := r.next.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	response.Body = recorded{io.TeeReader(response.Body, &r.last), response.Body}
	return response, nil
}

type recorded struct {
	io.Reader
	io.Closer
}
