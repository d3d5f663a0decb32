package dataplane_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/impl/aikeys/aikeystest"
	gensecret "github.com/agentrouter/aikeys/internal/secret"
	"github.com/agentrouter/aikeys/models"
)

// FuzzFetchBody checks that for every body the answer is documented, is not a 5xx, repeats no credential, and holds a key only if a strict parser finds a
// request for it in the body. In a body, SECRET stands for text that must not be repeated, TOKEN for a valid credential, and KEY
// for a key's id.
func FuzzFetchBody(f *testing.F) {
	for _, seed := range []string{
		`{"credential":"TOKEN","provider":"openai"}`, `{"credential":"TOKEN","project_id":"web","provider":"openai"}`,
		`{"Credential":"TOKEN","provider":"openai"}`, `{"credential":"SECRET","provider":"SECRET"}`, `{"key_id":"KEY"}`,
		`{"customer_id":"acme","project_id":"web","provider":"openai","user_id":"mia"}`,
		`{"customer_id":"globex","project_id":"web","provider":"openai"}`, `{"key_id":"KEY","key_id":"SECRET"}`,
		`{"key_id":"KEY","provider":"openai"}`, `{"credential":"TOKEN","provider":"openai","customer_id":null}`,
		`{"credential":"TOKEN","provider":"openai"}{"key_id":"KEY"}`, `{"SECRET":1}`, "null", "[]", `"SECRET"`, "", "{", `{"credential":"\u0000"}`,
	} {
		f.Add([]byte(seed))
	}
	checked, err := contract()
	require.NoError(f, err)
	s := start(f, "sqlite", options{})
	dp, key, token := s.dataPlane(serving(acme)), s.shared("openai"), s.public.As(member).Token
	f.Fuzz(func(t *testing.T, body []byte) {
		secret := s.marked()
		sent := bytes.ReplaceAll(body, []byte("SECRET"), []byte(secret))
		sent = bytes.ReplaceAll(sent, []byte("TOKEN"), []byte(token))
		sent = bytes.ReplaceAll(sent, []byte("KEY"), []byte(key.ID))
		req := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/v1/fetch", bytes.NewReader(sent))
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Authorization", "Bearer "+dp.token)
		recorder := httptest.NewRecorder()
		s.handler.ServeHTTP(recorder, req.Clone(t.Context()))
		resp := recorder.Result()
		require.NoError(t, resp.Body.Close())
		require.Empty(t, checked.Complaints(req, resp, recorder.Body.Bytes()))
		require.Less(t, resp.StatusCode, http.StatusInternalServerError)
		require.Empty(t, aikeystest.FindIn([]byte(s.log.String()), secret), "in the log")
		require.Empty(t, aikeystest.FindIn(recorder.Body.Bytes(), secret), "in the reply")
		if resp.StatusCode == http.StatusOK {
			var read struct {
				Credential, Provider string
				CustomerID           string `json:"customer_id"`
				ProjectID            string `json:"project_id"`
				UserID               string `json:"user_id"`
				KeyID                string `json:"key_id"`
			}
			decoder := json.NewDecoder(bytes.NewReader(sent))
			decoder.DisallowUnknownFields()
			require.NoError(t, decoder.Decode(&read))
			require.True(t, read.KeyID == key.ID || read.Provider == "openai")
			require.True(t, read.KeyID != "" || read.Credential == token || read.CustomerID == acme)
		}
		s.log.reset()
		s.spans.Reset()
		s.mu.Lock()
		s.hidden = nil
		s.mu.Unlock()
	})
}

// Of all combinations of fields, exactly those that the document's text allows are accepted.
func TestFetchIdentifiesKeyInOneMode(t *testing.T) {
	s := start(t, "sqlite", options{})
	dp, key := s.dataPlane(), s.shared("openai")
	const names = 6
	for mask := range 1 << names {
		var given []string
		has := func(i int) bool { return mask&(1<<i) != 0 }
		body := gen.FetchRequest{}
		set := func(i int, name string, to **string, value string) {
			if has(i) {
				*to, given = &value, append(given, name)
			}
		}
		if has(0) {
			body.Credential, given = ptr(gensecret.New(s.credential(member))), append(given, "credential")
		}
		set(1, "customer_id", &body.CustomerID, acme)
		set(2, "project_id", &body.ProjectID, web)
		set(3, "user_id", &body.UserID, member)
		set(4, "provider", &body.Provider, "openai")
		set(5, "key_id", &body.KeyID, key.ID)
		text := strings.Join(given, " ")
		switch text {
		case "credential provider", "credential project_id provider", "customer_id project_id provider",
			"customer_id project_id user_id provider", "key_id":
			require.Equal(t, http.StatusOK, fetch(t, dp, body).StatusCode(), text)
			continue
		}
		doc := requireRefused(t, fetch(t, dp, body), http.StatusBadRequest, "invalid-argument")
		require.NotEmpty(t, doc.Errors, text)
		for _, field := range doc.Errors {
			require.Contains(t, []string{"body", "customer_id", "project_id", "user_id", "provider", "key_id"}, field.Field, text)
		}
	}
	doc := requireRefused(t, fetch(t, dp, forUser(web, member, "nonesuch")), http.StatusBadRequest, "invalid-argument")
	require.Equal(t, "provider", doc.Errors[0].Field)
	allowed := 0
	for _, r := range s.records(acme, web) {
		require.Equal(t, models.OutcomeAllowed, r.Decision)
		allowed++
	}
	require.Equal(t, 5, allowed, "a refused body leaves no record")
}
