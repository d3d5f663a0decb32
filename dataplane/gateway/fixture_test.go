package gateway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/gateway"
)

const (
	keyID      = "byok_01M83VVAHV8M2T5K7N9R4W1XYZ"
	callersKey = "ak_01M83VVAHV8M2T5K7N9R4W1XYZ_MARKED-CALLERS-OWN"
	secret     = "sk-MARKED-PROVIDER-SECRET"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeResolver serves what it is told to.
type fakeResolver struct {
	resolve func(request dataplane.Request) (*dataplane.Key, error)

	mu       sync.Mutex
	requests []dataplane.Request
	reports  []int
}

func (f *fakeResolver) Resolve(_ context.Context, request dataplane.Request) (*dataplane.Key, error) {
	f.mu.Lock()
	f.requests = append(f.requests, request)
	f.mu.Unlock()
	return f.resolve(request)
}

func (f *fakeResolver) Report(_ *dataplane.Key, status int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reports = append(f.reports, status)
}

func (f *fakeResolver) reported() []int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]int(nil), f.reports...)
}

func (f *fakeResolver) asked() []dataplane.Request {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]dataplane.Request(nil), f.requests...)
}

// serving returns a resolver that serves the marked caller with the key, and nobody else.
func serving(key *dataplane.Key) *fakeResolver {
	return &fakeResolver{resolve: func(request dataplane.Request) (*dataplane.Key, error) {
		if request.Credential != callersKey {
			return nil, dataplane.ErrCallerUnauthenticated
		}
		return key, nil
	}}
}

func refusing(err error) *fakeResolver {
	return &fakeResolver{resolve: func(dataplane.Request) (*dataplane.Key, error) { return nil, err }}
}

// safeBuffer is a log that tests read while it is written.
type safeBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// rig is a gateway that listens.
type rig struct {
	*fakeResolver
	URL      string
	log      *safeBuffer
	registry *prometheus.Registry
}

func start(t testing.TB, resolver *fakeResolver, change ...func(*gateway.Config)) *rig {
	t.Helper()
	r := &rig{fakeResolver: resolver, log: new(safeBuffer), registry: prometheus.NewRegistry()}
	cfg := gateway.Config{
		Resolver: resolver, Metrics: r.registry,
		Log: slog.New(slog.NewJSONHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for _, c := range change {
		c(&cfg)
	}
	handler, err := gateway.New(cfg)
	require.NoError(t, err)
	server := httptest.NewServer(handler)
	t.Cleanup(func() {
		server.Close()
		handler.Close()
		http.DefaultClient.CloseIdleConnections()
	})
	r.URL = server.URL
	return r
}

// provider starts a provider that answers as the handler does.
func provider(t testing.TB, handler http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.URL
}

// openAI starts a gateway before one OpenAI that the handler plays.
func openAI(t testing.TB, handler http.HandlerFunc, change ...func(*gateway.Config)) *rig {
	t.Helper()
	key := newKey(t, "openai", dataplane.AuthBearer, provider(t, handler)+"/v1", secret)
	return start(t, serving(key), change...)
}

func request(t testing.TB, method, target string, body io.Reader) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, target, body)
	require.NoError(t, err)
	r.Header.Set("Authorization", "Bearer "+callersKey)
	return r
}

// answer is the head of an answer that has been read.
type answer struct {
	StatusCode int
	Header     http.Header
}

func do(t testing.TB, r *http.Request) (head answer, body string) {
	t.Helper()
	res, err := http.DefaultTransport.RoundTrip(r)
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	return read(t, res)
}

func read(t testing.TB, res *http.Response) (head answer, body string) {
	t.Helper()
	text, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return answer{res.StatusCode, res.Header}, string(text)
}

func problemOf(t testing.TB, res answer, body string) gateway.Problem {
	t.Helper()
	require.Equal(t, "application/problem+json", res.Header.Get("Content-Type"), body)
	var problem gateway.Problem
	require.NoError(t, json.Unmarshal([]byte(body), &problem))
	require.Equal(t, res.StatusCode, problem.Status)
	require.Len(t, problem.RequestID, 26)
	require.Equal(t, problem.RequestID, res.Header.Get("X-Request-Id"))
	require.NotEmpty(t, problem.Error.Message)
	return problem
}

// flush sends what a provider has written.
func flush(w http.ResponseWriter) { _ = http.NewResponseController(w).Flush() }

func mustURL(t testing.TB, text string) *url.URL {
	t.Helper()
	u, err := url.Parse(text)
	require.NoError(t, err)
	return u
}

func requireNoSecrets(t testing.TB, texts ...string) {
	t.Helper()
	for _, text := range texts {
		require.NotContains(t, text, "MARKED")
	}
}
