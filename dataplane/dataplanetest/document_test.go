package dataplanetest_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers/legacy"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
	gen "github.com/agentrouter/aikeys/gen/dataplane"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestEveryAnswerIsAsTheDocumentHasIt(t *testing.T) {
	document, err := gen.GetSpec()
	require.NoError(t, err)
	document.Servers = nil
	router, err := legacy.NewRouter(document)
	require.NoError(t, err)
	cp := dataplanetest.NewControlPlane(t)
	id := cp.RegisterKey(dataplanetest.Key{})
	revoked := cp.RegisterKey(dataplanetest.Key{})
	cp.RevokeKey(revoked)
	cp.AddCredential("ak_1", dataplanetest.Credential{Valid: time.Minute})
	cp.SetPolicy("acme", "strict", dataplanetest.Policy{UserKeys: "require"})
	for _, tc := range []struct {
		path, body string
		status     int
	}{
		{"/v1/fetch", `{"key_id":"` + id + `"}`, 200},
		{"/v1/fetch", `{"credential":"ak_1","provider":"openai"}`, 200},
		{"/v1/fetch", `{"customer_id":"acme","project_id":"chat","user_id":"alice","provider":"openai"}`, 200},
		{"/v1/fetch", `{"key_id":"` + revoked + `"}`, 403},
		{"/v1/fetch", `{"credential":"ak_2","provider":"openai"}`, 422},
		{"/v1/fetch", `{"customer_id":"acme","project_id":"chat","user_id":"mallory","provider":"openai"}`, 403},
		{"/v1/fetch", `{"customer_id":"acme","project_id":"chat","provider":"gemini"}`, 404},
		{"/v1/fetch", `{"customer_id":"acme","project_id":"strict","provider":"openai"}`, 404},
		{"/v1/fetch", `{"provider":"openai"}`, 400},
		{"/v1/fetch", `{"unknown":1}`, 400},
		{"/v1/acknowledgements", `{"session_id":"00000000000000000000000009","position":"1:1:"}`, 404},
		{"/v1/acknowledgements", `{"session_id":"00000000000000000000000009","position":"1"}`, 400},
		{"/v1/reports", `{"keys":[{"key_id":"` + id + `","used_ms_ago":1}]}`, 204},
		{"/v1/reports", `{"keys":[]}`, 400},
	} {
		body := strings.NewReader(tc.body)
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, cp.URL()+tc.path, body)
		require.NoError(t, err)
		request.Header.Set("Content-Type", "application/json")
		request.Header.Set("Authorization", "Bearer "+dataplanetest.Token)
		response, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		answer, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.Equal(t, tc.status, response.StatusCode, "%s: %s", tc.body, answer)
		request.URL.Scheme, request.URL.Host = "", ""
		route, parameters, err := router.FindRoute(request)
		require.NoError(t, err)
		input := &openapi3filter.RequestValidationInput{Request: request, PathParams: parameters, Route: route}
		require.NoError(t, openapi3filter.ValidateResponse(t.Context(), &openapi3filter.ResponseValidationInput{
			RequestValidationInput: input, Status: response.StatusCode, Header: response.Header,
			Body: io.NopCloser(bytes.NewReader(answer)),
		}), tc.body)
	}
	http.DefaultClient.CloseIdleConnections()
}

func TestEveryMessageOfTheStreamIsAsTheDocumentHasIt(t *testing.T) {
	document, err := gen.GetSpec()
	require.NoError(t, err)
	schema := document.Components.Schemas["StreamMessage"].Value
	cp := dataplanetest.NewControlPlane(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, cp.URL()+"/v1/events", http.NoBody)
	require.NoError(t, err)
	request.Header.Set("Authorization", "Bearer "+dataplanetest.Token)
	request.Header.Set("Last-Event-ID", "4000:4000:")
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer func() { _ = response.Body.Close() }()
	id := cp.RegisterKey(dataplanetest.Key{UserID: "alice"})
	cp.AddCredential("ak_1", dataplanetest.Credential{})
	cp.RevokeCredential("ak_1")
	cp.RemoveMember("acme", "chat", "alice")
	cp.SetPolicy("acme", "chat", dataplanetest.Policy{})
	cp.FailKey(id)
	cp.RevokeKey(id)
	wanted := map[string]bool{
		"hello": true, "heartbeat": true, "key.registered": true, "key.revoked": true, "key.failing": true,
		"policy.set": true, "member.set": true, "member.removed": true, "token.created": true, "token.revoked": true,
	}
	lines := bufio.NewScanner(response.Body)
	for len(wanted) > 0 && lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		var message map[string]any
		require.NoError(t, json.Unmarshal([]byte(data), &message))
		require.NoError(t, schema.VisitJSON(message, openapi3.MultiErrors()), data)
		kind, ok := message["type"].(string)
		require.True(t, ok)
		delete(wanted, kind)
	}
	require.Empty(t, wanted)
}
