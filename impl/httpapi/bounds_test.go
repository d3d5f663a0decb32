package httpapi_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/internal/lifecycle"
	"github.com/agentrouter/aikeys/internal/problem"
	"github.com/agentrouter/aikeys/internal/ratelimit"
)

const policyPath = "/v1/customers/acme/projects/web/policy"

// newHandler returns the whole API around handlers that answer one operation.
func newHandler(t *testing.T, authentication auth.MiddlewareConfig) http.Handler {
	t.Helper()
	cfg := httpapi.Config{Authenticate: auth.Middleware(authentication)}
	doc, err := gen.GetSpec()
	require.NoError(t, err)
	cfg.Document, cfg.Problems = doc, httpapi.Problems(auth.Problems()...)
	cfg.Observer, err = httpapi.NewObserver("test", slog.New(slog.DiscardHandler), prometheus.NewRegistry(), nil)
	require.NoError(t, err)
	api, err := httpapi.NewAPI(cfg)
	require.NoError(t, err)
	gen.RegisterHandlersWithOptions(api.Echo, gen.NewStrictHandler(answering{}, []gen.StrictMiddlewareFunc{httpapi.RequireChecked[gen.StrictHandlerFunc]}),
		gen.RegisterHandlersOptions{OperationMiddlewares: api.Middlewares})
	return api.Echo
}

// watched is an authenticator that counts how many lookups run at once. The credential selects the result: "good" and "bad" are
// answered at once, "slow …" when the test closes answer.
type watched struct {
	mu            sync.Mutex
	looking, most int
	answer        chan struct{} // closed to answer the slow lookups
}

func (w *watched) Authenticate(ctx context.Context, authorization string) (auth.Principal, error) {
	credential := strings.TrimPrefix(authorization, "Bearer ")
	if strings.HasPrefix(credential, "slow") {
		w.count(1)
		defer w.count(-1)
		select {
		case <-w.answer:
		case <-ctx.Done():
			return auth.Principal{}, ctx.Err()
		}
	}
	if strings.HasSuffix(credential, "bad") {
		return auth.Principal{}, auth.ErrUnauthenticated
	}
	return open{}.Authenticate(ctx, authorization)
}

func (w *watched) Drop(string) {}

func (w *watched) count(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.looking += n
	w.most = max(w.most, w.looking)
}

func (w *watched) now() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.looking
}

func TestGuessersShareTwoLookups(t *testing.T) {
	const guesser, neighbour = "203.0.113.7", "203.0.113.8"
	sessions := &watched{answer: make(chan struct{})}
	handler := newHandler(t, auth.MiddlewareConfig{Sessions: sessions, FailureRate: ratelimit.Rate{PerSecond: 0.0001, Burst: 1}})
	ask := func(ctx context.Context, address, credential string) int {
		req := httptest.NewRequestWithContext(ctx, http.MethodGet, "/v1/whoami", http.NoBody)
		req.RemoteAddr = net.JoinHostPort(address, "1234")
		req.Header.Set("Authorization", "Bearer "+credential)
		recorder := httptest.NewRecorder()
		handler.ServeHTTP(recorder, req)
		return recorder.Code
	}
	later := func(ctx context.Context, address, credential string) <-chan int {
		status := make(chan int, 1)
		go func() { status <- ask(ctx, address, credential) }()
		return status
	}
	require.Equal(t, http.StatusUnauthorized, ask(t.Context(), guesser, "bad"))
	require.Equal(t, http.StatusTooManyRequests, ask(t.Context(), guesser, "bad"))

	guesses := make([]<-chan int, 20)
	for i := range guesses {
		guesses[i] = later(t.Context(), guesser, "slow and bad")
	}
	require.Eventually(t, func() bool { return sessions.now() == 2 }, 5*time.Second, time.Millisecond)
	good := later(t.Context(), guesser, "good")

	t.Run("who leaves while waiting is gone at once", func(t *testing.T) {
		ctx, leave := context.WithCancel(t.Context())
		gone := later(ctx, guesser, "slow and bad")
		require.Never(t, func() bool { return len(gone) > 0 }, 50*time.Millisecond, 10*time.Millisecond)
		leave()
		select {
		case <-gone:
		case <-time.After(5 * time.Second):
			t.Fatal("is waiting still")
		}
	})
	require.Empty(t, good, "it waits for its turn")
	require.Equal(t, 2, sessions.now())
	t.Run("other addresses are not held up", func(t *testing.T) {
		ctx, leave := context.WithTimeout(t.Context(), 5*time.Second)
		defer leave()
		require.Equal(t, http.StatusOK, ask(ctx, neighbour, "good"))
		require.Equal(t, http.StatusUnauthorized, ask(ctx, neighbour, "bad"))
	})
	close(sessions.answer)
	for _, guess := range guesses {
		require.Equal(t, http.StatusTooManyRequests, <-guess)
	}
	require.Equal(t, http.StatusOK, <-good, "a good credential from there is served")
	require.Equal(t, 2, sessions.most, "looks at a time")
	require.Equal(t, http.StatusOK, ask(t.Context(), guesser, "good"), "and the places are given back")
}

