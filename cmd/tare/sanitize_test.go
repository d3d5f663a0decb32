package main

import (
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
	"pgregory.net/rapid"
)

// hostileName has control sequences, line ends, text direction overrides, invisible characters, and verbs of format strings.
const hostileName = "evil\x1b[2J\x1b]0;title\a\u009b31m\r\nnext\u202egnp\u2066\u200b\u2028\U000e0041%s%[1]99send"

// serveHostile answers with hostileName in every field, and in errors with the credential too.
func serveHostile(request string, w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet || request == "GET events" || request == "GET policy" {
		writeProblem(w, http.StatusForbidden, "permission_denied", hostileName+r.Header.Get("Authorization"))
		return
	}
	thing := map[string]any{"auth_style": "bearer", "secret_format": "token", "prefixes": []any{hostileName}, "requests": 1, "refusals": 0, "role": "owner",
		"decision": "denied", "state": "active"}
	for _, name := range []string{"at", "created_at", "updated_at", "last_used_at"} {
		thing[name] = "2026-11-23T09:30:00Z"
	}
	for _, name := range []string{"customer_id", "project_id", "provider", "name", "display_suffix", "created_by", "user_id", "day", "key_id", "data_plane_id",
		"data_plane", "reason", "request_id", "slug", "display_name", "base_url", "key_page_url", "dialect", "header", "method", "token_id"} {
		thing[name] = hostileName
	}
	key := maps.Clone(thing)
	key["id"] = sampleID
	all := []any{thing}
	document := maps.Clone(thing) // of whoami
	maps.Copy(document, map[string]any{"keys": []any{key}, "key": key, "members": all, "usage": all, "fetches": all, "providers": all, "new\x1b[31m\u202e": hostileName})
	if request == "GET fetches" {
		document["next_page_token"] = hostileName
	}
	writeJSON(w, http.StatusOK, document)
}

// requireSafe fails if a terminal would act on the text.
func requireSafe(t *testing.T, text string) {
	t.Helper()
	require.True(t, utf8.ValidString(text))
	for _, r := range text {
		require.False(t, r != '\n' && isUnsafe(r), "%q has %U", text, r)
	}
}

// testDocument is a credential of several lines with characters that JSON escapes.
const testDocument = "{\n  \"type\": \"service_account\",\n  \"private_key\": \"<hunter2&hunter2>\"\n}"

func TestHostileTextIsEscaped(t *testing.T) {
	t.Parallel()
	u := newFakeService(t, serveHostile).user(t)
	for _, command := range []string{
		"api byok list", "api byok get " + sampleID, "api members list", "api providers", "api providers list --custom", "whoami", "api byok events", "api byok usage", "api byok fetches", "api policy get",
	} {
		for _, format := range []string{"table", "json", "yaml"} {
			got := u.run(command + " -o " + format)
			require.NotEmpty(t, got.Output())
			requireSafe(t, got.Stdout)
			requireSafe(t, got.Stderr)
			require.NotContains(t, got.Output(), "%!", "no text of the service is a format")
			require.NotContains(t, got.Output(), "ak_EXAMPLE", "a server that repeats the API key does not get it shown")
		}
		_, shown := u.runInTerminal(60, command).wait()
		requireSafe(t, controlCodes.ReplaceAllString(shown, ""))
	}
	require.NotContains(t, u.run("api byok list").Stdout, "\nnext", "a name is one line")
	s := u.runInTerminal(200, "api byok remove "+sampleID).expect("[y/N] ")
	requireSafe(t, s.output())
	_, shown := s.typeKeys("n\n").wait()
	requireSafe(t, shown)
}

