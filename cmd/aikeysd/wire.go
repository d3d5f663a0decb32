package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"github.com/agentrouter/aikeys/impl/aikeys"
	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/impl/awsroles"
	"github.com/agentrouter/aikeys/impl/dataplane"
	"github.com/agentrouter/aikeys/impl/docsite"
	"github.com/agentrouter/aikeys/impl/exchange"
	"github.com/agentrouter/aikeys/impl/feed"
	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/impl/providers"
	"github.com/agentrouter/aikeys/impl/secrets"
	"github.com/agentrouter/aikeys/impl/telemetry"
	"github.com/agentrouter/aikeys/impl/verification"
	"github.com/agentrouter/aikeys/internal/crossorigin"
	"github.com/agentrouter/aikeys/internal/problem"
	"github.com/agentrouter/aikeys/internal/ratelimit"
	"github.com/agentrouter/aikeys/internal/tlsfiles"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/sealer"
)

// pingTimeout bounds a probe of the database. pingInterval is the minimum time between two probes.
const (
	pingTimeout  = time.Second
	pingInterval = time.Second
)

// wiring has what the two APIs share.
type wiring struct {
	*service
	registry  *prometheus.Registry
	metrics   *auth.Metrics
	guesses   *ratelimit.Guesses // of both APIs
	catalogue *providers.Catalogue
	verifier  *verification.Verifier // nil if secrets are not tested
	roles     *awsroles.Roles        // nil if none are assumed
	tracer    trace.Tracer           // nil if no traces are exported
}

// makeServers makes the servers of the role.
func (s *service) makeServers(ctx context.Context) error {
	w, err := s.newWiring(ctx)
	if err != nil {
		return err
	}
	publicTLS, dataPlaneTLS, err := s.tlsConfigs()
	if err != nil {
		return err
	}
	if s.cfg.servesPublic() {
		public, err := w.publicAPI()
		if err != nil {
			return err
		}
		if s.cfg.mock != nil {
			public = s.cfg.mock.serveIndex(public)
		}
		s.api = httpapi.NewServer(httpapi.ServerConfig{
			Listener: s.publicListener, Handler: crossorigin.Allow(s.cfg.CORSOrigins, public), TLS: publicTLS, Log: s.log,
			TrustedProxies: s.cfg.TrustedProxies,
		})
	}
	if s.cfg.servesDataPlanes() {
		dataPlanes, err := w.dataPlaneAPI()
		if err != nil {
			return err
		}
		s.dataplane = httpapi.NewServer(httpapi.ServerConfig{
			Listener: s.dataplaneListener, Handler: dataPlanes, TLS: dataPlaneTLS, Log: s.log, TrustedProxies: s.cfg.TrustedProxies,
			LogHandshakes: s.cfg.DataplaneCA != "",
		})
	}
	s.probeKeyset = s.keysetProbe()
	s.ops = httpapi.NewServer(httpapi.ServerConfig{
		Listener: s.opsListener, Handler: telemetry.NewHandler(w.registry, s.checks()), Log: s.log,
	})
	return nil
}

// tlsConfigs returns the TLS configuration of each API. If no certificate is set, both are nil, and the APIs use plain
// HTTP.
func (s *service) tlsConfigs() (public, dataPlane *tls.Config, err error) {
	if s.cfg.TLSCert == "" {
		return nil, nil, nil
	}
	own, err := tlsfiles.OpenPair("TLS certificate", s.cfg.TLSCert, s.cfg.TLSKey, s.log)
	if err != nil {
		return nil, nil, err
	}
	public = tlsfiles.ServerConfig(own)
	if s.cfg.DataplaneCA == "" {
		return public, public, nil
	}
	clients, err := tlsfiles.OpenPool("client CA file", s.cfg.DataplaneCA, s.log)
	if err != nil {
		return nil, nil, err
	}
	// A data plane needs no client certificate: it may have a token.
	return public, tlsfiles.MutualConfig(own, clients, tls.VerifyClientCertIfGiven, tls.VersionTLS12, "h2", "http/1.1"), nil
}

func (s *service) newWiring(ctx context.Context) (w wiring, err error) {
	w = wiring{service: s, registry: telemetry.NewRegistry(
		telemetry.NewPoolCollector(func() telemetry.PoolStats { return telemetry.PoolStats(s.store.Stats()) }), s.notified)}
	if w.metrics, err = auth.NewMetrics(w.registry); err != nil {
		return w, err
	}
	w.guesses = auth.NewGuesses(
		ratelimit.Rate{PerSecond: w.cfg.FailedAuthLimit / 60, Burst: int(math.Ceil(w.cfg.FailedAuthLimit))}, w.metrics, w.log)
	if w.catalogue, err = providers.Load(); err != nil {
		return w, err
	}
	if w.cfg.AWSRoles == rolesAssume {
		if w.roles, err = awsroles.New(ctx); err != nil {
			return w, err
		}
	} else {
		w.catalogue = w.catalogue.WithoutRoles()
	}
	if s.traces != nil {
		w.tracer = s.traces.Tracer("github.com/agentrouter/aikeys")
	}
	if s.issuer, err = s.cfg.oidc(); err != nil {
		return w, err
	}
	s.uses = auth.NewTokenUses(s.store, s.log)
	s.sessions = auth.New(auth.Config{Tokens: s.store, OIDC: s.issuer, Metrics: w.metrics, Uses: s.uses})
	if s.feed, err = feed.New(feed.Config{Store: s.store, Log: s.log, Metrics: w.registry}); err != nil {
		return w, err
	}
	switch w.cfg.Verify {
	case verifyControlPlane:
		w.verifier = verification.New(verification.Config{Exchanger: w.newExchanger()})
	case verifyDataPlane:
		w.verifier = verification.New(verification.Config{
			Exchanger: w.newExchanger(), DataPlanes: verification.NewDataPlanes(s.store, s.keyset, s.feed, 0),
		})
	}
	s.tests = w.newTests()
	return w, nil
}