func TestNoLookupQueueBelowTheLimit(t *testing.T) {
	const many = 20
	sessions := &watched{answer: make(chan struct{})}
	handler := newHandler(t, auth.MiddlewareConfig{Sessions: sessions, FailureRate: ratelimit.Rate{PerSecond: 0.0001, Burst: many}})
	statuses := make(chan int, many)
	for range many {
		go func() {
			req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/v1/whoami", http.NoBody)
			req.Header.Set("Authorization", "Bearer slow")
			recorder := httptest.NewRecorder()
			handler.ServeHTTP(recorder, req)
			statuses <- recorder.Code
		}()
	}
	require.Eventually(t, func() bool { return sessions.now() == many }, 5*time.Second, time.Millisecond)
	close(sessions.answer)
	for range many {
		require.Equal(t, http.StatusOK, <-statuses)
	}
}

// Otherwise the refusal would be sent only at the read timeout, and the connection held until then.
func TestRefusalDoesNotWaitForTheBody(t *testing.T) {
	once := ratelimit.Rate{PerSecond: 0.0001, Burst: 1}
	for name, tc := range map[string]struct {
		cfg    auth.MiddlewareConfig
		head   string
		before int // requests, to be over a limit
		status int
	}{
		"without a credential":      {auth.MiddlewareConfig{}, "Content-Type: application/json\r\n", 0, http.StatusUnauthorized},
		"of another media type":     {auth.MiddlewareConfig{}, "Authorization: Bearer good\r\nContent-Type: text/plain\r\n", 0, http.StatusUnsupportedMediaType},
		"over the user's limit":     {auth.MiddlewareConfig{PrincipalRate: once}, "Authorization: Bearer good\r\nContent-Type: text/plain\r\n", 1, http.StatusTooManyRequests},
		"over the address's limit":  {auth.MiddlewareConfig{FailureRate: once}, "Authorization: Bearer bad\r\n", 1, http.StatusTooManyRequests},
		"with a bad credential too": {auth.MiddlewareConfig{}, "Authorization: Bearer bad\r\n", 0, http.StatusUnauthorized},
	} {
		for kind, length := range map[string]string{
			"a length": "Content-Length: 100\r\n", "chunks": "Transfer-Encoding: chunked\r\n", "much": "Content-Length: 10000000\r\n",
			"a question": "Content-Length: 100\r\nExpect: 100-continue\r\n",
		} {
			t.Run(name+", announced by "+kind, func(t *testing.T) {
				tc.cfg.Sessions = &watched{}
				server := startServer(t, newHandler(t, tc.cfg).ServeHTTP, nil)
				for range tc.before {
					require.NoError(t, exchange(t, server, tc.head+length).Body.Close())
				}
				began := time.Now()
				response := exchange(t, server, tc.head+length)
				require.NoError(t, response.Body.Close())
				require.Equal(t, tc.status, response.StatusCode)
				require.True(t, response.Close, "Connection: close")
				require.Less(t, time.Since(began), 5*time.Second, "long before the read timeout")
			})
		}
	}
}

// exchange sends the head of a request whose body never comes, and returns the reply once the server has hung up.
func exchange(t *testing.T, server *lifecycle.Server, head string) *http.Response {
	t.Helper()
	conn := dial(t, server)
	fmt.Fprintf(conn, "PUT %s HTTP/1.1\r\nHost: a\r\n%s\r\n", policyPath, head)
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, nil)
	require.NoError(t, err)
	defer func() { _ = response.Body.Close() }()
	_, err = io.ReadAll(response.Body)
	require.NoError(t, err)
	return response
}

// A connection without unread data can be reused.
func TestRefusalWithoutBodyKeepsTheConnection(t *testing.T) {
	server := startServer(t, newHandler(t, auth.MiddlewareConfig{Sessions: &watched{}}).ServeHTTP, nil)
	conn := dial(t, server)
	reader := bufio.NewReader(conn)
	for range 3 {
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: a\r\n\r\n", policyPath)
		response, err := http.ReadResponse(reader, nil)
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, response.Body)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.Equal(t, http.StatusUnauthorized, response.StatusCode)
		require.False(t, response.Close)
	}
}

