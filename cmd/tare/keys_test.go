package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestKeyLifecycle(t *testing.T) {
	u := alice(t)
	u.env = append(u.env, "PROVIDER=openai", "NAME=reference", "SECRET="+testSecret)
	got := u.run("api", "byok", "add", "--provider", "openai", "--name", "reference", "--secret", testSecret)
	require.Equal(t, exitOK, got.Code, got.Stderr)
	require.Contains(t, got.Stderr, "warning: --secret is visible in process lists")
	require.NotContains(t, got.Output(), "hunter2")
	id := keyIDPattern.FindString(got.Stdout)

	require.Contains(t, u.runOK("api", "byok", "get", id), "…ter2")
	require.Contains(t, u.runOK("api", "byok", "list"), id)
	require.Regexp(t, `complete: 1 of 1 data planes confirmed, slowest \d+ ms`, u.runOK("api", "byok", "remove", "--yes", id))
	require.Regexp(t, `State +revoked`, u.runOK("api", "byok", "get", id))
	require.Contains(t, u.runOK("api", "byok", "remove", "--yes", id), "complete", "revoking again is safe")
}

func TestCredentialDocumentFromAFile(t *testing.T) {
	u := alice(t)
	document := "{\n  \"base_url\": \"https://x\"\n}\n"
	file := filepath.Join(t.TempDir(), "credential.json")
	require.NoError(t, os.WriteFile(file, []byte(document), 0o600))
	got := u.run("api", "byok", "add", "--provider", "azure_openai", "--name", "azure", "--secret-file", file)
	require.Equal(t, exitUsage, got.Code)
	require.NotContains(t, got.Stderr, "see errors", "it says what is wrong, and where")
}

// tare asks the service to test the secret unless the user says otherwise. If the secret is rejected, the error says
// what to do.
func TestAddHasTheSecretTested(t *testing.T) {
	bodies := make(chan string, 1)
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		bodies <- string(body)
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusUnprocessableEntity)
		_, _ = io.WriteString(w, `{"type": "/problems/secret-rejected", "title": "Secret rejected", "status": 422, "code": "failed_precondition",
			"detail": "The provider does not take this secret, so nothing was stored.", "request_id": "x"}`)
	}))
	defer service.Close()
	u := newUserAt(t, service.URL, "ak_x")
	for _, c := range []struct {
		flags         []string
		verify, force bool
	}{
		{nil, true, false},
		{[]string{"--verify", "--force"}, true, true},
		{[]string{"--no-verify"}, false, false},
		{[]string{"--verify=false"}, false, false},
	} {
		got := u.runWithInput(testSecret+"\n", append([]string{"api", "byok", "add", "--provider", "openai", "--name", "n"}, c.flags...)...)
		require.NotEqual(t, exitOK, got.Code)
		require.Contains(t, got.Stderr, "The provider does not take this secret")
		body := <-bodies
		require.Equal(t, c.verify, strings.Contains(body, `"verify":true`), c.flags)
		require.Equal(t, c.force, strings.Contains(body, `"force":true`), c.flags)
		require.NotContains(t, body, `"restrict"`)
		require.NotContains(t, body, `"limit"`)
	}
	u.runWithInput(testSecret+"\n", "api", "byok", "add", "--provider", "openai", "--name", "n", "--restrict-models", "a,b-*", "--limit-rpm", "60")
	body := <-bodies
	require.Contains(t, body, `"restrict":{"models":["a","b-*"]}`)
	require.Contains(t, body, `"limit":{"requests_per_minute":60}`)
}

func TestVerifyShowsTheVerdict(t *testing.T) {
	const id = "byok_01M83VVAHV8M2T5K7N9R4W1XYZ"
	asked := make(chan string, 1)
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.Method + " " + r.URL.Path
		w.Header().Set("Content-Type", "application/json")
		const verification = `{"verdict": "rejected", "reason": "leaked", "checked_at": "2026-11-23T09:40:00Z"}`
		_, _ = io.WriteString(w, `{"verification": `+verification+`, "key": {"id": "`+id+`", "customer_id": "acme", "project_id": "chat",
			"provider": "openai", "name": "n", "display_suffix": "9f3c", "user_scope": false, "created_at": "2026-11-23T09:30:00Z", "created_by": "alice",
			"state": "active", "serves": false, "not_serving_reason": "rejected", "verification": `+verification+`}}`)
	}))
	defer service.Close()
	out := newUserAt(t, service.URL, "ak_x").runOK("api byok verify " + id)
	require.Equal(t, "POST /v1/customers/-/projects/-/aikeys/"+id+"/verify", <-asked)
	require.Contains(t, out, "rejected (leaked), 2026-11-23 09:40:00 UTC")
	require.Contains(t, out, "it is still used, until it is revoked")

	u := alice(t)
	got := u.run("api byok verify " + u.addKey("untested"))
	require.NotEqual(t, exitOK, got.Code)
	require.Contains(t, got.Stderr, "The operator of this service has turned tests of keys off.")
}

func TestIdempotencyKey(t *testing.T) {
	u := alice(t)
	id := u.addKey("repeat", "--idempotency-key", "tare-1")
	require.Equal(t, id, u.addKey("repeat", "--idempotency-key", "tare-1"))
}
