package agentrouter

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
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
	apiKey       func() string // a func, so that nothing prints the key
	keySource    func(context.Context) (string, error)
	log          *slog.Logger
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

// WithBaseURL sets the installation's address, such as https://aikeys.example.com.
func WithBaseURL(address string) Option { return func(s *settings) { s.baseURL = address } }

// WithAPIKey sets the credential: an API key, or a session token of the installation's OpenID Connect issuer.
func WithAPIKey(key string) Option {
	return func(s *settings) { s.apiKey = func() string { return key } }
}

// WithAPIKeySource sets a function that returns the credential. Use it instead of WithAPIKey for session tokens that
// are replaced while the program runs. Each attempt of a call calls the function, so it should cache the credential. It
// must be safe for concurrent use.
func WithAPIKeySource(source func(ctx context.Context) (string, error)) Option {
	return func(s *settings) { s.keySource = source }
}

// WithLogger logs each attempt of a call at the level debug: method, path, status, request id and time. It logs no body and no
// header.
func WithLogger(log *slog.Logger) Option { return func(s *settings) { s.log = log } }

// WithHTTPClient sets the client that sends the requests, for proxies, private certificates and instrumentation. It is
// copied, and the copy follows no redirects: they could send the credential elsewhere.
func WithHTTPClient(client *http.Client) Option { return func(s *settings) { s.http = client } }

// WithTimeout sets how long one attempt of a call may take; the default is 30 seconds. The time of Wait is added to it. To limit the
// whole call, give its context a deadline.
func WithTimeout(d time.Duration) Option { return func(s *settings) { s.timeout = d } }

// WithMaxRetries sets how often a call is repeated if there is no response or its status is 429, 502, 503 or 504. The
// default is 2; 0 means never.
func WithMaxRetries(n int) Option { return func(s *settings) { s.maxRetries = n } }

// WithUserAgent puts a program's name, such as "deploy-bot/1.4", before the SDK's in User-Agent.
func WithUserAgent(name string) Option { return func(s *settings) { s.userAgent = name } }

// WithInsecureHTTP allows http:// to another machine. The credential and the keys can then be read on the way.
func WithInsecureHTTP() Option { return func(s *settings) { s.insecureHTTP = true } }

func (s *settings) newClient() (*Client, error) {
	base, err := s.validBaseURL()
	if err != nil {
		return nil, err
	}
	apiKey, err := s.validAPIKey()
	if err != nil {
		return nil, err
	}
	agent := strings.TrimSpace(s.userAgent + " " + defaultUserAgent())
	switch {
	case s.timeout <= 0:
		return nil, errors.New("agentrouter: WithTimeout must be above zero")
	case s.maxRetries < 0:
		return nil, errors.New("agentrouter: WithMaxRetries must be zero or more")
	case !isVisibleASCII(strings.ReplaceAll(agent, " ", "")):
		return nil, errors.New("agentrouter: WithUserAgent must be visible ASCII characters and spaces")
	}
	return &Client{
		base:       base,
		apiKey:     apiKey,
		http:       s.httpClient(),
		userAgent:  agent,
		timeout:    s.timeout,
		maxRetries: s.maxRetries,
		log:        s.log,
		sleep:      sleep,
	}, nil
}

// validBaseURL returns the base URL without a trailing slash. Errors do not repeat it: it may contain a password.
func (s *settings) validBaseURL() (string, error) {
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
	case u.Scheme == "http" && !s.insecureHTTP && !isLoopback(u.Hostname()):
		return "", errors.New("agentrouter: the base URL is http:// to another machine, so the API key would be sent " +
			"in clear text: use https://, or WithInsecureHTTP")
	}
	return strings.TrimRight(u.String(), "/"), nil
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	address, err := netip.ParseAddr(host)
	return err == nil && address.IsLoopback()
}

// validAPIKey returns a function that returns the API key; a function can't be printed.
func (s *settings) validAPIKey() (func(context.Context) (string, error), error) {
	if s.keySource != nil {
		return s.keySource, nil
	}
	key := cmp.Or(s.apiKey(), os.Getenv("AGENTROUTER_API_KEY"))
	if key == "" {
		return nil, errors.New("agentrouter: no API key: set AGENTROUTER_API_KEY, or use WithAPIKey")
	}
	if !isVisibleASCII(key) {
		return nil, errInvalidAPIKey
	}
	return func(context.Context) (string, error) { return key, nil }, nil
}

var errInvalidAPIKey = errors.New("agentrouter: the API key has spaces, line ends or other characters that API keys don't have")

// isVisibleASCII reports whether a text has visible ASCII characters only.
func isVisibleASCII(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' })
}

func (s *settings) httpClient() *http.Client {
	client := &http.Client{Transport: newTransport()}
	if s.http != nil {
		copied := *s.http
		client = &copied
	}
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return client
}

// newTransport is like http.DefaultTransport but keeps more idle connections, since all go to one host.
func newTransport() *http.Transport {
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
