package main

import (
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/internal/secret"
)

func TestFlagsThenEnvironmentThenProfile(t *testing.T) {
	member := []string{
		"AGENTROUTER_BASE_URL=" + live.env["AGENTROUTER_BASE_URL"], "AGENTROUTER_API_KEY=" + live.env["AGENTROUTER_MEMBER_API_KEY"],
	}
	u := newUser(t)
	require.Equal(t, exitOK, u.login(live.env["AGENTROUTER_API_KEY"]).Code)
	require.Contains(t, u.runOK("whoami"), "alice")
	u.env = append(u.env, member...)
	require.Contains(t, u.runOK("whoami"), "bob")
	require.Contains(t, u.runOK("whoami --profile default"), "alice", "to name a profile is a flag")
	require.Equal(t, exitUnavailable, u.run("whoami --base-url http://127.0.0.1:1").Code)
	require.Contains(t, u.login(live.env["AGENTROUTER_API_KEY"]).Stderr, "AGENTROUTER_API_KEY is set here and wins over the profile")
}

func TestProfileKeyIsForItsOwnServer(t *testing.T) {
	other := newFakeService(t, func(_ string, w http.ResponseWriter, _ *http.Request) { writeJSON(w, http.StatusOK, sessionDocument()) })
	u := newUser(t)
	require.Equal(t, exitOK, u.login(live.env["AGENTROUTER_API_KEY"]).Code)
	got := u.run("whoami", "--base-url", other.URL)
	require.Equal(t, exitUsage, got.Code)
	require.Contains(t, got.Stderr, "is only for "+live.env["AGENTROUTER_BASE_URL"])
	u.env = append(u.env, "AGENTROUTER_BASE_URL="+other.URL)
	require.Equal(t, exitUsage, u.run("whoami").Code)
	require.Empty(t, other.requestsSoFar())
	require.Equal(t, exitOK, u.run("whoami", "--base-url", live.env["AGENTROUTER_BASE_URL"]+"/").Code, "the same one, with a slash")
}

func TestProfileKeepsItsProject(t *testing.T) {
	u := newUser(t)
	require.Equal(t, exitOK, u.login(live.env["AGENTROUTER_API_KEY"], "--project", "other").Code)
	require.Equal(t, exitDenied, u.run("api byok list").Code)
	require.Equal(t, exitOK, u.run("api byok list --project chat").Code)
	require.Contains(t, u.runOK("profiles list"), "acme/other")
}

func TestBaseURLChecks(t *testing.T) {
	u := newUserAt(t, "http://192.0.2.1", "ak_EXAMPLE")
	got := u.run("whoami")
	require.Equal(t, exitUsage, got.Code)
	require.Contains(t, got.Stderr, "--insecure")
	require.Equal(t, exitUnavailable, u.run("whoami --insecure --timeout 50ms").Code)
	require.Equal(t, exitUsage, newUser(t).runWithInput("ak_x", "login --base-url http://192.0.2.1").Code)
	for _, address := range []string{"hunter2", "ftp://x", "https://u:hunter2@x", "https://x?k=hunter2", "https://x#hunter2", "http://"} {
		got := newUserAt(t, address, "ak_EXAMPLE").run("whoami")
		require.Equal(t, exitUsage, got.Code, address)
		require.NotContains(t, got.Output(), "hunter2")
	}
	require.Equal(t, exitUsage, newUser(t, "AGENTROUTER_API_KEY=ak_x").run("whoami").Code, "a key, and nowhere to go")
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
	require.Equal(t, exitOK, u.runWithInput("ak_EXAMPLE_ended", "login", "--base-url", s.URL, "--profile", "old").Code)
	ended.Store(true)
	got := u.run("api byok list")
	require.Equal(t, exitUnauthenticated, got.Code)
	require.Contains(t, got.Stderr, "This API key has been revoked or has expired")
	require.Contains(t, got.Stderr, "tare login --profile old")
}

func TestRefusedSessionTokenIsRenewedOnce(t *testing.T) {
	t.Parallel()
	fresh := jwt(`{"exp":9999999999,"jti":"second"}`)
	for accepted, want := range map[string]int{fresh: exitOK, "another": exitUnauthenticated} {
		var bodies []string
		var issuer *fakeService
		issuer = newFakeIssuer(t, nil, func(request string, w http.ResponseWriter, r *http.Request) {
			switch {
			case request == "POST token":
				writeJSON(w, http.StatusOK, map[string]any{"access_token": fresh, "refresh_token": "second-" + testRefreshToken})
			case r.Header.Get("Authorization") == "Bearer "+accepted:
				bodies = append(bodies, issuer.lastBody())
				writeJSON(w, http.StatusOK, map[string]any{"member": map[string]any{
					"user_id": "bob", "role": "member", "created_at": "2026-11-23T09:30:00Z", "updated_at": "2026-11-23T09:30:00Z"}})
			default:
				bodies = append(bodies, issuer.lastBody())
				writeProblem(w, http.StatusUnauthorized, "unauthenticated", "The token is not valid here any more.")
			}
		})
		u := issuer.signedIn(t)
		u.changeStored(func(p *profile) { p.APIKey = secret.New(jwt(`{"exp":9999999999}`)) })
		got := u.run("api members set bob --role member")
		require.Equal(t, want, got.Code, got.Output())
		require.Equal(t, []string{"PUT bob", "GET openid-configuration", "POST token", "PUT bob"}, issuer.requestsSoFar())
		require.Contains(t, bodies[0], "member")
		require.Equal(t, bodies[0], bodies[1])
		require.Equal(t, fresh, u.stored().APIKey.Reveal())
	}
}
