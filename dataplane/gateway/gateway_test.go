package gateway

import (
	"bufio"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/http/httputil"
	"net/textproto"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/net/websocket"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
	"github.com/agentrouter/aikeys/dataplane/gateway/gatewaytest"
	"github.com/agentrouter/aikeys/internal/verdict"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	callersKey   = "ak_01M83VVAHV8M2T5K7N9R4W1XYZ_MARKED-CALLERS-OWN"
	providersKey = "sk-MARKED-PROVIDER-SECRET"
)

// testGateway is a gateway on a socket.
type testGateway struct {
	*dataplanetest.FakeResolver
	URL      string
	log      *dataplanetest.Log
	registry *prometheus.Registry
}

// start starts the reverse proxy.
func start(t testing.TB, resolver *dataplanetest.FakeResolver, change ...func(*Config)) *testGateway {
	return startHandler(t, resolver, func(cfg Config) (http.Handler, error) {
		g, err := New(cfg)
		t.Cleanup(g.Close)
		return g, err
	}, change...)
}

func startHandler(
	t testing.TB, resolver *dataplanetest.FakeResolver, create func(Config) (http.Handler, error), change ...func(*Config),
) *testGateway {
	t.Helper()
	g := &testGateway{FakeResolver: resolver, log: new(dataplanetest.Log), registry: prometheus.NewRegistry()}
	cfg := Config{Resolver: resolver, Metrics: g.registry, Log: g.log.Logger()}
	for _, c := range change {
		c(&cfg)
	}
	handler, err := create(cfg)
	require.NoError(t, err)
	server := httptest.NewServer(handler)
	t.Cleanup(func() {
		server.Close()
		http.DefaultClient.CloseIdleConnections()
	})
	g.URL = server.URL
	return g
}

// provider starts a provider that answers as the handler does.
func provider(t testing.TB, handler http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.URL
}

// newKey returns a key whose provider has a base URL.
func newKey(t testing.TB, provider, base string) *dataplane.Key {
	t.Helper()
	return dataplanetest.NewKey(t, provider, dataplane.AuthBearer, base, providersKey)
}

// openAI starts a gateway whose only provider is OpenAI. The handler plays OpenAI.
func openAI(t testing.TB, handler http.HandlerFunc, change ...func(*Config)) *testGateway {
	t.Helper()
	return start(t, dataplanetest.Serving(callersKey, newKey(t, "openai", provider(t, handler)+"/v1")), change...)
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

func problemOf(t testing.TB, res answer, body string) Problem {
	t.Helper()
	require.Equal(t, "application/problem+json", res.Header.Get("Content-Type"), body)
	var problem Problem
	require.NoError(t, json.Unmarshal([]byte(body), &problem))
	require.Equal(t, res.StatusCode, problem.Status)
	require.Len(t, problem.RequestID, 26)
	require.Equal(t, problem.RequestID, res.Header.Get("X-Request-Id"))
	require.NotEmpty(t, problem.Error.Message)
	return problem
}

// flush sends what a provider has written.
func flush(w http.ResponseWriter) { _ = http.NewResponseController(w).Flush() }

// requireUnmarked asserts that no text holds a secret or a part of a request.
func requireUnmarked(t testing.TB, texts ...string) {
	t.Helper()
	for _, text := range texts {
		require.NotContains(t, text, "MARKED")
	}
}

func TestRefusedPathsAndMethods(t *testing.T) {
	gw := openAI(t, func(http.ResponseWriter, *http.Request) { t.Error("the provider was asked") })
	cases := []struct {
		line string
		code string
	}{
		{"GET / HTTP/1.1", "unknown_provider"},
		{"GET //evil.example/x HTTP/1.1", "unknown_provider"},
		{"GET /OpenAI/x HTTP/1.1", "unknown_provider"},
		{"GET /open%61i%2f/x HTTP/1.1", "unknown_provider"},
		{"GET /openai/../admin HTTP/1.1", "unsafe_path"},
		{"GET /openai/%2e%2e/admin HTTP/1.1", "unsafe_path"},
		{"GET /openai//evil.example/ HTTP/1.1", "unsafe_path"},
		{`GET /openai/..\admin HTTP/1.1`, "unsafe_path"},
		{"GET http://evil.example/openai/..%2fadmin HTTP/1.1", "unsafe_path"},
		{"TRACE /openai/chat HTTP/1.1", "method_not_allowed"},
		{"trace /openai/chat HTTP/1.1", "method_not_allowed"},
		{"TRACK /openai/chat HTTP/1.1", "method_not_allowed"},
		{"CONNECT evil.example:443 HTTP/1.1", "method_not_allowed"},
	}
	for _, tc := range cases {
		t.Run(tc.line, func(t *testing.T) {
			res, body := raw(t, gw.URL, tc.line+"\r\nHost: gw\r\nConnection: close\r\nAuthorization: Bearer "+callersKey+"\r\n\r\n")
			require.Equal(t, tc.code, problemOf(t, res, body).Error.Code)
		})
	}
	r := request(t, "GET", gw.URL+"/openai/models", nil)
	r.Header.Set("Agentrouter-Project", "a/b")
	res, body := do(t, r)
	require.Equal(t, "invalid_project", problemOf(t, res, body).Error.Code)
	require.Empty(t, gw.Calls().Requests, "no key was looked for")
	require.NotContains(t, gw.log.String(), "evil")
	requireUnmarked(t, gw.log.String())
}

// raw sends text that a client of Go's would not.
func raw(t testing.TB, gatewayURL, text string) (head answer, body string) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(gatewayURL, "http://"))
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	_, err = io.WriteString(conn, text)
	require.NoError(t, err)
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	return read(t, res)
}

func TestRefusedCredentials(t *testing.T) {
	gw := openAI(t, func(http.ResponseWriter, *http.Request) { t.Error("the provider was asked") })
	cases := map[string]struct {
		header http.Header
		query  string
		code   string
	}{
		"none":                     {http.Header{}, "", "no_credential"},
		"empty":                    {http.Header{"Authorization": {"Bearer"}}, "", "no_credential"},
		"two headers":              {http.Header{"Authorization": {"Bearer a"}, "X-Api-Key": {"b"}}, "", "two_credentials"},
		"one header twice":         {http.Header{"X-Api-Key": {"a", "b"}}, "", "two_credentials"},
		"another scheme":           {http.Header{"Authorization": {"Basic YTpi"}, "X-Api-Key": {callersKey}}, "", "unknown_scheme"},
		"unknown":                  {http.Header{"Api-Key": {"x"}}, "", "caller_unauthenticated"},
		"too long":                 {http.Header{"Api-Key": {strings.Repeat("x", 8193)}}, "", "caller_unauthenticated"},
		"in the query, not Gemini": {http.Header{}, "?key=" + callersKey, "no_credential"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			r := request(t, "GET", gw.URL+"/openai/models"+tc.query, nil)
			r.Header = tc.header
			res, body := do(t, r)
			problem := problemOf(t, res, body)
			require.Equal(t, 401, problem.Status)
			require.Equal(t, tc.code, problem.Error.Code)
			require.Equal(t, `Bearer realm="aikeys"`, res.Header.Get("WWW-Authenticate"))
		})
	}
	requireUnmarked(t, gw.log.String())
}

