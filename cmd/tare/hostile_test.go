package main

import (
	"net/http"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// hostileName would clear a screen, set a title, ring, run on, write backwards, and hide.
const hostileName = "evil\x1b[2J\x1b]0;title\a\u009b31m\r\nnext\u202egnp\u2066\u200b\u2028\U000e0041end"

// hostile answers with that name wherever there is room, and repeats the credential in errors.
func hostile(request string, w http.ResponseWriter, r *http.Request) {
	key := aKey(hostileName)
	key["created_by"], key["provider"] = hostileName, hostileName
	switch request {
	case "GET aikeys":
		writeJSON(w, http.StatusOK, map[string]any{"keys": []any{key}, "new\x1b[31m\u202e": hostileName})
	case "GET key":
		writeJSON(w, http.StatusOK, map[string]any{"key": key})
	case "GET members":
		writeJSON(w, http.StatusOK, map[string]any{"members": []any{map[string]any{
			"user_id": hostileName, "role": "owner", "created_at": "2026-11-23T09:30:00Z", "updated_at": "2026-11-23T09:30:00Z"}}})
	case "GET providers":
		writeJSON(w, http.StatusOK, map[string]any{"providers": []any{map[string]any{
			"slug": hostileName, "display_name": hostileName, "base_url": hostileName, "auth_style": "bearer",
			"secret_format": "token", "prefixes": []any{hostileName}, "required_fields": []any{}, "key_page_url": hostileName,
		}}})
	case "GET whoami":
		me := whoAmI()
		me["user_id"] = hostileName
		writeJSON(w, http.StatusOK, me)
	default:
		refuse(w, http.StatusForbidden, "permission_denied", hostileName+r.Header.Get("Authorization"))
	}
}

// requireHarmless fails on what a terminal would obey.
func requireHarmless(t *testing.T, text string) {
	t.Helper()
	require.True(t, utf8.ValidString(text))
	for _, r := range text {
		require.False(t, r != '\n' && isUnsafe(r), "%q has %U", text, r)
	}
}

func TestNothingFromAServerReachesTheTerminalAsACommand(t *testing.T) {
	u := newStandIn(t, hostile).user(t)
	for _, command := range []string{
		"api byok list", "api byok get " + sampleID, "api members list", "api providers", "whoami", "api byok events", "api policy get",
	} {
		for _, format := range []string{"table", "json", "yaml"} {
			got := u.run(command + " -o " + format)
			require.NotEmpty(t, got.all())
			requireHarmless(t, got.stdout)
			requireHarmless(t, got.stderr)
			require.NotContains(t, got.all(), "ak_EXAMPLE", "a server that repeats the API key does not get it shown")
		}
		_, shown := u.at(60, command).ends()
		requireHarmless(t, controlCodes.ReplaceAllString(shown, ""))
	}
	require.NotContains(t, u.run("api byok list").stdout, "\nnext", "a name is one line")
	s := u.at(200, "api byok remove "+sampleID).expect("[y/N] ")
	requireHarmless(t, s.shown())
	_, shown := s.types("n\n").ends()
	requireHarmless(t, shown)
}

func TestHostileNamesStayAsTheyAreInJSONAndYAML(t *testing.T) {
	u := newStandIn(t, hostile).user(t)
	for _, format := range []string{"json", "yaml"} {
		var got struct {
			Keys []struct {
				Name string `yaml:"name"`
			} `yaml:"keys"`
			New string `yaml:"new\x1b[31m\u202e"`
		}
		text := u.ok("api byok list -o " + format)
		if format == "json" {
			list, _ := decoded(t, text)["keys"].([]any)
			key, _ := list[0].(map[string]any)
			require.Equal(t, hostileName, key["name"])
			require.Equal(t, hostileName, decoded(t, text)["new\x1b[31m\u202e"], "what is new in an answer is there")
			continue
		}
		require.NoError(t, yaml.Unmarshal([]byte(text), &got))
		require.Equal(t, hostileName, got.Keys[0].Name)
	}
}

func TestASecretThatAServerRepeatsIsNotShown(t *testing.T) {
	s := newStandIn(t, func(_ string, w http.ResponseWriter, _ *http.Request) {
		refuse(w, http.StatusBadRequest, "invalid_argument", "no good: "+aSecret)
	})
	for _, flags := range [][]string{nil, {"--secret", aSecret}} {
		got := s.user(t).pipe(aSecret, append([]string{"api", "byok", "add", "--provider", "openai", "--name", "x"}, flags...)...)
		require.Equal(t, exitUsage, got.code)
		require.Contains(t, got.stderr, "no good: [redacted]")
		require.NotContains(t, got.all(), "hunter2")
	}
}

func TestWhatIsTypedInAWrongPlaceIsNotRepeated(t *testing.T) {
	u := alice(t)
	for _, line := range []string{
		"api byok add " + aSecret, "api byok get " + aSecret, "api byok remove " + aSecret, "api byok " + aSecret, aSecret,
		"api byok list " + aSecret, "api byok add -secret=" + aSecret, "api byok add -" + aSecret, "api byok add --=" + aSecret,
		"api byok list -o" + aSecret, "api byok list --state " + aSecret, "api byok remove --wait " + aSecret, "whoami " + aSecret,
		"api byok add --provider openai --name x --secret-file " + aSecret, "api members set " + aSecret + " " + aSecret,
		"api byok get " + sampleID + " " + aSecret, "api policy set --user-keys-for " + aSecret, "completion " + aSecret,
		"api byok add --secrt=" + aSecret,
	} {
		got := u.run(line)
		require.Equal(t, exitUsage, got.code, line)
		require.NotContains(t, got.all(), "hunter2", line)
		require.True(t, strings.HasPrefix(got.stderr, "tare: "), got.stderr)
	}
}

func TestNoFlagTakesAnAPIKey(t *testing.T) {
	for _, cmd := range everyCommand(newProgram(nil, nil, nil, nil).rootCommand()) {
		require.Nil(t, cmd.Flags().Lookup("api-key"), cmd.CommandPath())
		require.Nil(t, cmd.Flags().Lookup("token"), cmd.CommandPath())
	}
}
