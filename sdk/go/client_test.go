package agentrouter_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	agentrouter "github.com/tetrateio/agentrouter-go"
	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"
)

// The published signatures: programs wrap these methods in interfaces of their own, which a parameter more would break.
var _ interface {
	Register(ctx context.Context, customerID, projectID string, provider aikeysv1.Provider, name, secret string,
		userScope bool) (*aikeysv1.RegisterResponse, error)
	Get(ctx context.Context, customerID, projectID, id string) (*aikeysv1.GetResponse, error)
	List(ctx context.Context, customerID, projectID string) (*aikeysv1.ListResponse, error)
	Revoke(ctx context.Context, customerID, projectID, id string) (*aikeysv1.RevokeResponse, error)
} = (*agentrouter.AIKeysClient)(nil)

const keyBody = `{"key":{"id":"byok_01M83VVAHV8M2T5K7N9R4W1XYZ","customer_id":"acme","project_id":"chat",` +
	`"provider":"openai","name":"openai-prod","display_suffix":"9f3c","user_scope":false,` +
	`"created_at":"2026-11-23T09:30:00.123456Z","created_by":"alice","state":"active"}}`

func serve(t *testing.T, handler http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.URL
}

func client(t *testing.T, url string, options ...agentrouter.Option) *agentrouter.Client {
	t.Helper()
	c, err := agentrouter.New(t.Context(), append([]agentrouter.Option{
		agentrouter.WithBaseURL(url), agentrouter.WithAPIKey("ak_test"),
	}, options...)...)
	must(t, err)
	return c
}

func TestOptionsWinOverTheEnvironment(t *testing.T) {
	var path, key string
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		path, key = r.URL.Path, r.Header.Get("Authorization")
		_, _ = w.Write([]byte(keyBody))
	})
	t.Setenv("AGENTROUTER_BASE_URL", url+"/env/")
	t.Setenv("AGENTROUTER_API_KEY", "ak_env")
	get := func(options ...agentrouter.Option) {
		c, err := agentrouter.New(t.Context(), options...)
		must(t, err)
		_, err = c.AIKeys().Get(t.Context(), "", "", "byok_1")
		must(t, err)
	}
	get(agentrouter.WithBaseURL(""), agentrouter.WithAPIKey(""))
	equal(t, path, "/env/v1/customers/-/projects/-/aikeys/byok_1")
	equal(t, key, "Bearer ak_env")
	get(agentrouter.WithBaseURL(url+"//"), agentrouter.WithAPIKey("ak_option"))
	equal(t, path, "/v1/customers/-/projects/-/aikeys/byok_1")
	equal(t, key, "Bearer ak_option")
}

func TestNewRefusesInvalidSettings(t *testing.T) {
	t.Setenv("AGENTROUTER_BASE_URL", "")
	t.Setenv("AGENTROUTER_API_KEY", "")
	const good, key = "https://aikeys.example.com", "ak_marked_secret"
	cases := map[string]struct {
		url, key string
		more     agentrouter.Option
		says     string
	}{
		"no base URL":           {"", key, nil, "AGENTROUTER_BASE_URL"},
		"no key":                {good, "", nil, "AGENTROUTER_API_KEY"},
		"no scheme":             {"aikeys.example.com", key, nil, "https://"},
		"another scheme":        {"ftp://aikeys.example.com", key, nil, "https://"},
		"a user":                {"https://u:marked_secret@aikeys.example.com", key, nil, "user"},
		"a query":               {good + "?key=marked_secret", key, nil, "query"},
		"no URL":                {"https://marked_secret\x7f", key, nil, "https://"},
		"http elsewhere":        {"http://aikeys.example.com", key, nil, "in clear"},
		"http to a look-a-like": {"http://localhost.example.com", key, nil, "in clear"},
		"a key of two lines":    {good, key + "\r\nX: y", nil, "API key"},
		"a negative time":       {good, key, agentrouter.WithTimeout(-1), "WithTimeout"},
		"negative retries":      {good, key, agentrouter.WithMaxRetries(-1), "WithMaxRetries"},
		"an agent of lines":     {good, key, agentrouter.WithUserAgent("a\nb"), "WithUserAgent"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := agentrouter.New(t.Context(), agentrouter.WithBaseURL(tc.url), agentrouter.WithAPIKey(tc.key), tc.more)
			if err == nil {
				t.Fatal("no error")
			}
			contains(t, err.Error(), tc.says)
			lacks(t, err.Error(), "marked_secret")
		})
	}
	for _, url := range []string{"http://127.0.0.2:80", "http://[::1]:80", "http://localhost", good} {
		_, err := agentrouter.New(t.Context(), agentrouter.WithBaseURL(url), agentrouter.WithAPIKey(key))
		must(t, err)
	}
	_, err := agentrouter.New(t.Context(), agentrouter.WithBaseURL("http://aikeys.example.com"),
		agentrouter.WithAPIKey(key), agentrouter.WithInsecureHTTP())
	must(t, err)
}

func TestUserAgent(t *testing.T) {
	var agent string
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		agent = r.UserAgent()
		_, _ = w.Write([]byte(keyBody))
	})
	_, err := client(t, url, agentrouter.WithUserAgent("bot/1.4")).AIKeys().Get(t.Context(), "", "", "x")
	must(t, err)
	contains(t, agent, "bot/1.4 agentrouter-go/"+agentrouter.Version+" (go")
}

