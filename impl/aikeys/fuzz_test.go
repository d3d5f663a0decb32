package aikeys_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/aikeys/aikeystest"
)

// FuzzRegisterBody: whatever the body, the answer is documented, is not a 5xx, and repeats no secret. "SECRET" in a
// body stands for one.
func FuzzRegisterBody(f *testing.F) {
	for _, seed := range []string{
		`{"provider":"openai","name":"n","secret":"sk-SECRET"}`,
		`{"provider":"anthropic","name":"n","secret":"sk-SECRET","user_scope":true}`,
		`{"provider":"SECRET","name":"n","secret":"sk-SECRET"}`,
		`{"provider":"openai","name":"SECRET","secret":"SECRET"}`,
		`{"provider":"openai","name":" n","secret":" SECRET"}`,
		`{"provider":"azure_openai","name":"n","secret":"{\"resource\":\"r\",\"api_key\":\"SECRET\"}"}`,
		`{"provider":"vertex","name":"n","secret":"{\"type\":\"SECRET\"}"}`,
		`{"provider":"bedrock","name":"n","secret":"SECRET"}`,
		`{"SECRET":1,"secret":"SECRET","Secret":"SECRET"}`,
		`{"provider":"openai","name":"n","secret":"SECRET","secret":"x"}`,
		`{"provider":"openai","name":"n","secret":{"SECRET":["SECRET"]}}`,
		`{"provider":"openai","name":"n","secret":"sk-SECRET"}{"SECRET":1}`,
		"\xef\xbb\xbf{}", "null", "[]", `"SECRET"`, "", "{", `{"name":"\ud800"}`, `{"name":"\u0000","secret":"SECRET\u0000"}`,
	} {
		f.Add([]byte(seed))
	}
	s := aikeystest.Start(f, aikeystest.Options{})
	token := s.As(owner).Token
	f.Fuzz(func(t *testing.T, body []byte) {
		secret := s.Secret()
		sent := bytes.ReplaceAll(body, []byte("SECRET"), []byte(secret))
		req := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/v1/aikeys", bytes.NewReader(sent))
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Authorization", "Bearer "+token)
		reply, complaints := s.Serve(req)
		require.Empty(t, complaints)
		require.Less(t, reply.Status, http.StatusInternalServerError)
		require.Empty(t, aikeystest.FindIn([]byte(s.Evidence.Log()), secret), "in the log")
		if reply.Status == http.StatusCreated {
			requireStored(t, reply, sent, secret)
		} else {
			require.Empty(t, aikeystest.FindIn(reply.Body, secret), "in the reply")
		}
		s.Evidence.Forget()
	})
}

// requireStored asserts that a key which was taken is the one that was sent, as a strict reader reads it.
func requireStored(t *testing.T, reply aikeystest.Reply, sent []byte, secret string) {
	t.Helper()
	var body struct {
		Provider, Name, Secret string
		UserScope              bool `json:"user_scope"`
	}
	decoder := json.NewDecoder(bytes.NewReader(sent))
	decoder.DisallowUnknownFields()
	require.NoError(t, decoder.Decode(&body))
	key := decode[gen.RegisterResponse](t, reply).Key
	require.Equal(t, []any{body.Provider, body.Name, body.UserScope}, []any{key.Provider, key.Name, key.UserScope})
	require.LessOrEqual(t, 4*len(key.DisplaySuffix), len(body.Secret))
	if !strings.Contains(body.Name, secret[:16]) && !strings.Contains(body.Name, secret[16:]) {
		require.Empty(t, aikeystest.FindIn(reply.Body, secret), "in the reply")
	}
}

// FuzzPath: whatever the path, the answer is documented, is not a 5xx, and shows nothing of another customer's.
func FuzzPath(f *testing.F) {
	for _, o := range aikeystest.Operations(f) {
		f.Add(o.Method, o.Path)
		f.Add(o.Method, strings.ReplaceAll(o.Path, "/-", "/"))
	}
	for _, seed := range []string{
		"/v1/aikeys/%2e%2e", "/v1/customers/globex/projects/web/aikeys", "/v1/customers/acme%2Fprojects%2Fweb/projects//aikeys",
		"//v1/aikeys", "/v1/aikeys/" + exampleKey + "?wait=2s", "/v1/aikeys?page_size=1&page_token=YnlvazY", "/v1/aikeys?a=%zz",
		"/v1/customers/../projects/./aikeys", "*", "/v1/customers/globex%00/projects/web/aikeys", "/v1/customers//projects//members/%C3%A9",
	} {
		f.Add(http.MethodGet, seed)
		f.Add(http.MethodDelete, seed)
	}
	s := aikeystest.Start(f, aikeystest.Options{})
	foreign := s.Session(aikeystest.OtherCustomer, aikeystest.Project, owner)
	const name = "of-another-customer"
	hidden := foreign.Register(f, s.Shared(name))
	token := s.As(owner).Token
	f.Fuzz(func(t *testing.T, method, path string) {
		req, err := http.NewRequestWithContext(t.Context(), method, "http://localhost"+path, http.NoBody)
		if err != nil || !slices.Contains([]string{"GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"}, method) {
			return // what net/http would not let through
		}
		req.Header.Set("Authorization", "Bearer "+token)
		reply, complaints := s.Serve(req)
		require.Empty(t, complaints)
		require.Less(t, reply.Status, http.StatusInternalServerError)
		require.NotContains(t, string(reply.Body), name)
		require.NotContains(t, string(reply.Body), hidden.ID)
		s.Evidence.Forget()
	})
}