func TestPanicIsAnInternalError(t *testing.T) {
	gw := start(t, dataplanetest.NewFakeResolver(func(dataplane.Request) (*dataplane.Key, error) { panic("MARKED") }))
	res, body := do(t, request(t, "GET", gw.URL+"/openai/models", nil))
	require.Equal(t, "internal", problemOf(t, res, body).Error.Code)
	require.Contains(t, gw.log.String(), "stack")
	requireUnmarked(t, body, gw.log.String())
}

func TestMaxConcurrent(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	gw := openAI(t, func(http.ResponseWriter, *http.Request) {
		arrived <- struct{}{}
		<-release
	}, func(cfg *Config) { cfg.MaxConcurrent = 1 })
	first := make(chan int)
	r := request(t, "GET", gw.URL+"/openai/models", nil)
	go func() {
		res, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			t.Error(err)
			close(first)
			return
		}
		_ = res.Body.Close()
		first <- res.StatusCode
	}()
	<-arrived
	res, body := do(t, request(t, "GET", gw.URL+"/openai/models", nil))
	require.Equal(t, "overloaded", problemOf(t, res, body).Error.Code)
	close(release)
	require.Equal(t, 200, <-first)
}

func TestUnsafeDestinationsAndStyles(t *testing.T) {
	for base, code := range map[string]string{
		"http://api.example.com": "unsafe_destination",
		"https://u:p@x.example":  "unsafe_destination",
		":":                      "unsafe_destination",
	} {
		gw := start(t, dataplanetest.Serving(callersKey, newKey(t, "openai", base)))
		res, body := do(t, request(t, "GET", gw.URL+"/openai/models", nil))
		require.Equal(t, code, problemOf(t, res, body).Error.Code)
	}
	asked := false
	base := provider(t, func(http.ResponseWriter, *http.Request) { asked = true })
	gw := start(t, dataplanetest.Serving(callersKey, dataplanetest.NewKey(t, "bedrock", dataplane.AuthAWSSigV4, base, providersKey)))
	res, body := do(t, request(t, "POST", gw.URL+"/bedrock/model", strings.NewReader("{}")))
	require.Equal(t, "unsupported_auth", problemOf(t, res, body).Error.Code)
	require.False(t, asked)
}

func TestUpstreamsReplaceBaseURLs(t *testing.T) {
	upstream := gatewaytest.StartProvider(t, gatewaytest.Accepting(providersKey))
	key := newKey(t, "openai", "https://api.openai.invalid/v1")
	gw := start(t, dataplanetest.Serving(callersKey, key), func(cfg *Config) {
		cfg.Upstreams = map[string]*url.URL{"openai": mustURL(t, upstream.URL+"/v1")}
	})
	for _, base := range []string{"/openai", "/openai/v1"} {
		res, body := do(t, request(t, "POST", gw.URL+base+"/chat/completions", strings.NewReader(`{"model":"m","messages":[]}`)))
		require.Equal(t, 200, res.StatusCode, body)
	}
	for _, seen := range upstream.Requests() {
		require.Equal(t, "/v1/chat/completions", seen.Path)
	}
	upstream.RequireNeverSaw(t, callersKey)
	require.Eventually(t, func() bool { return gw.counted("aikeys_gateway_requests_total", 2) }, 5*time.Second, time.Millisecond,
		"a request is counted after its answer is sent")

	for _, unsafe := range []string{"http://api.example.com", "ftp://127.0.0.1", "https://u:p@api.example.com"} {
		_, err := New(Config{
			Resolver: dataplanetest.Serving(callersKey, key), Upstreams: map[string]*url.URL{"openai": mustURL(t, unsafe)},
		})
		require.Error(t, err, unsafe)
		require.NotContains(t, err.Error(), "u:p")
	}
}

// counted reports whether a counter, which has one set of labels, has a value.
func (r *testGateway) counted(name string, value float64) bool {
	families, _ := r.registry.Gather()
	for _, f := range families {
		if f.GetName() == name {
			return len(f.GetMetric()) == 1 && f.GetMetric()[0].GetCounter().GetValue() == value
		}
	}
	return false
}

func TestWebSockets(t *testing.T) {
	protocols := make(chan string, 1)
	echo := websocket.Server{Handler: func(ws *websocket.Conn) {
		protocols <- strings.Join(ws.Request().Header["Sec-Websocket-Protocol"], ",")
		_, _ = io.Copy(ws, ws)
	}}
	gw := openAI(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+providersKey || r.URL.Path != "/v1/realtime" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		echo.ServeHTTP(w, r)
	})
	cfg, err := websocket.NewConfig(strings.Replace(gw.URL, "http", "ws", 1)+"/openai/v1/realtime", "http://localhost/")
	require.NoError(t, err)
	cfg.Protocol = []string{"realtime", "openai-insecure-api-key." + callersKey} // the only credential
	ws, err := cfg.DialContext(t.Context())
	require.NoError(t, err)
	for _, text := range []string{"one", "two"} {
		require.NoError(t, websocket.Message.Send(ws, text))
		var got string
		require.NoError(t, websocket.Message.Receive(ws, &got))
		require.Equal(t, text, got)
	}
	require.Equal(t, "realtime", <-protocols)
	require.Equal(t, []int{http.StatusSwitchingProtocols}, gw.Calls().Reports)
	require.NoError(t, ws.Close())
	require.Eventually(t, func() bool { return strings.Contains(gw.log.String(), `"status":101`) }, 5*time.Second, time.Millisecond)
}

// Any other upgrade would be a tunnel to the provider's whole host that the provider's key has opened.
func TestOtherUpgradesAreRemoved(t *testing.T) {
	seen := make(chan http.Header, 1)
	gw := openAI(t, func(_ http.ResponseWriter, r *http.Request) { seen <- r.Header })
	r := request(t, "GET", gw.URL+"/openai/models", nil)
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", "h2c")
	res, _ := do(t, r)
	require.Equal(t, 200, res.StatusCode)
	require.NotContains(t, <-seen, "Upgrade")
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	var asked atomic.Int32
	gw := openAI(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		http.Redirect(w, r, "http://127.0.0.1:1/elsewhere", http.StatusTemporaryRedirect)
	})
	res, _ := do(t, request(t, "POST", gw.URL+"/openai/chat", strings.NewReader("{}")))
	require.Equal(t, http.StatusTemporaryRedirect, res.StatusCode)
	require.Equal(t, "http://127.0.0.1:1/elsewhere", res.Header.Get("Location"))
	require.EqualValues(t, 1, asked.Load())
}

