package gateway_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/websocket"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
	"github.com/agentrouter/aikeys/dataplane/gateway"
)

// limitedResolver enforces limits as a resolver does.
type limitedResolver struct {
	*dataplanetest.FakeResolver
	limits *dataplane.Resolver
}

// Begin implements gateway.Resolver.
func (r limitedResolver) Begin(key *dataplane.Key) (func(), error) { return r.limits.Begin(key) }

// limitedKey returns a key of a provider that the handler plays, what serves it, and the setting that has a gateway enforce its limits.
func limitedKey(t *testing.T, name, base string, limits dataplane.Limits, handler http.HandlerFunc) (*dataplanetest.FakeResolver, func(*gateway.Config)) {
	t.Helper()
	key := dataplanetest.NewKey(t, name, dataplane.AuthBearer, provider(t, handler)+base, secret)
	key.Limits = &limits
	enforcing, err := dataplane.New(dataplane.Config{ControlPlane: "http://127.0.0.1:1", Token: func() string { return "dp" }})
	require.NoError(t, err)
	serving := dataplanetest.Serving(callersKey, key)
	return serving, func(cfg *gateway.Config) { cfg.Resolver = limitedResolver{serving, enforcing} }
}

func TestARefusalSaysThatTheLimitIsTheKeys(t *testing.T) {
	for name, want := range map[string]string{"openai": `"code":"key_limited"`, "anthropic": `"rate_limit_error"`, "gemini": `"RESOURCE_EXHAUSTED"`} {
		resolver, enforced := limitedKey(t, name, "", dataplane.Limits{RequestsPerDay: 2}, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "7")
			w.Header().Set("Agentrouter-Limit", "requests_per_day") // the provider's own must not pass for ours
			w.WriteHeader(http.StatusTooManyRequests)
		})
		g := start(t, resolver, enforced)
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
		require.Equal(t, []bool{true}, resolver.Uses(), "a refusal")
	}
}

// A use ends with its answer, whether that ends, is cut by the caller or the provider or by a revocation, or is an upgraded connection that
// ends so.
func TestConcurrentUsesEndWithTheirAnswers(t *testing.T) {
	more, cut := make(chan struct{}), make(chan struct{})
	echo := websocket.Server{Handler: func(ws *websocket.Conn) { _, _ = io.Copy(ws, ws) }}
	resolver, enforced := limitedKey(t, "openai", "/v1", dataplane.Limits{Concurrent: 1}, func(w http.ResponseWriter, r *http.Request) {
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
	g := start(t, resolver, enforced)
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
	ask := func(resolver *dataplanetest.FakeResolver, enforced func(*gateway.Config)) (statuses []int, last answer) {
		g := startHandler(t, resolver, gateway.NewForwardAuth, enforced)
		for range 3 {
			r := request(t, http.MethodGet, g.URL+"/auth/openai", http.NoBody)
			r.Header.Set("X-Forwarded-Method", "POST")
			r.Header.Set("X-Forwarded-Uri", "/openai/v1/chat/completions")
			last, _ = do(t, r)
			statuses = append(statuses, last.StatusCode)
		}
		return statuses, last
	}
	resolver, enforced := limitedKey(t, "openai", "/v1", dataplane.Limits{RequestsPerDay: 2}, http.NotFound)
	statuses, last := ask(resolver, enforced)
	require.Equal(t, []int{200, 200, 429}, statuses)
	require.Equal(t, "requests_per_day", last.Header.Get("Agentrouter-Limit"))
	require.NotEmpty(t, last.Header.Get("Retry-After"))
	g := start(t, resolver, enforced)
	head, _ := do(t, request(t, http.MethodGet, g.URL+"/openai/models", http.NoBody))
	require.Equal(t, http.StatusTooManyRequests, head.StatusCode, "one count for every way in")

	statuses, last = ask(limitedKey(t, "openai", "/v1", dataplane.Limits{RequestsPerDay: 2, Concurrent: 9}, http.NotFound))
	require.Equal(t, []int{403, 403, 403}, statuses)
	require.Empty(t, last.Header.Get("Authorization"))
}

func TestWhatTheGatewayRefusesCountsForNoLimit(t *testing.T) {
	resolver, enforced := limitedKey(t, "openai", "/v1", dataplane.Limits{RequestsPerDay: 1}, func(http.ResponseWriter, *http.Request) {})
	key, err := resolver.Resolve(t.Context(), dataplane.ForCaller(callersKey, "openai"))
	require.NoError(t, err)
	key.Restrictions = &dataplane.Restrictions{Operations: []string{"/models"}}
	g := start(t, resolver, enforced)
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
		{"next_key_limited", "gpt-5", http.StatusNotFound}, // the provider's
		{"project_key", "gpt-4", http.StatusForbidden},
	} {
		key := dataplanetest.NewKey(t, "openai", dataplane.AuthBearer, provider(t, http.NotFound)+"/v1", secret)
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
			require.Contains(t, body, "the key that serves meanwhile may not be used for this request")
			require.NotEmpty(t, head.Header.Get("Retry-After"))
		}
		requireExplained(head, body)
		asked := request(t, http.MethodGet, startHandler(t, resolver, gateway.NewForwardAuth).URL+"/auth/openai", http.NoBody)
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
		}), secret))
		g := start(t, resolver)
		head, _ := do(t, request(t, http.MethodGet, g.URL+"/openai/models", http.NoBody))
		require.Equal(t, want.status, head.StatusCode)
		asides := resolver.Asides()
		for i := range asides {
			asides[i] = asides[i].Round(time.Hour / 2) // a date is that of a while ago
		}
		require.Equal(t, want.aside, asides, want.retryAfter)
		require.Equal(t, []int{want.status}, resolver.Reports())
	}
}
