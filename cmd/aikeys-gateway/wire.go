package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/gateway"
	"github.com/agentrouter/aikeys/dataplane/gateway/extauthz"
	"github.com/agentrouter/aikeys/internal/filereload"
	"github.com/agentrouter/aikeys/internal/tlsfiles"
)

// controlPlaneTimeout bounds the time to connect to the control plane, and the time until it begins an answer.
const controlPlaneTimeout = 2 * time.Second

// makeParts makes the resolver and the handlers of requests. It connects to nothing.
func (s *service) makeParts() (err error) {
	s.registry = prometheus.NewRegistry()
	s.registry.MustRegister(collectors.NewGoCollector(), collectors.NewBuildInfoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if s.resolver, err = s.newResolver(); err != nil {
		return err
	}
	cfg := gateway.Config{
		Resolver: s.resolver, Log: s.log, Metrics: s.registry, Upstreams: s.cfg.Upstreams,
		StreamGrace: s.cfg.StreamGrace, UpgradeLife: s.cfg.UpgradeLife, FailedAuthLimit: s.cfg.FailedAuthLimit, TrustedProxies: s.cfg.TrustedProxies,
		Insecure: s.cfg.Insecure,
	}
	transport := gateway.TransportConfig{Allowed: s.cfg.UpstreamAllow, Insecure: s.cfg.Insecure}
	if s.cfg.UpstreamCA != "" {
		if transport.RootCAs, err = tlsfiles.AddToSystemPool(s.cfg.UpstreamCA); err != nil {
			return err
		}
	}
	cfg.CustomTransport = gateway.NewGuardedTransport(transport)
	transport.Proxy = http.ProxyFromEnvironment
	cfg.Transport = gateway.NewTransport(transport)
	if s.cfg.ForwardAuthFile != "" {
		if cfg.ForwardAuthSecret, err = s.openText("forward-auth secret", s.cfg.ForwardAuthFile, readSecret); err != nil {
			return err
		}
	}
	if cfg.Guard, err = gateway.NewGuard(cfg); err != nil {
		return err
	}
	if s.proxy, err = gateway.New(cfg); err != nil {
		return err
	}
	if s.cfg.ForwardAuthListen != "" {
		if s.forwardAuth, err = gateway.NewForwardAuth(cfg); err != nil {
			return err
		}
	}
	if s.cfg.ExtAuthzListen != "" {
		if s.extAuthz, err = extauthz.New(s.resolver, cfg); err != nil {
			return err
		}
	}
	if s.cfg.AgentListen != "" {
		if s.agent, err = gateway.NewAgent(cfg, func() time.Duration { return s.resolver.Status().LeaseRemaining }); err != nil {
			return err
		}
	}
	return s.loadCertificate()
}

func (s *service) newResolver() (*dataplane.Resolver, error) {
	cfg := dataplane.Config{
		ControlPlane: s.cfg.ControlPlane, Insecure: s.cfg.Insecure,
		CustomProviders: true, Restrictions: true, Limits: true, CacheSize: s.cfg.CacheSize, MaxStale: s.cfg.MaxStale, Metrics: s.registry, Log: s.log,
		// Other proxies send the requests themselves, and don't report when those end.
		CountInFlight: s.cfg.ForwardAuthListen == "" && s.cfg.ExtAuthzListen == "" && s.cfg.AgentListen == "",
	}
	if s.cfg.KeyTests {
		cfg.SendTest = func(provider, baseURL string, request *http.Request) (*http.Response, error) {
			return s.proxy.SendTest(provider, baseURL, request) // it is made before the resolver runs
		}
	}
	var err error
	if s.cfg.TokenFile != "" {
		if cfg.Token, err = s.openText("credential", s.cfg.TokenFile, readCredential); err != nil {
			return nil, err
		}
	}
	if cfg.HTTPClient, err = s.controlPlaneClient(); err != nil {
		return nil, err
	}
	return dataplane.New(cfg)
}

// openText returns a function that returns the current text of a file. When the file changes, it is read again.
func (s *service) openText(name, file string, read func(file string) (string, error)) (func() string, error) {
	text, err := filereload.Open(filereload.Source[string]{
		Name: name, Files: []string{file}, Load: func() (string, error) { return read(file) }, Log: s.log,
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return func() string { return text.Get(context.Background()) }, nil // a stream calls it too, without a request
}

// controlPlaneClient returns an HTTP client that has the client certificate of the settings and trusts only their CA
// certificates. If the settings have neither, it returns nil, and the resolver uses a client of its own.
func (s *service) controlPlaneClient() (*http.Client, error) {
	if s.cfg.ControlPlaneCA == "" && s.cfg.ClientCert == "" {
		return nil, nil //nolint:nilnil // nil is the resolver's own client
	}
	settings := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.cfg.ControlPlaneCA != "" {
		pool, err := tlsfiles.ReadPool(s.cfg.ControlPlaneCA)
		if err != nil {
			return nil, err
		}
		settings.RootCAs = pool
	}
	if s.cfg.ClientCert != "" {
		pair, err := tlsfiles.OpenPair("client certificate", s.cfg.ClientCert, s.cfg.ClientKey, s.log)
		if err != nil {
			return nil, err
		}
		settings.GetClientCertificate = tlsfiles.ClientCertificate(pair)
	}
	dialer := net.Dialer{Timeout: controlPlaneTimeout, KeepAlive: 15 * time.Second}
	return &http.Client{
		Transport: &http.Transport{
			DialContext:           dialer.DialContext,
			TLSClientConfig:       settings,
			TLSHandshakeTimeout:   controlPlaneTimeout,
			ResponseHeaderTimeout: controlPlaneTimeout,
			MaxConnsPerHost:       256,
			MaxIdleConnsPerHost:   64,
			IdleConnTimeout:       90 * time.Second,
			DisableCompression:    true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

func (s *service) loadCertificate() error {
	if s.cfg.TLSCert == "" {
		return nil
	}
	pair, err := tlsfiles.OpenPair("TLS certificate", s.cfg.TLSCert, s.cfg.TLSKey, s.log)
	if err != nil {
		return err
	}
	s.tls = tlsfiles.ServerConfig(pair)
	if s.cfg.AuthClientCA == "" {
		return nil
	}
	proxies, err := tlsfiles.OpenPool("CA file of the proxies", s.cfg.AuthClientCA, s.log)
	if err != nil {
		return err
	}
	s.proxyTLS = tlsfiles.MutualConfig(pair, proxies, tls.RequireAndVerifyClientCert, tls.VersionTLS12, "h2", "http/1.1")
	return nil
}

// The states that /readyz reports.
const (
	stateOK       = "ok"
	stateStale    = "stale"     // there is no lease; cached keys still serve for a limited time
	stateNoLease  = "no_lease"  // the control plane does not answer
	stateRefused  = "refused"   // the control plane refuses our credential
	stateTooStale = "too_stale" // the control plane does not allow our --max-stale
	stateDraining = "draining"
)

// readiness is a lifecycle.Readiness. The gateway is ready while it holds a lease, and afterwards while --max-stale
// lets it serve cached keys. It is never ready while it drains.
func (s *service) readiness(context.Context) (ready bool, why any) {
	ready, state := s.state()
	return ready, struct {
		Ready bool   `json:"ready"`
		State string `json:"state"`
	}{ready, state}
}

func (s *service) state() (ready bool, state string) {
	status := s.resolver.Status()
	switch {
	case s.draining.Load():
		return false, stateDraining
	case status.Leased:
		return true, stateOK
	case status.Unauthenticated:
		return false, stateRefused
	case status.GraceRemaining > 0:
		return true, stateStale
	case status.TooStale:
		return false, stateTooStale
	}
	return false, stateNoLease
}