func TestStatusesAreReportedOnce(t *testing.T) {
	for _, status := range []int{401, 403, 200, 429, 500} {
		var asked atomic.Int32
		gw := openAI(t, func(w http.ResponseWriter, _ *http.Request) {
			asked.Add(1)
			w.WriteHeader(status)
			_, _ = io.WriteString(w, "theirs")
		})
		res, body := do(t, request(t, "POST", gw.URL+"/openai/chat", strings.NewReader("{}")))
		require.Equal(t, status, res.StatusCode)
		require.Equal(t, "theirs", body)
		require.EqualValues(t, 1, asked.Load())
		require.Equal(t, []int{status}, gw.Calls().Reports)
	}
}

// judging is openAI with a rule that looks at the bodies of answers with 400.
func judging(t *testing.T, handler http.HandlerFunc) *testGateway {
	t.Helper()
	key := newKey(t, "openai", provider(t, handler)+"/v1")
	key.Answers = verdict.Rules{{Status: http.StatusBadRequest, At: "error.reason", Is: "KEY", Means: verdict.Rejected}}
	return start(t, dataplanetest.Serving(callersKey, key))
}

func TestBodiesThatRulesNeedAreReported(t *testing.T) {
	const refusal = `{"error": {"reason": "KEY"}}`
	long := strings.Repeat("x", 3*verdict.BodyLimit)
	for name, c := range map[string]struct {
		answer             func(w http.ResponseWriter)
		status             int
		passedOn, reported string
	}{
		"an error": {func(w http.ResponseWriter) {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, refusal)
		}, 400, refusal, refusal},
		"in gzip": {func(w http.ResponseWriter) {
			w.Header().Set("Content-Encoding", "gzip")
			w.WriteHeader(http.StatusBadRequest)
			packed := gzip.NewWriter(w)
			_, _ = io.WriteString(packed, refusal)
			_ = packed.Close()
		}, 400, refusal, refusal},
		"a long one": {func(w http.ResponseWriter) {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, long)
		}, 400, long, long[:verdict.BodyLimit]},
		"an empty one":      {func(w http.ResponseWriter) { w.WriteHeader(http.StatusBadRequest) }, 400, "", ""},
		"of another status": {func(w http.ResponseWriter) { http.Error(w, refusal, http.StatusUnauthorized) }, 401, refusal + "\n", ""},
		"a success":         {func(w http.ResponseWriter) { _, _ = io.WriteString(w, refusal) }, 200, refusal, ""},
	} {
		t.Run(name, func(t *testing.T) {
			gw := judging(t, func(w http.ResponseWriter, _ *http.Request) { c.answer(w) })
			res, body := do(t, request(t, "POST", gw.URL+"/openai/chat", strings.NewReader("{}")))
			require.Equal(t, c.status, res.StatusCode)
			require.Equal(t, c.passedOn, body)
			require.Equal(t, c.reported, <-gw.Bodies())
			require.Equal(t, []int{c.status}, gw.Calls().Reports)
		})
	}
}

// The gateway judges a copy of what it passes on: the caller waits for no more than the provider has sent.
func TestJudgingAnAnswerDelaysNothing(t *testing.T) {
	const begun, rest = "one half, ", "and another"
	passedOn := make(chan struct{})
	gw := judging(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, begun)
		flush(w)
		<-passedOn
		_, _ = io.WriteString(w, rest)
	})
	res, err := http.DefaultClient.Do(request(t, "POST", gw.URL+"/openai/chat", strings.NewReader("{}")))
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	readExactly(t, res.Body, begun)
	close(passedOn)
	readExactly(t, res.Body, rest)
	require.Equal(t, begun+rest, <-gw.Bodies())
}

// A caller who leaves early does not keep the answer from being judged.
func TestAnswerThatIsCutIsJudged(t *testing.T) {
	const begun = "one half, "
	gw := judging(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, begun)
		flush(w)
		<-r.Context().Done()
	})
	res, err := http.DefaultClient.Do(request(t, "POST", gw.URL+"/openai/chat", strings.NewReader("{}")))
	require.NoError(t, err)
	readExactly(t, res.Body, begun)
	require.NoError(t, res.Body.Close())
	require.Equal(t, begun, <-gw.Bodies())
}

func readExactly(t testing.TB, from io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	_, err := io.ReadFull(from, got)
	require.NoError(t, err)
	require.Equal(t, want, string(got))
}

// The provider sends each chunk only when the client has the previous chunk.
func TestAnswersAreStreamed(t *testing.T) {
	for name, header := range map[string]http.Header{
		"events":         {"Content-Type": {"text/event-stream"}},
		"a known length": {"Content-Type": {"application/json"}, "Content-Length": {"9"}},
		"an unknown one": {"Content-Type": {"application/json"}},
	} {
		t.Run(name, func(t *testing.T) {
			next := make(chan struct{})
			gw := openAI(t, func(w http.ResponseWriter, r *http.Request) {
				for k, v := range header {
					w.Header()[k] = v
				}
				w.WriteHeader(http.StatusOK)
				for i := range 3 {
					fmt.Fprintf(w, "ch%d", i)
					flush(w)
					select {
					case <-next:
					case <-r.Context().Done():
						return
					}
				}
			})
			r := request(t, "POST", gw.URL+"/openai/chat", strings.NewReader("{}"))
			r.Header.Set("Accept-Encoding", "gzip") // or Go's client decodes it by itself
			res, err := http.DefaultTransport.RoundTrip(r)
			require.NoError(t, err)
			defer func() { _ = res.Body.Close() }()
			for i := range 3 {
				readExactly(t, res.Body, fmt.Sprintf("ch%d", i))
				next <- struct{}{}
			}
			_, err = res.Body.Read(make([]byte, 1))
			require.ErrorIs(t, err, io.EOF)
		})
	}
}

