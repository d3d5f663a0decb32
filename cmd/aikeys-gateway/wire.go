package main

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/gateway"
	"github.com/agentrouter/aikeys/dataplane/gateway/extauthz"
)

// controlPlaneTimeout bounds connecting to the control plane, and how long it may take to begin an answer.
const controlPlaneTimeout = 2 * time.Second

// wire makes the parts. It connects to nothing.
func (s *service) wire() (err error) {
	s.registry = prometheus.NewRegistry()
	s.registry.MustRegister(collectors.NewGoCollector(), collectors.NewBuildInfoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if s.resolver, err = s.newResolver(); err != nil {
		return err
	}
	cfg := gateway.Config{
		Resolver: s.resolver, Log: s.log, Metrics: s.registry, Upstreams: s.cfg.Upstreams,
		FailedAuthLimit: s.cfg.FailedAuthLimit, TrustedProxies: s.cfg.TrustedProxies,
		Transport: gateway.NewTransport(gateway.TransportConfig{Proxy: http.ProxyFromEnvironment}),
	}
	if s.cfg.ForwardAuthFile != "" {
		secret, err := watch(s.log, "forward-auth secret", func() (string, error) { return readSecret(s.cfg.ForwardAuthFile) }, s.cfg.ForwardAuthFile)
		if err != nil {
			return err
		}
		cfg.ForwardAuthSecret = secret.get
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
	return s.loadCertificate()
}

func (s *service) newResolver() (*dataplane.Resolver, error) {
	cfg := dataplane.Config{
		ControlPlane: s.cfg.ControlPlane, Insecure: s.cfg.Insecure,
		CacheSize: s.cfg.CacheSize, MaxStale: s.cfg.MaxStale, Metrics: s.registry, Log: s.log,
	}
	if s.cfg.TokenFile != "" {
		credential, err := watch(s.log, "credential", func() (string, error) { return readCredential(s.cfg.TokenFile) }, s.cfg.TokenFile)
		if err != nil {
			return nil, err
		}
		cfg.Token = credential.get
	}
	var err error
	if cfg.HTTPClient, err = s.controlPlaneClient(); err != nil {
		return nil, err
	}
	return dataplane.New(cfg)
}

// controlPlaneClient believes the authorities of a file alone, and shows a client certificate, where these are set; nil is
// the resolver's own client, which believes whom the machine does.
func (s *service) controlPlaneClient() (*http.Client, error) {
	if s.cfg.ControlPlaneCA == "" && s.cfg.ClientCert == "" {
		return nil, nil //nolint:nilnil // the resolver has one of its own
	}
	settings := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.cfg.ControlPlaneCA != "" {
		pool, err := readPool(s.cfg.ControlPlaneCA)
		if err != nil {
			return nil, err
		}
		settings.RootCAs = pool
	}
	if s.cfg.ClientCert != "" {
		pair, err := watchCertificate(s.log, "client certificate", s.cfg.ClientCert, s.cfg.ClientKey)
		if err != nil {
			return nil, err
		}
		settings.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return pair.get(), nil }
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
	pair, err := watchCertificate(s.log, "TLS certificate", s.cfg.TLSCert, s.cfg.TLSKey)
	if err != nil {
		return err
	}
	s.tls = &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return pair.get(), nil },
	}
	return nil
}

// The words of /readyz.
const (
	stateOK       = "ok"
	stateStale    = "stale"     // there is no lease; what is cached may serve on for a while
	stateNoLease  = "no_lease"  // the control plane does not answer
	stateRefused  = "refused"   // it refuses our credential
	stateTooStale = "too_stale" // it allows no such max-stale
	stateDraining = "draining"
)

// readiness tells whether requests can be served: with a lease, or for as long after it as keys may be stale.
func (s *service) readiness(context.Context) (ready bool, word string) {
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
