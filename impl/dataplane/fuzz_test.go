package dataplane_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/aikeys/aikeystest"
)

// FuzzFetchBody: whatever the body, the answer is documented, is no fault of ours, repeats no credential but in the key that
// it is answered with, and is of the key that a strict reader of the body would have. "SECRET" in a body stands for text
// that nothing may show, TOKEN for a good credential, and KEY for a key's id.
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
		require.Empty(t, complaints(req, resp, recorder.Body.Bytes()))
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
