package main

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/internal/tlsfiles/tlsfilestest"
	"github.com/agentrouter/aikeys/models/modelstest"
)

// edges is an installation whose data-plane API takes client certificates.
type edges struct {
	*server
	environ []string
	owner   string // an API key
	clients *tlsfilestest.Authority
	caFile  string
	own     tlsfilestest.Certificate
}

func startEdges(t *testing.T, environ []string) *edges {
	t.Helper()
	e := &edges{clients: tlsfilestest.NewAuthority(t), own: tlsfilestest.WriteCertificate(t, t.TempDir(), 1), owner: newOwnerAfter(t, environ)}
	e.caFile = e.clients.Write(t, filepath.Join(t.TempDir(), "ca.crt"))
	e.environ = with(environ, "AIKEYS_TLS_CERT="+e.own.CertFile, "AIKEYS_TLS_KEY="+e.own.KeyFile, "AIKEYS_DATAPLANE_CLIENT_CA="+e.caFile)
	e.server = startReady(t, e.environ)
	key := call(t, e.client(nil), http.MethodPost, e.api+"/v1/aikeys", e.owner, registerBody("a", fakeSecret))
	require.Equal(t, http.StatusCreated, key.status, key.body)
	return e
}

// admit makes a data plane for acme by a certificate's name.
func (e *edges) admit(name, certificate string) {
	e.t.Helper()
	mustAikeysd(e.t, e.environ, "admin", "dataplane", "create", "--name", name, "--customer", "acme", "--certificate", certificate)
}

// client returns one that shows a certificate, whatever the server asks for; with nil it has none.
func (e *edges) client(certificate *tlsfilestest.Certificate) *http.Client {
	e.t.Helper()
	settings := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: e.own.Pool(e.t)}
	if certificate != nil {
		settings.GetClientCertificate = certificate.Show(e.t)
	}
	client := newClient()
	client.Transport = &http.Transport{DisableKeepAlives: true, TLSClientConfig: settings}
	return client
}

// named returns a client whose certificate has a name.
func (e *edges) named(name string) *http.Client {
	e.t.Helper()
	certificate := e.clients.Issue(e.t, e.t.TempDir(), tlsfilestest.Named(name))
	return e.client(&certificate)
}

func (e *edges) post(client *http.Client, path, token, body string) reply {
	e.t.Helper()
	return call(e.t, client, http.MethodPost, e.dataplane+path, token, body)
}

func (e *edges) fetch(client *http.Client, token string) reply {
	e.t.Helper()
	return e.post(client, "/v1/fetch", token, `{"credential":"`+e.owner+`","provider":"openai"}`)
}

func TestACertificateIsTheCredentialOfADataPlane(t *testing.T) {
	modelstest.Each(t, func(t *testing.T, engine modelstest.Engine) {
		e := startEdges(t, with(newEnviron(t), "AIKEYS_DATABASE_URL="+engine.URL(t)))
		made := aikeysd(t, e.environ, "admin", "dataplane", "create", "--name", "edge-1", "--customer", "acme", "--certificate", "dns:edge-1.internal")
		require.Equal(t, exitOK, made.code, made.stderr)
		require.Empty(t, made.stdout, "there is no token")
		require.Contains(t, made.stderr, "by client certificates with the name dns:edge-1.internal")
		require.Regexp(t, ` edge-1 +dns:edge-1.internal +acme +\S+ +never +active `, mustAikeysd(t, e.environ, "admin", "dataplane", "list"))

		edge := e.named("edge-1.internal")
		fetched := e.fetch(edge, "")
		require.Equal(t, http.StatusOK, fetched.status, fetched.body)
		require.Contains(t, fetched.body, fakeSecret)
		byName := e.post(edge, "/v1/fetch", "", `{"customer_id":"globex","project_id":"chat","provider":"openai"}`)
		require.Equal(t, http.StatusForbidden, byName.status)
		require.Contains(t, byName.body, "/problems/customer-not-served", "its customers limit it as they do a token")
		report := e.post(edge, "/v1/reports", "", `{"keys":[{"key_id":"`+anyKeyID.FindString(fetched.body)+`","used_ms_ago":1}]}`)
		require.Equal(t, http.StatusNoContent, report.status, report.body)

		lines := e.followWith(edge, "")
		require.Equal(t, http.StatusNotFound, e.post(edge, "/v1/acknowledgements", "",
			`{"session_id":"01M83VVAHQQW2E4R6T8Y0A1S3D","position":"1:1:"}`).status, "of no stream of its own")
		require.Equal(t, http.StatusOK, e.fetch(edge, "").status, "its session is cached")
		mustAikeysd(t, e.environ, "admin", "dataplane", "revoke", "--name", "edge-1")
		require.Equal(t, http.StatusUnauthorized, e.fetch(edge, "").status, "it is refused at the very next request")
		for range lines { // its stream has ended: else this would go on
		}
		e.admit("edge-2", "dns:edge-1.internal")
		require.Equal(t, http.StatusOK, e.fetch(edge, "").status, "the name may be another's then")
		require.Equal(t, exitOK, e.wait())
		list := mustAikeysd(t, e.environ, "admin", "fetches", "--customer", "acme", "--project", "chat")
		require.Contains(t, list, "edge-1")
		require.Contains(t, list, "edge-2")
	})
}