// blocked is a server that answers nothing until the test ends. It calls arrived for each request.
func blocked(t *testing.T, arrived func()) string {
	t.Helper()
	end := make(chan struct{})
	url := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		arrived()
		select {
		case <-end:
		case <-r.Context().Done():
		}
	})
	t.Cleanup(func() { close(end) })
	return url
}

func TestTimeout(t *testing.T) {
	var seen atomic.Int32
	arrived := func() { seen.Add(1) }
	c := client(t, blocked(t, arrived), agentrouter.WithTimeout(20*time.Millisecond), agentrouter.WithMaxRetries(1))
	_, err := c.AIKeys().Get(t.Context(), "", "", "x")
	equal(t, as[*agentrouter.ConnectionError](t, err).Timeout(), true)
	is(t, err, context.DeadlineExceeded)
	equal(t, seen.Load(), int32(2))
}

func TestCancelledCallIsNotRepeated(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var seen atomic.Int32
	c := client(t, blocked(t, func() { seen.Add(1); cancel() }))
	_, err := c.AIKeys().Get(ctx, "", "", "x")
	equal(t, as[*agentrouter.ConnectionError](t, err).Timeout(), false)
	is(t, err, context.Canceled)
	equal(t, seen.Load(), int32(1))
}

func TestContextEndsTheDelayBeforeARetry(t *testing.T) {
	url := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "30")
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := client(t, url).AIKeys().Get(ctx, "", "", "x")
	is(t, err, context.DeadlineExceeded)
}

func TestWaitIsAddedToTheTimeout(t *testing.T) {
	var wait string
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		wait = r.URL.Query().Get("wait")
		if wait == "" {
			<-r.Context().Done() // until the client gives up
			return
		}
		time.Sleep(150 * time.Millisecond) // longer than the timeout, shorter than Wait
		_, _ = w.Write([]byte(`{"receipt":{"state":"complete","revoked_at":"2026-11-23T09:45:12Z","revoked_by":"alice",` +
			`"data_planes":0,"acknowledged":0}}`))
	})
	c := client(t, url, agentrouter.WithTimeout(100*time.Millisecond), agentrouter.WithMaxRetries(0))
	_, err := c.AIKeys().With(agentrouter.Wait(1500*time.Millisecond)).Revoke(t.Context(), "", "", "x")
	must(t, err)
	equal(t, wait, "1500ms")
	_, err = c.AIKeys().Revoke(t.Context(), "", "", "x")
	equal(t, as[*agentrouter.ConnectionError](t, err).Timeout(), true)
}

func TestInvalidArgumentsAreNotSent(t *testing.T) {
	c := client(t, "http://127.0.0.1:1")
	_, err := c.AIKeys().With(agentrouter.Wait(time.Second)).List(t.Context(), "", "")
	equal(t, as[*agentrouter.ArgumentError](t, err).Field, "wait")
	_, err = c.AIKeys().With(agentrouter.IdempotencyKey("k")).List(t.Context(), "", "")
	equal(t, as[*agentrouter.ArgumentError](t, err).Field, "Idempotency-Key")
	_, err = c.AIKeys().With(agentrouter.IdempotencyKey("a b")).Register(t.Context(), "", "", "openai", "n", "s", false)
	equal(t, as[*agentrouter.ArgumentError](t, err).Field, "Idempotency-Key")
	_, err = c.AIKeys().Register(t.Context(), "", "", "openai", "n", "marked\xffsecret", false)
	equal(t, as[*agentrouter.ArgumentError](t, err).Field, "secret")
	lacks(t, err.Error(), "marked")
}

func TestWithCopiesTheClient(t *testing.T) {
	var queries []string
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		queries = append(queries, r.URL.RawQuery)
		_, _ = w.Write([]byte(`{"keys":[]}`))
	})
	keys := client(t, url).AIKeys().With(agentrouter.PageSize(5))
	for _, k := range []*agentrouter.AIKeysClient{
		keys.With(agentrouter.PageSize(6)), keys.With(agentrouter.InState(aikeysv1.KeyStateActive)), keys,
	} {
		_, err := k.List(t.Context(), "", "")
		must(t, err)
	}
	equal(t, strings.Join(queries, " "), "page_size=6 page_size=5&state=active page_size=5")
}

func TestIteratorFetchesPagesAsNeeded(t *testing.T) {
	var pages int
	url := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		pages++
		_, _ = w.Write([]byte(`{"members":[{"user_id":"a","role":"owner"}],"next_page_token":"more"}`))
	})
	for member, err := range client(t, url).Members().All(t.Context(), "", "") {
		must(t, err)
		equal(t, member.UserID, "a")
		break
	}
	equal(t, pages, 1)
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	own := &http.Client{}
	url := serve(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) })
	_, err := client(t, url, agentrouter.WithHTTPClient(own)).AIKeys().Get(t.Context(), "", "", "x")
	is(t, err, agentrouter.ErrResponse)
	equal(t, own.CheckRedirect == nil, true)
}

// The published examples print their result with %+v, which must not show addresses.
func TestResultsPrintAsJSON(t *testing.T) {
	url := serve(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, keyBody) })
	reply, err := client(t, url).AIKeys().Get(t.Context(), "", "", "x")
	must(t, err)
	printed := fmt.Sprintf("%+v", reply)
	contains(t, printed, `"id":"byok_01M83VVAHV8M2T5K7N9R4W1XYZ"`)
	lacks(t, printed, "0x")
}
