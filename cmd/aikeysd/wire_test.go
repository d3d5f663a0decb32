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

	"github.com/agentrouter/aikeys/cmd/internal/programtest"
	"github.com/agentrouter/aikeys/impl/auth/authtest"
	"github.com/agentrouter/aikeys/internal/tlsfiles/tlsfilestest"
	"github.com/agentrouter/aikeys/models/modelstest"
)

func TestTheGraceOfDataPlanesIsBoundedByASetting(t *testing.T) {
	t.Parallel()
	environ := newEnviron(t)
	newOwner(t, environ)
	plane := newDataPlane(t, environ)
	for limit, tc := range map[string]struct{ most, refused string }{
		"": {"300000", "300001"}, "1h": {"3600000", "3600001"}, "0s": {"0", "1"}, "1500ms": {"1500", "1501"},
	} {
		var args []string
		if limit != "" {
			args = []string{"--max-stale-limit", limit}
		}
		s := startReady(t, environ, args...)
		refused := s.get(s.dataplane+"/v1/events?max_stale_ms="+tc.refused, plane)
		require.Equal(t, http.StatusBadRequest, refused.Status, limit)
		require.Contains(t, refused.Body, "must be at most "+tc.most, limit)
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.dataplane+"/v1/events?max_stale_ms="+tc.most, http.NoBody)
		require.NoError(t, err)
		request.Header.Set("Authorization", "Bearer "+plane)
		s.Await("the stream is open", func() bool {
			response, err := programtest.Client.Do(request)
			require.NoError(t, err)
			return response.Body.Close() == nil && response.StatusCode == http.StatusOK
		})
		require.Equal(t, exitOK, s.Stop(), limit)
	}
}

func TestBothAPIsCountFailedGuessesTogether(t *testing.T) {
	t.Parallel()
	environ := newEnviron(t)
	owner, plane := newOwner(t, environ), newDataPlane(t, environ)
	s := startReady(t, environ, "--failed-auth-limit", "3")
	var statuses []int
	for _, url := range []string{s.api + "/v1/whoami", s.dataplane + "/v1/events", s.api + "/v1/whoami", s.dataplane + "/v1/events", s.api + "/v1/whoami"} {
		statuses = append(statuses, s.get(url, "guess").Status)
	}
	require.Equal(t, []int{401, 401, 401, 429, 429}, statuses)
	require.Equal(t, http.StatusOK, s.get(s.api+"/v1/whoami", owner).Status, "good credentials get in from the same address")
	require.Equal(t, http.StatusNotFound, s.fetch(plane, "byok_01M83VVAHV8M2T5K7N9R4W1XYZ").Status)
	require.Equal(t, exitOK, s.Stop())
}

func TestDataPlanesReceiveARevocation(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		t.Parallel()
		environ := with(newEnviron(t), "AIKEYS_DATABASE_URL="+e.MigratedURL(t))
		owner := newOwner(t, environ)
		plane := newDataPlane(t, environ)
		s := startReady(t, environ)
		lines := s.follow(programtest.Client, plane)
		id := s.register(owner, "a")
		revoked := programtest.Send(http.MethodDelete, s.api+"/v1/aikeys/"+id, owner, "")
		require.Contains(t, revoked.Body, `"data_planes":1`)
		require.Contains(t, revoked.Body, `"state":"pending"`, "it has not acknowledged")
		received := false
		for line := range lines {
			if received = strings.HasPrefix(line, `data: {`) && strings.Contains(line, id) && strings.Contains(line, "key.revoked"); received {
				break
			}
		}
		require.True(t, received)
		metrics := s.get(s.ops+"/metrics", "").Body
		require.Contains(t, metrics, `aikeys_feed_streams 1`)
		require.Contains(t, metrics, `aikeys_http_requests_in_flight{listener="dataplane"} 1`)
		require.Equal(t, exitOK, s.Stop())
	})
}

