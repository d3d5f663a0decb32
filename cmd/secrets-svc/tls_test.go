package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/internal/tlsfiles/tlsfilestest"
	"github.com/agentrouter/aikeys/sealer/remote"
)

// authority signs certificates for clients and for services.
type authority struct {
	t      *testing.T
	signer *tlsfilestest.Authority
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	return &authority{t, tlsfilestest.NewAuthority(t)}
}

// issue writes a certificate and its key into a folder.
func (a *authority) issue(i *installation, folder string, change func(*x509.Certificate)) (certFile, keyFile string) {
	a.t.Helper()
	require.NoError(a.t, os.MkdirAll(i.path(folder), 0o700))
	files := a.signer.Issue(a.t, i.path(folder), func(c *x509.Certificate) {
		c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
		change(c)
	})
	return files.CertFile, files.KeyFile
}

func (a *authority) write(i *installation, file string) string {
	return a.signer.Write(a.t, i.path(file))
}

var apiURL = regexp.MustCompile(`"api":"(https://[^"]+)"`)

// overTLS launches a service with mutual TLS, for clients that an authority vouches for.
func overTLS(i *installation, clients *authority) (url, serverCA string) {
	i.t.Helper()
	t, ok := i.t.(*testing.T)
	require.True(t, ok)
	own := newAuthority(t)
	cert, key := own.issue(i, "server", func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)} })
	i.launch("--listen", "127.0.0.1:0", "--tls-cert", cert, "--tls-key", key, "--tls-client-ca", clients.write(i, "clients-ca.crt"))
	found := apiURL.FindStringSubmatch(i.read("log"))
	require.NotNil(t, found)
	return found[1], own.write(i, "server-ca.crt")
}

const byName = `clients:
  - {name: aikeysd, certificates: ["dns:aikeysd.internal"], namespace: main, may: [seal, open, status]}
  - {name: rewrap, certificates: ["uri:spiffe://acme/rewrap", "cn:Re-wrap"], namespace: main, may: [rewrap, status]}
`

