package remote

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/agentrouter/aikeys/internal/tlsfiles"
)

const (
	// idleTimeout is shorter than the service's, so that the client closes idle connections.
	idleTimeout = 30 * time.Second
	// socketServer is the URL of requests over a unix socket; its host is not used.
	socketServer = "http://secrets-svc"

	maxHeaderBytes = 16 << 10
)

// doer makes the generated client use a transport directly: no redirects, no cookies, and no URL in errors.
type doer struct{ transport *http.Transport }

// Do implements secrets.HttpRequestDoer.
func (d doer) Do(request *http.Request) (*http.Response, error) {
	return d.transport.RoundTrip(request)
}

// newTransport returns a transport for the service and the base URL of its requests.
func newTransport(cfg Config) (transport *http.Transport, server string, err error) {
	transport = &http.Transport{
		// There is no proxy, not even that of the environment: none may see a secret.
		DisableCompression: true, IdleConnTimeout: idleTimeout, MaxResponseHeaderBytes: maxHeaderBytes,
		MaxIdleConns: maxConns, MaxIdleConnsPerHost: maxConns,
	}
	var dialer net.Dialer
	switch {
	case (cfg.Socket == "") == (cfg.URL == ""):
		return nil, "", errors.New("secrets-svc: want either the path of a socket or a URL")
	case cfg.Socket != "":
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return reached(dialer.DialContext(ctx, "unix", cfg.Socket))
		}
		return transport, socketServer, nil
	}
	server, host, err := parseURL(cfg.URL)
	if err != nil {
		return nil, "", err
	}
	if cfg.CertFile == "" || cfg.KeyFile == "" || cfg.CAFile == "" {
		return nil, "", errors.New("secrets-svc: https requires a certificate, its key and the certificates of authorities")
	}
	own, err := tlsfiles.OpenPair("client certificate for secrets-svc", cfg.CertFile, cfg.KeyFile, cfg.Log)
	if err != nil {
		return nil, "", fmt.Errorf("secrets-svc: %w", err)
	}
	authorities, err := tlsfiles.OpenPool("CA file of secrets-svc", cfg.CAFile, cfg.Log)
	if err != nil {
		return nil, "", fmt.Errorf("secrets-svc: authorities: %w", err)
	}
	transport.DialTLSContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		settings := tlsfiles.ClientConfig(ctx, own, authorities, host)
		return reached((&tls.Dialer{NetDialer: &dialer, Config: settings}).DialContext(ctx, network, address))
	}
	return transport, server, nil
}

func reached(conn net.Conn, err error) (net.Conn, error) {
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUnreached, err)
	}
	return conn, nil
}

func parseURL(text string) (server, host string, err error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" ||
		(u.Path != "" && u.Path != "/") {
		return "", "", fmt.Errorf("secrets-svc: %q is not https://host:port", text)
	}
	return "https://" + u.Host, u.Hostname(), nil
}