// Both directions stream at once: the client sends its second chunk only when it has the answer to its first chunk.
func TestRequestsAreStreamed(t *testing.T) {
	gw := openAI(t, func(w http.ResponseWriter, r *http.Request) {
		if err := http.NewResponseController(w).EnableFullDuplex(); err != nil {
			t.Error(err)
		}
		buffer := make([]byte, 16)
		for {
			n, err := r.Body.Read(buffer)
			_, _ = w.Write(buffer[:n])
			flush(w)
			if err != nil {
				return
			}
		}
	})
	body, feed := io.Pipe()
	go func() { _, _ = io.WriteString(feed, "first") }()
	res, err := http.DefaultTransport.RoundTrip(request(t, "POST", gw.URL+"/openai/audio", body))
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	readExactly(t, res.Body, "first")
	_, err = io.WriteString(feed, "second")
	require.NoError(t, err)
	readExactly(t, res.Body, "second")
	require.NoError(t, feed.Close())
	rest, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Empty(t, rest)
}

// An answer may come before the request has ended, for example when the provider refuses an upload. It is passed on.
func TestAnswerBeforeTheEndOfTheRequest(t *testing.T) {
	gw := openAI(t, func(w http.ResponseWriter, _ *http.Request) {
		if err := http.NewResponseController(w).EnableFullDuplex(); err != nil {
			t.Error(err)
		}
		w.Header().Set("Connection", "close")
		w.WriteHeader(http.StatusRequestEntityTooLarge)
	})
	body, feed := io.Pipe()
	defer func() { _ = feed.Close() }()
	go func() { _, _ = io.WriteString(feed, "first") }()
	res, err := http.DefaultTransport.RoundTrip(request(t, "POST", gw.URL+"/openai/files", body))
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	require.Equal(t, http.StatusRequestEntityTooLarge, res.StatusCode)
	require.True(t, res.Close, "what is left of the body must not be taken for the next request")
}

func TestLargeBodiesNeedLittleMemory(t *testing.T) {
	const size = 64 << 20
	random := func() io.Reader { return io.LimitReader(rand.NewChaCha8([32]byte{}), size) }
	gw := openAI(t, func(w http.ResponseWriter, r *http.Request) {
		digest := sha256.New()
		n, err := io.Copy(digest, r.Body)
		if err != nil || n != size {
			t.Errorf("%d bytes arrived: %v", n, err)
		}
		w.Header().Set("X-Digest", hex.EncodeToString(digest.Sum(nil)))
		_, _ = io.Copy(w, random())
	})
	r := request(t, "POST", gw.URL+"/openai/files", random())
	r.ContentLength = size
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	res, err := http.DefaultTransport.RoundTrip(r)
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	digest := sha256.New()
	n, err := io.Copy(digest, res.Body)
	require.NoError(t, err)
	runtime.ReadMemStats(&after)
	require.EqualValues(t, size, n)
	require.Equal(t, hex.EncodeToString(digest.Sum(nil)), res.Header.Get("X-Digest"))
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(8<<20), "bytes allocated for %d that passed", 2*size)
}

func TestClientHangsUp(t *testing.T) {
	for _, begun := range []bool{false, true} {
		t.Run(fmt.Sprintf("answer begun: %v", begun), func(t *testing.T) {
			arrived, ended := make(chan struct{}), make(chan struct{})
			gw := openAI(t, func(w http.ResponseWriter, r *http.Request) {
				if begun {
					flush(w)
				}
				close(arrived)
				<-r.Context().Done()
				close(ended)
			})
			ctx, leave := context.WithCancel(t.Context())
			done := make(chan struct{})
			r := request(t, "GET", gw.URL+"/openai/chat", nil).WithContext(ctx)
			go func() {
				defer close(done)
				res, err := http.DefaultTransport.RoundTrip(r)
				if err == nil {
					_, _ = io.Copy(io.Discard, res.Body)
					_ = res.Body.Close()
				}
			}()
			<-arrived
			leave()
			<-ended
			<-done
			require.Eventually(t, func() bool { return strings.Contains(gw.log.String(), `"request_id"`) }, 5*time.Second, time.Millisecond)
			if !begun {
				require.Contains(t, gw.log.String(), `"status":499`)
			}
		})
	}
}

// An answer that breaks off at the provider must not look whole to the client.
func TestAnswerThatBreaksOffIsCut(t *testing.T) {
	gw := openAI(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "half")
		flush(w)
		panic(http.ErrAbortHandler)
	})
	res, err := http.DefaultTransport.RoundTrip(request(t, "GET", gw.URL+"/openai/chat", nil))
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	_, err = io.ReadAll(res.Body)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.Eventually(t, func() bool { return strings.Contains(gw.log.String(), `"cut":true`) }, 5*time.Second, time.Millisecond)
}

func TestInformationalAnswers(t *testing.T) {
	gw := openAI(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</a>")
		w.WriteHeader(http.StatusEarlyHints)
		_, _ = io.WriteString(w, "done")
	})
	var (
		mu    sync.Mutex
		codes []int
	)
	r := request(t, "GET", gw.URL+"/openai/models", nil)
	r = r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, _ textproto.MIMEHeader) error {
			mu.Lock()
			defer mu.Unlock()
			codes = append(codes, code)
			return nil
		},
	}))
	res, body := do(t, r)
	require.Equal(t, "done", body)
	require.Equal(t, dataplanetest.NewKeyID, res.Header.Get("Agentrouter-Key-Id"))
	mu.Lock()
	defer mu.Unlock()
	require.Equal(t, []int{http.StatusEarlyHints}, codes)
}

func TestStreamsLeakNoMemory(t *testing.T) {
	gw := openAI(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for range 5 {
			_, _ = io.WriteString(w, "data: {}\n\n")
			flush(w)
		}
	})
	run := func(n int) uint64 {
		for range n {
			res, _ := do(t, request(t, "GET", gw.URL+"/openai/chat", nil))
			require.Equal(t, 200, res.StatusCode)
		}
		gw.log.Reset()
		runtime.GC()
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		return stats.HeapAlloc
	}
	before := run(200)
	after := run(2000)
	require.Less(t, after, before+2<<20)
	require.Len(t, gw.Calls().Reports, 2200)
}

// serve runs a server until stop is called. cut ends the server's requests. When the server has ended, ended has the
// result of Run.
func serve(t testing.TB, handler http.Handler) (address string, stop, cut func(), ended <-chan error) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	stopped, stop := context.WithCancel(context.Background())
	cutOff, cut := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() {
		result <- NewServer(listener, handler, nil, nil, slog.New(slog.DiscardHandler)).Run(stopped, cutOff)
	}()
	t.Cleanup(func() {
		stop()
		cut()
		http.DefaultClient.CloseIdleConnections()
	})
	return listener.Addr().String(), stop, cut, result
}

