package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/cmd/internal/programtest"
)

func TestRunSetsTheVariablesOfSDKs(t *testing.T) {
	u := newUserAt(t, "https://aikeys.example.com", "ak_secret")
	got := strings.Split(u.runOK("run", "--gateway", "https://gateway.example.com/", "--", "env"), "\n")
	for _, want := range []string{
		"OPENAI_BASE_URL=https://gateway.example.com/openai", "OPENAI_API_KEY=ak_secret",
		"ANTHROPIC_BASE_URL=https://gateway.example.com/anthropic", "ANTHROPIC_API_KEY=ak_secret",
		"GOOGLE_GEMINI_BASE_URL=https://gateway.example.com/gemini", "GEMINI_API_KEY=ak_secret",
		"AWS_ENDPOINT_URL_BEDROCK_RUNTIME=https://gateway.example.com/bedrock", "AWS_BEARER_TOKEN_BEDROCK=ak_secret",
	} {
		require.Contains(t, got, want)
	}

	cmd := u.command("run", "env")
	cmd.Env = append(cmd.Env, "AGENTROUTER_GATEWAY_URL=https://other.example.com", "OPENAI_API_KEY=sk-own", "ANTHROPIC_AUTH_TOKEN=own", "KEPT=yes")
	out, err := cmd.Output()
	require.NoError(t, err)
	require.Contains(t, string(out), "OPENAI_BASE_URL=https://other.example.com/openai\n")
	require.Contains(t, string(out), "KEPT=yes\n")
	require.NotContains(t, string(out), "own")
}

func TestRunIsTheProgram(t *testing.T) {
	u := newUser(t, "AGENTROUTER_BASE_URL=https://aikeys.example.com", "AGENTROUTER_API_KEY=ak_secret", "AGENTROUTER_GATEWAY_URL=http://127.0.0.1:8090")
	got := u.run("run", "--", "sh", "-c", "echo out; echo err >&2; exit 42", "--profile", "x")
	require.Equal(t, programtest.Outcome{Code: 42, Stdout: "out\n", Stderr: "err\n"}, got)
	require.Equal(t, "--profile x\n", u.runOK("run", "echo", "--profile", "x"), "flags after the program are its own")

	for line, says := range map[string]string{
		"run":                             "takes a program to run",
		"run -- no-such-program-anywhere": "no such program: ",
		"run --gateway http://gateway.example.com env": "the gateway's URL is http:// to another machine",
		"run --gateway nonsense env":                   "the gateway's URL must be like",
	} {
		got := u.run(line)
		require.Equal(t, exitUsage, got.Code, line)
		require.Contains(t, got.Stderr, says)
	}
	got = newUserAt(t, "https://aikeys.example.com", "ak_secret").run("run", "env")
	require.Equal(t, exitUsage, got.Code)
	require.Contains(t, got.Stderr, "no gateway")
	require.Equal(t, exitUnauthenticated, newUser(t).run("run", "env").Code)
}

// A key of one service never goes to the gateway of another.
func TestGatewayOfAProfile(t *testing.T) {
	u := newUser(t)
	login := func(baseURL string, args ...string) {
		got := u.login(live.env[apiKeyVariable], append(args, "--base-url", baseURL)...)
		require.Equal(t, exitOK, got.Code, got.Stderr)
	}
	address := live.env[baseURLVariable]
	login(address, "--gateway", live.env[gatewayVariable])
	require.Contains(t, u.runOK("run", "env"), "OPENAI_BASE_URL="+live.env[gatewayVariable]+"/openai\n")
	login(address)
	require.Contains(t, u.runOK("run", "env"), "OPENAI_BASE_URL="+live.env[gatewayVariable]+"/openai\n", "the next log-in keeps it")
	login(strings.Replace(address, "127.0.0.1", "localhost", 1))
	require.Contains(t, u.run("run", "env").Stderr, "no gateway")
}

