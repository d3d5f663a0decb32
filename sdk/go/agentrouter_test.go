package agentrouter_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	agentrouter "github.com/tetrateio/agentrouter-go"
	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"
)

// The published signatures must not change. Programs declare interfaces of their own with these methods, and an
// additional parameter would break such programs.
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

func TestTimeout(t *testing.T) {
	var seen atomic.Int32
	url := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		seen.Add(1)
		<-r.Context().Done() // until the client gives up
	})
	c := client(t, url, agentrouter.WithTimeout(20*time.Millisecond), agentrouter.WithMaxRetries(1))
	_, err := c.AIKeys().Get(t.Context(), "", "", "x")
	equal(t, as[*agentrouter.ConnectionError](t, err).Timeout(), true)
	is(t, err, context.DeadlineExceeded)
	equal(t, seen.Load(), int32(2))
}

func TestCancelledCallIsNotRepeated(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var seen atomic.Int32
	url := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		seen.Add(1)
		cancel()
		<-r.Context().Done()
	})
	_, err := client(t, url).AIKeys().Get(ctx, "", "", "x")
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

func TestRegisterKeyTakesItsArgumentsByName(t *testing.T) {
	var path, body string
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		text, _ := io.ReadAll(r.Body)
		path, body = r.URL.Path, string(text)
		_, _ = w.Write([]byte(keyBody))
	})
	params := agentrouter.RegisterParams{Provider: aikeysv1.ProviderOpenai, Name: "openai-prod", Secret: markedSecret, ProjectID: "chat"}
	hidesSecrets(t, params)
	hidesSecrets(t, &params)
	_, err := client(t, url).AIKeys().RegisterKey(t.Context(), params)
	must(t, err)
	equal(t, path, "/v1/customers/-/projects/chat/aikeys")
	equal(t, body, `{"provider":"openai","name":"openai-prod","secret":"`+markedSecret+`","user_scope":false}`)
}

func TestTheAPIKeySourceIsAskedForEachAttempt(t *testing.T) {
	var keys []string
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if keys = append(keys, r.Header.Get("Authorization")); len(keys) == 1 {
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte(keyBody))
	})
	var asked atomic.Int64
	c := client(t, url, agentrouter.WithAPIKeySource(func(context.Context) (string, error) {
		return "ak_" + strconv.FormatInt(asked.Add(1), 10), nil
	}))
	_, err := c.AIKeys().Get(t.Context(), "", "", "byok_1")
	must(t, err)
	equal(t, keys, []string{"Bearer ak_1", "Bearer ak_2"})
}

func TestWithoutAnAPIKeyNothingIsSent(t *testing.T) {
	url := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("a request was sent") })
	expired := errors.New("the session has expired")
	for text, cause := range map[string]error{"": expired, "ak_x\r\n": nil, "\n": nil} {
		c := client(t, url, agentrouter.WithAPIKeySource(func(context.Context) (string, error) { return text, cause }))
		_, err := c.WhoAmI(t.Context())
		found := as[*agentrouter.CredentialError](t, err)
		if cause != nil {
			is(t, found, expired)
		}
	}
}

func TestOptionsOfAllCalls(t *testing.T) {
	var attempts int
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		attempts++
		equal(t, r.Header.Get("X-Tenant"), "acme")
		equal(t, r.Header.Get("Authorization"), "Bearer ak_test")
		w.Header().Set("X-Request-Id", "req-1")
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	var last agentrouter.Response
	c := client(t, url).With(agentrouter.MaxRetries(0), agentrouter.Header("X-Tenant", "acme"), agentrouter.Header("Authorization", "mine"),
		agentrouter.ResponseInto(&last))
	for _, call := range []func() error{
		func() error { _, err := c.WhoAmI(t.Context()); return err },
		func() error { _, err := c.Policy().Get(t.Context(), "", ""); return err },
		func() error { _, err := c.Providers().List(t.Context()); return err },
		func() error { _, err := c.Leaks().Find(t.Context(), "", "", []string{"x"}); return err },
		func() error { _, err := c.AIKeys().Get(t.Context(), "", "", "byok_1"); return err },
	} {
		attempts, last = 0, agentrouter.Response{}
		is(t, call(), agentrouter.ErrUnavailable)
		equal(t, attempts, 1)
		equal(t, last.RequestID, "req-1")
		equal(t, last.Status, http.StatusServiceUnavailable)
	}
	for _, option := range []agentrouter.CallOption{
		agentrouter.Timeout(-1), agentrouter.MaxRetries(-1), agentrouter.Header("", "x"), agentrouter.Header("X", "a\r\nb"),
	} {
		_, err := client(t, url).With(option).WhoAmI(t.Context())
		as[*agentrouter.ArgumentError](t, err)
	}
}

