// Package aikeystest runs the public API for tests: the real handler on a real loopback socket, over a given store, with
// a project of owners and members and sessions for them.
//
// Each answer of a Service is checked against the OpenAPI document. Its answers, log, metrics and traces are searched
// for the secrets that the test used. A violation fails the test. The package is for tests only; it may import gen,
// impl, models and sealer.
package aikeystest

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/agentrouter/aikeys/impl/aikeys"
	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/impl/feed"
	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/impl/keysetcheck"
	"github.com/agentrouter/aikeys/impl/providers"
	"github.com/agentrouter/aikeys/impl/secrets/secretstest"
	"github.com/agentrouter/aikeys/impl/verification"
	"github.com/agentrouter/aikeys/internal/lifecycle"
	"github.com/agentrouter/aikeys/internal/ratelimit"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
	"github.com/agentrouter/aikeys/sealer"
)

// Options adjust a Service; the zero value is a service of its own on SQLite.
type Options struct {
	// Store must be migrated; nil means a new one on SQLite. Two services on one database are two replicas.
	Store *models.Store
	// Sealer seals the keys; nil means a new secretstest.Backend.
	Sealer sealer.Sealer
	// Now is the handlers' clock; nil means time.Now.
	Now func() time.Time
	// Verifier is aikeys.Config's Verifier.
	Verifier aikeys.Verifier
	// Tester makes the tests of stored keys; nil allows none.
	Tester *verification.Verifier
	// Quotas are aikeys.Config's Quotas.
	Quotas  aikeys.Quotas
	Denials *aikeys.Denials
	// OperatorsAddProviders keeps owners from adding servers of their own.
	OperatorsAddProviders bool
	// OIDC verifies session tokens; nil accepts only API keys.
	OIDC *auth.OIDC
	// Ready, TrustedProxies and Examples go into httpapi.Config, PrincipalRate into auth.MiddlewareConfig, and
	// FailureRate to auth.NewGuesses.
	Ready          func() bool
	PrincipalRate  ratelimit.Rate
	Examples       bool
	FailureRate    ratelimit.Rate
	TrustedProxies []netip.Prefix
}

// Service is a running public API. Its methods are safe for concurrent use.
type Service struct {
	// URL is where it listens, "http://127.0.0.1:port".
	URL    string
	Store  *models.Store
	Sealer sealer.Sealer
	// Handler serves the socket's requests; Serve calls it without a socket.
	Handler http.Handler
	// Evidence is everything that the service has output, to be searched for secrets.
	Evidence *Evidence
	// Tests tests stored keys. Its method Run is not called.
	Tests *verification.Keys

	t        testing.TB
	contract *Contract
	client   *http.Client

	mu       sync.Mutex
	sessions map[caller]*Session // guarded by mu
}

// NewTester returns a Verifier that tests keys of OpenAI and Bedrock at a handler in their place.
func NewTester(t testing.TB, provider http.HandlerFunc) *verification.Verifier {
	server := httptest.NewServer(provider)
	t.Cleanup(server.Close)
	address, err := url.Parse(server.URL)
	require.NoError(t, err)
	return verification.New(verification.Config{
		Upstreams: map[string]*url.URL{"openai": address, "bedrock": address}, Transport: server.Client().Transport,
	})
}

// Start runs a Service until the test ends. Its database has the projects and members that the constants describe.
func Start(t testing.TB, opts Options) *Service {
	if opts.Store == nil {
		opts.Store = modelstest.NewStore(t, modelstest.EngineSQLite)
	}
	if opts.Sealer == nil {
		opts.Sealer = secretstest.Backend(t)
	}
	s := &Service{
		Store: opts.Store, Sealer: opts.Sealer, Evidence: NewEvidence(t), t: t, contract: newContract(t),
		sessions: map[caller]*Session{},
	}
	s.Handler = s.newHandler(opts)
	s.seed()
	s.serve()
	return s
}