func TestBodyErrorsNameTheFieldNotItsValue(t *testing.T) {
	const canary = "CANARY7Q"
	handler := newHandler(t, auth.MiddlewareConfig{Sessions: open{}})
	const malformed, empty, twice = "is not one well-formed JSON document in UTF-8", "is empty; send a JSON object", "has a member twice"
	for name, tc := range map[string]struct{ body, message string }{
		"no body":                {"", empty},
		"white space alone":      {" \n", malformed + "; it goes wrong at byte 2"},
		"a member twice":         {`{"` + canary + `":1,"` + canary + `":2}`, twice},
		"an inner one":           {`{"a":{"` + canary + `":1,"` + canary + `":2}}`, twice},
		"twice, escaped":         {`{"CANARY":1,"\u0043ANARY":2}`, twice},
		"no value":               {`{"a": ` + canary + `}`, malformed + "; it goes wrong at byte 6"},
		"no document":            {canary, malformed + "; it goes wrong at byte 0"},
		"an end too early":       {`{"a":"` + canary, malformed + "; it goes wrong at byte"},
		"something after it":     {`{}` + canary, malformed + "; it goes wrong at byte 2"},
		"a control character":    {"{\"a\":\"" + canary + "\n\"}", malformed + "; it goes wrong at byte"},
		"bytes that no text has": {"{\"" + canary + "\":\"\xff\"}", malformed + "; it goes wrong at byte"},
	} {
		t.Run(name, func(t *testing.T) {
			req := httptest.NewRequestWithContext(t.Context(), http.MethodPut, policyPath, strings.NewReader(tc.body))
			req.Header.Set("Authorization", "Bearer x")
			req.Header.Set("Content-Type", "application/json")
			recorder := httptest.NewRecorder()
			handler.ServeHTTP(recorder, req)
			require.Equal(t, http.StatusBadRequest, recorder.Code)
			var doc problem.Document
			require.NoError(t, json.Unmarshal(recorder.Body.Bytes(), &doc))
			require.Len(t, doc.Errors, 1)
			require.Equal(t, "body", doc.Errors[0].Field)
			if strings.HasSuffix(tc.message, "byte") {
				require.Contains(t, doc.Errors[0].Message, tc.message)
			} else {
				require.Equal(t, tc.message, doc.Errors[0].Message)
			}
			require.NotContains(t, recorder.Body.String(), canary[:6])
		})
	}
}

// envFewFiles makes the test binary, as a child of the test, run two servers with a low limit on open files.
const envFewFiles = "HTTPAPI_TEST_FEW_FILES"

func TestListenersShareConnectionsFairly(t *testing.T) {
	if os.Getenv(envFewFiles) != "" {
		serveWithFewFiles(t)
		return
	}
	self, err := os.Executable()
	require.NoError(t, err)
	child := exec.CommandContext(t.Context(), self, "-test.run", "^"+t.Name()+"$")
	child.Env = append(os.Environ(), envFewFiles+"=1")
	child.Stderr = os.Stderr
	stay, err := child.StdinPipe()
	require.NoError(t, err)
	out, err := child.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, child.Start())
	defer func() {
		require.NoError(t, stay.Close())
		require.NoError(t, child.Wait())
	}()
	var public, ops string
	_, err = fmt.Fscanln(out, &public, &ops)
	require.NoError(t, err)
	go func() { _, _ = io.Copy(io.Discard, out) }()

	var idle []net.Conn
	defer func() {
		for _, conn := range idle {
			_ = conn.Close()
		}
	}()
	for range 100 {
		conn, err := net.DialTimeout("tcp", strings.TrimPrefix(public, "http://"), 5*time.Second)
		require.NoError(t, err)
		idle = append(idle, conn)
	}
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	ask := func(url string) error {
		response, err := client.Get(url)
		if err != nil {
			return err
		}
		return response.Body.Close()
	}
	time.Sleep(100 * time.Millisecond) // lets the first server accept as many connections as it can
	for range 5 {
		require.NoError(t, ask(ops))
	}
	for _, conn := range slices.Backward(idle) {
		require.NoError(t, conn.Close())
	}
	idle = nil
	require.Eventually(t, func() bool { return ask(public) == nil }, 10*time.Second, 10*time.Millisecond, "those who leave make room")
}

// serveWithFewFiles serves twice until its standard input ends.
func serveWithFewFiles(t *testing.T) {
	t.Helper()
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 64, Max: 64}))
	answer := func(http.ResponseWriter, *http.Request) {}
	first, second := startServer(t, answer, nil), startServer(t, answer, nil)
	fmt.Println(first.URL(), second.URL())
	_, err := io.Copy(io.Discard, os.Stdin)
	require.NoError(t, err)
}
