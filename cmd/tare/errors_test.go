package main

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestUncertainWritesAreReported(t *testing.T) {
	t.Parallel()
	s := newFakeService(t, func(_ string, _ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	got := s.user(t).run("api", "byok", "remove", "--yes", sampleID, "--timeout", "100ms", "--wait", "0")
	require.Equal(t, exitUnavailable, got.Code)
	require.Contains(t, got.Stderr, "The key may have been revoked anyway.")
	got = s.user(t).runWithInput(testSecret, "api byok add --provider openai --name x --timeout 100ms")
	require.Equal(t, exitUnavailable, got.Code)
	require.Contains(t, got.Stderr, "The key may have been registered anyway")
	got = newUserAt(t, "http://127.0.0.1:1", "ak_x").run("api", "byok", "remove", "--yes", sampleID)
	require.NotContains(t, got.Stderr, "anyway", "nothing was sent")
}

func TestExitCodesAndHints(t *testing.T) {
	t.Parallel()
	problem := func(status int, code string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { writeProblem(w, status, code, "Something happened.") }
	}
	for name, tc := range map[string]struct {
		answer http.HandlerFunc
		code   int
		says   string
	}{
		"unavailable, for longer than a command should last": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "60")
			writeProblem(w, http.StatusServiceUnavailable, "unavailable", "The database is away.")
		}, exitUnavailable, "Try again in 1m0s."},
		"too many requests": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "31")
			writeProblem(w, http.StatusTooManyRequests, "resource_exhausted", "Too many.")
		}, exitUnavailable, "Try again in 31s."},
		"a fault of the service": {problem(500, "internal"), exitFailure, "quote the request 01M83VVAHQQW2E4R6T8Y0A1S3D"},
		"unauthenticated":        {problem(401, "unauthenticated"), exitUnauthenticated, "tare login"},
		"denied":                 {problem(403, "permission_denied"), exitDenied, "Something happened."},
		"not found":              {problem(404, "not_found"), exitNotFound, "tare api byok list"},
		"taken":                  {problem(409, "already_exists"), exitConflict, "Something happened."},
		"the last owner":         {problem(409, "failed_precondition"), exitConflict, "Something happened."},
		"a value":                {problem(400, "invalid_argument"), exitUsage, "Something happened."},
		"a used-up idempotency":  {problem(422, "failed_precondition"), exitUsage, "Something happened."},
		"not our service": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte("<html>hello</html>"))
		}, exitFailure, "the address of AgentRouter AI Keys?"},
		"a redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://elsewhere.example", http.StatusFound)
		}, exitFailure, "the address of AgentRouter AI Keys?"},
		"an answer cut short": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = w.Write([]byte(`{"keys":`))
		}, exitUnavailable, "no connection to http://127.0.0.1:"},
		"silence": {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, exitUnavailable, "--timeout"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newFakeService(t, func(_ string, w http.ResponseWriter, r *http.Request) { tc.answer(w, r) })
			timeout := "10s"
			if name == "silence" {
				timeout = "300ms"
			}
			got := s.user(t).run("api", "byok", "list", "--timeout", timeout)
			require.Equal(t, tc.code, got.Code, got.Stderr)
			require.Contains(t, got.Stderr, tc.says)
			require.Empty(t, got.Stdout)
			require.NotContains(t, got.Output(), "ak_EXAMPLE")
		})
	}
	got := newUserAt(t, "http://127.0.0.1:1", "ak_EXAMPLE").run("api byok list")
	require.Equal(t, exitUnavailable, got.Code)
	require.Contains(t, got.Stderr, "no connection to http://127.0.0.1:1: ")
	require.Contains(t, got.Stderr, "is the service up?")
}

func TestUnavailableServiceIsRetried(t *testing.T) {
	t.Parallel()
	var calls atomic.Int32
	s := newFakeService(t, func(_ string, w http.ResponseWriter, _ *http.Request) {
		if calls.Add(1) == 1 {
			w.Header().Set("Retry-After", "0")
			writeProblem(w, http.StatusServiceUnavailable, "unavailable", "starting")
			return
		}
		writeJSON(w, http.StatusOK, map[string]any{"keys": []any{keyDocument("back")}})
	})
	require.Contains(t, s.user(t).runOK("api byok list"), "back")
}

func TestDeniedNamesUserAndOwners(t *testing.T) {
	got := bob(t).runWithInput(testSecret, "api byok add --provider openai --name x")
	require.Equal(t, exitDenied, got.Code)
	require.Contains(t, got.Stderr, "You are bob, a member of acme/chat. Its owners: alice.")
	got = bob(t).run("api byok list --project other")
	require.Equal(t, exitDenied, got.Code)
	require.Contains(t, got.Stderr, "You are bob, not a member of that project. Your session's project is acme/chat.")
}

func TestMisspeltProviderIsSuggested(t *testing.T) {
	u := alice(t)
	for _, command := range []string{
		"api byok list --provider opnai", "api byok resolve --provider opnai", "api byok add --provider opnai --name x",
	} {
		got := u.runWithInput(testSecret, command)
		require.Equal(t, exitUsage, got.Code)
		require.Contains(t, got.Stderr, `the service knows no provider "opnai"`)
		require.Contains(t, got.Stderr, "Did you mean openai? There are openai, anthropic, ")
	}
	got := u.run("api", "byok", "list", "--provider", testSecret)
	require.NotContains(t, got.Output(), "hunter2", "a secret in a provider's place is not repeated")
}

func TestSecretOfAnotherProvider(t *testing.T) {
	got := alice(t).runWithInput("sk-ant-EXAMPLE-hunter2-EXAMPLE", "api byok add --provider openai --name x")
	require.Equal(t, exitUsage, got.Code)
	require.Contains(t, got.Stderr, "tare: The secret looks like a key of Anthropic, not of OpenAI.")
	require.NotContains(t, got.Stderr, "hunter2")
}

func TestTimeoutCoversRetries(t *testing.T) {
	t.Parallel()
	s := newFakeService(t, func(_ string, _ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	got := s.user(t).run("whoami --timeout 300ms")
	require.Equal(t, exitUnavailable, got.Code)
	require.Contains(t, got.Stderr, "within 300ms")
}

func TestNearestWord(t *testing.T) {
	words := []string{"openai", "anthropic", "azure_openai", "groq", "vertex", "vertexanthropic"}
	for meant, want := range map[string]string{
		"opnai": "openai", "OpenAI": "openai", "antropic": "anthropic", "azure": "azure_openai", "grok": "groq", "anth": "anthropic",
		"zzz": "", "": "", "x": "",
	} {
		require.Equal(t, want, nearestWord(meant, words), meant)
	}
}

func TestExitCodesAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/tare.md")
	require.NoError(t, err)
	help := strings.Join(strings.Fields(newUser(t).runOK("help exit-codes")), " ")
	for _, row := range exitCodes() {
		require.Contains(t, help, fmt.Sprintf("%d %s", row.code, row.meaning))
		require.Contains(t, string(page), fmt.Sprintf("| %d | %s |\n", row.code, row.meaning))
	}
	require.Contains(t, newUser(t).runOK("help environment"), "AGENTROUTER_API_KEY")
}
