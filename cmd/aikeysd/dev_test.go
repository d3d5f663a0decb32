package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane/gateway/gatewaytest"
)

// startDev runs "dev" in a folder and returns once it has printed its summary.
func startDev(t *testing.T, data string) *server {
	t.Helper()
	provider := gatewaytest.StartProvider(t)
	s := start(t, []string{"AIKEYS_LISTEN=127.0.0.1:0", "AIKEYS_DATAPLANE_LISTEN=127.0.0.1:0"}, "dev", "--data", data,
		"--ops-listen", "127.0.0.1:0", "--gateway-listen", "127.0.0.1:0", "--upstream", "openai="+provider.URL+"/v1")
	s.eventually("the summary", func() bool { return strings.Contains(s.stdout.String(), "Ctrl-C stops it") })
	return s
}

// pasted is what a developer copies out of the summary.
func (s *server) pasted() string {
	_, commands, _ := strings.Cut(s.stdout.String(), "The secret is made up.\n")
	commands, _, _ = strings.Cut(commands, "Ctrl-C")
	return commands
}

// paste runs the summary's commands in bash, as they are, with curl telling each status, and returns these.
func paste(t *testing.T, commands string) (statuses []string, output string) {
	t.Helper()
	script := `curl() { command curl -w '%{stderr}%{http_code}\n' "$@"; }` + "\nset -e\n" + commands
	cmd := exec.CommandContext(t.Context(), "bash", "-c", script)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	cmd.Dir = t.TempDir()
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	require.NoError(t, cmd.Run(), stderr.String())
	return strings.Fields(stderr.String()), stdout.String()
}

func TestDevPrintsCommandsThatWorkAsTheyStand(t *testing.T) {
	data := filepath.Join(t.TempDir(), "it's a folder", "data")
	s := startDev(t, data)
	require.Equal(t, 6, strings.Count(s.pasted(), "curl "))
	require.Equal(t, 6, strings.Count(s.pasted(), "--oauth2-bearer "), "which curl blanks in lists of processes")
	require.NotContains(t, s.pasted(), "Authorization")
	worked := []string{"201", "200", "200", "200", "401", "200"} // register, list, find, get, use a made-up secret, revoke
	statuses, output := paste(t, s.pasted())
	require.Equal(t, worked, statuses, output)
	require.Contains(t, output, `"display_suffix":"0001"`)
	require.Contains(t, output, `"state":"complete"`)
	require.Contains(t, output, "Incorrect API key provided", "the provider says so")
	require.Contains(t, output, `"data_planes":1`)
	require.Contains(t, s.stderr.String(), "level=INFO msg=ready", "logs are text")
	require.Equal(t, exitOK, s.wait())
	require.NotContains(t, s.stderr.String(), "connecting anew", "it stops in order")

	info, err := os.Stat(data)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), info.Mode().Perm())
	session := filepath.Join(data, "session.env")
	info, err = os.Stat(session)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	credential := filepath.Join(data, "gateway.token")
	info, err = os.Stat(credential)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	firstCredential, err := os.ReadFile(credential)
	require.NoError(t, err)
	first, err := readSession(session)
	require.NoError(t, err)

	t.Run("the next start has the same API keys and another name to register", func(t *testing.T) {
		again := startDev(t, data)
		second, err := readSession(session)
		require.NoError(t, err)
		require.Equal(t, first.ownerKey, second.ownerKey)
		require.Equal(t, first.memberKey, second.memberKey)
		require.Equal(t, again.api, second.baseURL, "with the address of this start")
		secondCredential, err := os.ReadFile(credential)
		require.NoError(t, err)
		require.Equal(t, firstCredential, secondCredential)
		require.NotEqual(t, s.pasted(), again.pasted())
		statuses, output := paste(t, again.pasted())
		require.Equal(t, worked, statuses, output)
		require.Equal(t, exitOK, again.wait())
	})
	t.Run("credentials that do not work any more are replaced", func(t *testing.T) {
		id := strings.Split(first.ownerKey, "_")[1]
		environ := []string{"AIKEYS_DATABASE_URL=sqlite:" + filepath.Join(data, "aikeys.db")}
		mustAikeysd(t, environ, "admin", "token", "revoke", "--customer", "acme", "--project", "chat", "--id", id)
		mustAikeysd(t, environ, "admin", "dataplane", "revoke", "--name", "dev")
		again := startDev(t, data)
		second, err := readSession(session)
		require.NoError(t, err)
		require.NotEqual(t, first.ownerKey, second.ownerKey)
		require.Equal(t, first.memberKey, second.memberKey)
		statuses, output := paste(t, again.pasted())
		require.Equal(t, worked, statuses, output)
		require.Equal(t, exitOK, again.wait())
	})
}

