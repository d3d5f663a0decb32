package main

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
	"github.com/agentrouter/aikeys/dataplane/gateway/gatewaytest"
	"github.com/agentrouter/aikeys/internal/filereload/filereloadtest"
	"github.com/agentrouter/aikeys/internal/tlsfiles/tlsfilestest"
	"github.com/agentrouter/aikeys/models/modelstest"
)

func TestStalenessGrace(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	p := e.start("--max-stale", "1h").awaitReady()
	require.Equal(t, http.StatusOK, p.models().status)
	e.control.Down()
	p.await("stale", func() bool { return strings.Contains(p.readyz().body, `"stale"`) })
	require.Equal(t, http.StatusOK, p.readyz().status)
	require.Equal(t, http.StatusOK, p.models().status)
}

// While the control plane does not allow the gateway's grace, the gateway is not ready, logs why, and fetches for each request.
func TestGraceAboveTheControlPlanesLimit(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.control.LimitMaxStale(5 * time.Minute)
	p := e.start("--max-stale", "1h")
	p.await("too stale", func() bool { return p.readyz().body == `{"ready":false,"state":"too_stale"}`+"\n" })
	require.Equal(t, http.StatusServiceUnavailable, p.readyz().status)
	require.Contains(t, p.log.String(), "must be at most 300000")
	require.Contains(t, p.log.String(), "lower it here, or raise the control plane's --max-stale-limit")
	require.Equal(t, http.StatusOK, p.models().status)
	e.control.LimitMaxStale(time.Hour)
	p.awaitReady()
}

func TestCredentialIsReloaded(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "edge.token")
	require.NoError(t, os.WriteFile(file, []byte(dataplanetest.Token), 0o600))
	e, second := newEnv(t), "dp_EXAMPLE_SECOND__SECOND_"
	e.control.SetToken(second)
	p := e.start("--token-file", file)
	p.await("refused", func() bool { return strings.Contains(p.readyz().body, `"refused"`) })
	filereloadtest.ReplaceAfterFailure(t, file, []byte(second), func() bool {
		return strings.Contains(p.log.String(), "the file must hold one word")
	})
	p.awaitReady()
	require.Contains(t, p.log.String(), `"msg":"a file has changed and was read again","what":"credential"`)
	require.NotContains(t, p.log.String(), "dp_")
}

func TestForwardAuthAsksForItsSecret(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(file, []byte("opensesame\n"), 0o600))
	p := newEnv(t).start("--forward-auth-listen", "127.0.0.1:0", "--forward-auth-secret-file", file).awaitReady()
	require.Equal(t, http.StatusForbidden, get(t, p.address.ForwardAuth+"/auth/openai", bearer(callerToken)...).status)
	got := get(t, p.address.ForwardAuth+"/auth/openai", append(bearer(callerToken), "Agentrouter-Forward-Auth", "opensesame")...)
	require.Equal(t, http.StatusOK, got.status)
	require.Equal(t, "Bearer "+providerSecret, got.header.Get("Authorization"))
}

func TestCallersOverTLS(t *testing.T) {
	t.Parallel()
	certificate := tlsfilestest.WriteCertificate(t, t.TempDir(), 1)
	p := newEnv(t).start("--tls-cert", certificate.CertFile, "--tls-key", certificate.KeyFile).awaitReady()
	require.Regexp(t, `^https://`, p.address.Gateway)
	trusting := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: certificate.Pool(t), MinVersion: tls.VersionTLS12},
	}}
	got, err := send(trusting, http.MethodGet, p.address.Gateway+"/openai/models", nil, bearer(callerToken)...)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, got.status)
}

func TestUpstreamsReplaceProviders(t *testing.T) {
	t.Parallel()
	e, elsewhere := newEnv(t), gatewaytest.StartProvider(t, gatewaytest.Accepting(providerSecret))
	p := e.start("--upstream", "openai="+elsewhere.URL+"/v1").awaitReady()
	require.Equal(t, http.StatusOK, p.models().status)
	require.Len(t, elsewhere.Requests(), 1)
	require.Empty(t, e.provider.Requests())
}

// A gateway's certificate is its credential: with aikeysd it fetches, follows changes and acknowledges, before and after the
// certificate is replaced and the first one expires, until its data plane is revoked.
func TestClientCertificate(t *testing.T) {
	t.Parallel()
	c, authority, own := newControlPlane(t, modelstest.EnginePostgres.URL(t)), tlsfilestest.NewAuthority(t), tlsfilestest.WriteCertificate(t, t.TempDir(), 1)
	plain := c.start()
	secure := c.start("AIKEYS_TLS_CERT="+own.CertFile, "AIKEYS_TLS_KEY="+own.KeyFile, "AIKEYS_DATAPLANE_CLIENT_CA="+authority.Write(t, filepath.Join(t.TempDir(), "ca.crt")))
	older, newer := c.register(plain), c.register(plain)
	admit := "admin dataplane create --name edge --customer acme --certificate uri:spiffe://acme/edge"
	require.Empty(t, c.run(admit), "there is no token")
	start := func(certificate tlsfilestest.Certificate) *process {
		return startProcess(t, os.Args[0], gatewayEnviron(t, secure.address.Dataplane, "")[:4], "--control-plane-ca", own.CertFile,
			"--client-cert", certificate.CertFile, "--client-key", certificate.KeyFile, "--upstream", "openai="+c.provider.URL+"/v1")
	}
	issue := func(dir, name string, expires time.Time) tlsfilestest.Certificate {
		return authority.Issue(t, dir, func(c *x509.Certificate) {
			c.URIs = []*url.URL{{Scheme: "spiffe", Host: "acme", Path: "/" + name}}
			c.NotAfter = expires
		})
	}
	dir, expires, later := t.TempDir(), time.Now().Truncate(time.Second).Add(5*time.Second), time.Now().Add(time.Hour)
	p := start(issue(dir, "edge", expires)).awaitReady()
	serving := func() string {
		return get(t, p.address.Gateway+"/openai/models", bearer(c.alice)...).header.Get("Agentrouter-Key-Id")
	}
	require.Equal(t, newer, serving())
	issue(dir, "edge", later)
	for time.Now().Before(expires.Add(500 * time.Millisecond)) {
		require.Equal(t, newer, serving(), "before the first certificate expires, and after")
	}
	revoked := c.revoke(plain, newer, "10s")
	require.Equal(t, []any{"complete", 1, 1}, []any{revoked.State, revoked.DataPlanes, revoked.Acknowledged})
	require.Equal(t, older, serving())
	require.Contains(t, p.log.String(), `"msg":"a file has changed and was read again","what":"client certificate"`)

	refused := func(p *process) {
		p.await("refused", func() bool { return strings.Contains(p.readyz().body, `"refused"`) })
	}
	c.run("admin dataplane revoke --name edge")
	refused(p)
	p.await("without a key", func() bool { return serving() == "" })
	c.run(admit)
	p.awaitReady()
	require.Equal(t, older, serving(), "the name is another data plane's now")
	refused(start(issue(t.TempDir(), "nobody", later)))
	require.Equal(t, cli.ExitOK, p.end(syscall.SIGTERM))
}
