package main

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/impl/secrets"
	"github.com/agentrouter/aikeys/impl/telemetry"
)

// wire makes the servers out of the parts.
func (s *service) wire(context.Context) error {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewBuildInfoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), s.namespaces)
	observer, err := httpapi.NewObserver("secrets", s.log, registry, nil)
	if err != nil {
		return err
	}
	handler, err := secrets.NewHandler(secrets.Config{
		Clients: s.clients, Namespaces: s.namespaces, Audit: s.audit, Metrics: registry,
		MaxConcurrent: s.cfg.MaxConcurrent, MaxQueue: s.cfg.MaxQueue, API: httpapi.Config{Observer: observer},
	})
	if err != nil {
		return err
	}
	server := httpapi.ServerConfig{Listener: s.listener, Handler: handler, ConnContext: secrets.ConnContext, Log: s.log, TellHandshakes: true}
	if _, isSocket := s.cfg.socketPath(); !isSocket {
		if server.TLS, err = s.cfg.mutualTLS(s.log); err != nil {
			return err
		}
	}
	s.api = httpapi.NewServer(server)
	s.ops = httpapi.NewServer(httpapi.ServerConfig{
		Listener: s.opsListener, Handler: telemetry.NewHandler(registry, s.checks()), Log: s.log,
	})
	return nil
}

// checks are what /readyz depends on. One namespace that can't be used does not take the others out of service.
func (s *service) checks() []telemetry.Check {
	state := func(context.Context) telemetry.State {
		if s.draining.Load() {
			return telemetry.Draining
		}
		return telemetry.OK
	}
	keysets := func(ctx context.Context) telemetry.State {
		for _, name := range s.clients.List(ctx).Namespaces() {
			if _, err := s.namespaces.Sealer(ctx, name); err == nil {
				return telemetry.OK
			}
		}
		return telemetry.Unavailable
	}
	return []telemetry.Check{{Name: "service", Probe: state}, {Name: "keysets", Probe: keysets}}
}
