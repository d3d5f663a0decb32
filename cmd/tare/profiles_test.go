package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/cmd/internal/programtest"
)

func (u *user) profilesFile() string { return filepath.Join(u.config, "profiles.json") }

// login logs in to the live server.
func (u *user) login(apiKey string, args ...string) programtest.Outcome {
	u.t.Helper()
	return u.runWithInput(apiKey+"\n", append([]string{"login", "--base-url", live.env["AGENTROUTER_BASE_URL"]}, args...)...)
}

func TestProfilesFileMode(t *testing.T) {
	u := newUser(t)
	got := u.login(live.env["AGENTROUTER_API_KEY"])
	require.Equal(t, exitOK, got.Code, got.Stderr)
	require.NotContains(t, got.Output(), live.env["AGENTROUTER_API_KEY"])
	requireMode := func(file string, mode os.FileMode) {
		info, err := os.Stat(file)
		require.NoError(t, err)
		require.Equal(t, mode, info.Mode().Perm(), file)
	}
	files, err := os.ReadDir(u.config)
	require.NoError(t, err)
	require.Len(t, files, 2, "the profiles, and their lock; nothing is left over")
	for _, each := range files {
		requireMode(filepath.Join(u.config, each.Name()), 0o600)
	}
	requireMode(u.config, 0o700)

	require.NoError(t, os.Chmod(u.profilesFile(), 0o644))
	require.NoError(t, os.Chmod(u.config, 0o755))
	got = u.run("whoami")
	require.NotEqual(t, exitOK, got.Code)
	require.Contains(t, got.Stderr, fmt.Sprintf("group or others can access it; run: chmod 600 %q", u.profilesFile()))
	require.NoError(t, os.Chmod(u.profilesFile(), 0o600))
	u.run("profiles use default")
	requireMode(u.config, 0o700)
	require.Empty(t, u.run("whoami").Stderr)
}

func TestProfileCommands(t *testing.T) {
	u := newUser(t)
	require.Contains(t, u.run("profiles list").Stderr, "tare login")
	require.Equal(t, exitOK, u.login(live.env["AGENTROUTER_API_KEY"]).Code)
	key := filepath.Join(t.TempDir(), "key")
	require.NoError(t, os.WriteFile(key, []byte(live.env["AGENTROUTER_MEMBER_API_KEY"]+"\n"), 0o600))
	require.Equal(t, exitOK, u.login("", "--profile", "member", "--api-key-file", key).Code)
	require.Contains(t, u.runOK("whoami"), "bob", "who logs in uses that profile from then on")
	require.Contains(t, u.runOK("whoami --profile default"), "alice")
	u.runOK("profiles use default")
	require.Contains(t, u.runOK("whoami"), "alice")

	listed := u.runOK("profiles list")
	require.Regexp(t, `default .*acme/chat +alice +file +in use`, listed)
	require.Regexp(t, `member .*acme/chat +bob +file`, listed)
	require.NotContains(t, listed+u.runOK("profiles list -o json")+u.runOK("profiles list -o yaml"), "ak_")
	all, _ := decodeJSON(t, u.runOK("profiles list -o json"))["profiles"].([]any)
	require.Len(t, all, 2)

	u.runOK("profiles remove member")
	got := u.run("whoami --profile member")
	require.Equal(t, exitUsage, got.Code)
	require.Contains(t, got.Stderr, "there is no such profile; there are default")
	require.Equal(t, exitUsage, u.run("profiles use member").Code)

	got = u.run("logout")
	require.Equal(t, exitOK, got.Code)
	require.Contains(t, got.Stderr, "The API key is still valid.")
	text, err := os.ReadFile(u.profilesFile())
	require.NoError(t, err)
	require.NotContains(t, string(text), "ak_")
	got = u.run("whoami")
	require.Equal(t, exitUnauthenticated, got.Code)
	require.Contains(t, got.Stderr, "tare login")
	require.Contains(t, u.runOK("profiles list"), "logged out")
	require.Equal(t, exitOK, u.runWithInput(live.env["AGENTROUTER_API_KEY"], "login").Code, "it knows where to")
}

func TestConcurrentLoginsAreKept(t *testing.T) {
	u := newUser(t)
	const people = 8
	var wg sync.WaitGroup
	codes := make([]int, people)
	for i := range people {
		wg.Go(func() { codes[i] = u.login(live.env["AGENTROUTER_API_KEY"], "--profile", "p"+strconv.Itoa(i)).Code })
	}
	wg.Wait()
	require.Equal(t, make([]int, people), codes)
	require.Len(t, strings.Split(strings.TrimSpace(u.runOK("profiles list")), "\n"), 1+people)
}

func TestForeignProfilesFileIsKept(t *testing.T) {
	u := newUser(t)
	require.NoError(t, os.MkdirAll(u.config, 0o700))
	for _, text := range []string{`{"profiles":{"default":{"api_key":["hunter2"]}}}`, "hunter2", "{}x", `{"profiles":null}`} {
		require.NoError(t, os.WriteFile(u.profilesFile(), []byte(text), 0o600))
		for _, command := range []string{"whoami", "profiles list", "logout", "profiles use hunter2x"} {
			got := u.run(command)
			require.Equal(t, exitFailure, got.Code, command)
			require.Contains(t, got.Stderr, "is not a profiles file of tare")
			require.NotContains(t, got.Output(), "hunter2")
		}
		left, err := os.ReadFile(u.profilesFile())
		require.NoError(t, err)
		require.Equal(t, text, string(left))
	}
}

func TestConfigDirVariable(t *testing.T) {
	u := newUser(t)
	u.config = filepath.Join(t.TempDir(), "mine")
	u.env = append(u.env, "TARE_CONFIG_DIR="+u.config)
	require.Equal(t, exitOK, u.login(live.env["AGENTROUTER_API_KEY"]).Code)
	require.FileExists(t, u.profilesFile())
}

func TestLogoutWritesThroughALink(t *testing.T) {
	u := newUser(t)
	require.Equal(t, exitOK, u.login(live.env["AGENTROUTER_API_KEY"]).Code)
	elsewhere := filepath.Join(t.TempDir(), "kept.json")
	require.NoError(t, os.Rename(u.profilesFile(), elsewhere))
	require.NoError(t, os.Symlink(elsewhere, u.profilesFile()))
	require.Equal(t, exitOK, u.run("logout").Code)
	left, err := os.ReadFile(elsewhere)
	require.NoError(t, err)
	require.NotContains(t, string(left), "ak_")
	info, err := os.Lstat(u.profilesFile())
	require.NoError(t, err)
	require.NotZero(t, info.Mode()&os.ModeSymlink, "the link is a link still")
}

func TestConfigDirKeepsItsMode(t *testing.T) {
	u := newUser(t)
	shared := t.TempDir()
	require.NoError(t, os.Chmod(shared, 0o755))
	u.env = append(u.env, configDirVariable+"="+shared)
	require.Equal(t, exitOK, u.login(live.env["AGENTROUTER_API_KEY"]).Code)
	info, err := os.Stat(shared)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o755), info.Mode().Perm(), "it may be the system's")
	info, err = os.Stat(filepath.Join(shared, "profiles.json"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
}
