package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/cmd/internal/settings"
	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/gateway"
	"github.com/agentrouter/aikeys/dataplane/gateway/extauthz"
)

// service is one running gateway.
type service struct {
	cfg *config
	log *slog.Logger

	registry    *prometheus.Registry
	resolver    *dataplane.Resolver
	proxy       *gateway.Gateway
	tls         *tls.Config      // nil is plain HTTP
	forwardAuth http.Handler     // nil is off
	extAuthz    *extauthz.Server // nil is off

	listeners map[string]net.Listener // by the name of their setting
	draining  atomic.Bool
}

// newService makes the parts and binds the listeners. It waits for nothing: the control plane may be down.
func (p *program) newService(ctx context.Context, cfg *config) (*service, error) {
	s := &service{cfg: cfg, log: cli.NewLogger(p.Stderr, cfg.LogFormat, cfg.LogLevel), listeners: map[string]net.Listener{}}
	if err := s.wire(); err != nil {
		return nil, err
	}
	if err := s.bind(ctx); err != nil {
		s.closeListeners()
		return nil, err
	}
	return s, nil
}

func (s *service) bind(ctx context.Context) error {
	for name, address := range map[string]string{
		"listen": s.cfg.Listen, "forward-auth-listen": s.cfg.ForwardAuthListen, "ext-authz-listen": s.cfg.ExtAuthzListen,
		"ops-listen": s.cfg.OpsListen,
	} {
		if address == "" {
			continue
		}
		listener, err := listen(ctx, address, s.cfg.Of(name))
		if err != nil {
			return err
		}
		if name == "listen" { // where strangers come
			listener = bounded(listener)
		}
		s.listeners[name] = listener
		if setting := s.cfg.Of(name); name != "ops-listen" && reachesOthers(setting) && (s.tls == nil || name != "listen") {
			s.log.WarnContext(ctx, "keys travel without TLS beyond this machine", slog.String("setting", setting.Given()))
		}
	}
	return nil
}

func listen(ctx context.Context, address string, setting *settings.Setting) (net.Listener, error) {
	var binder net.ListenConfig
	listener, err := binder.Listen(ctx, "tcp", address)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s is taken, perhaps by another aikeys-gateway: stop that program, or choose another address with --%s or %s",
			address, setting.Name, setting.Variable())
	case err != nil:
		return nil, fmt.Errorf("%s: %w", setting.Given(), err)
	}
	return listener, nil
}

func (s *service) closeListeners() {
	for _, listener := range s.listeners {
		_ = listener.Close() // it has answered nobody
	}
}

// run serves until ctx ends, or until a part fails that the gateway can't be without. It returns when everything has ended:
// first the requests in flight, and then what they need.
func (s *service) run(ctx context.Context) error {
	s.logListening(ctx)
	needed, release := context.WithCancel(context.WithoutCancel(ctx))
	defer release()
	serving, ctx := errgroup.WithContext(ctx)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var background errgroup.Group
	for _, part := range []func(context.Context) error{s.resolver.Run, s.serveOps} {
		background.Go(func() error {
			defer stop() // without it there is nothing to serve with
			return part(needed)
		})
	}
	for _, face := range s.faces() {
		serving.Go(func() error { return face(ctx) })
	}
	serving.Go(func() error {
		<-ctx.Done()
		s.draining.Store(true)
		s.log.InfoContext(ctx, "stopping: requests in flight are answered first", slog.Duration("timeout", s.cfg.ShutdownTimeout))
		return nil
	})
	err := serving.Wait()
	release()
	err = errors.Join(err, background.Wait())
	s.proxy.Close()
	if err == nil {
		s.log.InfoContext(ctx, "stopped")
	}
	return err
}

func (s *service) logListening(ctx context.Context) {
	scheme := "http://"
	if s.tls != nil {
		scheme = "https://"
	}
	attrs := []slog.Attr{slog.String("gateway", scheme+s.address("listen")), slog.String("ops", "http://"+s.address("ops-listen"))}
	if s.forwardAuth != nil {
		attrs = append(attrs, slog.String("forward_auth", "http://"+s.address("forward-auth-listen")))
	}
	if s.extAuthz != nil {
		attrs = append(attrs, slog.String("ext_authz", s.address("ext-authz-listen")))
	}
	s.log.LogAttrs(ctx, slog.LevelInfo, "listening", append(attrs,
		slog.String("control_plane", s.cfg.ControlPlane), slog.String("version", cli.Version()))...)
}

func (s *service) address(name string) string { return s.listeners[name].Addr().String() }

// faces are what serves until its context ends, and then the requests in flight.
func (s *service) faces() []func(context.Context) error {
	proxy := gateway.Server{Listener: s.listeners["listen"], Handler: s.proxy, TLS: s.tls, Drain: s.cfg.ShutdownTimeout, Log: s.log}
	all := []func(context.Context) error{s.patient(proxy.Serve)}
	if s.forwardAuth != nil {
		asked := gateway.Server{
			Listener: s.listeners["forward-auth-listen"], Handler: s.forwardAuth, Drain: s.cfg.ShutdownTimeout, Log: s.log,
		}
		all = append(all, s.patient(asked.Serve))
	}
	if s.extAuthz != nil {
		all = append(all, func(ctx context.Context) error {
			return extauthz.Serve(ctx, s.listeners["ext-authz-listen"], s.extAuthz, extauthz.ServeConfig{Drain: s.cfg.ShutdownTimeout})
		})
	}
	return all
}

// patient says of requests that took too long to end how long they had.
func (s *service) patient(serve func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		err := serve(ctx)
		if errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("requests in flight were cut after %s: %w", s.cfg.ShutdownTimeout, err)
		}
		return err
	}
}

// serveOps lasts longer than what it tells of, so that probes see why.
func (s *service) serveOps(ctx context.Context) error {
	ops := gateway.Server{
		Listener: s.listeners["ops-listen"], Handler: gateway.NewOps(s.registry, s.readiness), Drain: time.Second, Log: s.log,
	}
	if err := ops.Serve(ctx); ctx.Err() == nil {
		return err
	}
	return nil // a probe that is cut loses nothing
}