func TestTimeoutOfOneCall(t *testing.T) {
	url := serve(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	_, err := client(t, url).With(agentrouter.Timeout(20*time.Millisecond), agentrouter.MaxRetries(0)).WhoAmI(t.Context())
	equal(t, as[*agentrouter.ConnectionError](t, err).Timeout(), true)
}

func TestAResponsePrintsNeitherHeadersNorBody(t *testing.T) {
	url := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"user_id":"alice","note":"` + markedSecret + `"}`))
	})
	var last agentrouter.Response
	_, err := client(t, url).With(agentrouter.ResponseInto(&last)).WhoAmI(t.Context())
	must(t, err)
	contains(t, string(last.Body()), markedSecret)
	hidesSecrets(t, last)
	hidesSecrets(t, &last)
}

func TestAttemptsAreLoggedWithoutSecrets(t *testing.T) {
	url := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Request-Id", "req-1")
		_, _ = w.Write([]byte(keyBody))
	})
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	c := client(t, url, agentrouter.WithAPIKey(markedKey), agentrouter.WithLogger(logger))
	_, err := c.AIKeys().Register(t.Context(), "", "", "openai", "n", markedSecret, false)
	must(t, err)
	contains(t, log.String(), `method=POST path=/v1/customers/{customer_id}/projects/{project_id}/aikeys`)
	contains(t, log.String(), "status=200 request_id=req-1")
	lacks(t, log.String(), markedKey)
	lacks(t, log.String(), markedSecret)
}

const (
	markedKey    = "ak_MARKED_CREDENTIAL"
	markedSecret = "sk-MARKED-PROVIDER-SECRET"
)

// hidesSecrets fails the test if printing a value shows the marked secrets.
func hidesSecrets(t *testing.T, value any) {
	t.Helper()
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%T"} {
		fmt.Fprintf(&out, verb+"\n", value)
	}
	log.New(&out, "", 0).Println(value)
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", slog.Any("value", value))
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", slog.Any("value", value))
	if text, err := json.Marshal(value); err == nil {
		out.Write(text)
	}
	for _, secret := range []string{markedKey, markedSecret} {
		lacks(t, out.String(), secret)
		lacks(t, out.String(), fmt.Sprintf("%x", secret))
	}
}

func TestPrintingAClientHidesTheAPIKey(t *testing.T) {
	c := client(t, "https://aikeys.example.com", agentrouter.WithAPIKey(markedKey))
	hidesSecrets(t, c)
	hidesSecrets(t, *c)
	hidesSecrets(t, []any{c, struct{ C agentrouter.Client }{*c}})
	hidesSecrets(t, c.AIKeys())
	hidesSecrets(t, *c.AIKeys())
	hidesSecrets(t, agentrouter.WithAPIKey(markedKey))
}

func TestErrorsHideSecrets(t *testing.T) {
	register := func(url string) error {
		c := client(t, url, agentrouter.WithAPIKey(markedKey), agentrouter.WithMaxRetries(0))
		_, err := c.AIKeys().Register(t.Context(), "", "", "openai", "n", markedSecret, false)
		if err == nil {
			t.Fatal("no error")
		}
		return err
	}
	answers := map[string]http.HandlerFunc{
		"a problem": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = w.Write([]byte(`{"code":"invalid_argument","detail":"no"}`))
		},
		"an echo of the request": func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusBadGateway)
			_ = r.Write(w)
		},
		"an echo as a success": func(w http.ResponseWriter, r *http.Request) { _ = r.Write(w) },
		"no answer":            func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"a redirect":           func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/x", http.StatusFound) },
	}
	for name, handler := range answers {
		t.Run(name, func(t *testing.T) {
			for err := register(serve(t, handler)); err != nil; err = errors.Unwrap(err) {
				hidesSecrets(t, err)
			}
		})
	}
	t.Run("no server", func(t *testing.T) {
		server := httptest.NewServer(http.NotFoundHandler())
		server.Close()
		for err := register(server.URL); err != nil; err = errors.Unwrap(err) {
			hidesSecrets(t, err)
		}
	})
}

// The module requires nothing, so that the reference's examples run without a go.sum: hence no assertion library.

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func equal(t *testing.T, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got  %v\nwant %v", got, want)
	}
}

func contains(t *testing.T, text, part string) {
	t.Helper()
	if !strings.Contains(text, part) {
		t.Fatalf("%q does not contain %q", text, part)
	}
}

func lacks(t *testing.T, text, part string) {
	t.Helper()
	if strings.Contains(text, part) {
		t.Fatalf("%q contains %q", text, part)
	}
}

func is(t *testing.T, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Fatalf("%v is not %v", err, target)
	}
}

func as[T error](t *testing.T, err error) T {
	t.Helper()
	found, ok := errors.AsType[T](err)
	if !ok {
		t.Fatalf("%v (%T) is no %T", err, err, found)
	}
	return found
}

func asJSON(t *testing.T, value any) any {
	t.Helper()
	text, err := json.Marshal(value)
	must(t, err)
	var plain any
	must(t, json.Unmarshal(text, &plain))
	return plain
}