// newExchanger returns an exchanger of credentials for tokens. Tests of keys and requests use separate exchangers, so
// that tests do not delay requests.
func (w wiring) newExchanger() *exchange.Exchanger {
	exchanger := exchange.New(nil)
	if w.roles != nil {
		exchanger.SetRoles(w.roles)
	}
	return exchanger
}

// newTests returns the tester of stored keys. The tester refuses all tests if tests are turned off, or if this process
// would have to open secrets and its role forbids that.
func (w wiring) newTests() *verification.Keys {
	cfg := verification.KeysConfig{
		Store: w.store, Sealer: w.sealer, Providers: w.catalogue, Verifier: w.verifier, Off: verification.ErrOff, Log: w.log,
	}
	if w.cfg.Role == rolePublic && w.cfg.Verify == verifyControlPlane {
		cfg.Verifier, cfg.Off = nil, verification.ErrMayNotOpen
	}
	return verification.NewKeys(cfg)
}

func (w wiring) publicAPI() (http.Handler, error) {
	sessions := auth.Sessions(w.sessions)
	if w.cfg.mock != nil {
		sessions = mockSessions{Sessions: w.sessions, store: w.store, mock: w.cfg.mock}
	}
	api, err := w.api("public", auth.MiddlewareConfig{
		Sessions: sessions, Metrics: w.metrics, PrincipalRate: ratelimit.Rate{PerSecond: w.cfg.RateLimit},
	})
	if err != nil {
		return nil, err
	}
	api.Examples = w.cfg.mock != nil
	api.Site, err = docsite.New(docsite.Config{
		Downloads: w.cfg.Downloads, TrustedProxies: w.cfg.TrustedProxies, SignInServers: w.issuer.SignInServers,
		Problems: []problem.Table{aikeys.Problems(), dataplane.Problems(), secrets.Problems()},
	})
	if errors.Is(err, docsite.ErrDownloads) {
		return nil, fmt.Errorf("%s: %w", w.cfg.Of("downloads").Given(), err)
	}
	if err != nil {
		return nil, err
	}
	var verifier aikeys.Verifier // a nil *Verifier in it would not equal nil
	if w.verifier != nil {
		verifier = w.verifier
	}
	var opener sealer.Sealer
	if w.cfg.Role != rolePublic {
		opener = w.sealer
	}
	return aikeys.NewHandler(aikeys.Config{
		Store: w.store, Keyset: w.keyset, Receipts: w.feed, Providers: w.catalogue, Quotas: w.cfg.Quotas, Denials: w.denials, Verifier: verifier, Tests: w.tests,
		Opener: opener,
		SignIn: w.issuer.SignIn(), SessionTokens: w.issuer != nil,
		API:             api,
		CustomProviders: w.cfg.CustomProviders != customOff, OwnersAddProviders: w.cfg.CustomProviders == customByOwner,
	})
}

// dataPlaneAPI returns the handler of the data-plane API. The API does not limit the rate of requests, because a data
// plane with an empty cache sends a request for each request that it gets.
func (w wiring) dataPlaneAPI() (http.Handler, error) {
	own := auth.New(auth.Config{DataPlanes: w.store, Metrics: w.metrics})
	api, err := w.api("dataplane", auth.MiddlewareConfig{Sessions: own, Certificates: own, Metrics: w.metrics})
	if err != nil {
		return nil, err
	}
	return dataplane.NewHandler(dataplane.Config{
		Store: w.store, Sealer: w.sealer, Providers: w.catalogue, Sessions: w.sessions, Feed: w.feed, Tests: w.tests, API: api,
		Exchanger:       w.newExchanger(),
		MaxStale:        w.cfg.MaxStaleLimit,
		CustomProviders: w.cfg.CustomProviders != customOff,
	})
}

// api returns what an API needs besides its handlers.
func (w wiring) api(listener string, authentication auth.MiddlewareConfig) (httpapi.Config, error) {
	observer, err := httpapi.NewObserver(listener, w.log, w.registry, w.tracer)
	authentication.Guesses = w.guesses
	return httpapi.Config{
		Observer: observer, Authenticate: auth.Middleware(authentication), Ready: w.state.ready.Load, TrustedProxies: w.cfg.TrustedProxies,
	}, err
}

// checks returns the checks that /readyz depends on. Two of them probe the database and the keyset. The others report
// the state that the service has recorded.
func (s *service) checks() []telemetry.Check {
	database := func(ctx context.Context) telemetry.State {
		switch err := s.store.Ping(ctx); {
		case errors.Is(err, models.ErrReadOnly):
			return telemetry.ReadOnly
		case err != nil:
			return telemetry.Unavailable
		}
		return telemetry.OK
	}
	return []telemetry.Check{
		{Name: checkService, Probe: s.state.service},
		{Name: checkDatabase, Probe: telemetry.Cached(database, pingTimeout, pingInterval)},
		{Name: checkSchema, Probe: once(&s.state.schema)},
		// Without secrets-svc, keys can still be read and revoked, and data planes keep what they have. So this check may fail.
		{Name: checkKeyset, Probe: s.probeKeyset, MayFail: s.state.ready.Load},
	}
}
