package agentrouter_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	agentrouter "github.com/tetrateio/agentrouter-go"
	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"
)

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
