package httpapi_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/internal/lifecycle"
	"github.com/agentrouter/aikeys/internal/tlsfiles"
	"github.com/agentrouter/aikeys/internal/tlsfiles/tlsfilestest"
)

// byCertificate accepts one certificate name and records the names that it was last called with.
type byCertificate struct {
	mu    sync.Mutex
	names []string
}

func (b *byCertificate) AuthenticateCertificate(_ context.Context, names []string) (auth.Principal, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.names = names
	if !slices.Contains(names, "dns:edge.internal") {
		return auth.Principal{}, auth.ErrUnauthenticated
	}
	return auth.Principal{CustomerID: "acme", UserID: "edge"}, nil
}

func (b *byCertificate) asked() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.names
}

// mutual is a server that accepts client certificates as well as tokens.
type mutual struct {
	t        *testing.T
	server   *lifecycle.Server
	own      tlsfilestest.Certificate
	clients  *tlsfilestest.Authority
	sessions *byCertificate
}

func newMutual(t *testing.T) *mutual {
	t.Helper()
	m := &mutual{t: t, clients: tlsfilestest.NewAuthority(t), sessions: &byCertificate{}}
	authorities, err := tlsfiles.OpenPool("client CA file", m.clients.Write(t, filepath.Join(t.TempDir(), "ca.crt")), nil)
	require.NoError(t, err)
	m.own = tlsfilestest.WriteCertificate(t, t.TempDir(), 1)
	own, err := tlsfiles.OpenPair("TLS certificate", m.own.CertFile, m.own.KeyFile, nil)
	require.NoError(t, err)
	handler := newHandler(t, auth.MiddlewareConfig{Sessions: &watched{}, Certificates: m.sessions})
	m.server = startServer(t, handler.ServeHTTP, func(cfg *httpapi.ServerConfig) {
		cfg.TLS = tlsfiles.MutualConfig(own, authorities, tls.VerifyClientCertIfGiven, tls.VersionTLS12, "h2", "http/1.1")
	})
	return m
}

// client returns an HTTP client with a client certificate, or without one.
func (m *mutual) client(certificate *tlsfilestest.Certificate) *http.Client {
	m.t.Helper()
	settings := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: m.own.Pool(m.t)}
	if certificate != nil {
		settings.GetClientCertificate = certificate.Show(m.t)
	}
	transport := &http.Transport{TLSClientConfig: settings}
	m.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 5 * time.Second}
}

func (m *mutual) issue(change func(*x509.Certificate)) *tlsfilestest.Certificate {
	m.t.Helper()
	certificate := m.clients.Issue(m.t, m.t.TempDir(), change)
	return &certificate
}

// ask sends a request with Authorization headers. Status 0 means no response.
func (m *mutual) ask(client *http.Client, authorization ...string) (status int, closed bool) {
	m.t.Helper()
	request, err := http.NewRequestWithContext(m.t.Context(), http.MethodGet, m.server.URL()+"/v1/whoami", http.NoBody)
	require.NoError(m.t, err)
	request.Header["Authorization"] = authorization
	response, err := client.Do(request)
	if err != nil {
		return 0, true
	}
	require.NoError(m.t, response.Body.Close())
	return response.StatusCode, response.Close
}

func (m *mutual) status(client *http.Client, authorization ...string) int {
	m.t.Helper()
	status, _ := m.ask(client, authorization...)
	return status
}