func TestWatchShowsChanges(t *testing.T) {
	u := alice(t)
	u.addKey("before")
	p := programtest.Launch(t, u.command("keys", "watch", "--every", "100ms"))
	p.AwaitLog("before")
	id := u.addKey("watched")
	p.AwaitLog("openai/watched  active")
	u.runOK("keys", "disable", "watched", "--wait", "0")
	p.AwaitLog("openai/watched  active → disabled")
	u.revokeKey(id)
	p.AwaitLog("openai/watched  disabled → revoked")
	require.Equal(t, exitStopped, p.Stop())
}

func TestKeysByName(t *testing.T) {
	u := alice(t)
	id := u.addKey("by-name")
	require.Contains(t, u.runOK("keys get by-name"), id)
	require.Contains(t, u.runOK("keys show openai/by-name"), id)
	require.Contains(t, u.runOK("keys ls"), id)
	u.runWithInput("sk-ant-api03-EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE-0007", "keys", "add", "--provider", "anthropic", "--name", "by-name")
	got := u.run("keys get by-name")
	require.Equal(t, exitUsage, got.Code)
	require.Contains(t, got.Stderr, "2 active keys have that name")
	require.Contains(t, got.Stderr, id)
	require.Contains(t, u.runOK("keys rm --yes openai/by-name"), "revoked")
	require.Contains(t, u.runOK("keys rm --yes by-name"), "revoked", "the other one has the name alone now")
	require.Equal(t, exitNotFound, u.run("keys get by-name").Code, "names are of active keys")
}

func TestDestructiveCommandsNeedYes(t *testing.T) {
	u := alice(t)
	id := u.addKey("kept")
	for _, line := range []string{"api byok remove " + id, "keys rm " + id, "api members remove bob"} {
		got := u.run(line)
		require.Equal(t, exitUsage, got.Code, line)
		require.Contains(t, got.Stderr, "needs --yes", line)
	}
	require.Contains(t, u.runOK("keys get "+id), "active")
}

func TestJQ(t *testing.T) {
	u := alice(t)
	id := u.addKey("jq-filtered")
	require.Equal(t, id+"\n", u.runOK("keys", "list", "--jq", `.keys[] | select(.name == "jq-filtered") | .id`))
	require.Equal(t, "true\n{\"a\":1}\n", u.runOK("whoami", "--jq", `true, {a: 1}`))
	require.Equal(t, `\u001b[31m`+"\n", u.runOK("whoami", "--jq", `"\u001b[31m"`), "a name can't control the terminal")
	got := u.run("whoami", "--jq", ".user_id | keys")
	require.Equal(t, exitUsage, got.Code)
	require.Contains(t, got.Stderr, "--jq: ")
	require.Equal(t, exitUsage, u.run("whoami", "--jq", ".[").Code)
	require.Empty(t, u.runOK("whoami", "--jq", "env.HOME // empty"), "the environment stays outside")
}

func TestErrorsAsDocuments(t *testing.T) {
	got := alice(t).run("keys", "list", "--provider", "nonesuch", "-o", "json")
	require.Equal(t, exitUsage, got.Code)
	require.Empty(t, got.Stdout)
	document := decodeJSON(t, got.Stderr)
	require.InDelta(t, 400, document["status"], 0)
	require.Equal(t, "invalid_argument", document["code"])
	require.NotEmpty(t, document["request_id"])
	require.InDelta(t, exitUsage, document["exit_code"], 0)

	document = decodeJSON(t, newUser(t).run("whoami", "-o", "json").Stderr)
	require.Equal(t, "you are not logged in", document["detail"])
	require.Contains(t, newUser(t).run("whoami", "-o", "yaml").Stderr, "exit_code: 3\n")
}

func TestVersion(t *testing.T) {
	require.Regexp(t, `^tare version \S+.* go1\.`, newUser(t).runOK("version"))
	require.Contains(t, decodeJSON(t, newUser(t).runOK("version -o json"))["version"], "go1.")
}
