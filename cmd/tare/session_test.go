package main

import (
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFlagsThenEnvironmentThenProfile(t *testing.T) {
	member := []string{
		"AGENTROUTER_BASE_URL=" + live.env["AGENTROUTER_BASE_URL"], "AGENTROUTER_API_KEY=" + live.env["AGENTROUTER_MEMBER_API_KEY"],
	}
	u := newUser(t)
	require.Equal(t, exitOK, u.login(live.env["AGENTROUTER_API_KEY"]).code)
	require.Contains(t, u.runOK("whoami"), "alice")
	u.env = append(u.env, member...)
	require.Contains(t, u.runOK("whoami"), "bob")
	require.Contains(t, u.runOK("whoami --profile default"), "alice", "to name a profile is a flag")
	require.Equal(t, exitUnavailable, u.run("whoami --base-url http://127.0.0.1:1").code)
	require.Contains(t, u.login(live.env["AGENTROUTER_API_KEY"]).stderr, "AGENTROUTER_API_KEY is set here and wins over the profile")
}

func TestProfileKeyIsForItsOwnServer(t *testing.T) {
	other := newFakeService(t, func(_ string, w http.ResponseWriter, _ *http.Request) { writeJSON(w, http.StatusOK, sessionDocument()) })
	u := newUser(t)
	require.Equal(t, exitOK, u.login(live.env["AGENTROUTER_API_KEY"]).code)
	got := u.run("whoami", "--base-url", other.URL)
	require.Equal(t, exitUsage, got.code)
	require.Contains(t, got.stderr, "is only for "+live.env["AGENTROUTER_BASE_URL"])
	u.env = append(u.env, "AGENTROUTER_BASE_URL="+other.URL)
	require.Equal(t, exitUsage, u.run("whoami").code)
	require.Empty(t, other.requestsSoFar())
	require.Equal(t, exitOK, u.run("whoami", "--base-url", live.env["AGENTROUTER_BASE_URL"]+"/").code, "the same one, with a slash")
}

func TestProfileKeepsItsProject(t *testing.T) {
	u := newUser(t)
	require.Equal(t, exitOK, u.login(live.env["AGENTROUTER_API_KEY"], "--project", "other").code)
	require.Equal(t, exitDenied, u.run("api byok list").code)
	require.Equal(t, exitOK, u.run("api byok list --project chat").code)
	require.Contains(t, u.runOK("profiles list"), "acme/other")
}

func TestBaseURLChecks(t *testing.T) {
	u := newUserAt(t, "http://192.0.2.1", "ak_EXAMPLE")
	got := u.run("whoami")
	require.Equal(t, exitUsage, got.code)
	require.Contains(t, got.stderr, "--insecure")
	require.Equal(t, exitUnavailable, u.run("whoami --insecure --timeout 50ms").code)
	require.Equal(t, exitUsage, newUser(t).runWithInput("ak_x", "login --base-url http://192.0.2.1").code)
	for _, address := range []string{"hunter2", "ftp://x", "https://u:hunter2@x", "https://x?k=hunter2", "https://x#hunter2", "http://"} {
		got := newUserAt(t, address, "ak_EXAMPLE").run("whoami")
		require.Equal(t, exitUsage, got.code, address)
		require.NotContains(t, got.all(), "hunter2")
	}
	require.Equal(t, exitUsage, newUser(t, "AGENTROUTER_API_KEY=ak_x").run("whoami").code, "a key, and nowhere to go")
}

func TestExpiredKeyHint(t *testing.T) {
	var ended atomic.Bool
	s := newFakeService(t, func(_ string, w http.ResponseWriter, _ *http.Request) {
		if ended.Load() {
			writeProblem(w, http.StatusUnauthorized, "unauthenticated", "This API key has been revoked or has expired; ask for a new one.")
			return
		}
		writeJSON(w, http.StatusOK, sessionDocument())
	})
	u := newUser(t)
	require.Equal(t, exitOK, u.runWithInput("ak_EXAMPLE_ended", "login", "--base-url", s.URL, "--profile", "old").code)
	ended.Store(true)
	got := u.run("api byok list")
	require.Equal(t, exitUnauthenticated, got.code)
	require.Contains(t, got.stderr, "This API key has been revoked or has expired")
	require.Contains(t, got.stderr, "tare login --profile old")
}