func TestTokenTakesPrecedenceOverCertificate(t *testing.T) {
	m := newMutual(t)
	known, unknown := m.issue(tlsfilestest.Named("edge.internal")), m.issue(tlsfilestest.Named("other.internal"))
	for name, c := range map[string]struct {
		certificate *tlsfilestest.Certificate
		tokens      []string
		status      int
	}{
		"a token":                               {nil, []string{"Bearer good"}, http.StatusOK},
		"a certificate":                         {known, nil, http.StatusOK},
		"nothing":                               {nil, nil, http.StatusUnauthorized},
		"a certificate that is nobody's":        {unknown, nil, http.StatusUnauthorized},
		"a token, and nobody's certificate":     {unknown, []string{"Bearer good"}, http.StatusOK},
		"a bad token, and a good certificate":   {known, []string{"Bearer bad"}, http.StatusUnauthorized},
		"two tokens, and a good certificate":    {known, []string{"Bearer good", "Bearer good"}, http.StatusUnauthorized},
		"one without a name":                    {m.issue(func(*x509.Certificate) {}), nil, http.StatusUnauthorized},
		"one of an authority that is not known": {ptr(tlsfilestest.NewAuthority(t).Issue(t, t.TempDir(), tlsfilestest.Named("edge.internal"))), nil, 0},
		"expired certificate": {m.issue(func(c *x509.Certificate) {
			tlsfilestest.Named("edge.internal")(c)
			c.NotAfter = time.Now().Add(-time.Minute)
		}), nil, 0},
		"server certificate": {m.issue(func(c *x509.Certificate) {
			tlsfilestest.Named("edge.internal")(c)
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		}), nil, 0},
	} {
		require.Equal(t, c.status, m.status(m.client(c.certificate), c.tokens...), name)
	}
}

func ptr[T any](v T) *T { return &v }

func TestCertificateNamesAreTheVerifiedOnes(t *testing.T) {
	m := newMutual(t)
	client := m.client(m.issue(func(c *x509.Certificate) {
		c.DNSNames, c.Subject.CommonName = []string{"a.internal", "edge.internal"}, "Edge 1"
		c.URIs = []*url.URL{{Scheme: "spiffe", Host: "acme", Path: "/edge"}}
	}))
	require.Equal(t, http.StatusOK, m.status(client))
	require.Equal(t, []string{"dns:a.internal", "dns:edge.internal", "uri:spiffe://acme/edge", "cn:Edge 1"}, m.sessions.asked())
}

func TestClientCertificatesWorkOverHTTP2(t *testing.T) {
	m := newMutual(t)
	client := m.client(m.issue(tlsfilestest.Named("edge.internal")))
	client.Transport.(*http.Transport).ForceAttemptHTTP2 = true //nolint:forcetypeassert // the helper's own
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, m.server.URL()+"/v1/whoami", http.NoBody)
	require.NoError(t, err)
	response, err := client.Do(request)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, 2, response.ProtoMajor)
	require.Equal(t, http.StatusOK, response.StatusCode)
}

func TestCertificateExpiresOnAnOpenConnection(t *testing.T) {
	m := newMutual(t)
	expires := time.Now().Truncate(time.Second).Add(4 * time.Second)
	client := m.client(m.issue(func(c *x509.Certificate) {
		tlsfilestest.Named("edge.internal")(c)
		c.NotAfter = expires
	}))
	status, closed := m.ask(client)
	require.Equal(t, http.StatusOK, status)
	require.True(t, closed, "in its last minute the connection is closed, so that a renewed one is shown")
	_, closed = m.ask(m.client(m.issue(tlsfilestest.Named("edge.internal"))))
	require.False(t, closed)

	// A connection on which the first request is sent only after the certificate has expired.
	conn, err := (&tls.Dialer{Config: client.Transport.(*http.Transport).TLSClientConfig}).DialContext(t.Context(), "tcp", hostOf(m.server)) //nolint:forcetypeassert // the helper's own
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	time.Sleep(time.Until(expires) + 100*time.Millisecond)
	_, err = conn.Write([]byte("GET /v1/whoami HTTP/1.1\r\nHost: a\r\n\r\n"))
	require.NoError(t, err)
	head := make([]byte, len("HTTP/1.1 401"))
	_, err = conn.Read(head)
	require.NoError(t, err)
	require.Equal(t, "HTTP/1.1 401", string(head))
}
