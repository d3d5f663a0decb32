package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

func TestTheReferencesCommandLinesWork(t *testing.T) {
	u := alice(t)
	u.env = append(u.env, "PROVIDER=openai", "NAME=reference", "SECRET="+aSecret)
	got := u.run("api", "byok", "add", "--provider", "openai", "--name", "reference", "--secret", aSecret)
	require.Equal(t, exitOK, got.code, got.stderr)
	require.Contains(t, got.stderr, "warning: --secret is visible in process lists")
	require.NotContains(t, got.all(), "hunter2")
	id := anyKeyID.FindString(got.stdout)

	require.Contains(t, u.ok("api", "byok", "get", id), "…ter2")
	require.Contains(t, u.ok("api", "byok", "list"), id)
	require.Regexp(t, `complete: 1 of 1 data planes confirmed, slowest \d+ ms`, u.ok("api", "byok", "remove", id))
	require.Regexp(t, `State +revoked`, u.ok("api", "byok", "get", id))
	require.Contains(t, u.ok("api", "byok", "remove", id), "complete", "revoking again is safe")
}

func TestJSONAndYAMLAreTheServicesOwnAnswers(t *testing.T) {
	u := alice(t)
	id := u.add("shape")
	for command, path := range map[string]string{
		"api byok list":                                "/aikeys",
		"api byok list --state active":                 "/aikeys?state=active",
		"api byok list --provider openai":              "/aikeys?provider=openai",
		"api byok get " + id:                           "/aikeys/" + id,
		"api byok get " + strings.ToLower(id[5:]):      "/aikeys/" + id,
		"api byok resolve --provider openai":           "/resolve?provider=openai",
		"api byok events --limit 3":                    "/events?page_size=3",
		"api policy get":                               "/policy",
		"api byok policy get":                          "/policy",
		"api members list":                             "/members",
		"api providers":                                "/v1/providers",
		"whoami":                                       "/v1/whoami",
		"api whoami":                                   "/v1/whoami",
		"--customer acme --project chat api byok list": "/aikeys",
	} {
		want := u.answer(path)
		require.JSONEq(t, want, u.ok(command+" -o json"), command)
		var fromYAML map[string]any
		require.NoError(t, yaml.Unmarshal([]byte(u.ok("-o yaml "+command)), &fromYAML))
		require.Equal(t, decodedAsYAML(t, want), fromYAML, command)
		require.NotEmpty(t, u.run(command).stdout, command)
	}
}

// decodedAsYAML reads JSON with YAML's types: its integers are no floats.
func decodedAsYAML(t *testing.T, document string) map[string]any {
	t.Helper()
	var value map[string]any
	require.NoError(t, yaml.Unmarshal([]byte(document), &value))
	return value
}

func TestWritesAnswerInEveryFormat(t *testing.T) {
	u := alice(t)
	got := u.pipe(aSecret, "api byok add --provider openai --name written --user-scope -o json")
	require.Equal(t, exitOK, got.code, got.stderr)
	key, _ := decoded(t, got.stdout)["key"].(map[string]any)
	require.Equal(t, true, key["user_scope"])
	id, _ := key["id"].(string)
	require.Contains(t, u.ok("api byok get "+id), "alice's own")

	receipt, _ := decoded(t, u.ok("api", "byok", "remove", id, "-o", "json"))["receipt"].(map[string]any)
	require.Equal(t, "complete", receipt["state"])
	require.Contains(t, u.ok("api", "byok", "remove", id, "--wait", "0", "-o", "yaml"), "receipt:\n")

	require.Contains(t, u.ok("api members set carol --role owner"), "owner")
	require.JSONEq(t, `{}`, u.ok("api members remove carol -o json"))
	require.Equal(t, exitNotFound, u.run("api members remove carol").code)
}

