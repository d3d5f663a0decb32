package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/impl/secrets"
	"github.com/agentrouter/aikeys/impl/telemetry"
	"github.com/agentrouter/aikeys/internal/filereload"
	"github.com/agentrouter/aikeys/internal/lifecycle"
	"github.com/agentrouter/aikeys/internal/unixsocket"
	"github.com/agentrouter/aikeys/sealer"
)

func (p *program) serveCommand() *cobra.Command {
	cfg := newConfig()
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Seal, open and re-wrap for the listed clients",
		Args:  cli.NoArguments(),
		Long: `Serves the clients that the clients file lists, on a unix socket or with mutual TLS. On a socket, the user of its process
identifies a client; with TLS, a name in its certificate does. Each open is in the audit log before it is answered.

Keysets and the clients file are read again when they change; nothing needs a restart. If a file is broken, the service
logs that and keeps what it has read before. A namespace without a keyset answers 503 until it has one.

SIGTERM or SIGINT stops the service: it answers the requests in flight, then exits. A second signal ends it at once.`,
		Example: `  # On one machine
  secrets-svc keys create --namespace main
  secrets-svc serve --listen unix:/run/secrets-svc/api.sock --socket-group aikeys

  # On a machine of its own
  secrets-svc serve --listen 10.0.0.5:8443 --tls-cert tls.crt --tls-key tls.key --tls-client-ca clients-ca.crt`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := cfg.load(p.Environ); err != nil {
				return err
			}
			s, err := p.newService(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			return s.run(cmd.Context())
		},
	}
	cfg.AddFlags(cmd.Flags())
	return cmd
}

// operationsPerCPU is the default for max-concurrent, for each CPU.
const operationsPerCPU = 4

// service is a running secrets-svc.
type service struct {
	cfg    *config
	log    *slog.Logger
	stdout io.Writer

	clients    *filereload.Value[*secrets.ClientList]
	namespaces *namespaces
	audit      *secrets.Audit
	api, ops   *lifecycle.Server

	draining atomic.Bool
	closers  lifecycle.Closers
}

// newService protects the process's memory, opens what the service needs, binds its listeners and makes its servers.
func (p *program) newService(ctx context.Context, cfg *config) (*service, error) {
	s := &service{cfg: cfg, log: cli.NewLogger(p.Stderr, cfg.LogFormat, cfg.LogLevel), stdout: p.Stdout}
	if cfg.MaxConcurrent == 0 {
		cfg.MaxConcurrent = operationsPerCPU * runtime.GOMAXPROCS(0)
	}
	if err := s.open(ctx); err != nil {
		return nil, errors.Join(err, s.closers.Close())
	}
	return s, nil
}

func (s *service) open(ctx context.Context) (err error) {
	if err := s.protectMemory(ctx); err != nil {
		return err
	}
	if s.clients, err = secrets.OpenClients(s.cfg.Clients, s.log); err != nil {
		return fmt.Errorf("%s: %w", s.cfg.Of("clients").Given(), err)
	}
	if s.audit, err = s.cfg.openAudit(s.stdout, &s.closers); err != nil {
		return err
	}
	s.namespaces = &namespaces{cfg: s.cfg, log: s.log, sealers: map[string]sealer.Sealer{}, failing: map[string]string{}}
	s.closers.Add(s.namespaces.Close)
	for _, name := range s.clients.Get(ctx).Namespaces() {
		_, _ = s.namespaces.Sealer(ctx, name) // logged: a namespace may get its keyset later
	}
	return s.listen(ctx)
}

// protectMemory keeps the memory out of core dumps and, if it can, out of swap.
func (s *service) protectMemory(ctx context.Context) error {
	if err := cli.HideMemory(); err != nil {
		return err
	}
	if s.cfg.LockMemory == lockOff {
		return nil
	}
	err := lockMemory()
	switch {
	case err != nil && s.cfg.LockMemory == lockRequire:
		return fmt.Errorf("%s: %w", s.cfg.Of("lock-memory").Given(), err)
	case err != nil:
		s.log.WarnContext(ctx, "memory is not locked and may be swapped to disk", slog.String("error", err.Error()))
	}
	return nil
}

// listen binds the two addresses and makes their servers.
func (s *service) listen(ctx context.Context) error {
	listener, err := s.listenAPI(ctx)
	if err != nil {
		return err
	}
	s.closers.AddListener(listener)
	opsListener, err := s.cfg.Of("ops-listen").Listen(ctx)
	if err != nil {
		return err
	}
	s.closers.AddListener(opsListener)

	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewBuildInfoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), s.namespaces)
	observer, err := httpapi.NewObserver("secrets", s.log, registry, nil)
	if err != nil {
		return err
	}
	handler, err := secrets.NewHandler(secrets.Config{
		Clients: s.clients.Get, Sealer: s.namespaces.Sealer, Audit: s.audit, Metrics: registry,
		MaxConcurrent: s.cfg.MaxConcurrent, MaxQueue: s.cfg.MaxQueue, API: httpapi.Config{Observer: observer},
	})
	if err != nil {
		return err
	}
	api := httpapi.ServerConfig{Listener: listener, Handler: handler, ConnContext: secrets.ConnContext, Log: s.log, LogHandshakes: true}
	if _, isSocket := s.cfg.socketPath(); !isSocket {
		if api.TLS, err = s.cfg.mutualTLS(s.log); err != nil {
			return err
		}
	}
	s.api = httpapi.NewServer(api)
	s.ops = httpapi.NewServer(httpapi.ServerConfig{
		Listener: opsListener, Handler: telemetry.NewHandler(registry, s.checks()), Log: s.log,
	})
	return nil
}

func (s *service) listenAPI(ctx context.Context) (net.Listener, error) {
	setting := s.cfg.Of("listen")
	path, isSocket := s.cfg.socketPath()
	if !isSocket {
		return setting.Listen(ctx)
	}
	listener, err := unixsocket.Listen(ctx, path, unixsocket.Access{Group: s.cfg.SocketGroup})
	if err != nil {
		return nil, setting.ListenError(err)
	}
	return listener, nil
}

// checks returns what /readyz depends on. The service is ready if any namespace can be used.
func (s *service) checks() []telemetry.Check {
	service := func(context.Context) telemetry.State {
		if s.draining.Load() {
			return telemetry.Draining
		}
		return telemetry.OK
	}
	keysets := func(ctx context.Context) telemetry.State {
		for _, name := range s.clients.Get(ctx).Namespaces() {
			if _, err := s.namespaces.Sealer(ctx, name); err == nil {
				return telemetry.OK
			}
		}
		return telemetry.Unavailable
	}
	return []telemetry.Check{{Name: "service", Probe: service}, {Name: "keysets", Probe: keysets}}
}

// run serves until ctx is done or a server fails.
func (s *service) run(ctx context.Context) error {
	s.log.InfoContext(ctx, "listening", slog.String("api", s.api.URL()), slog.String("ops", s.ops.URL()),
		slog.String("version", cli.Version()))
	program := lifecycle.Program{
		Stages: [][]lifecycle.Part{{s.api.Run}}, Ops: s.ops.Run,
		DrainTimeout: s.cfg.ShutdownTimeout, OnDrain: func() { s.draining.Store(true) },
		Closers: s.closers, Log: s.log,
	}
	return program.Run(ctx)
}
