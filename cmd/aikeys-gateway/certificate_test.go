package main

import (
	"crypto/x509"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/internal/tlsfiles/tlsfilestest"
	"github.com/agentrouter/aikeys/models/modelstest"
)

// spiffe names a certificate as edges of acme are named here.
func spiffe(path string) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.URIs = []*url.URL{{Scheme: "spiffe", Host: "acme", Path: "/" + path}} }
}

// certifiedScene is a scene with one more process, which serves data planes over TLS and takes their certificates.
type certifiedScene struct {
	*scene

	clients *tlsfilestest.Authority
	secure  *replica
	environ []string // a gateway's, but for the certificate
}

func newCertifiedScene(t *testing.T) *certifiedScene {
	t.Helper()
	s := &certifiedScene{scene: newScene(t, modelstest.EnginePostgres.URL(t), 1), clients: tlsfilestest.NewAuthority(t)}
	own := tlsfilestest.WriteCertificate(t, t.TempDir(), 1)
	s.secure = s.start("AIKEYS_TLS_CERT="+own.CertFile, "AIKEYS_TLS_KEY="+own.KeyFile,
		"AIKEYS_DATAPLANE_CLIENT_CA="+s.clients.Write(t, filepath.Join(t.TempDir(), "ca.crt")))
	s.environ = []string{
		"AIKEYS_GATEWAY_LISTEN=127.0.0.1:0", "AIKEYS_GATEWAY_OPS_LISTEN=127.0.0.1:0",
		"AIKEYS_GATEWAY_CONTROL_PLANE=" + s.secure.dataplane, "AIKEYS_GATEWAY_CONTROL_PLANE_CA=" + own.CertFile,
		"AIKEYS_GATEWAY_UPSTREAM=openai=" + s.provider.URL + "/v1",
	}
	return s
}

// gateway starts one with a certificate.
func (s *certifiedScene) gateway(certificate tlsfilestest.Certificate) *served {
	s.t.Helper()
	return startGateway(s.t, s.environ, "--client-cert", certificate.CertFile, "--client-key", certificate.KeyFile)
}

// serving returns the id of the key that serves alice through a gateway, or the status.
func (s *certifiedScene) serving(g *served) string {
	s.t.Helper()
	got := send(s.t, http.MethodGet, g.url+"/openai/models", s.alice)
	if got.status != http.StatusOK {
		return http.StatusText(got.status)
	}
	return got.header.Get("Agentrouter-Key-Id")
}

func TestCertificateAsCredential(t *testing.T) {
	s := newCertifiedScene(t)
	require.Empty(t, s.aikeysd("admin", "dataplane", "create", "--name", "edge", "--customer", "acme", "--certificate", "uri:spiffe://acme/edge"))
	g := s.gateway(s.clients.Issue(t, t.TempDir(), spiffe("edge"))).awaitReady()
	require.Equal(t, s.newest, s.serving(g))
	revoked := s.owner(s.at(0)).revoke(t, s.newest, "10s")
	require.Equal(t, "complete", revoked.State)
	require.Equal(t, 1, revoked.DataPlanes)
	require.Equal(t, 1, revoked.Acknowledged, "it follows the stream and acknowledges")
	require.Equal(t, s.older, s.serving(g))

	s.aikeysd("admin", "dataplane", "revoke", "--name", "edge")
	g.eventually("it is refused", func() bool { return strings.Contains(g.readyz().body, `"refused"`) })
	g.eventually("it serves nothing", func() bool { return s.serving(g) == http.StatusText(http.StatusServiceUnavailable) })
	s.aikeysd("admin", "dataplane", "create", "--name", "edge", "--customer", "acme", "--certificate", "uri:spiffe://acme/edge")
	g.awaitReady()
	require.Equal(t, s.older, s.serving(g), "the name may stand for another")
	require.Equal(t, exitOK, g.end())

	nobody := s.gateway(s.clients.Issue(t, t.TempDir(), spiffe("nobody")))
	nobody.eventually("it is refused", func() bool { return strings.Contains(nobody.readyz().body, `"refused"`) })
	require.Equal(t, exitOK, nobody.end())
}

func TestCertificateIsReloaded(t *testing.T) {
	s := newCertifiedScene(t)
	s.aikeysd("admin", "dataplane", "create", "--name", "edge", "--customer", "acme", "--certificate", "uri:spiffe://acme/edge")
	dir, expires := t.TempDir(), time.Now().Truncate(time.Second).Add(6*time.Second)
	first := s.clients.Issue(t, dir, func(c *x509.Certificate) {
		spiffe("edge")(c)
		c.NotAfter = expires
	})
	g := s.gateway(first).awaitReady()
	s.clients.Issue(t, dir, spiffe("edge"))
	for time.Now().Before(expires.Add(time.Second)) {
		require.Equal(t, s.newest, s.serving(g), "it serves all the while: before, when the first one expires, and after")
		time.Sleep(pace)
	}
	next := s.add(false)
	g.eventually("it hears of changes, and fetches", func() bool { return s.serving(g) == next })
	require.Equal(t, exitOK, g.end())
	require.Contains(t, g.said.String(), `"msg":"a file has changed and was read again","what":"client certificate"`)
}
