package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/internal/tlsfiles/tlsfilestest"
	"github.com/agentrouter/aikeys/models/modelstest"
)

// newDataPlane makes the credential of a data plane for acme.
func newDataPlane(t *testing.T, environ []string) string {
	t.Helper()
	return strings.TrimSuffix(mustAikeysd(t, environ, "admin", "dataplane", "create", "--name", "edge-1", "--customer", "acme"), "\n")
}

// follow opens a data plane's stream and returns its lines, once the first heartbeat has come. The stream ends with the test.
func (s *server) follow(credential string) <-chan string {
	s.t.Helper()
	return s.followWith(&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}, credential)
}

// followWith is follow with a client that may have a certificate in place of the credential.
func (s *server) followWith(client *http.Client, credential string) <-chan string {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s.t.Cleanup(cancel)
	var body io.ReadCloser
	s.eventually("the stream is open", func() bool {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.dataplane+"/v1/events", http.NoBody)
		require.NoError(s.t, err)
		if credential != "" {
			request.Header.Set("Authorization", "Bearer "+credential)
		}
		response, err := client.Do(request) //nolint:bodyclose // its reader does
		require.NoError(s.t, err)
		body = response.Body
		return response.StatusCode == http.StatusOK || body.Close() != nil
	})
	lines := make(chan string, 1024)
	go func() {
		defer close(lines)
		defer func() { _ = body.Close() }()
		for scanner := bufio.NewScanner(body); scanner.Scan(); {
			lines <- scanner.Text()
		}
	}()
	for line := range lines {
		if line == "event: heartbeat" {
			break
		}
	}
	return lines
}

func TestTheGraceOfDataPlanesIsBoundedByASetting(t *testing.T) {
	for name, tc := range map[string]struct {
		args    []string
		most    string
		refused string
	}{
		"unless set":    {nil, "300000", "300001"},
		"when set":      {[]string{"--max-stale-limit", "1h"}, "3600000", "3600001"},
		"to none":       {[]string{"--max-stale-limit", "0s"}, "0", "1"},
		"to a fraction": {[]string{"--max-stale-limit", "1500ms"}, "1500", "1501"},
	} {
		t.Run(name, func(t *testing.T) {
			environ := newEnviron(t)
			newOwner(t, environ)
			credential := newDataPlane(t, environ)
			s := startReady(t, environ, tc.args...)
			refused := call(t, newClient(), http.MethodGet, s.dataplane+"/v1/events?max_stale_ms="+tc.refused, credential, "")
			require.Equal(t, http.StatusBadRequest, refused.status)
			require.Contains(t, refused.body, "must be at most "+tc.most)
			request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.dataplane+"/v1/events?max_stale_ms="+tc.most, http.NoBody)
			require.NoError(t, err)
			request.Header.Set("Authorization", "Bearer "+credential)
			s.eventually("the stream is open", func() bool {
				response, err := newClient().Do(request)
				require.NoError(t, err)
				return response.Body.Close() == nil && response.StatusCode == http.StatusOK
			})
			require.Equal(t, exitOK, s.wait())
		})
	}
}

func TestDataPlanesAreToldOfARevocation(t *testing.T) {
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		environ := with(newEnviron(t), "AIKEYS_DATABASE_URL="+e.URL(t))
		owner := newOwnerAfter(t, environ)
		credential := newDataPlane(t, environ)
		s := startReady(t, environ)
		lines := s.follow(credential)
		key := call(t, newClient(), http.MethodPost, s.api+"/v1/aikeys", owner, registerBody("a", fakeSecret))
		id := anyKeyID.FindString(key.body)
		require.NotEmpty(t, id, key.body)
		revoked := call(t, newClient(), http.MethodDelete, s.api+"/v1/aikeys/"+id, owner, "")
		require.Contains(t, revoked.body, `"data_planes":1`)
		require.Contains(t, revoked.body, `"state":"pending"`, "it has not acknowledged")
		told := ""
		for line := range lines {
			if strings.HasPrefix(line, `data: {`) && strings.Contains(line, id) && strings.Contains(line, "key.revoked") {
				told = line
				break
			}
		}
		require.NotEmpty(t, told)
		metrics := s.get(s.ops + "/metrics").body
		require.Contains(t, metrics, `aikeys_feed_streams 1`)
		require.Contains(t, metrics, `aikeys_http_requests_in_flight{listener="dataplane"} 1`)
		require.Equal(t, exitOK, s.wait())
	})
}

var anyKeyID = regexp.MustCompile(`byok_[0-9A-Z]{26}`)

func TestStoppingWaitsForNoStreamAndAnswersRevokesThatWait(t *testing.T) {
	environ := newEnviron(t)
	owner := newOwner(t, environ)
	credential := newDataPlane(t, environ)
	s := startReady(t, environ, "--shutdown-timeout", "1h")
	lines := s.follow(credential)
	key := call(t, newClient(), http.MethodPost, s.api+"/v1/aikeys", owner, registerBody("a", fakeSecret))
	answers := make(chan reply, 1)
	go func() {
		got, err := tryCall(context.Background(), newClient(), http.MethodDelete, s.api+"/v1/aikeys/"+anyKeyID.FindString(key.body)+"?wait=10s", owner, "")
		if err != nil {
			got.body = err.Error()
		}
		answers <- got
	}()
	s.eventually("the revoke waits", func() bool {
		return strings.Contains(s.get(s.ops+"/metrics").body, `aikeys_http_requests_in_flight{listener="public"} 1`)
	})
	s.stop()
	select {
	case got := <-answers:
		require.Equal(t, http.StatusOK, got.status, got.body)
		require.Contains(t, got.body, `"state":"complete"`, "the lease has run out, or so the service must take it")
	case <-time.After(patience):
		require.Fail(t, "the revoke was not answered", s.stderr.String())
	}
	require.Equal(t, exitOK, s.end())
	for range lines { // it has ended: else this would go on
	}
}

func TestTheDataPlaneAPIIsServedOverTLSAsWell(t *testing.T) {
	certificate := tlsfilestest.WriteCertificate(t, t.TempDir(), 1)
	environ := with(newEnviron(t), "AIKEYS_DATAPLANE_LISTEN=0.0.0.0:0", "AIKEYS_TLS_CERT="+certificate.CertFile, "AIKEYS_TLS_KEY="+certificate.KeyFile)
	newOwner(t, environ)
	s := startReady(t, environ)
	require.Regexp(t, `^https://`, s.dataplane)
	client := newClient()
	client.Transport = &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: certificate.Pool(t), MinVersion: tls.VersionTLS12},
	}
	url := "https://127.0.0.1" + s.dataplane[len("https://[::]"):] + "/v1/fetch"
	require.Equal(t, http.StatusUnauthorized, call(t, client, http.MethodPost, url, "dp_none", `{}`).status)
	require.Equal(t, exitOK, s.wait())
}
