package main

import (
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

func (u *person) profilesFile() string { return filepath.Join(u.config, "profiles.json") }

// logIn logs in to the live server and returns what was said.
func (u *person) logIn(apiKey string, args ...string) outcome {
	u.t.Helper()
	return u.pipe(apiKey+"\n", append([]string{"login", "--base-url", built.env["AGENTROUTER_BASE_URL"]}, args...)...)
}

func TestAProfileIsForItsOwnerAlone(t *testing.T) {
	u := newPerson(t)
	got := u.logIn(built.env["AGENTROUTER_API_KEY"])
	require.Equal(t, exitOK, got.code, got.stderr)
	require.NotContains(t, got.all(), built.env["AGENTROUTER_API_KEY"])
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
	require.Contains(t, u.run("whoami").stderr, "others on this machine can read your API keys")
	u.run("profiles use default")
	requireMode(u.profilesFile(), 0o600)
	requireMode(u.config, 0o700)
	require.Empty(t, u.run("whoami").stderr)
}

func TestAKeyThatIsRefusedIsNotKept(t *testing.T) {
	u := newPerson(t)
	got := u.logIn("ak_EXAMPLE_hunter2_hunter2")
	require.Equal(t, exitUnauthenticated, got.code)
	require.NotContains(t, got.all(), "hunter2")
	require.NoFileExists(t, u.profilesFile())
	require.Equal(t, exitUsage, u.logIn("").code)
	require.Equal(t, exitUsage, u.logIn("has a space").code)
	require.Equal(t, exitUsage, u.logIn("x", "--profile", "no/name").code)
	require.Equal(t, exitUsage, u.pipe("x", "login").code, "it has to know where to")
	require.Equal(t, exitUnavailable, u.pipe("ak_x", "login --base-url http://127.0.0.1:1").code)
	require.NoFileExists(t, u.profilesFile())
}

func TestProfilesAreListedUsedAndRemoved(t *testing.T) {
	u := newPerson(t)
	require.Contains(t, u.run("profiles list").stderr, "tare login")
	require.Equal(t, exitOK, u.logIn(built.env["AGENTROUTER_API_KEY"]).code)
	key := filepath.Join(t.TempDir(), "key")
	require.NoError(t, os.WriteFile(key, []byte(built.env["AGENTROUTER_MEMBER_API_KEY"]+"\n"), 0o600))
	require.Equal(t, exitOK, u.logIn("", "--profile", "member", "--api-key-file", key).code)
	require.Contains(t, u.ok("whoami"), "bob", "who logs in uses that profile from then on")
	require.Contains(t, u.ok("whoami --profile default"), "alice")
	u.ok("profiles use default")
	require.Contains(t, u.ok("whoami"), "alice")

	listed := u.ok("profiles list")
	require.Regexp(t, `default .*acme/chat +alice +in use`, listed)
	require.Regexp(t, `member .*acme/chat +bob`, listed)
	require.NotContains(t, listed+u.ok("profiles list -o json")+u.ok("profiles list -o yaml"), "ak_")
	all, _ := decoded(t, u.ok("profiles list -o json"))["profiles"].([]any)
	require.Len(t, all, 2)

	u.ok("profiles remove member")
	got := u.run("whoami --profile member")
	require.Equal(t, exitUsage, got.code)
	require.Contains(t, got.stderr, "there is no such profile; there are default")
	require.Equal(t, exitUsage, u.run("profiles use member").code)

	got = u.run("logout")
	require.Equal(t, exitOK, got.code)
	require.Contains(t, got.stderr, "The API key is still valid.")
	text, err := os.ReadFile(u.profilesFile())
	require.NoError(t, err)
	require.NotContains(t, string(text), "ak_")
	got = u.run("whoami")
	require.Equal(t, exitUnauthenticated, got.code)
	require.Contains(t, got.stderr, "tare login")
	require.Contains(t, u.ok("profiles list"), "logged out")
	require.Equal(t, exitOK, u.pipe(built.env["AGENTROUTER_API_KEY"], "login").code, "it knows where to")
}

func TestFlagsWinOverTheEnvironmentAndThatOverTheProfile(t *testing.T) {
	member := []string{
		"AGENTROUTER_BASE_URL=" + built.env["AGENTROUTER_BASE_URL"], "AGENTROUTER_API_KEY=" + built.env["AGENTROUTER_MEMBER_API_KEY"],
	}
	u := newPerson(t)
	require.Equal(t, exitOK, u.logIn(built.env["AGENTROUTER_API_KEY"]).code)
	require.Contains(t, u.ok("whoami"), "alice")
	u.env = append(u.env, member...)
	require.Contains(t, u.ok("whoami"), "bob")
	require.Contains(t, u.ok("whoami --profile default"), "alice", "to name a profile is a flag")
	require.Equal(t, exitUnavailable, u.run("whoami --base-url http://127.0.0.1:1").code)
	require.Contains(t, u.logIn(built.env["AGENTROUTER_API_KEY"]).stderr, "AGENTROUTER_API_KEY is set here and wins over the profile")
}

func TestAProfilesKeyGoesToItsOwnServerAlone(t *testing.T) {
	other := newStandIn(t, func(_ string, w http.ResponseWriter, _ *http.Request) { writeJSON(w, http.StatusOK, whoAmI()) })
	u := newPerson(t)
	require.Equal(t, exitOK, u.logIn(built.env["AGENTROUTER_API_KEY"]).code)
	got := u.run("whoami", "--base-url", other.URL)
	require.Equal(t, exitUsage, got.code)
	require.Contains(t, got.stderr, "is only for "+built.env["AGENTROUTER_BASE_URL"])
	u.env = append(u.env, "AGENTROUTER_BASE_URL="+other.URL)
	require.Equal(t, exitUsage, u.run("whoami").code)
	require.Empty(t, other.asked())
	require.Equal(t, exitOK, u.run("whoami", "--base-url", built.env["AGENTROUTER_BASE_URL"]+"/").code, "the same one, with a slash")
}

func TestAProfileKeepsItsProject(t *testing.T) {
	u := newPerson(t)
	require.Equal(t, exitOK, u.logIn(built.env["AGENTROUTER_API_KEY"], "--project", "other").code)
	require.Equal(t, exitDenied, u.run("api byok list").code)
	require.Equal(t, exitOK, u.run("api byok list --project chat").code)
	require.Contains(t, u.ok("profiles list"), "acme/other")
}

func TestLogInsAtTheSameTimeAreAllKept(t *testing.T) {
	u := newPerson(t)
	const people = 8
	var wg sync.WaitGroup
	codes := make([]int, people)
	for i := range people {
		wg.Go(func() { codes[i] = u.logIn(built.env["AGENTROUTER_API_KEY"], "--profile", "p"+strconv.Itoa(i)).code })
	}
	wg.Wait()
	require.Equal(t, make([]int, people), codes)
	require.Len(t, strings.Split(strings.TrimSpace(u.ok("profiles list")), "\n"), 1+people)
}

func TestAFileThatIsNotOursIsNotRepeatedAndNotReplaced(t *testing.T) {
	u := newPerson(t)
	require.NoError(t, os.MkdirAll(u.config, 0o700))
	for _, text := range []string{`{"profiles":{"default":{"api_key":["hunter2"]}}}`, "hunter2", "{}x", `{"profiles":null}`} {
		require.NoError(t, os.WriteFile(u.profilesFile(), []byte(text), 0o600))
		for _, command := range []string{"whoami", "profiles list", "logout", "profiles use hunter2x"} {
			got := u.run(command)
			require.Equal(t, exitFailure, got.code, command)
			require.Contains(t, got.stderr, "is not a profiles file of tare")
			require.NotContains(t, got.all(), "hunter2")
		}
		left, err := os.ReadFile(u.profilesFile())
		require.NoError(t, err)
		require.Equal(t, text, string(left))
	}
}

func TestPlainHTTPToAnotherMachineIsRefused(t *testing.T) {
	u := of(t, "http://192.0.2.1", "ak_EXAMPLE")
	got := u.run("whoami")
	require.Equal(t, exitUsage, got.code)
	require.Contains(t, got.stderr, "--insecure")
	require.Equal(t, exitUnavailable, u.run("whoami --insecure --timeout 50ms").code)
	require.Equal(t, exitUsage, newPerson(t).pipe("ak_x", "login --base-url http://192.0.2.1").code)
	for _, address := range []string{"hunter2", "ftp://x", "https://u:hunter2@x", "https://x?k=hunter2", "https://x#hunter2", "http://"} {
		got := of(t, address, "ak_EXAMPLE").run("whoami")
		require.Equal(t, exitUsage, got.code, address)
		require.NotContains(t, got.all(), "hunter2")
	}
	require.Equal(t, exitUsage, newPerson(t, "AGENTROUTER_API_KEY=ak_x").run("whoami").code, "a key, and nowhere to go")
}

func TestAProfileWhoseKeyHasEndedSaysHowToLogInAgain(t *testing.T) {
	var ended atomic.Bool
	s := newStandIn(t, func(_ string, w http.ResponseWriter, _ *http.Request) {
		if ended.Load() {
			refuse(w, http.StatusUnauthorized, "unauthenticated", "This API key has been revoked or has expired; ask for a new one.")
			return
		}
		writeJSON(w, http.StatusOK, whoAmI())
	})
	u := newPerson(t)
	require.Equal(t, exitOK, u.pipe("ak_EXAMPLE_ended", "login", "--base-url", s.URL, "--profile", "old").code)
	ended.Store(true)
	got := u.run("api byok list")
	require.Equal(t, exitUnauthenticated, got.code)
	require.Contains(t, got.stderr, "This API key has been revoked or has expired")
	require.Contains(t, got.stderr, "tare login --profile old")
}

func TestTheFolderOfProfilesCanBeChosen(t *testing.T) {
	u := newPerson(t)
	u.config = filepath.Join(t.TempDir(), "mine")
	u.env = append(u.env, "TARE_CONFIG_DIR="+u.config)
	require.Equal(t, exitOK, u.logIn(built.env["AGENTROUTER_API_KEY"]).code)
	require.FileExists(t, u.profilesFile())
}
