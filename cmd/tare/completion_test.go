package main

import (
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// completions returns what the shell would offer for the last word of a command line.
func (u *user) completions(args ...string) []string {
	u.t.Helper()
	got := u.run(append([]string{"__complete"}, args...)...)
	require.Equal(u.t, exitOK, got.Code, got.Output())
	require.Regexp(u.t, `^Completion ended with directive: \w+\n$`, got.Stderr, "nothing else is said")
	lines := strings.Split(strings.TrimSpace(got.Stdout), "\n")
	require.Equal(u.t, ":4", lines[len(lines)-1], "no files")
	return lines[:len(lines)-1]
}

func TestCompletionFromTheService(t *testing.T) {
	u := alice(t)
	id := u.addKey("completed")
	require.Contains(t, u.completions("api", "byok", "add", "--provider", ""), "openai\tOpenAI")
	require.Contains(t, u.completions("api", "byok", "get", ""), id+"\topenai completed active")
	require.Contains(t, u.completions("api", "byok", "remove", "byok_"), id+"\topenai completed active")
	require.Empty(t, u.completions("api", "byok", "remove", id, ""), "it takes one")
	require.Contains(t, u.completions("api", "members", "remove", ""), "bob\tmember")
	require.Equal(t, []string{"member", "owner"}, u.completions("api", "members", "set", "bob", "--role", ""))
	require.Contains(t, u.completions("api", "policy", "set", "--user-keys-for", ""), "openai=forbid")
	require.Equal(t, []string{"table", "json", "yaml"}, u.completions("api", "byok", "list", "-o", ""))
	u.runOK("api", "byok", "remove", "--yes", id)
	require.NotContains(t, strings.Join(u.completions("api", "byok", "remove", ""), " "), id, "what is revoked is not offered")
	require.Contains(t, strings.Join(u.completions("api", "byok", "get", ""), " "), id)

	person := newUser(t)
	require.Equal(t, exitOK, person.login(live.env["AGENTROUTER_API_KEY"], "--profile", "here").Code)
	require.Equal(t, []string{"here\t" + live.env["AGENTROUTER_BASE_URL"]}, person.completions("profiles", "use", ""))
	require.Len(t, person.completions("whoami", "--profile", ""), 1)
}

func TestFailedCompletionIsSilent(t *testing.T) {
	t.Parallel()
	hanging := newFakeService(t, func(_ string, _ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	refusing := newFakeService(t, func(_ string, w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "30")
		writeProblem(w, http.StatusServiceUnavailable, "unavailable", "x")
	})
	for name, u := range map[string]*user{
		"no session": newUser(t), "no server": newUserAt(t, "http://127.0.0.1:1", "ak_x"), "an invalid address": newUserAt(t, "x", "ak_x"),
		"no answer": hanging.user(t), "unavailable": refusing.user(t),
	} {
		require.Empty(t, u.completions("api", "byok", "get", ""), name)
		require.Empty(t, u.completions("api", "byok", "add", "--provider", ""), name)
	}
}

func TestCompletionIsSafeForShells(t *testing.T) {
	u := newFakeService(t, func(request string, w http.ResponseWriter, r *http.Request) {
		key := keyDocument("$(touch /tmp/x) `id` \x1b[2J\u202e; rm")
		other := keyDocument("x")
		other["id"] = "byok_$(touch x)"
		flag := keyDocument("x")
		flag["id"] = "--yes"
		if request == "GET aikeys" {
			writeJSON(w, http.StatusOK, map[string]any{"keys": []any{key, other, flag}})
			return
		}
		serveHostile(request, w, r)
	}).user(t)
	require.Equal(t, []string{sampleID + "\topenai __touch /tmp/x_ _id_ __2J__ rm active"}, u.completions("api", "byok", "get", ""))
	require.Empty(t, u.completions("api", "byok", "add", "--provider", ""))
	require.Empty(t, u.completions("api", "members", "remove", ""))
}

func TestCompletionScripts(t *testing.T) {
	u := newUser(t)
	for shell, has := range map[string]string{
		"bash": "complete -o default -F __start_tare tare", "zsh": "#compdef tare", "fish": "complete -c tare", "powershell": "Register-ArgumentCompleter",
	} {
		require.Contains(t, u.runOK("completion", shell), has)
	}
}

// TestBashCompletes calls the script as bash does when a user presses Tab.
func TestBashCompletes(t *testing.T) {
	u := alice(t)
	script := `
source <(tare completion bash)
compopt() { :; }
COMP_WORDS=(tare api byok add --provider dee) COMP_CWORD=5 COMP_LINE='tare api byok add --provider dee' COMP_POINT=32 COMP_TYPE=9
_get_comp_words_by_ref() { words=("${COMP_WORDS[@]}"); cword=$COMP_CWORD cur=dee prev=--provider; }
__start_tare
printf '%s\n' "${COMPREPLY[@]}"`
	cmd := exec.CommandContext(t.Context(), "bash", "-c", script)
	cmd.Env = slices.Concat(u.env, []string{"PATH=" + filepath.Dir(live.tare) + ":/usr/bin:/bin"})
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "deepinfra")
	require.Contains(t, string(out), "deepseek")
	require.NotContains(t, string(out), "openai")
}
