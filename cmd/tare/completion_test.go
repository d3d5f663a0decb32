package main

import (
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// offers returns what the shell is told to offer for a command line that ends in the word to complete.
func (u *person) offers(args ...string) []string {
	u.t.Helper()
	got := u.run(append([]string{"__complete"}, args...)...)
	require.Equal(u.t, exitOK, got.code, got.all())
	require.Regexp(u.t, `^Completion ended with directive: \w+\n$`, got.stderr, "nothing else is said")
	lines := strings.Split(strings.TrimSpace(got.stdout), "\n")
	require.Equal(u.t, ":4", lines[len(lines)-1], "no files")
	return lines[:len(lines)-1]
}

func TestProvidersIdsAndMembersAreCompletedLive(t *testing.T) {
	u := alice(t)
	id := u.add("completed")
	require.Contains(t, u.offers("api", "byok", "add", "--provider", ""), "openai\tOpenAI")
	require.Contains(t, u.offers("api", "byok", "get", ""), id+"\topenai completed active")
	require.Contains(t, u.offers("api", "byok", "remove", "byok_"), id+"\topenai completed active")
	require.Empty(t, u.offers("api", "byok", "remove", id, ""), "it takes one")
	require.Contains(t, u.offers("api", "members", "remove", ""), "bob\tmember")
	require.Equal(t, []string{"member", "owner"}, u.offers("api", "members", "set", "bob", "--role", ""))
	require.Contains(t, u.offers("api", "policy", "set", "--user-keys-for", ""), "openai=forbid")
	require.Equal(t, []string{"table", "json", "yaml"}, u.offers("api", "byok", "list", "-o", ""))
	u.ok("api", "byok", "remove", id)
	require.NotContains(t, strings.Join(u.offers("api", "byok", "remove", ""), " "), id, "what is revoked is not offered")
	require.Contains(t, strings.Join(u.offers("api", "byok", "get", ""), " "), id)

	person := newPerson(t)
	require.Equal(t, exitOK, person.logIn(built.env["AGENTROUTER_API_KEY"], "--profile", "here").code)
	require.Equal(t, []string{"here\t" + built.env["AGENTROUTER_BASE_URL"]}, person.offers("profiles", "use", ""))
	require.Len(t, person.offers("whoami", "--profile", ""), 1)
}

func TestCompletionIsSilentAndQuickWhenItFails(t *testing.T) {
	hanging := newStandIn(t, func(_ string, _ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	refusing := newStandIn(t, func(_ string, w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "5")
		refuse(w, http.StatusServiceUnavailable, "unavailable", "x")
	})
	for name, u := range map[string]*person{
		"no session": newPerson(t), "nobody there": of(t, "http://127.0.0.1:1", "ak_x"), "an address that is none": of(t, "x", "ak_x"),
		"no answer": hanging.user(t), "unavailable": refusing.user(t),
	} {
		begun := time.Now()
		require.Empty(t, u.offers("api", "byok", "get", ""), name)
		require.Empty(t, u.offers("api", "byok", "add", "--provider", ""), name)
		require.Less(t, time.Since(begun), patience/2, name)
	}
}

func TestCompletionOffersNothingThatAShellCouldRun(t *testing.T) {
	u := newStandIn(t, func(request string, w http.ResponseWriter, r *http.Request) {
		key := aKey("$(touch /tmp/x) `id` \x1b[2J\u202e; rm")
		other := aKey("x")
		other["id"] = "byok_$(touch x)"
		flag := aKey("x")
		flag["id"] = "--yes"
		if request == "GET aikeys" {
			writeJSON(w, http.StatusOK, map[string]any{"keys": []any{key, other, flag}})
			return
		}
		hostile(request, w, r)
	}).user(t)
	require.Equal(t, []string{sampleID + "\topenai __touch /tmp/x_ _id_ __2J__ rm active"}, u.offers("api", "byok", "get", ""))
	require.Empty(t, u.offers("api", "byok", "add", "--provider", ""))
	require.Empty(t, u.offers("api", "members", "remove", ""))
}

func TestTheScriptsOfAllShellsArePrinted(t *testing.T) {
	u := newPerson(t)
	for shell, has := range map[string]string{
		"bash": "complete -o default -F __start_tare tare", "zsh": "#compdef tare", "fish": "complete -c tare", "powershell": "Register-ArgumentCompleter",
	} {
		require.Contains(t, u.ok("completion", shell), has)
	}
}

// Bash asks the script as it does when somebody presses Tab.
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
	cmd.Env = u.with("PATH=" + filepath.Dir(built.tare) + ":/usr/bin:/bin")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "deepinfra")
	require.Contains(t, string(out), "deepseek")
	require.NotContains(t, string(out), "openai")
}