func TestServerDrains(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	address, stop, _, ended := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		flush(w)
		close(arrived)
		<-release
		_, _ = io.WriteString(w, "whole")
	}))
	body := make(chan string, 1)
	go func() {
		res, err := http.DefaultTransport.RoundTrip(httptest.NewRequest(http.MethodGet, "http://"+address, nil))
		if err != nil {
			body <- err.Error()
			return
		}
		defer func() { _ = res.Body.Close() }()
		text, _ := io.ReadAll(res.Body)
		body <- string(text)
	}()
	<-arrived
	stop()
	require.Eventually(t, func() bool {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			_ = conn.Close()
		}
		return err != nil
	}, 5*time.Second, time.Millisecond, "it takes nobody else")
	close(release)
	require.Equal(t, "whole", <-body)
	require.NoError(t, <-ended)
}

// Strangers can't hold a connection with a body that never comes: the refusal is sent, and the connection closed.
func TestUnreadBodyClosesTheConnection(t *testing.T) {
	handler, err := New(Config{Resolver: dataplanetest.Serving(callersKey, nil)})
	require.NoError(t, err)
	asked, err := NewForwardAuth(Config{Resolver: dataplanetest.Serving(callersKey, nil)})
	require.NoError(t, err)
	for _, handler := range []http.Handler{handler, asked} {
		address, _, _, _ := serve(t, handler)
		for _, head := range []string{"Content-Length: 1000", "Transfer-Encoding: chunked"} {
			conn, err := net.Dial("tcp", address)
			require.NoError(t, err)
			require.NoError(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
			_, err = io.WriteString(conn, "POST /openai/chat HTTP/1.1\r\nHost: x\r\n"+head+"\r\n\r\n")
			require.NoError(t, err)
			text, err := io.ReadAll(conn)
			require.NoError(t, err, "the connection is closed")
			require.Regexp(t, `^HTTP/1\.1 40[14] `, string(text))
			require.NoError(t, conn.Close())
		}
	}
}

// A connection whose body was read is kept, however long the answer took.
func TestReadBodyKeepsTheConnection(t *testing.T) {
	address, _, _, _ := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, _ := io.ReadAll(r.Body)
		_, _ = w.Write(text)
	}))
	conn, err := net.Dial("tcp", address)
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	require.NoError(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
	answers := bufio.NewReader(conn)
	for i := range 2 {
		if i > 0 {
			time.Sleep(2500 * time.Millisecond) // longer than an unread body gets
		}
		_, err = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nok")
		require.NoError(t, err)
		res, err := http.ReadResponse(answers, nil)
		require.NoError(t, err)
		text, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Equal(t, "ok", string(text))
	}
}

func TestServerCutsAfterTheDrain(t *testing.T) {
	arrived := make(chan struct{}, 2)
	mux := http.NewServeMux()
	mux.HandleFunc("/plain", func(_ http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		<-r.Context().Done()
	})
	mux.Handle("/upgraded", websocket.Server{Handler: func(ws *websocket.Conn) {
		arrived <- struct{}{}
		<-ws.Request().Context().Done()
	}})
	for _, path := range []string{"/plain", "/upgraded"} {
		address, stop, cut, ended := serve(t, mux)
		go func() {
			if path == "/upgraded" {
				if ws, err := websocket.Dial("ws://"+address+path, "", "http://localhost/"); err == nil {
					_, _ = io.Copy(io.Discard, ws)
					_ = ws.Close()
				}
				return
			}
			if res, err := http.DefaultTransport.RoundTrip(httptest.NewRequest(http.MethodGet, "http://"+address+path, nil)); err == nil {
				_ = res.Body.Close()
			}
		}()
		<-arrived
		stop()
		cut()
		require.ErrorIs(t, <-ended, context.Canceled)
	}
}

func TestMaxHeaderBytes(t *testing.T) {
	address, stop, _, ended := serve(t, http.NotFoundHandler())
	r := httptest.NewRequest(http.MethodGet, "http://"+address, nil)
	r.Header.Set("X-Long", strings.Repeat("x", 128<<10))
	res, err := http.DefaultTransport.RoundTrip(r)
	require.NoError(t, err)
	_ = res.Body.Close()
	require.Equal(t, http.StatusRequestHeaderFieldsTooLarge, res.StatusCode)
	stop()
	require.NoError(t, <-ended)
}

// servingLimited returns a resolver that serves a key with limits. The handler plays the key's provider.
func servingLimited(t *testing.T, name, base string, limits dataplane.Limits, handler http.HandlerFunc) *dataplanetest.FakeResolver {
	t.Helper()
	key := newKey(t, name, provider(t, handler)+base)
	key.Limits = &limits
	return dataplanetest.Serving(callersKey, key)
}

func TestARefusalSaysThatTheLimitIsTheKeys(t *testing.T) {
	for name, want := range map[string]string{"openai": `"code":"key_limited"`, "anthropic": `"rate_limit_error"`, "gemini": `"RESOURCE_EXHAUSTED"`} {
		resolver := servingLimited(t, name, "", dataplane.Limits{RequestsPerDay: 2}, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "7")
			w.Header().Set("Agentrouter-Limit", "requests_per_day") // the provider's header must not pass for ours
			w.WriteHeader(http.StatusTooManyRequests)
		})
		g := start(t, resolver)
		for range 2 {
			head, _ := do(t, request(t, http.MethodPost, g.URL+"/"+name+"/v1/messages", http.NoBody))
			require.Equal(t, http.StatusTooManyRequests, head.StatusCode)
			require.Equal(t, []string{"7", "", "b"}, []string{head.Header.Get("Retry-After"), head.Header.Get("Agentrouter-Limit"), head.Header.Get("Agentrouter-Key-Id")[:1]})
		}
		head, body := do(t, request(t, http.MethodPost, g.URL+"/"+name+"/v1/messages", strings.NewReader("unread")))
		require.Equal(t, http.StatusTooManyRequests, head.StatusCode)
		require.Contains(t, body, want)
		require.Contains(t, body, "/problems/key-limited")
		require.Equal(t, []string{"requests_per_day", ""}, []string{head.Header.Get("Agentrouter-Limit"), head.Header.Get("Agentrouter-Key-Id")})
		require.NotEqual(t, "7", head.Header.Get("Retry-After"))
		require.Eventually(t, func() bool { return strings.Contains(g.log.String(), "key-limited requests_per_day") }, 10*time.Second, time.Millisecond)
		require.Equal(t, []bool{true}, resolver.Calls().Uses, "a refusal")
	}
}

