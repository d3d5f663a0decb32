package agentrouter_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	agentrouter "github.com/tetrateio/agentrouter-go"
)

const (
	markedKey    = "ak_MARKED_CREDENTIAL"
	markedSecret = "sk-MARKED-PROVIDER-SECRET"
)

// shown is every way in which a program prints a value, deep ones included.
func shown(t *testing.T, value any) string {
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
	return out.String()
}

func hidesSecrets(t *testing.T, value any) {
	t.Helper()
	text := shown(t, value)
	for _, secret := range []string{markedKey, markedSecret} {
		lacks(t, text, secret)
		lacks(t, text, fmt.Sprintf("%x", secret))
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
