package gatewaytest_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane/gateway/gatewaytest"
)

const secret = "gatewaytest-secret-0001"

// answer is a response whose body the test closes in the end.
type answer struct {
	status int
	proto  string
	body   io.ReadCloser
}

func post(t *testing.T, client *http.Client, url string, body io.Reader) answer {
	t.Helper()
	got, err := tryPost(t.Context(), client, url, body)
	require.NoError(t, err)
	t.Cleanup(func() { _ = got.body.Close() })
	return got
}

func tryPost(ctx context.Context, client *http.Client, url string, body io.Reader) (answer, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/v1/chat/completions?q=1", body)
	if err != nil {
		return answer{}, err
	}
	request.Header.Set("Authorization", "Bearer "+secret)
	response, err := client.Do(request) //nolint:bodyclose // the caller has the body
	if err != nil {
		return answer{}, err
	}
	return answer{response.StatusCode, response.Proto, response.Body}, nil
}

const streamed = `{"model": "m", "stream": true}`

func TestEachPieceOfAStreamWaitsForItsRelease(t *testing.T) {
	release := make(chan struct{})
	provider := gatewaytest.StartProvider(t, gatewaytest.Accepting(secret),
		gatewaytest.Answering("one", "two", "three"), gatewaytest.ReleasedBy(release))
	lines := bufio.NewReader(post(t, http.DefaultClient, provider.URL, strings.NewReader(streamed)).body)
	next := func() string {
		line, err := lines.ReadString('\n')
		require.NoError(t, err)
		_, err = lines.ReadString('\n')
		require.NoError(t, err)
		return line
	}
	require.Contains(t, next(), `"role":"assistant"`, "what precedes the pieces is there before any release")
	for _, piece := range []string{"one", "two", "three"} {
		require.Zero(t, lines.Buffered())
		release <- struct{}{} // nobody receives it before the piece's turn
		require.Contains(t, next(), piece)
	}
	require.Contains(t, next(), `"finish_reason":"stop"`)
	require.Equal(t, "data: [DONE]\n", next())
	provider.AwaitIdle(t)
}

func TestAHeldStreamEndsWithItsClientAndWithTheProvider(t *testing.T) {
	provider := gatewaytest.StartProvider(t, gatewaytest.Accepting(secret), gatewaytest.ReleasedBy(make(chan struct{})))
	response := post(t, http.DefaultClient, provider.URL, strings.NewReader(streamed))
	require.NoError(t, response.body.Close())
	provider.AwaitIdle(t)

	response = post(t, http.DefaultClient, provider.URL, strings.NewReader(streamed))
	provider.Close()
	_, err := io.ReadAll(response.body)
	require.Error(t, err)
	provider.AwaitIdle(t)
}

func TestRequestsAreRecordedAsTheyArrive(t *testing.T) {
	provider := gatewaytest.StartProvider(t)
	provider.Accept(secret)
	body, write := io.Pipe()
	failed := make(chan error, 1)
	go func() {
		got, err := tryPost(t.Context(), http.DefaultClient, provider.URL, body)
		if err == nil {
			err = got.body.Close()
		}
		failed <- err
	}()
	defer func() { _ = write.Close() }() // ends the request, if the test has failed
	provider.Await(t, 1)                 // the head arrives before the body has begun
	_, err := io.WriteString(write, `{"model": "m"}`)
	require.NoError(t, err)
	require.NoError(t, write.Close())
	require.NoError(t, <-failed)

	requests := provider.Requests()
	require.Len(t, requests, 1)
	require.Equal(t, "/v1/chat/completions", requests[0].Path)
	require.Equal(t, "q=1", requests[0].RawQuery)
	require.Equal(t, "Bearer "+secret, requests[0].Header.Get("Authorization"))
	require.JSONEq(t, `{"model": "m"}`, string(requests[0].Body))

	provider.RequireNeverSaw(t, "another secret")
	provider.Forget()
	provider.RequireNeverSaw(t, secret)
	provider.Reject(secret, http.StatusForbidden)
	require.Equal(t, http.StatusForbidden, post(t, http.DefaultClient, provider.URL, nil).status)
	require.Len(t, provider.Requests(), 1, "refused requests count")
}

// failing is a testing.TB that notes a failure and goes on.
type failing struct {
	testing.TB

	failed bool
}

func (f *failing) Helper()               {}
func (f *failing) Errorf(string, ...any) { f.failed = true }
func (f *failing) FailNow()              {}

func TestACredentialThatArrivesIsNoticed(t *testing.T) {
	provider := gatewaytest.StartProvider(t)
	post(t, http.DefaultClient, provider.URL, nil)
	for _, text := range []string{secret, "q=1", "chat/completions", "Authorization"} {
		noticed := &failing{TB: t}
		provider.RequireNeverSaw(noticed, text)
		require.True(t, noticed.failed, text)
	}
}

func TestNothingIsKeptWithoutRecords(t *testing.T) {
	provider := gatewaytest.StartProvider(t, gatewaytest.Accepting(secret), gatewaytest.WithoutRecords())
	require.Equal(t, http.StatusOK, post(t, http.DefaultClient, provider.URL, strings.NewReader(`{"model": "m"}`)).status)
	require.Empty(t, provider.Requests())
}

func TestWithTLSItSpeaksHTTP2(t *testing.T) {
	provider := gatewaytest.StartProvider(t, gatewaytest.Accepting(secret), gatewaytest.WithTLS())
	roots := x509.NewCertPool()
	roots.AddCert(provider.Certificate())
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true,
	}
	t.Cleanup(transport.CloseIdleConnections)
	response := post(t, &http.Client{Transport: transport}, provider.URL, strings.NewReader(streamed))
	require.Equal(t, http.StatusOK, response.status)
	require.Equal(t, "HTTP/2.0", response.proto)
}