// A use ends with its answer: when the answer ends, or when the caller, the provider or a revocation cuts it. The same
// holds for upgraded connections.
func TestConcurrentUsesEndWithTheirAnswers(t *testing.T) {
	more, cut := make(chan struct{}), make(chan struct{})
	echo := websocket.Server{Handler: func(ws *websocket.Conn) { _, _ = io.Copy(ws, ws) }}
	resolver := servingLimited(t, "openai", "/v1", dataplane.Limits{Concurrent: 1}, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/v1/socket":
			echo.ServeHTTP(w, r)
		case "/v1/stream":
			_, _ = io.WriteString(w, "first")
			_ = http.NewResponseController(w).Flush()
			select {
			case <-more:
			case <-cut:
				panic(http.ErrAbortHandler)
			case <-r.Context().Done():
			}
		}
	})
	g := start(t, resolver)
	open := func() *http.Response {
		t.Helper()
		answer, err := http.DefaultClient.Do(request(t, http.MethodGet, g.URL+"/openai/stream", http.NoBody))
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, answer.StatusCode)
		_, err = io.ReadFull(answer.Body, make([]byte, len("first")))
		require.NoError(t, err)
		return answer
	}
	status := func() int {
		head, _ := do(t, request(t, http.MethodGet, g.URL+"/openai/models", http.NoBody))
		return head.StatusCode
	}
	awaitFree := func() {
		t.Helper()
		require.Eventually(t, func() bool { return status() == http.StatusOK }, 10*time.Second, time.Millisecond)
	}
	stream := open()
	require.Equal(t, http.StatusTooManyRequests, status())
	more <- struct{}{}
	_, err := io.Copy(io.Discard, stream.Body)
	require.NoError(t, err)
	require.NoError(t, stream.Body.Close())
	awaitFree()

	require.NoError(t, open().Body.Close())
	awaitFree()

	for _, end := range []func(){func() { cut <- struct{}{} }, func() { resolver.End(true) }} {
		stream := open()
		end()
		_, err := io.Copy(io.Discard, stream.Body)
		require.Error(t, err)
		require.NoError(t, stream.Body.Close())
		awaitFree()
	}

	for _, end := range []func(io.Closer){func(socket io.Closer) { require.NoError(t, socket.Close()) }, func(io.Closer) { resolver.End(true) }} {
		cfg, err := websocket.NewConfig(strings.Replace(g.URL, "http", "ws", 1)+"/openai/socket", "http://localhost/")
		require.NoError(t, err)
		cfg.Header.Set("Authorization", "Bearer "+callersKey)
		socket, err := cfg.DialContext(t.Context())
		require.NoError(t, err)
		require.NoError(t, websocket.Message.Send(socket, "hi"))
		var got string
		require.NoError(t, websocket.Message.Receive(socket, &got))
		require.Equal(t, http.StatusTooManyRequests, status())
		end(socket)
		awaitFree()
	}
}

func TestProxiesThatAskShareTheLimits(t *testing.T) {
	ask := func(resolver *dataplanetest.FakeResolver) (statuses []int, last answer) {
		g := startHandler(t, resolver, NewForwardAuth)
		for range 3 {
			r := request(t, http.MethodGet, g.URL+"/auth/openai", http.NoBody)
			r.Header.Set("X-Forwarded-Method", "POST")
			r.Header.Set("X-Forwarded-Uri", "/openai/v1/chat/completions")
			last, _ = do(t, r)
			statuses = append(statuses, last.StatusCode)
		}
		return statuses, last
	}
	resolver := servingLimited(t, "openai", "/v1", dataplane.Limits{RequestsPerDay: 2}, http.NotFound)
	statuses, last := ask(resolver)
	require.Equal(t, []int{200, 200, 429}, statuses)
	require.Equal(t, "requests_per_day", last.Header.Get("Agentrouter-Limit"))
	require.NotEmpty(t, last.Header.Get("Retry-After"))
	g := start(t, resolver)
	head, _ := do(t, request(t, http.MethodGet, g.URL+"/openai/models", http.NoBody))
	require.Equal(t, http.StatusTooManyRequests, head.StatusCode, "one count for every way in")

	statuses, last = ask(servingLimited(t, "openai", "/v1", dataplane.Limits{RequestsPerDay: 2, Concurrent: 9}, http.NotFound))
	require.Equal(t, []int{403, 403, 403}, statuses)
	require.Empty(t, last.Header.Get("Authorization"))
}

func TestWhatTheGatewayRefusesCountsForNoLimit(t *testing.T) {
	resolver := servingLimited(t, "openai", "/v1", dataplane.Limits{RequestsPerDay: 1}, func(http.ResponseWriter, *http.Request) {})
	key, err := resolver.Resolve(t.Context(), dataplane.ForCaller(callersKey, "openai"))
	require.NoError(t, err)
	key.Restrictions = &dataplane.Restrictions{Operations: []string{"/models"}}
	g := start(t, resolver)
	for _, step := range []struct {
		path   string
		status int
	}{
		{"/files", http.StatusForbidden}, {"/files", http.StatusForbidden},
		{"/models", http.StatusOK}, {"/models", http.StatusTooManyRequests},
	} {
		head, body := do(t, request(t, http.MethodGet, g.URL+"/openai"+step.path, http.NoBody))
		require.Equal(t, step.status, head.StatusCode, body)
	}
}

// The caller can do nothing about the next key's restrictions, and the first key may serve again later.
func TestARestrictedNextKeyIsALimit(t *testing.T) {
	for _, c := range []struct {
		reason, model string
		status        int
	}{
		{"next_key_limited", "gpt-4", http.StatusTooManyRequests},
		{"next_key_limited", "gpt-5", http.StatusNotFound}, // the provider answers 404
		{"project_key", "gpt-4", http.StatusForbidden},
	} {
		key := newKey(t, "openai", provider(t, http.NotFound)+"/v1")
		key.Restrictions, key.Reason = &dataplane.Restrictions{Models: []string{"gpt-5"}}, c.reason
		resolver := dataplanetest.Serving(callersKey, key)
		chat := request(t, http.MethodPost, start(t, resolver).URL+"/openai/chat/completions", strings.NewReader(`{"model":"`+c.model+`"}`))
		chat.Header.Set("Content-Type", "application/json")
		head, body := do(t, chat)
		require.Equal(t, c.status, head.StatusCode, body)
		if c.status != http.StatusTooManyRequests {
			continue
		}
		requireExplained := func(head answer, body string) {
			require.Equal(t, http.StatusTooManyRequests, head.StatusCode, body)
			require.Contains(t, body, "the next key may not be used for this request")
			require.NotEmpty(t, head.Header.Get("Retry-After"))
		}
		requireExplained(head, body)
		asked := request(t, http.MethodGet, startHandler(t, resolver, NewForwardAuth).URL+"/auth/openai", http.NoBody)
		asked.Header.Set("X-Forwarded-Method", "POST")
		asked.Header.Set("X-Forwarded-Uri", "/openai/v1/chat/completions")
		requireExplained(do(t, asked))
	}
}

