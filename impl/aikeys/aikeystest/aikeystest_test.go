package aikeystest

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/agentrouter/aikeys/models/modelstest"
)

func TestMain(m *testing.M) { modelstest.Main(m) }

// A check that notices nothing would pass every reply. So each check gets a reply that it must refuse.
func TestTheContractCheckNotices(t *testing.T) {
	const id = "01JD8Q6Z3VQW2E4R6T8Y0A1S3D"
	problem := func(status, code string) string {
		return `{"type":"/problems/x","title":"X","status":` + status + `,"detail":"d","instance":"urn:request:` + id + `","code":"` +
			code + `","request_id":"` + id + `"}`
	}
	const key = `"id":"byok_01","customer_id":"acme","project_id":"web","provider":"openai","name":"n","display_suffix":"wxyz",` +
		`"user_scope":false,"created_by":"olga","state":"active"`
	const created = `,"created_at":"2026-11-23T09:30:00Z"`
	cases := map[string]struct {
		method, path string
		status       int
		header       map[string]string
		body, notice string
	}{
		"a good reply":              {"GET", "/v1/aikeys/byok_1", 200, nil, `{"key":{` + key + created + `}}`, ""},
		"an undocumented status":    {"GET", "/v1/aikeys", 404, nil, problem("404", "not_found"), "status is not supported"},
		"another content type":      {"GET", "/v1/aikeys", 200, map[string]string{"Content-Type": "text/plain"}, `{"keys":[]}`, "Content-Type"},
		"a missing member":          {"GET", "/v1/aikeys", 200, nil, `{}`, "match schema"},
		"a member of another type":  {"GET", "/v1/aikeys", 200, nil, `{"keys":{}}`, "match schema"},
		"an unknown member":         {"GET", "/v1/aikeys", 200, nil, `{"keys":[],"more":1}`, "match schema"},
		"an unknown value":          {"GET", "/v1/aikeys", 200, nil, `{"keys":[{` + strings.Replace(key, `"active"`, `"lost"`, 1) + created + `}]}`, "match schema"},
		"a malformed time":          {"GET", "/v1/aikeys", 200, nil, `{"keys":[{` + key + `,"created_at":"today"}]}`, "match schema"},
		"an unknown code":           {"GET", "/v1/aikeys", 400, nil, problem("400", "oops"), "match schema"},
		"another status within":     {"GET", "/v1/aikeys", 400, nil, problem("403", "invalid_argument"), "problem says status 403"},
		"another request id within": {"GET", "/v1/aikeys", 400, map[string]string{"X-Request-Id": ""}, problem("400", "invalid_argument"), "X-Request-Id"},
		"a 401 without a scheme":    {"GET", "/v1/aikeys", 401, nil, problem("401", "unauthenticated"), "WWW-Authenticate"},
		"a 503 without a time":      {"GET", "/v1/aikeys", 503, nil, problem("503", "unavailable"), "Retry-After"},
		"a 429 with a bad time":     {"GET", "/v1/aikeys", 429, map[string]string{"Retry-After": "soon"}, problem("429", "resource_exhausted"), "Retry-After"},
		"a 405 without Allow":       {"PATCH", "/v1/aikeys", 405, nil, problem("405", "invalid_argument"), "Allow"},
		"an error that is text":     {"GET", "/nowhere", 404, map[string]string{"Content-Type": "text/plain"}, `404`, "content type"},
		"success without a route":   {"GET", "/nowhere", 200, nil, `{}`, "not in the document"},
		"a reply to be cached":      {"GET", "/v1/aikeys", 200, map[string]string{"Cache-Control": "public"}, `{"keys":[]}`, "Cache-Control"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			header := http.Header{"X-Request-Id": {id}, "Cache-Control": {"no-store"}, "X-Content-Type-Options": {"nosniff"}, "Content-Type": {"application/json"}}
			if tc.status >= 400 {
				header.Set("Content-Type", "application/problem+json")
			}
			for name, value := range tc.header {
				header.Set(name, value)
			}
			req, err := http.NewRequestWithContext(t.Context(), tc.method, "http://h"+tc.path, http.NoBody)
			require.NoError(t, err)
			found := newContract(t).Complaints(req, &http.Response{StatusCode: tc.status, Header: header}, []byte(tc.body))
			if tc.notice == "" {
				require.Empty(t, found)
				return
			}
			require.NotEmpty(t, found)
			require.Contains(t, strings.Join(found, "\n"), tc.notice)
		})
	}
}

func TestTheSecretCheckNotices(t *testing.T) {
	s := Start(t, Options{})
	letOut := map[string]func(secret string){
		"the log":  func(secret string) { _, _ = s.Evidence.Write([]byte("x" + secret)) },
		"a reply":  func(secret string) { s.Evidence.Keep(&http.Response{}, []byte(`{"a":"`+secret+`"}`)) },
		"a header": func(secret string) { s.Evidence.Keep(&http.Response{Header: http.Header{"X": {secret}}}, nil) },
	}
	for name, leak := range letOut {
		t.Run(name, func(t *testing.T) {
			secret := s.Secret()
			require.Empty(t, s.Evidence.Leaks())
			leak(secret)
			leaks := s.Evidence.Leaks()
			require.Len(t, leaks, 1)
			require.NotContains(t, leaks[0], secret)
			s.Evidence.Forget()
		})
	}
}

func TestASecretIsFoundInEveryForm(t *testing.T) {
	secret := Start(t, Options{}).Secret()
	for _, form := range forms(secret[:16]) {
		require.NotEmpty(t, form.text)
		require.NotEmpty(t, FindIn([]byte("before "+form.text+" after"), secret), form.name)
	}
	require.NotEmpty(t, FindIn([]byte(secret[16:]), secret), "half of it")
	require.Empty(t, FindIn([]byte(secret[24:]), secret), "what people may see")
	require.Empty(t, FindIn([]byte("nothing"), secret))
}

func TestAServiceLeavesNothingBehind(t *testing.T) {
	before := goleak.IgnoreCurrent()
	t.Run("service", func(t *testing.T) {
		s := Start(t, Options{})
		key := s.As(Owner).Register(t, s.Shared("n"))
		reply := s.Send(t, Request{Method: "GET", Path: "/v1/aikeys/" + key.ID, Token: s.As(Member).Token})
		require.Equal(t, http.StatusOK, reply.Status)
		require.NotEmpty(t, s.LogLine(t, reply))
		require.Contains(t, s.Evidence.Metrics(), `operation="getKey"`)
		require.Contains(t, s.Evidence.Spans(), "getKey")
	})
	goleak.VerifyNone(t, before)
}