func TestHostileTextKeepsItsValue(t *testing.T) {
	u := newFakeService(t, serveHostile).user(t)
	for _, format := range []string{"json", "yaml"} {
		var got struct {
			Keys []struct {
				Name string `yaml:"name"`
			} `yaml:"keys"`
			New string `yaml:"new\x1b[31m\u202e"`
		}
		text := u.runOK("api byok list -o " + format)
		if format == "json" {
			list, _ := decodeJSON(t, text)["keys"].([]any)
			key, _ := list[0].(map[string]any)
			require.Equal(t, hostileName, key["name"])
			require.Equal(t, hostileName, decodeJSON(t, text)["new\x1b[31m\u202e"], "what is new in an answer is there")
			continue
		}
		require.NoError(t, yaml.Unmarshal([]byte(text), &got))
		require.Equal(t, hostileName, got.Keys[0].Name)
	}
}

func TestRepeatedSecretsAreRedacted(t *testing.T) {
	s := newFakeService(t, func(_ string, w http.ResponseWriter, _ *http.Request) {
		writeProblem(w, http.StatusBadRequest, "invalid_argument", "no good: "+testSecret)
	})
	for _, flags := range [][]string{nil, {"--secret", testSecret}} {
		got := s.user(t).runWithInput(testSecret, append([]string{"api", "byok", "add", "--provider", "openai", "--name", "x"}, flags...)...)
		require.Equal(t, exitUsage, got.Code)
		require.Contains(t, got.Stderr, "no good: [redacted]")
		require.NotContains(t, got.Output(), "hunter2")
	}
}

func TestRepeatedDocumentsAreRedacted(t *testing.T) {
	u := newFakeService(t, func(_ string, w http.ResponseWriter, r *http.Request) {
		writeJSON(w, http.StatusOK, map[string]any{"key": keyDocument(testDocument), "again": r.Header.Get("Authorization")})
	}).user(t)
	for _, format := range []string{"table", "json", "yaml"} {
		got := u.runWithInput(testDocument, "api byok add --provider vertex --name x -o "+format)
		require.Equal(t, exitOK, got.Code, got.Stderr)
		require.Contains(t, got.Stdout, redacted)
		require.NotContains(t, got.Output(), "hunter2", format)
	}
	u = newFakeService(t, func(_ string, w http.ResponseWriter, _ *http.Request) {
		writeProblem(w, http.StatusBadRequest, "invalid_argument", "no good: "+testDocument)
	}).user(t)
	got := u.runWithInput(testDocument, "api byok add --provider vertex --name x")
	require.Equal(t, exitUsage, got.Code)
	require.Contains(t, got.Stderr, "no good: "+redacted)
	require.NotContains(t, got.Output(), "hunter2", "an error is shown on one line")
}

func TestEscapedSecretsAreRedacted(t *testing.T) {
	u := newFakeService(t, func(_ string, w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		var escaped strings.Builder
		for _, c := range r.Header.Get("Authorization") {
			_, _ = fmt.Fprintf(&escaped, `\u%04x`, c)
		}
		_, _ = fmt.Fprintf(w, `{"keys": [], "%s": "%[1]s"}`, escaped.String())
	}).user(t)
	for _, format := range []string{"json", "yaml"} {
		text := u.runOK("api byok list -o " + format)
		require.NotContains(t, text, "ak_EXAMPLE")
		require.NotContains(t, text, `\u0061\u006b`)
		require.Equal(t, 2, strings.Count(text, "Bearer "+redacted))
	}
}

func TestInvisibleCharactersAreEscaped(t *testing.T) {
	for _, r := range []rune{0x034f, 0x115f, 0x180b, 0x3164, 0xfe0f, 0xffa0, 0xe0100} {
		require.Equal(t, "a"+escapeRune(r)+"b", escapeControl("a"+string(r)+"b"))
	}
}

func TestEscapeControl(t *testing.T) {
	for _, text := range []string{hostileName, "\xff\xfe", "a\u009bb\U0001f468\u200d\U0001f4bb"} {
		requireSafe(t, escapeControl(text))
	}
	require.Equal(t, "plain 名前 é", escapeControl("plain 名前 é"))
	rapid.Check(t, func(r *rapid.T) {
		text := rapid.OneOf(rapid.String(), rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) }))
		requireSafe(t, escapeControl(text.Draw(r, "text")))
	})
}