func TestALimitedKeyIsAsideAsLongAsItsProviderSays(t *testing.T) {
	for _, want := range []struct {
		status     int
		retryAfter string
		aside      []time.Duration
	}{
		{http.StatusTooManyRequests, "3600", []time.Duration{time.Hour}},
		{http.StatusTooManyRequests, time.Now().Add(2 * time.Hour).UTC().Format(http.TimeFormat), []time.Duration{2 * time.Hour}},
		{http.StatusTooManyRequests, "0", []time.Duration{0}},
		{http.StatusTooManyRequests, "18446744073709551615", []time.Duration{24 * time.Hour}},
		{http.StatusTooManyRequests, "", nil},
		{http.StatusTooManyRequests, "soon", nil},
		{http.StatusTooManyRequests, "-1", nil},
		{http.StatusServiceUnavailable, "7", nil},
		{http.StatusOK, "7", nil},
	} {
		resolver := dataplanetest.Serving(callersKey, dataplanetest.NewKey(t, "openai", dataplane.AuthBearer, provider(t, func(w http.ResponseWriter, _ *http.Request) {
			if want.retryAfter != "" {
				w.Header().Set("Retry-After", want.retryAfter)
			}
			w.WriteHeader(want.status)
		}), providersKey))
		g := start(t, resolver)
		head, _ := do(t, request(t, http.MethodGet, g.URL+"/openai/models", http.NoBody))
		require.Equal(t, want.status, head.StatusCode)
		asides := resolver.Calls().Asides
		for i := range asides {
			asides[i] = asides[i].Round(time.Hour / 2) // some time has passed since a date was made
		}
		require.Equal(t, want.aside, asides, want.retryAfter)
		require.Equal(t, []int{want.status}, resolver.Calls().Reports)
	}
}

func TestMetricsAreShared(t *testing.T) {
	registry := prometheus.NewRegistry()
	_, err := New(Config{Resolver: dataplanetest.Refusing(nil), Metrics: registry})
	require.NoError(t, err)
	_, err = NewForwardAuth(Config{Resolver: dataplanetest.Refusing(nil), Metrics: registry})
	require.NoError(t, err, "the proxy and forward-auth share their metrics")
	families, err := registry.Gather()
	require.NoError(t, err)
	require.Contains(t, families[0].GetName()+families[1].GetName(), "aikeys_gateway_")
}

// BenchmarkAgainstBareProxy compares the gateway with a bare httputil.ReverseProxy. Both have the same provider, the
// same transport settings and a pool of buffers. Rounds of 64 connections alternate between the two. Then single
// requests alternate, which gives the median of the time that the gateway adds.
//
//	go test -run - -bench AgainstBareProxy -benchtime 1x ./dataplane/gateway
func BenchmarkAgainstBareProxy(b *testing.B) {
	answer := []byte(strings.Repeat(`{"choices":[]}`, 64))
	upstream := provider(b, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(answer)
	})
	transport := NewTransport(TransportConfig{})
	b.Cleanup(transport.CloseIdleConnections)
	bareProxy := &httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.SetURL(mustURL(b, upstream+"/v1"))
			pr.Out.URL.Path = strings.Replace(pr.Out.URL.Path, "/openai", "", 1)
		},
		Transport: transport, FlushInterval: -1, BufferPool: new(bufferPool),
	}
	bare := provider(b, bareProxy.ServeHTTP)
	ours, err := New(Config{
		Resolver: cached{key: newKey(b, "openai", upstream+"/v1")},
		Log:      slog.New(slog.NewJSONHandler(io.Discard, nil)), //nolint:sloglint // the cost of log lines is part of the measurement
		Metrics:  prometheus.NewRegistry(),
	})
	require.NoError(b, err)
	b.Cleanup(ours.Close)
	proxied := provider(b, ours.ServeHTTP)
	const warmUp, round, rounds, singles = 200 * time.Millisecond, 150 * time.Millisecond, 30, 4000
	throughput(b, bare, warmUp)
	throughput(b, proxied, warmUp)
	for b.Loop() {
		var ratios, bareRates, ourRates []float64
		for range rounds {
			theirs, mine := throughput(b, bare, round), throughput(b, proxied, round)
			bareRates, ourRates, ratios = append(bareRates, theirs), append(ourRates, mine), append(ratios, mine/theirs)
		}
		var times [2][]float64
		conns := []*benchConn{dialBench(b, bare), dialBench(b, proxied)}
		for range singles {
			for i, conn := range conns {
				began := time.Now()
				require.NoError(b, conn.exchange())
				times[i] = append(times[i], float64(time.Since(began)))
			}
		}
		for _, conn := range conns {
			require.NoError(b, conn.Close())
		}
		added := time.Duration(median(times[1]) - median(times[0]))
		b.ReportMetric(median(ratios), "ratio")
		b.ReportMetric(median(bareRates), "bare-req/s")
		b.ReportMetric(median(ourRates), "gateway-req/s")
		b.ReportMetric(float64(added.Microseconds()), "added-µs")
	}
}

// cached is a resolver that returns the same key for every request and records nothing.
type cached struct {
	Resolver // nil: nothing else is called

	key *dataplane.Key
}

func (c cached) Resolve(context.Context, dataplane.Request) (*dataplane.Key, error) {
	return c.key, nil
}

func (cached) ReportAnswer(*dataplane.Key, int, []byte) {}

func (cached) Watch(*dataplane.Key, func(bool)) func() { return func() {} }