func TestMutualTLS(t *testing.T) {
	t.Parallel()
	i := install(t)
	i.create()
	i.clients(byName)
	clients := newAuthority(t)
	server, serverCA := overTLS(i, clients)
	// keks asks for the KEKs with a certificate or without; status 0 means no response.
	keks := func(certFile, keyFile string) (status int) {
		pool := x509.NewCertPool()
		require.True(t, pool.AppendCertsFromPEM([]byte(i.read("server-ca.crt"))))
		settings := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool}
		if certFile != "" {
			pair, err := tls.LoadX509KeyPair(certFile, keyFile)
			require.NoError(t, err)
			// Shown regardless of the authorities that the server names, since the server must refuse it.
			settings.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
		}
		transport := &http.Transport{TLSClientConfig: settings}
		defer transport.CloseIdleConnections()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server+"/v1/keks", http.NoBody)
		require.NoError(t, err)
		reply, err := (&http.Client{Transport: transport}).Do(req)
		if err != nil {
			return 0
		}
		require.NoError(t, reply.Body.Close())
		return reply.StatusCode
	}
	t.Run("a client that is listed does what it may", func(t *testing.T) {
		cert, key := clients.issue(i, "aikeysd", tlsfilestest.Named("aikeysd.internal"))
		client, err := remote.New(remote.Config{URL: server, CertFile: cert, KeyFile: key, CAFile: serverCA})
		require.NoError(t, err)
		defer func() { require.NoError(t, client.Close()) }()
		envelope := mustSeal(t, client)
		requireOpens(t, client, envelope.Bytes)
		require.Contains(t, i.read("audit"), `"client":"aikeysd"`)
		_, err = client.Rewrap(t.Context(), binding(), envelope.Bytes)
		require.Error(t, err)
	})
	for name, tc := range map[string]struct {
		by     *authority
		change func(*x509.Certificate)
		status int
	}{
		"a URI is a name":         {clients, func(c *x509.Certificate) { c.URIs = []*url.URL{{Scheme: "spiffe", Host: "acme", Path: "/rewrap"}} }, 200},
		"a common name is one":    {clients, func(c *x509.Certificate) { c.Subject.CommonName = "Re-wrap" }, 200},
		"but of its own kind":     {clients, func(c *x509.Certificate) { c.Subject.CommonName = "aikeysd.internal" }, 403},
		"a name that is no one's": {clients, tlsfilestest.Named("other.internal"), 403},
		"names of two clients":    {clients, func(c *x509.Certificate) { c.DNSNames, c.Subject.CommonName = []string{"aikeysd.internal"}, "Re-wrap" }, 403},
		"no name":                 {clients, func(*x509.Certificate) {}, 403},
		"another authority's":     {newAuthority(t), tlsfilestest.Named("aikeysd.internal"), 0},
		"expired certificate": {clients, func(c *x509.Certificate) {
			tlsfilestest.Named("aikeysd.internal")(c)
			c.NotAfter = time.Now().Add(-time.Minute)
		}, 0},
		"not yet valid certificate": {clients, func(c *x509.Certificate) {
			tlsfilestest.Named("aikeysd.internal")(c)
			c.NotBefore = time.Now().Add(time.Minute)
		}, 0},
		"server certificate": {clients, func(c *x509.Certificate) {
			tlsfilestest.Named("aikeysd.internal")(c)
			c.ExtKeyUsage = c.ExtKeyUsage[1:]
		}, 0},
		"the service's own as one": {clients, func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)} }, 403},
	} {
		t.Run(name, func(t *testing.T) {
			cert, key := tc.by.issue(i, "client", tc.change)
			require.Equal(t, tc.status, keks(cert, key))
		})
	}
	t.Run("no certificate", func(t *testing.T) { require.Zero(t, keks("", "")) })
	t.Run("who is not let in leaves a line that says why", func(t *testing.T) {
		require.Eventually(t, func() bool { return strings.Count(i.read("log"), `"msg":"TLS handshake refused"`) == 5 }, patience, often)
		require.Contains(t, i.read("log"), `"cause":"the client's certificate `)
	})
	t.Run("there is no plain HTTP", func(t *testing.T) {
		conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(server, "https://"))
		require.NoError(t, err)
		defer func() { _ = conn.Close() }()
		_, err = io.WriteString(conn, "GET /v1/keks HTTP/1.1\r\nHost: secrets-svc\r\n\r\n")
		require.NoError(t, err)
		answer, err := io.ReadAll(conn)
		require.NoError(t, err)
		require.True(t, bytes.HasPrefix(answer, []byte("HTTP/1.0 400")), "%s", answer)
	})
	t.Run("another authority is believed once the file names it", func(t *testing.T) {
		next := newAuthority(t)
		cert, key := next.issue(i, "next", tlsfilestest.Named("aikeysd.internal"))
		require.Zero(t, keks(cert, key))
		next.write(i, "clients-ca.crt")
		require.Eventually(t, func() bool { return keks(cert, key) == http.StatusOK }, patience, often)
		cert, key = clients.issue(i, "aikeysd", tlsfilestest.Named("aikeysd.internal"))
		require.Zero(t, keks(cert, key), "and the one before no longer")
	})
}

func TestExpiredCertificateOnAnOpenConnection(t *testing.T) {
	t.Parallel()
	i := install(t)
	i.create()
	i.clients(byName)
	clients := newAuthority(t)
	server, serverCA := overTLS(i, clients)
	cert, key := clients.issue(i, "brief", func(c *x509.Certificate) {
		tlsfilestest.Named("aikeysd.internal")(c)
		c.NotAfter = time.Now().Add(3 * time.Second)
	})
	client, err := remote.New(remote.Config{URL: server, CertFile: cert, KeyFile: key, CAFile: serverCA})
	require.NoError(t, err)
	defer func() { require.NoError(t, client.Close()) }()
	_, err = client.KEKs(t.Context())
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		_, err := client.KEKs(t.Context())
		return err != nil
	}, patience, often)
	require.Contains(t, i.read("log"), `"status":403`)
}
