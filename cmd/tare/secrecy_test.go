package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// aDocument is a credential of several lines, with characters that JSON escapes.
const aDocument = "{\n  \"type\": \"service_account\",\n  \"private_key\": \"<hunter2&hunter2>\"\n}"

// registering answers to "add" with a key that is named after the secret, or with an error about it.
func registering(t *testing.T, status int) *person {
	t.Helper()
	return newStandIn(t, func(_ string, w http.ResponseWriter, r *http.Request) {
		if status == http.StatusOK {
			writeJSON(w, status, map[string]any{"key": aKey(aDocument), "again": r.Header.Get("Authorization")})
			return
		}
		refuse(w, status, "invalid_argument", "no good: "+aDocument)
	}).user(t)
}

func TestASecretOfSeveralLinesThatAServerRepeatsIsNotShown(t *testing.T) {
	const command = "api byok add --provider vertex --name x -o "
	for _, format := range outputFormats() {
		got := registering(t, http.StatusOK).pipe(aDocument, command+format)
		require.Equal(t, exitOK, got.code, got.stderr)
		require.Contains(t, got.stdout, redacted)
		require.NotContains(t, got.all(), "hunter2", format)
	}
	got := registering(t, http.StatusBadRequest).pipe(aDocument, command+"table")
	require.Equal(t, exitUsage, got.code)
	require.Contains(t, got.stderr, "no good: "+redacted)
	require.NotContains(t, got.all(), "hunter2", "an error puts it on one line")
}

func TestASecretThatAServerEscapesIsNotShown(t *testing.T) {
	u := newStandIn(t, func(_ string, w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		var escaped strings.Builder
		for _, c := range r.Header.Get("Authorization") {
			_, _ = fmt.Fprintf(&escaped, `\u%04x`, c)
		}
		_, _ = fmt.Fprintf(w, `{"keys": [], "%s": "%[1]s"}`, escaped.String())
	}).user(t)
	for _, format := range []string{"json", "yaml"} {
		text := u.ok("api byok list -o " + format)
		require.NotContains(t, text, "ak_EXAMPLE")
		require.NotContains(t, text, `\u0061\u006b`)
		require.Equal(t, 2, strings.Count(text, "Bearer "+redacted))
	}
}

func TestAnAnswerThatIsNestedWithoutEndIsNotLaidOut(t *testing.T) {
	const deep = 5000
	u := newStandIn(t, func(_ string, w http.ResponseWriter, _ *http.Request) {
		text := strings.Repeat("[", deep) + strings.Repeat("1,", 20_000) + "1" + strings.Repeat("]", deep)
		writeJSON(w, http.StatusOK, map[string]any{"keys": []any{}, "new": json.RawMessage(text)})
	}).user(t)
	for _, format := range []string{"json", "yaml"} {
		got := u.run("api byok list -o " + format)
		require.Equal(t, exitFailure, got.code)
		require.Empty(t, got.stdout)
		require.Contains(t, got.stderr, "nested")
	}
	require.Equal(t, 3, nestingDepth([]byte(`{"[[[[": [{"\"[": "]"}], "x": {}}`)))
}

func TestASecretInAFlagsPlaceIsNotRepeated(t *testing.T) {
	u := alice(t)
	for _, line := range []string{
		"api byok events --limit " + aSecret, "api byok remove --yes=" + aSecret, "api byok add --user-scope=" + aSecret,
		"--no-color=" + aSecret + " whoami", "api byok add --secret" + aSecret, "login --ak_hunter2",
	} {
		got := u.run(line)
		require.Equal(t, exitUsage, got.code, line)
		require.NotContains(t, got.all(), "hunter2", line)
	}
	require.Contains(t, u.run("api byok events --limit many").stderr, "--limit must be a whole number")
	require.Contains(t, u.run("api byok list --provder x").stderr, "unknown flag: --provder")
}

func TestWhatShowsNothingIsShownAsItsCode(t *testing.T) {
	for _, r := range []rune{0x034f, 0x115f, 0x180b, 0x3164, 0xfe0f, 0xffa0, 0xe0100} {
		require.Equal(t, "a"+escapeRune(r)+"b", escapeControl("a"+string(r)+"b"))
	}
}

func TestLoggingOutTakesTheKeyOutOfTheFileBehindALink(t *testing.T) {
	u := newPerson(t)
	require.Equal(t, exitOK, u.logIn(built.env["AGENTROUTER_API_KEY"]).code)
	elsewhere := filepath.Join(t.TempDir(), "kept.json")
	require.NoError(t, os.Rename(u.profilesFile(), elsewhere))
	require.NoError(t, os.Symlink(elsewhere, u.profilesFile()))
	require.Equal(t, exitOK, u.run("logout").code)
	left, err := os.ReadFile(elsewhere)
	require.NoError(t, err)
	require.NotContains(t, string(left), "ak_")
	info, err := os.Lstat(u.profilesFile())
	require.NoError(t, err)
	require.NotZero(t, info.Mode()&os.ModeSymlink, "the link is a link still")
}

func TestAFolderThatIsNotOursKeepsItsMode(t *testing.T) {
	u := newPerson(t)
	shared := t.TempDir()
	require.NoError(t, os.Chmod(shared, 0o755))
	u.env = u.with(configDirVariable + "=" + shared)
	require.Equal(t, exitOK, u.logIn(built.env["AGENTROUTER_API_KEY"]).code)
	info, err := os.Stat(shared)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o755), info.Mode().Perm(), "it may be the system's")
	info, err = os.Stat(filepath.Join(shared, "profiles.json"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
}

func TestCommandsOnProfilesPrintTheFormatThatWasAskedFor(t *testing.T) {
	u := newPerson(t)
	require.Equal(t, exitOK, u.logIn(built.env["AGENTROUTER_API_KEY"]).code)
	for _, command := range []string{"profiles use default", "logout", "profiles remove default"} {
		got := u.run(command + " -o json")
		require.Equal(t, exitOK, got.code)
		require.Equal(t, "default", decoded(t, got.stdout)["profile"], command)
	}
}