func TestCertificatesThatOpenNothing(t *testing.T) {
	e := startEdges(t, newEnviron(t))
	e.admit("edge-1", "dns:edge-1.internal")
	e.admit("edge-2", "cn:edge-2")
	require.Equal(t, http.StatusOK, e.fetch(e.named("edge-1.internal"), "").status)
	issue := func(by *tlsfilestest.Authority, change func(*x509.Certificate)) *http.Client {
		certificate := by.Issue(t, t.TempDir(), func(c *x509.Certificate) {
			c.DNSNames = []string{"edge-1.internal"}
			change(c)
		})
		return e.client(&certificate)
	}
	unchanged := func(*x509.Certificate) {}
	require.Equal(t, http.StatusUnauthorized, e.fetch(e.client(nil), "").status, "none")
	require.Equal(t, http.StatusUnauthorized, e.fetch(e.named("other.internal"), "").status, "one of nobody")
	both := issue(e.clients, func(c *x509.Certificate) { c.Subject.CommonName = "edge-2" })
	require.Equal(t, http.StatusUnauthorized, e.fetch(both, "").status, "one of two")
	for name, client := range map[string]*http.Client{
		"another authority's": issue(tlsfilestest.NewAuthority(t), unchanged),
		"one that is over":    issue(e.clients, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }),
	} {
		_, err := tryCall(t.Context(), client, http.MethodPost, e.dataplane+"/v1/fetch", "", `{}`)
		require.Error(t, err, "%s: the connection is refused", name)
	}
	// A client that shows what the server asks for has none of these authorities, and connects without.
	stranger := tlsfilestest.NewAuthority(t).Issue(t, t.TempDir(), tlsfilestest.Named("edge-1.internal"))
	pair, err := tls.LoadX509KeyPair(stranger.CertFile, stranger.KeyFile)
	require.NoError(t, err)
	polite := newClient()
	polite.Transport = &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{
		MinVersion: tls.VersionTLS12, RootCAs: e.own.Pool(t), Certificates: []tls.Certificate{pair},
	}}
	require.Equal(t, http.StatusUnauthorized, e.fetch(polite, "").status)

	whoami := call(t, e.named("edge-1.internal"), http.MethodGet, e.api+"/v1/whoami", "", "")
	require.Equal(t, http.StatusUnauthorized, whoami.status, "nor is it a credential of the public API")
	for _, cause := range []string{"is of no authority that is trusted here", "has expired, or is not valid yet"} {
		e.eventually("it is told why", func() bool { return strings.Contains(e.stderr.String(), "the client's certificate "+cause) })
	}
	require.Equal(t, exitOK, e.wait())
	require.Contains(t, e.stderr.String(), "no data plane has a name of the client certificate")
	require.Contains(t, e.stderr.String(), "the client certificate has the names of several data planes")
}

func TestATokenOutranksTheCertificateBesideIt(t *testing.T) {
	e := startEdges(t, newEnviron(t))
	e.admit("edge-1", "dns:edge-1.internal")
	token := strings.TrimSuffix(mustAikeysd(t, e.environ, "admin", "dataplane", "create", "--name", "edge-2", "--customer", "globex"), "\n")
	edge := e.named("edge-1.internal")
	require.Equal(t, http.StatusOK, e.fetch(edge, "").status)
	require.Equal(t, http.StatusForbidden, e.fetch(edge, token).status, "the token's data plane serves another customer")
	require.Equal(t, http.StatusUnauthorized, e.fetch(edge, "dp_none").status, "a token that is none is not made up for")
	require.Equal(t, http.StatusForbidden, e.fetch(e.client(nil), token).status, "tokens go on working")
	require.Equal(t, http.StatusForbidden, e.fetch(e.named("other.internal"), token).status)
	require.Equal(t, exitOK, e.wait())
}

func TestADataPlanesStreamEndsWithItsCertificate(t *testing.T) {
	e := startEdges(t, newEnviron(t))
	e.admit("edge-1", "dns:edge-1.internal")
	expires := time.Now().Truncate(time.Second).Add(5 * time.Second)
	certificate := e.clients.Issue(t, t.TempDir(), func(c *x509.Certificate) {
		c.DNSNames, c.NotAfter = []string{"edge-1.internal"}, expires
	})
	for range e.followWith(e.client(&certificate), "") { // it ends: else this would go on
	}
	require.WithinRange(t, time.Now(), expires, expires.Add(5*time.Second))
	require.Equal(t, exitOK, e.wait())
}

func TestClientAuthoritiesAreReloaded(t *testing.T) {
	e := startEdges(t, newEnviron(t))
	e.admit("edge-1", "dns:edge-1.internal")
	before := e.named("edge-1.internal")
	require.Equal(t, http.StatusOK, e.fetch(before, "").status)
	e.clients = tlsfilestest.NewAuthority(t)
	e.clients.Write(t, e.caFile)
	after := e.named("edge-1.internal")
	e.eventually("the new authority is believed", func() bool {
		got, err := tryCall(t.Context(), after, http.MethodPost, e.dataplane+"/v1/fetch", "", `{"credential":"`+e.owner+`","provider":"openai"}`)
		return err == nil && got.status == http.StatusOK
	})
	_, err := tryCall(t.Context(), before, http.MethodPost, e.dataplane+"/v1/fetch", "", `{}`)
	require.Error(t, err, "and the one before no longer")
	require.Equal(t, exitOK, e.wait())
}
