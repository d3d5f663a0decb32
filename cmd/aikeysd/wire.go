package main

import (
	"context"
	"math"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"github.com/agentrouter/aikeys/impl/aikeys"
	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/impl/ops"
	"github.com/agentrouter/aikeys/impl/providers"
	"github.com/agentrouter/aikeys/impl/session"
)

// pingTimeout bounds a probe of the database, pingInterval is the least time between two.
const (
	pingTimeout  = time.Second
	pingInterval = time.Second
)

// wire makes the two servers out of the parts.
func (s *service) wire(context.Context) error {
	registry := ops.NewRegistry(s.store.Stats)
	handler, err := s.publicAPI(registry)
	if err != nil {
		return err
	}
	public := httpapi.ServerConfig{Listener: s.publicListener, Handler: handler, Log: s.log}
	if s.cfg.TLSCert != "" {
		if public.Certificates, err = httpapi.LoadCertificates(s.cfg.TLSCert, s.cfg.TLSKey, s.log); err != nil {
			return err
		}
	}
	s.api = httpapi.NewServer(public)
	s.ops = httpapi.NewServer(httpapi.ServerConfig{
		Listener: s.opsListener, Handler: ops.NewHandler(registry, s.checks()), Log: s.log,
	})
	return nil
}

func (s *service) publicAPI(registry *prometheus.Registry) (http.Handler, error) {
	metrics, err := ops.NewSessionMetrics(registry)
	if err != nil {
		return nil, err
	}
	if s.issuer, err = s.cfg.oidc(); err != nil {
		return nil, err
	}
	s.sessions = session.New(session.Config{Tokens: metrics.Tokens(s.store), OIDC: s.issuer})
	var tracer trace.Tracer
	if s.traces != nil {
		tracer = s.traces.Tracer("github.com/agentrouter/aikeys")
	}
	observer, err := httpapi.NewObserver("public", s.log, registry, tracer)
	if err != nil {
		return nil, err
	}
	catalogue, err := providers.Load()
	if err != nil {
		return nil, err
	}
	return aikeys.NewHandler(aikeys.Config{
		Store: s.store, Sealer: s.sealer, Canary: s.canary, Providers: catalogue,
		API: httpapi.Config{
			Sessions: metrics.Sessions(s.sessions), Observer: observer, Ready: s.state.ready.Load,
			PrincipalRate:  httpapi.Rate{PerSecond: s.cfg.RateLimit},
			FailureRate:    httpapi.Rate{PerSecond: s.cfg.FailedAuthLimit / 60, Burst: int(math.Ceil(s.cfg.FailedAuthLimit))},
			TrustedProxies: s.cfg.TrustedProxies,
		},
	})
}

// checks are what /readyz depends on. The database is asked; the others are what the start found out.
func (s *service) checks() []ops.Check {
	database := func(ctx context.Context) ops.State {
		if s.store.Ping(ctx) != nil {
			return ops.Unavailable
		}
		return ops.OK
	}
	return []ops.Check{
		{Name: checkService, Probe: s.state.service},
		{Name: checkDatabase, Probe: ops.Cached(database, pingTimeout, pingInterval)},
		{Name: checkSchema, Probe: once(&s.state.schema)},
		{Name: checkKeyset, Probe: once(&s.state.keyset)},
	}
}