// Also runs another API over the same database until the test ends. The other API's replies are checked against the
// given contract. Its replies and its output are added to the Evidence of s.
func (s *Service) Also(name string, contract *Contract, newHandler func(*httpapi.Observer) http.Handler) *Service {
	other := &Service{Store: s.Store, Sealer: s.Sealer, Evidence: s.Evidence, t: s.t, contract: contract}
	other.Handler = newHandler(other.observer(name))
	other.serve()
	return other
}

// Row returns a key of Customer's Project as it is stored.
func (s *Service) Row(id string) models.Key {
	s.t.Helper()
	caller := models.Caller{CustomerID: Customer, ProjectID: Project, UserID: Owner}
	row, err := s.Store.GetKey(context.Background(), caller, id, time.Now().UnixMicro())
	require.NoError(s.t, err)
	return row
}

// Fetches returns a project's fetches, newest first.
func (s *Service) Fetches(customer, project string) []models.FetchRecord {
	s.t.Helper()
	page, err := s.Store.ListFetches(context.Background(), customer, project, models.FetchFilter{Limit: 100})
	require.NoError(s.t, err)
	return page
}

// HTTPClient returns a client whose replies are checked.
func (s *Service) HTTPClient() *http.Client { return s.client }

// observer returns an observer whose output becomes evidence.
func (s *Service) observer(name string) *httpapi.Observer {
	tracing := sdktrace.NewTracerProvider(sdktrace.WithSyncer(s.Evidence.spans))
	observer, err := httpapi.NewObserver(name, s.Evidence.Logger(), s.Evidence.Registry, tracing.Tracer("aikeys"))
	require.NoError(s.t, err)
	return observer
}

// shutdownTimeout bounds how long the end of a test waits for requests in flight.
const shutdownTimeout = 10 * time.Second

// serve listens until the test ends.
func (s *Service) serve() {
	listener, err := lifecycle.Listen(context.Background(), "127.0.0.1:0")
	require.NoError(s.t, err)
	server := httpapi.NewServer(httpapi.ServerConfig{Listener: listener, Handler: s.Handler, Log: s.Evidence.Logger()})
	served := make(chan error, 1)
	go func() { served <- server.Serve() }()
	s.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
		defer cancel()
		require.NoError(s.t, server.Shutdown(ctx))
		require.NoError(s.t, <-served)
	})
	s.URL = server.URL()
	transport := &http.Transport{MaxIdleConnsPerHost: 128}
	s.t.Cleanup(transport.CloseIdleConnections)
	s.client = &http.Client{
		Transport:     &checkedTransport{service: s, base: transport},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func (s *Service) newHandler(opts Options) http.Handler {
	catalogue, err := providers.Load()
	require.NoError(s.t, err)
	receipts, err := feed.New(feed.Config{Store: opts.Store})
	require.NoError(s.t, err)
	s.Tests = verification.NewKeys(verification.KeysConfig{
		Store: opts.Store, Sealer: opts.Sealer, Providers: catalogue, Verifier: opts.Tester, Off: verification.ErrOff, Log: s.Evidence.Logger(), Now: opts.Now,
	})
	handler, err := aikeys.NewHandler(aikeys.Config{
		Store: opts.Store, Keyset: keysetcheck.New(opts.Store, opts.Sealer, keysetcheck.SealAndOpen), Opener: opts.Sealer, Receipts: receipts,
		Providers: catalogue, Now: opts.Now, Quotas: opts.Quotas, Denials: opts.Denials, Verifier: opts.Verifier, Tests: s.Tests, CustomProviders: true, OwnersAddProviders: !opts.OperatorsAddProviders,
		SignIn: opts.OIDC.SignIn(), SessionTokens: opts.OIDC != nil,
		API: httpapi.Config{
			Observer: s.observer("public"), Ready: opts.Ready, TrustedProxies: opts.TrustedProxies, Examples: opts.Examples,
			Authenticate: auth.Middleware(auth.MiddlewareConfig{
				Sessions:      auth.New(auth.Config{Tokens: opts.Store, OIDC: opts.OIDC}),
				PrincipalRate: opts.PrincipalRate, Guesses: auth.NewGuesses(opts.FailureRate, nil, nil),
			}),
		},
	})
	require.NoError(s.t, err)
	return handler
}