func TestThePolicyKeepsWhatIsNotNamed(t *testing.T) {
	u := alice(t)
	t.Cleanup(func() { u.ok("api policy set --reset") })
	u.ok("api policy set --user-keys forbid --on-bad-key next_key --user-keys-for openai=allow --user-keys-for groq=require")
	text := u.ok("api byok policy set --user-keys-for groq=default")
	require.Regexp(t, `Own keys +forbid`, text)
	require.Regexp(t, `of openai +allow`, text)
	require.Regexp(t, `On a bad key +next_key`, text)
	require.NotContains(t, text, "groq")
	require.Regexp(t, `Own keys +allow`, u.ok("api policy set --reset"))
	require.Equal(t, exitUsage, u.run("api policy set").code)
	require.Equal(t, exitUsage, u.run("api policy set --user-keys-for openai=never").code)
}

func TestTheAuditTrailIsReadInPages(t *testing.T) {
	u := alice(t)
	u.add("one")
	u.add("two")
	firstPage := u.run("api byok events --limit 1")
	require.Len(t, strings.Split(strings.TrimSpace(firstPage.stdout), "\n"), 2, "the head, and one event")
	_, token, found := strings.Cut(strings.TrimSpace(firstPage.stderr), "--page-token ")
	require.True(t, found, firstPage.stderr)
	next := u.run("api", "byok", "events", "--limit", "1", "-o", "json", "--page-token", token)
	require.JSONEq(t, u.answer("/events?page_size=1&page_token="+token), next.stdout)
	require.Equal(t, exitUsage, u.run("api byok events --limit 0").code)
}

func TestASecretComesFromAPipeOrAFile(t *testing.T) {
	u := alice(t)
	file := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(file, []byte(aSecret+"\r\n"), 0o600))
	add := []string{"api", "byok", "add", "--provider", "openai", "--user-scope", "--name"}
	for name, tc := range map[string]struct {
		stdin string
		flags []string
		want  int
	}{
		"a pipe":                   {stdin: aSecret, want: exitOK},
		"a pipe with a line end":   {stdin: aSecret + "\n", want: exitOK},
		"a file":                   {flags: []string{"--secret-file", file}, want: exitOK},
		"standard input by name":   {stdin: aSecret, flags: []string{"--secret-file", "-"}, want: exitOK},
		"nothing":                  {want: exitUsage},
		"an empty line":            {stdin: "\n", want: exitUsage},
		"a file that there is not": {flags: []string{"--secret-file", "hunter2"}, want: exitUsage},
		"a folder":                 {flags: []string{"--secret-file", t.TempDir()}, want: exitUsage},
		"two at once":              {flags: []string{"--secret-file", file, "--secret", aSecret}, want: exitUsage},
		"an empty flag":            {flags: []string{"--secret", ""}, want: exitUsage},
		"too much":                 {stdin: strings.Repeat("hunter2", 3000), want: exitUsage},
	} {
		t.Run(name, func(t *testing.T) {
			got := u.pipe(tc.stdin, append(append([]string{}, append(add, name)...), tc.flags...)...)
			require.Equal(t, tc.want, got.code, got.all())
			require.NotContains(t, got.all(), "hunter2")
			if id := anyKeyID.FindString(got.stdout); id != "" {
				require.Contains(t, got.stdout, "…ter2", "without its line end")
				u.revoke(id)
			}
		})
	}
}

func TestACredentialDocumentComesFromAFile(t *testing.T) {
	u := alice(t)
	document := "{\n  \"base_url\": \"https://x\"\n}\n"
	file := filepath.Join(t.TempDir(), "credential.json")
	require.NoError(t, os.WriteFile(file, []byte(document), 0o600))
	got := u.run("api", "byok", "add", "--provider", "azure_openai", "--name", "azure", "--secret-file", file)
	require.Equal(t, exitUsage, got.code)
	require.NotContains(t, got.stderr, "see errors", "it says what is wrong, and where")
}

func TestAnIdempotencyKeyMakesARepeatSafe(t *testing.T) {
	u := alice(t)
	id := u.add("repeat", "--idempotency-key", "tare-1")
	require.Equal(t, id, u.add("repeat", "--idempotency-key", "tare-1"))
}