func TestServeOverTLSAndRenewTheCertificate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	certificate := tlsfilestest.WriteCertificate(t, dir, 1)
	environ := with(newEnviron(t), "AIKEYS_LISTEN=0.0.0.0:0", "AIKEYS_DATAPLANE_LISTEN=0.0.0.0:0",
		"AIKEYS_TLS_CERT="+certificate.CertFile, "AIKEYS_TLS_KEY="+certificate.KeyFile)
	token := newOwner(t, environ)
	s := startReady(t, environ)
	ask := func(method, url, path, body string) programtest.Reply {
		require.Regexp(t, `^https://\[::\]`, url)
		trusting := &http.Client{Timeout: programtest.Patience, Transport: &http.Transport{
			DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: certificate.Pool(t), MinVersion: tls.VersionTLS12},
		}}
		return programtest.SendBy(trusting, method, strings.Replace(url, "[::]", "127.0.0.1", 1)+path, token, body)
	}
	answer := ask(http.MethodGet, s.api, "/v1/whoami", "")
	require.Equal(t, http.StatusOK, answer.Status)
	require.Equal(t, "max-age=31536000", answer.Header.Get("Strict-Transport-Security"))
	require.Equal(t, http.StatusUnauthorized, ask(http.MethodPost, s.dataplane, "/v1/fetch", "{}").Status)

	tlsfilestest.WriteCertificate(t, dir, 2)
	s.Await("the new certificate serves without a restart", func() bool {
		return ask(http.MethodGet, s.api, "/v1/whoami", "").Status == http.StatusOK
	})
	require.Equal(t, exitOK, s.Stop())
}

func TestOIDCIssuer(t *testing.T) {
	t.Parallel()
	const warning = "the OIDC issuer can't be read"
	issuer := authtest.NewIssuer(t)
	environ := with(newEnviron(t), "AIKEYS_OIDC_ISSUER="+issuer.URL, "AIKEYS_OIDC_AUDIENCE="+authtest.Audience)
	apiKey := newOwner(t, environ)
	s := startReady(t, environ)
	token := issuer.Sign(map[string]any{"customer_id": "acme", "project_id": "chat", "sub": "alice"})
	require.Equal(t, http.StatusOK, s.get(s.api+"/v1/whoami", token).Status)
	require.Regexp(t, `issuer +ok +`+issuer.URL+` answers\n`, mustAikeysd(t, environ, "check"))
	require.JSONEq(t, `{"methods":["api_key","oidc"]}`, s.get(s.api+"/v1/sign-in", "").Body)
	require.Equal(t, exitOK, s.Stop())
	require.NotContains(t, s.Stderr.String(), warning)

	withClient := with(environ, "AIKEYS_OIDC_CLIENT_ID=tare")
	for mode, says := range map[authtest.Mode]string{
		authtest.Healthy:   `answers; sign-in works in a browser and by device code`,
		authtest.NoDevices: `answers; sign-in works in a browser only: there is no device flow`,
	} {
		issuer.Break(mode)
		require.Contains(t, mustAikeysd(t, withClient, "check"), says)
	}
	for mode, says := range map[authtest.Mode]string{authtest.KeysOnly: "authorization_endpoint", authtest.PlainPKCE: "S256"} {
		issuer.Break(mode)
		got := aikeysd(t, withClient, "check")
		require.Equal(t, exitFailure, got.Code)
		require.Regexp(t, `issuer +FAILED +people can't sign in at the OIDC issuer: .*`+says, got.Stdout)
	}

	issuer.Break(authtest.Fail)
	s = startReady(t, environ)
	s.awaitLog(warning)
	require.Contains(t, s.Stderr.String(), `"level":"WARN"`)
	require.Contains(t, s.Stderr.String(), `"issuer":"`+issuer.URL+`"`)
	require.Equal(t, http.StatusOK, s.get(s.api+"/v1/whoami", apiKey).Status, "API keys need no issuer")
	require.Equal(t, exitOK, s.Stop())
}

