package main

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

func TestDeeplyNestedAnswerIsRefused(t *testing.T) {
	const deep = 5000
	u := newFakeService(t, func(_ string, w http.ResponseWriter, _ *http.Request) {
		text := strings.Repeat("[", deep) + strings.Repeat("1,", 20_000) + "1" + strings.Repeat("]", deep)
		writeJSON(w, http.StatusOK, map[string]any{"keys": []any{}, "new": json.RawMessage(text)})
	}).user(t)
	for _, format := range []string{"json", "yaml"} {
		got := u.run("api byok list -o " + format)
		require.Equal(t, exitFailure, got.Code)
		require.Empty(t, got.Stdout)
		require.Contains(t, got.Stderr, "nested")
	}
	require.Equal(t, 3, nestingDepth([]byte(`{"[[[[": [{"\"[": "]"}], "x": {}}`)))
}

func TestJSONAndYAMLAreTheServicesAnswers(t *testing.T) {
	u := alice(t)
	id := u.addKey("shape")
	for command, path := range map[string]string{
		"api byok list":                                 "/aikeys",
		"api byok list --state active":                  "/aikeys?state=active",
		"api byok list --provider openai":               "/aikeys?provider=openai",
		"api byok get " + id:                            "/aikeys/" + id,
		"api byok get " + strings.ToLower(id[5:]):       "/aikeys/" + id,
		"api byok resolve --provider openai":            "/resolve?provider=openai",
		"api byok events --limit 3":                     "/events?page_size=3",
		"api byok usage":                                "/usage",
		"api byok usage --from 2026-11-23 --user alice": "/usage?from=2026-11-23T00:00:00Z&user_id=alice",
		"api byok fetches --limit 3":                    "/fetches?page_size=3",
		"api policy get":                                "/policy",
		"api byok policy get":                           "/policy",
		"api members list":                              "/members",
		"api providers":                                 "/v1/providers",
		"api providers list":                            "/v1/providers",
		"api providers list --custom":                   "/providers",
		"api sign-in":                                   "/v1/sign-in",
		"whoami":                                        "/v1/whoami",
		"api whoami":                                    "/v1/whoami",
		"--customer acme --project chat api byok list":  "/aikeys",
	} {
		want := u.callAPI(http.MethodGet, path)
		require.JSONEq(t, want, u.runOK(command+" -o json"), command)
		var asYAML, fromYAML map[string]any // YAML's integers are not floats
		require.NoError(t, yaml.Unmarshal([]byte(want), &asYAML))
		require.NoError(t, yaml.Unmarshal([]byte(u.runOK("-o yaml "+command)), &fromYAML))
		require.Equal(t, asYAML, fromYAML, command)
		require.NotEmpty(t, u.run(command).Output(), command)
	}
}

func TestWritesPrintEveryFormat(t *testing.T) {
	u := alice(t)
	got := u.runWithInput(testSecret, "api byok add --provider openai --name written --user-scope -o json")
	require.Equal(t, exitOK, got.Code, got.Stderr)
	key, _ := decodeJSON(t, got.Stdout)["key"].(map[string]any)
	require.Equal(t, true, key["user_scope"])
	id, _ := key["id"].(string)
	require.Contains(t, u.runOK("api byok get "+id), "alice's own")

	receipt, _ := decodeJSON(t, u.runOK("api", "byok", "remove", "--yes", id, "-o", "json"))["receipt"].(map[string]any)
	require.Equal(t, "complete", receipt["state"])
	require.Contains(t, u.runOK("api", "byok", "remove", "--yes", id, "--wait", "0", "-o", "yaml"), "receipt:\n")

	require.Contains(t, u.runOK("api members set carol --role owner"), "owner")
	require.Contains(t, decodeJSON(t, u.runOK("api members remove --yes carol -o json")), "restore_until")
	require.Equal(t, exitNotFound, u.run("api members remove --yes carol").Code)
}

func TestProfileCommandsPrintEveryFormat(t *testing.T) {
	u := newUser(t)
	require.Equal(t, exitOK, u.login(live.env["AGENTROUTER_API_KEY"]).Code)
	for _, command := range []string{"profiles use default", "logout", "profiles remove default"} {
		got := u.run(command + " -o json")
		require.Equal(t, exitOK, got.Code)
		require.Equal(t, "default", decodeJSON(t, got.Stdout)["profile"], command)
	}
}