func TestDevLeavesMembersAsTheyWereMade(t *testing.T) {
	data := t.TempDir()
	require.Equal(t, exitOK, startDev(t, data).wait())
	environ := []string{"AIKEYS_DATABASE_URL=sqlite:" + filepath.Join(data, "aikeys.db")}
	mustAikeysd(t, environ, "admin", "member", "set", "--customer", "acme", "--project", "chat", "--user", "bob", "--role", "owner")
	require.Equal(t, exitOK, startDev(t, data).wait())
	require.Regexp(t, `bob +owner`, mustAikeysd(t, environ, "admin", "member", "list", "--customer", "acme", "--project", "chat"))
}

func TestDevLogsAsItIsTold(t *testing.T) {
	environ := []string{
		"AIKEYS_LISTEN=127.0.0.1:0", "AIKEYS_DATAPLANE_LISTEN=127.0.0.1:0", "AIKEYS_OPS_LISTEN=127.0.0.1:0",
		"AIKEYS_LOG_FORMAT=json", "AIKEYS_LOG_LEVEL=debug",
	}
	s := start(t, environ, "dev", "--data", t.TempDir(), "--gateway-listen", "127.0.0.1:0").awaitReady()
	require.Equal(t, exitOK, s.wait())
}

func TestDevRefusesToBeProduction(t *testing.T) {
	cases := map[string]struct {
		environ, args []string
		says          string
	}{
		"a database":                  {environ: []string{"AIKEYS_DATABASE_URL=postgres://u:hunter2@db/x"}, says: "AIKEYS_DATABASE_URL: dev takes no production settings"},
		"a sealer":                    {environ: []string{"AIKEYS_SEALER=local:/etc/keyset.json"}, says: "run: aikeysd serve"},
		"a sealer elsewhere":          {args: []string{"--sealer", "secrets+https://secrets.internal:8443"}, says: "--sealer: dev takes no production settings"},
		"an issuer":                   {environ: []string{"AIKEYS_OIDC_ISSUER=https://issuer.example"}, says: "AIKEYS_OIDC_ISSUER"},
		"TLS":                         {environ: []string{"AIKEYS_TLS_CERT=a", "AIKEYS_TLS_KEY=b"}, says: "AIKEYS_TLS_KEY"},
		"insecurity":                  {environ: []string{"AIKEYS_INSECURE=true"}, says: "AIKEYS_INSECURE"},
		"other machines":              {args: []string{"--listen", "0.0.0.0:8080"}, says: "--listen: dev listens on this machine only"},
		"an upstream that is none":    {args: []string{"--upstream", "http://127.0.0.1:1"}, says: "--upstream: must be provider=URL"},
		"other machines' data planes": {args: []string{"--dataplane-listen", ":8081"}, says: "--dataplane-listen: dev listens on this machine only"},
		"other machines' gateway":     {args: []string{"--gateway-listen", ":8090"}, says: "--gateway-listen: must be an address of this machine"},
		"other machines' ops":         {environ: []string{"AIKEYS_OPS_LISTEN=:8082"}, says: "AIKEYS_OPS_LISTEN: dev listens on this machine only"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			data := filepath.Join(t.TempDir(), "data")
			got := aikeysd(t, tc.environ, append([]string{"dev", "--data", data}, tc.args...)...)
			require.Equal(t, exitUsage, got.code)
			require.Contains(t, got.stderr, tc.says)
			require.NotContains(t, got.stderr, "hunter2")
			require.NoDirExists(t, data, "nothing is made")
		})
	}
}
