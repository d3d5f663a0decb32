package agentrouter

import (
	"cmp"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"
)

const (
	defaultTimeout    = 30 * time.Second
	defaultMaxRetries = 2
)

// Option is a setting of a client.
type Option func(*settings)

type settings struct {
	baseURL      string
	apiKey       func() string // a function, so that nothing prints the key
	http         *http.Client
	timeout      time.Duration
	maxRetries   int
	userAgent    string
	insecureHTTP bool
}

func defaults() settings {
	return settings{
		apiKey:     func() string { return "" },
		timeout:    defaultTimeout,
		maxRetries: defaultMaxRetries,
	}
}

// WithBaseURL sets where the installation is, such as https://aikeys.example.com.
func WithBaseURL(address string) Option { return func(s *settings) { s.baseURL = address } }

// WithAPIKey sets the credential: an API key, or a session token of the installation's OpenID Connect issuer.
func WithAPIKey(key string) Option {
	return func(s *settings) { s.apiKey = func() string { return key } }
}

// WithHTTPClient sets the client that sends the requests, for proxies, private certificates and instrumentation. It is
// copied, and follows no redirects: they could carry the credential elsewhere.
func WithHTTPClient(client *http.Client) Option { return func(s *settings) { s.http = client } }

// WithTimeout sets how long one attempt of a call may take, 30 seconds unless set. A context's deadline bounds the whole
// call. Revoke's Wait is added to it.
func WithTimeout(d time.Duration) Option { return func(s *settings) { s.timeout = d } }

// WithMaxRetries sets how often a call is repeated when there is no answer or the answer is 429, 502, 503 or 504: twice
// unless set, never with 0.
func WithMaxRetries(n int) Option { return func(s *settings) { s.maxRetries = n } }

// WithUserAgent puts a program's own name in front of the SDK's in User-Agent, such as "deploy-bot/1.4".
func WithUserAgent(name string) Option { return func(s *settings) { s.userAgent = name } }

// WithInsecureHTTP allows http:// to another machine, where everybody on the way can read the credential and the keys.
func WithInsecureHTTP() Option { return func(s *settings) { s.insecureHTTP = true } }

func (s *settings) client() (*Client, error) {
	base, err := s.base()
	if err != nil {
		return nil, err
	}
	authorization, err := s.authorization()
	if err != nil {
		return nil, err
	}
	agent := strings.TrimSpace(s.userAgent + " " + defaultUserAgent())
	switch {
	case s.timeout <= 0:
		return nil, errors.New("agentrouter: WithTimeout needs a time above zero")
	case s.maxRetries < 0:
		return nil, errors.New("agentrouter: WithMaxRetries needs zero or more")
	case !visible(strings.ReplaceAll(agent, " ", "")):
		return nil, errors.New("agentrouter: WithUserAgent takes visible ASCII characters and spaces")
	}
	return &Client{
		base:       base,
		authorize:  func(h http.Header) { h["Authorization"] = authorization() },
		http:       s.httpClient(),
		userAgent:  agent,
		timeout:    s.timeout,
		maxRetries: s.maxRetries,
		pause:      pause,
	}, nil
}

// base checks the base URL. Its errors do not repeat it: one with a password in it is a mistake that people make.
func (s *settings) base() (string, error) {
	address := cmp.Or(s.baseURL, os.Getenv("AGENTROUTER_BASE_URL"))
	if address == "" {
		return "", errors.New("agentrouter: no base URL: set AGENTROUTER_BASE_URL, or use WithBaseURL")
	}
	u, err := url.Parse(address)
	switch {
	case err != nil || u.Host == "" || u.Opaque != "" || (u.Scheme != "https" && u.Scheme != "http"):
		return "", errors.New("agentrouter: the base URL must be like https://aikeys.example.com")
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return "", errors.New("agentrouter: the base URL must have no user, query or fragment")
	case u.Scheme == "http" && !s.insecureHTTP && !loopback(u.Hostname()):
		return "", errors.New("agentrouter: the base URL is http:// to another machine, which would send the API key " +
			"in clear: use https://, or WithInsecureHTTP")
	}
	return strings.TrimRight(u.String(), "/"), nil
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	address, err := netip.ParseAddr(host)
	return err == nil && address.IsLoopback()
}

// authorization returns the header's values behind a function, ready made: a header is set on every request.
func (s *settings) authorization() (func() []string, error) {
	key := cmp.Or(s.apiKey(), os.Getenv("AGENTROUTER_API_KEY"))
	if key == "" {
		return nil, errors.New("agentrouter: no API key: set AGENTROUTER_API_KEY, or use WithAPIKey")
	}
	if !visible(key) {
		return nil, errors.New("agentrouter: the API key has characters that no API key has: spaces, line ends or others")
	}
	return func() []string { return []string{"Bearer " + key} }, nil
}

// visible tells whether a text is of visible ASCII characters alone.
func visible(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' })
}

func (s *settings) httpClient() *http.Client {
	client := &http.Client{Transport: transport()}
	if s.http != nil {
		copied := *s.http
		client = &copied
	}
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return client
}

// transport is the standard one, with more connections kept to the one host that there is.
func transport() *http.Transport {
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           dialer.DialContext,
		ForceAttemptHTTP2:     true,
		MaxIdleConns:          64,
		MaxIdleConnsPerHost:   64,
		IdleConnTimeout:       90 * time.Second,
		TLSHandshakeTimeout:   10 * time.Second,
		ExpectContinueTimeout: time.Second,
	}
}
