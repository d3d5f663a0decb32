package main

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/cmd/internal/settings"
	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/gateway"
	"github.com/agentrouter/aikeys/dataplane/gateway/extauthz"
	"github.com/agentrouter/aikeys/internal/crossorigin"
	"github.com/agentrouter/aikeys/internal/lifecycle"
	"github.com/agentrouter/aikeys/internal/unixsocket"
)

func (p *program) serveCommand() *cobra.Command {
	cfg := newConfig()
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve inference requests, and answer other proxies",
		Args:  cli.NoArguments(),
		Long: `Serves inference requests: what comes to /{provider} goes to that provider, with the provider key that serves the
caller. Answers to other proxies, and /healthz, /readyz and /metrics, are on listeners of their own.

It starts even if its control plane does not answer. It answers 503 until it has reached the control plane, and then
becomes ready. When it loses contact, cached keys serve for --max-stale longer, 0s by default; the control plane waits
that much longer before it calls a revocation complete. Requests to providers go through the proxy that HTTPS_PROXY
names, if any.

SIGTERM or SIGINT stops it: /readyz turns 503, requests in flight are answered, then it exits. A second signal ends it
at once.`,
		Example: `  # On this machine alone, beside "aikeysd serve"
  aikeys-gateway serve --token-file edge-1.token

  # In production
  export AIKEYS_GATEWAY_CONTROL_PLANE=https://aikeys-dataplane.example.com AIKEYS_GATEWAY_TOKEN_FILE=/run/secrets/edge-1
  aikeys-gateway serve --listen 0.0.0.0:8443 --tls-cert /etc/aikeys/tls.crt --tls-key /etc/aikeys/tls.key`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.serve(cmd.Context(), cfg, "listen", "forward-auth-listen", "ext-authz-listen", "agent-listen")
		},
	}
	cfg.addFlags(cmd.Flags())
	return cmd
}

// serve runs a gateway with the ops listener and with each named listener whose setting is set.
func (p *program) serve(ctx context.Context, cfg *config, listeners ...string) error {
	if err := cfg.load(p.Environ); err != nil {
		return err
	}
	s, err := p.newService(ctx, cfg, append(listeners, "ops-listen"))
	if err != nil {
		return err
	}
	return s.run(ctx)
}

// service is one running gateway.
type service struct {
	cfg *config
	log *slog.Logger

	registry    *prometheus.Registry
	resolver    *dataplane.Resolver
	proxy       *gateway.Gateway
	tls         *tls.Config      // nil means plain HTTP
	proxyTLS    *tls.Config      // of the listeners for other proxies; nil means plain HTTP
	forwardAuth http.Handler     // nil if off
	extAuthz    *extauthz.Server // nil if off
	agent       http.Handler     // nil if off

	listeners map[string]net.Listener // :: name of the setting → listener, without those that are off
	draining  atomic.Bool
	closers   lifecycle.Closers
}

// newService makes the gateway's parts and binds its listeners. It waits for nothing: the control plane may be down.
func (p *program) newService(ctx context.Context, cfg *config, listeners []string) (*service, error) {
	if err := cli.HideMemory(); err != nil {
		return nil, err
	}
	s := &service{cfg: cfg, log: cli.NewLogger(p.Stderr, cfg.LogFormat, cfg.LogLevel), listeners: map[string]net.Listener{}}
	if err := s.makeParts(); err != nil {
		return nil, err
	}
	if err := s.listen(ctx, listeners); err != nil {
		return nil, errors.Join(err, s.closers.Close())
	}
	return s, nil
}

func (s *service) listen(ctx context.Context, names []string) error {
	for _, name := range names {
		setting := s.cfg.Of(name)
		if setting.String() == "" {
			continue
		}
		listener, err := s.bind(ctx, setting)
		if err != nil {
			return err
		}
		s.closers.AddListener(listener)
		s.listeners[name] = listener
		if name != "ops-listen" && setting.IsPublic() && (name == "listen" && s.tls == nil || name != "listen" && s.proxyTLS == nil) {
			s.log.WarnContext(ctx, "keys travel without TLS beyond this machine", slog.String("setting", setting.Given()))
		}
	}
	return nil
}

// bind listens on the address or the unix socket of a setting.
func (s *service) bind(ctx context.Context, setting *settings.Setting) (net.Listener, error) {
	path, ok := strings.CutPrefix(setting.String(), unixsocket.Prefix)
	if !ok {
		return setting.Listen(ctx)
	}
	var access unixsocket.Access
	for _, name := range s.cfg.AuthSocketUsers {
		user, err := unixsocket.UserID(name)
		if err != nil {
			return nil, setting.ListenError(err)
		}
		access.Users = append(access.Users, user)
	}
	listener, err := unixsocket.Listen(ctx, path, access)
	if err != nil {
		return nil, setting.ListenError(err)
	}
	return listener, nil
}

// tlsOf returns the TLS configuration of a listener for proxies. It returns nil for a unix socket, or if
// --auth-client-ca is not set.
func (s *service) tlsOf(address string) *tls.Config {
	if isSocket(address) {
		return nil
	}
	return s.proxyTLS
}

// run serves until ctx is done or an essential part of the gateway fails. The resolver stops after the requests in
// flight, because they need it.
func (s *service) run(ctx context.Context) error {
	var serving []lifecycle.Part
	var addresses []any
	serve := func(attr, setting string, handler http.Handler, secure *tls.Config, trusted []netip.Prefix) {
		if listener := s.listeners[setting]; listener != nil {
			server := gateway.NewServer(listener, handler, secure, trusted, s.log)
			serving, addresses = append(serving, server.Run), append(addresses, slog.String(attr, server.URL()))
		}
	}
	serve("gateway", "listen", crossorigin.Allow(s.cfg.CORSOrigins, s.proxy), s.tls, s.cfg.TrustedProxies)
	serve("agent", "agent-listen", s.agent, nil, nil)
	serve("forward_auth", "forward-auth-listen", s.forwardAuth, s.tlsOf(s.cfg.ForwardAuthListen), nil)
	if listener := s.listeners["ext-authz-listen"]; listener != nil {
		serving = append(serving, lifecycle.Task(func(ctx context.Context) error {
			return extauthz.Serve(ctx, listener, s.extAuthz,
				extauthz.ServeConfig{TLS: s.tlsOf(s.cfg.ExtAuthzListen), Drain: s.cfg.ShutdownTimeout})
		}))
		address := listener.Addr().String()
		if isSocket(s.cfg.ExtAuthzListen) {
			address = unixsocket.Prefix + address
		}
		addresses = append(addresses, slog.String("ext_authz", address))
	}
	ops := gateway.NewServer(s.listeners["ops-listen"], lifecycle.NewOpsHandler(s.registry, s.readiness), nil, nil, s.log)
	s.log.InfoContext(ctx, "listening", append(addresses, slog.String("ops", ops.URL()),
		slog.String("control_plane", s.cfg.ControlPlane), slog.String("version", cli.Version()))...)
	program := lifecycle.Program{
		Stages: [][]lifecycle.Part{serving, {lifecycle.Task(s.resolver.Run)}},
		Ops:    ops.Run, DrainTimeout: s.cfg.ShutdownTimeout, OnDrain: func() { s.draining.Store(true) },
		Closers: s.closers, Log: s.log,
	}
	defer s.proxy.Close()
	return program.Run(ctx)
}
