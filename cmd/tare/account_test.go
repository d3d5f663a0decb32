package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRefusedKeyIsNotStored(t *testing.T) {
	u := newUser(t)
	got := u.login("ak_EXAMPLE_hunter2_hunter2")
	require.Equal(t, exitUnauthenticated, got.Code)
	require.NotContains(t, got.Output(), "hunter2")
	require.NoFileExists(t, u.profilesFile())
	require.Equal(t, exitUsage, u.login("").Code)
	require.Equal(t, exitUsage, u.login("has a space").Code)
	require.Equal(t, exitUsage, u.login("x", "--profile", "no/name").Code)
	require.Equal(t, exitUsage, u.runWithInput("x", "login").Code, "it has to know where to")
	require.Equal(t, exitUnavailable, u.runWithInput("ak_x", "login --base-url http://127.0.0.1:1").Code)
	require.NoFileExists(t, u.profilesFile())
}

func TestLoginAtATerminal(t *testing.T) {
	u := newUser(t)
	s := u.runInTerminal(100, "login").expect("Base URL, such as https://aikeys.example.com: ")
	s.typeKeys(live.env["AGENTROUTER_BASE_URL"] + "\n").expect("API key (not shown): ").typeKeys(live.env["AGENTROUTER_API_KEY"] + "\n")
	code, shown := s.wait()
	require.Equal(t, exitOK, code, shown)
	require.Contains(t, shown, "as alice, an owner of acme/chat. Profile: default.")
	require.NotContains(t, shown, live.env["AGENTROUTER_API_KEY"])
	require.Contains(t, u.runOK("whoami"), `profile "default"`)

	s = u.runInTerminal(100, "login").expect("Base URL [" + live.env["AGENTROUTER_BASE_URL"] + "]: ").typeKeys("\n")
	code, shown = s.expect("(not shown): ").typeKeys(live.env["AGENTROUTER_MEMBER_API_KEY"] + "\n").wait()
	require.Equal(t, exitOK, code, shown)
	require.Contains(t, shown, "as bob, a member of acme/chat")
}