func TestDataPlaneCertificates(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, engine modelstest.Engine) {
		t.Parallel()
		own, authority := tlsfilestest.WriteCertificate(t, t.TempDir(), 1), tlsfilestest.NewAuthority(t)
		caFile := authority.Write(t, filepath.Join(t.TempDir(), "ca.crt"))
		environ := with(newEnviron(t), "AIKEYS_DATABASE_URL="+engine.MigratedURL(t), "AIKEYS_TLS_CERT="+own.CertFile, "AIKEYS_TLS_KEY="+own.KeyFile,
			"AIKEYS_DATAPLANE_CLIENT_CA="+caFile)
		owner := newOwner(t, environ)
		s := startReady(t, environ)
		newClient := func(change func(*tls.Config)) *http.Client {
			config := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: own.Pool(t)}
			change(config)
			return &http.Client{Timeout: programtest.Patience, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: config}}
		}
		bare := newClient(func(*tls.Config) {})
		issue := func(by *tlsfilestest.Authority, change func(*x509.Certificate)) *http.Client {
			certificate := by.Issue(t, t.TempDir(), func(c *x509.Certificate) {
				c.DNSNames = []string{"edge-1.internal"}
				change(c)
			})
			return newClient(func(c *tls.Config) { c.GetClientCertificate = certificate.Show(t) })
		}
		unchanged := func(*x509.Certificate) {}
		fetch := func(client *http.Client, token string) programtest.Reply {
			return programtest.SendBy(client, http.MethodPost, s.dataplane+"/v1/fetch", token, `{"credential":"`+owner+`","provider":"openai"}`)
		}
		admit := func(name, certificate string) programtest.Outcome {
			got := aikeysd(t, environ, "admin", "dataplane", "create", "--name", name, "--customer", "acme", "--certificate", certificate)
			require.Equal(t, exitOK, got.Code, got.Stderr)
			return got
		}
		key := programtest.SendBy(bare, http.MethodPost, s.api+"/v1/aikeys", owner, registerBody("a"))
		require.Equal(t, http.StatusCreated, key.Status, key.Body)
		edge := issue(authority, unchanged)

		t.Run("a certificate is a credential", func(t *testing.T) {
			made := admit("edge-1", "dns:edge-1.internal")
			require.Empty(t, made.Stdout, "there is no token")
			require.Contains(t, made.Stderr, "by client certificates with the name dns:edge-1.internal")
			require.Regexp(t, ` edge-1 +dns:edge-1.internal +acme +\S+ +never +active `, mustAikeysd(t, environ, "admin", "dataplane", "list"))
			fetched := fetch(edge, "")
			require.Equal(t, http.StatusOK, fetched.Status, fetched.Body)
			require.Contains(t, fetched.Body, fakeSecret)
			byName := programtest.SendBy(edge, http.MethodPost, s.dataplane+"/v1/fetch", "", `{"customer_id":"globex","project_id":"chat","provider":"openai"}`)
			require.Equal(t, http.StatusForbidden, byName.Status)
			require.Contains(t, byName.Body, "/problems/customer-not-served", "its customers limit it as they do a token")
			report := programtest.SendBy(edge, http.MethodPost, s.dataplane+"/v1/reports", "",
				`{"keys":[{"key_id":"`+anyKeyID.FindString(fetched.Body)+`","used_ms_ago":1}]}`)
			require.Equal(t, http.StatusNoContent, report.Status, report.Body)
		})
		t.Run("a token outranks it", func(t *testing.T) {
			token := strings.TrimSpace(mustAikeysd(t, environ, "admin", "dataplane", "create", "--name", "edge-3", "--customer", "globex"))
			require.Equal(t, http.StatusUnprocessableEntity, fetch(edge, token).Status, "the token's data plane serves another customer")
			require.Equal(t, http.StatusUnauthorized, fetch(edge, "dp_none").Status, "an invalid token is not made up for")
			require.Equal(t, http.StatusUnprocessableEntity, fetch(bare, token).Status, "tokens go on working")
			require.Equal(t, http.StatusUnprocessableEntity, fetch(issue(authority, tlsfilestest.Named("other.internal")), token).Status)
		})
		t.Run("others are refused", func(t *testing.T) {
			admit("edge-4", "cn:edge-4")
			require.Equal(t, http.StatusUnauthorized, fetch(bare, "").Status, "none")
			require.Equal(t, http.StatusUnauthorized, fetch(issue(authority, tlsfilestest.Named("other.internal")), "").Status, "nobody's")
			both := issue(authority, func(c *x509.Certificate) { c.Subject.CommonName = "edge-4" })
			require.Equal(t, http.StatusUnauthorized, fetch(both, "").Status, "two data planes'")
			for name, client := range map[string]*http.Client{
				"another authority's": issue(tlsfilestest.NewAuthority(t), unchanged),
				"expired":             issue(authority, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }),
			} {
				require.Zero(t, fetch(client, "").Status, "%s: the connection is refused", name)
			}
			// A client sends only a certificate of an authority that the server asks for. This client has none, and
			// connects without a certificate.
			stranger := tlsfilestest.NewAuthority(t).Issue(t, t.TempDir(), tlsfilestest.Named("edge-1.internal"))
			pair, err := tls.LoadX509KeyPair(stranger.CertFile, stranger.KeyFile)
			require.NoError(t, err)
			polite := newClient(func(c *tls.Config) { c.Certificates = []tls.Certificate{pair} })
			require.Equal(t, http.StatusUnauthorized, fetch(polite, "").Status)
			whoami := programtest.SendBy(edge, http.MethodGet, s.api+"/v1/whoami", "", "")
			require.Equal(t, http.StatusUnauthorized, whoami.Status, "nor is it a credential of the public API")
			for _, cause := range []string{
				"the client's certificate is of no authority that is trusted here", "the client's certificate has expired, or is not valid yet",
				"no data plane has a name of the client certificate", "the client certificate has the names of several data planes",
			} {
				s.awaitLog(cause)
			}
		})
		t.Run("a stream ends with its certificate", func(t *testing.T) {
			expires := time.Now().Truncate(time.Second).Add(4 * time.Second)
			brief := issue(authority, func(c *x509.Certificate) { c.NotAfter = expires })
			for range s.follow(brief, "") { // the stream ends; otherwise this loop would not
			}
			require.WithinRange(t, time.Now(), expires, expires.Add(5*time.Second))
		})
		t.Run("a revoked data plane's is refused at once", func(t *testing.T) {
			lines := s.follow(edge, "")
			require.Equal(t, http.StatusNotFound, programtest.SendBy(edge, http.MethodPost, s.dataplane+"/v1/acknowledgements", "",
				`{"session_id":"01M83VVAHQQW2E4R6T8Y0A1S3D","position":"1:1:"}`).Status, "of no stream of its own")
			require.Equal(t, http.StatusOK, fetch(edge, "").Status, "its session is cached")
			mustAikeysd(t, environ, "admin", "dataplane", "revoke", "--name", "edge-1")
			require.Equal(t, http.StatusUnauthorized, fetch(edge, "").Status, "it is refused at the very next request")
			for range lines { // the stream has ended; otherwise this loop would not end
			}
			admit("edge-2", "dns:edge-1.internal")
			require.Equal(t, http.StatusOK, fetch(edge, "").Status, "the name may be another's then")
		})
		t.Run("authorities are read again", func(t *testing.T) {
			next := tlsfilestest.NewAuthority(t)
			next.Write(t, caFile)
			after := issue(next, unchanged)
			s.Await("the new authority is trusted", func() bool {
				return fetch(after, "").Status == http.StatusOK
			})
			require.Zero(t, fetch(edge, "").Status, "and the one before no longer")
		})
		require.Equal(t, exitOK, s.Stop())
		list := mustAikeysd(t, environ, "admin", "fetches", "--customer", "acme", "--project", "chat")
		require.Contains(t, list, "edge-1")
		require.Contains(t, list, "edge-2")
	})
}