// throughput returns requests per second over 64 connections.
func throughput(b *testing.B, address string, d time.Duration) float64 {
	var (
		group sync.WaitGroup
		count atomic.Int64
		began = time.Now()
	)
	for range 64 {
		group.Go(func() {
			conn := dialBench(b, address)
			defer func() { _ = conn.Close() }()
			for time.Since(began) < d {
				if err := conn.exchange(); err != nil {
					b.Error(err)
					return
				}
				count.Add(1)
			}
		})
	}
	group.Wait()
	return float64(count.Load()) / time.Since(began).Seconds()
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

// benchConn sends one request over and over. It does less than Go's client, which would hide what the proxies cost.
type benchConn struct {
	net.Conn

	in      *bufio.Reader
	request []byte
}

func dialBench(b *testing.B, proxyURL string) *benchConn {
	conn, err := net.Dial("tcp", strings.TrimPrefix(proxyURL, "http://"))
	require.NoError(b, err)
	body := `{"model":"gpt-4o-mini","messages":[{"role":"user","content":"Say hello."}]}`
	return &benchConn{conn, bufio.NewReaderSize(conn, 16<<10), fmt.Appendf(nil,
		"POST /openai/chat/completions HTTP/1.1\r\nHost: gw\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\n"+
			"Accept: application/json\r\nUser-Agent: OpenAI/Python 2.0.0\r\nX-Stainless-Lang: python\r\nX-Stainless-Os: Linux\r\n"+
			"X-Stainless-Runtime: CPython\r\nX-Stainless-Retry-Count: 0\r\nContent-Length: %d\r\n\r\n%s", callersKey, len(body), body)}
}

func (c *benchConn) exchange() error {
	if _, err := c.Write(c.request); err != nil {
		return err
	}
	var status, length int
	for {
		line, err := c.in.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(line) == 2 {
			break
		}
		text := string(line)
		if status == 0 {
			_, _ = fmt.Sscanf(text, "HTTP/1.1 %d", &status)
		} else if strings.HasPrefix(text, "Content-Length: ") {
			_, _ = fmt.Sscanf(text, "Content-Length: %d", &length)
		}
	}
	if status != http.StatusOK {
		return fmt.Errorf("status %d", status)
	}
	_, err := c.in.Discard(length)
	return err
}

func TestOpenStreamsEnd(t *testing.T) {
	// answer is a stream of events, or a WebSocket that echoes, until the gateway hangs up.
	answer := func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			websocket.Server{Handler: func(ws *websocket.Conn) { _, _ = io.Copy(ws, ws) }}.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		for r.Context().Err() == nil {
			_, _ = io.WriteString(w, "data: word\n\n")
			flush(w)
			select {
			case <-r.Context().Done():
			case <-time.After(time.Millisecond):
			}
		}
	}
	open := func(t *testing.T, gw *testGateway) (ws *websocket.Conn, events *bufio.Reader) {
		t.Helper()
		cfg, err := websocket.NewConfig(strings.Replace(gw.URL, "http", "ws", 1)+"/openai/v1/realtime", "http://localhost/")
		require.NoError(t, err)
		cfg.Header.Set("Authorization", "Bearer "+callersKey)
		ws, err = cfg.DialContext(t.Context())
		require.NoError(t, err)
		t.Cleanup(func() { _ = ws.Close() })
		res, err := http.DefaultTransport.RoundTrip(request(t, "POST", gw.URL+"/openai/v1/chat", strings.NewReader("{}")))
		require.NoError(t, err)
		t.Cleanup(func() { _ = res.Body.Close() })
		events = bufio.NewReader(res.Body)
		line, err := events.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "data: word\n", line)
		return ws, events
	}
	echoes := func(ws *websocket.Conn) error {
		var got string
		if err := websocket.Message.Send(ws, "word"); err != nil {
			return err
		}
		return websocket.Message.Receive(ws, &got)
	}
	t.Run("when their key ends: WebSockets at once, events after the grace", func(t *testing.T) {
		gw := openAI(t, answer, func(cfg *Config) { cfg.StreamGrace = time.Hour })
		ws, events := open(t, gw)
		require.NoError(t, echoes(ws))
		gw.End(true)
		_, err := io.Copy(io.Discard, ws)
		require.NoError(t, err, "the WebSocket is closed")
		require.Error(t, echoes(ws))
		for range 3 {
			_, err = events.ReadString('\n')
			require.NoError(t, err)
		}

		const grace = 300 * time.Millisecond
		gw = openAI(t, answer, func(cfg *Config) { cfg.StreamGrace = grace })
		_, events = open(t, gw)
		began := time.Now()
		gw.End(true)
		_, err = io.Copy(io.Discard, events)
		require.Error(t, err, "the caller sees that the answer is not whole")
		require.GreaterOrEqual(t, time.Since(began), grace)
		require.Eventually(t, func() bool { return gw.Calls().Watches == 0 }, 10*time.Second, time.Millisecond)
	})
	t.Run("when the length of the answer was announced, too", func(t *testing.T) {
		gw := openAI(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "1000000")
			_, _ = io.WriteString(w, "data: word\n")
			flush(w)
			<-r.Context().Done()
		})
		res, err := http.DefaultTransport.RoundTrip(request(t, "GET", gw.URL+"/openai/v1/files/f/content", nil))
		require.NoError(t, err)
		gw.End(true)
		_, err = io.Copy(io.Discard, res.Body)
		require.Error(t, err)
		require.NoError(t, res.Body.Close())
	})
	t.Run("when it has not begun yet", func(t *testing.T) {
		arrived, revoked := make(chan struct{}), make(chan struct{})
		gw := openAI(t, func(w http.ResponseWriter, r *http.Request) {
			close(arrived)
			<-revoked
			answer(w, r)
		})
		go func() {
			<-arrived
			gw.End(true)
			close(revoked)
		}()
		res, err := http.DefaultTransport.RoundTrip(request(t, "POST", gw.URL+"/openai/v1/chat", strings.NewReader("{}")))
		if err == nil { // the answer may end before its head has been passed on
			_, err = io.Copy(io.Discard, res.Body)
			require.NoError(t, res.Body.Close())
		}
		require.Error(t, err)
	})
	t.Run("when events were missed and the key has ended", func(t *testing.T) {
		gw := openAI(t, answer)
		ws, events := open(t, gw)
		gw.End(false)
		require.NoError(t, echoes(ws), "it has not")
		_, err := events.ReadString('\n')
		require.NoError(t, err)
		gw.Refuse(dataplane.ErrUnavailable)
		gw.End(false)
		require.NoError(t, echoes(ws), "nobody has said so")
		gw.Refuse(dataplane.ErrCustomerNotServed)
		_, err = io.Copy(io.Discard, ws)
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, events)
		require.Error(t, err)
	})
	for what, err := range map[string]error{"is disabled": dataplane.ErrKeyDisabled, "has expired": dataplane.ErrKeyExpired} {
		t.Run("when events were missed and the key "+what, func(t *testing.T) {
			gw := openAI(t, answer)
			ws, events := open(t, gw)
			gw.Refuse(err)
			gw.End(false)
			_, err := io.Copy(io.Discard, ws)
			require.NoError(t, err)
			_, err = io.Copy(io.Discard, events)
			require.Error(t, err)
		})
	}
	t.Run("when the gateway itself is refused", func(t *testing.T) {
		gw := openAI(t, answer)
		ws, events := open(t, gw)
		gw.Refuse(dataplane.ErrDataPlaneUnauthenticated)
		gw.End(false)
		_, err := io.Copy(io.Discard, ws)
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, events)
		require.Error(t, err)
	})
	t.Run("when a WebSocket has lasted too long, and only then", func(t *testing.T) {
		gw := openAI(t, answer, func(cfg *Config) { cfg.UpgradeLife = 200 * time.Millisecond })
		ws, events := open(t, gw)
		_, err := io.Copy(io.Discard, ws)
		require.NoError(t, err)
		_, err = events.ReadString('\n')
		require.NoError(t, err)
	})
}
