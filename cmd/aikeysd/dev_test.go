package main

import (
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// anyPorts are the flags with which dev listens on free ports.
var anyPorts = []string{"--listen", "127.0.0.1:0", "--dataplane-listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0",
	"--gateway-listen", "127.0.0.1:0"}

// startDev runs "dev" in a folder and returns once it has printed its summary.
func startDev(t *testing.T, data string, args ...string) *server {
	t.Helper()
	require.NoError(t, buildPrograms())
	s := begin(t, nil, slices.Concat([]string{"dev", "--data", data}, anyPorts, args)...)
	s.eventually("the summary", func() bool { return strings.Contains(s.stdout.String(), "Ctrl-C stops it") })
	s.awaitLog("") // which has the addresses, unless it is quiet
	return s
}

func TestDevSummaryCommandsWork(t *testing.T) {
	t.Parallel()
	// requirePasteWorks runs the summary's commands in bash, as they are, and returns the commands and what they print.
	requirePasteWorks := func(s *server) (commands, printed string) {
		_, commands, _ = strings.Cut(s.stdout.String(), "The secret is made up.\n")
		commands, _, _ = strings.Cut(commands, "Ctrl-C")
		script := `curl() { command curl -w '%{stderr}%{http_code}\n' "$@"; }` + "\nset -e\n" + commands
		cmd := exec.CommandContext(t.Context(), "bash", "-c", script)
		cmd.Env, cmd.Dir = []string{"PATH=" + os.Getenv("PATH")}, t.TempDir()
		var stderr strings.Builder
		cmd.Stderr = &stderr
		stdout, err := cmd.Output()
		require.NoError(t, err, stderr.String())
		// register, list, find, get, use, revoke
		require.Equal(t, []string{"201", "200", "200", "200", "200", "200"}, strings.Fields(stderr.String()), "%s", stdout)
		return commands, string(stdout)
	}
	data := filepath.Join(t.TempDir(), "it's a folder", "data")
	s := startDev(t, data)
	commands, output := requirePasteWorks(s)
	require.Equal(t, 6, strings.Count(commands, "curl "))
	require.Equal(t, 6, strings.Count(commands, "--oauth2-bearer "), "which curl hides from lists of processes")
	require.NotContains(t, commands, "Authorization")
	for _, text := range []string{`"display_suffix":"0001"`, `"state":"complete"`, `"data_planes":1`, `"content":"stand-in "`, "data: [DONE]"} {
		require.Contains(t, output, text)
	}
	require.Contains(t, s.stderr.String(), "level=INFO msg=ready", "logs are text")
	require.Equal(t, exitOK, s.wait())
	require.Equal(t, 2, strings.Count(s.stderr.String(), "msg=stopped"), "the service and the gateway")
	require.NotContains(t, s.stderr.String(), "connecting anew", "the gateway stops first")

	file, token := filepath.Join(data, "session.env"), filepath.Join(data, "gateway.token")
	for path, mode := range map[string]os.FileMode{data: 0o700, file: 0o600, token: 0o600} {
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, mode, info.Mode().Perm(), path)
	}
	firstToken, err := os.ReadFile(token)
	require.NoError(t, err)
	first, err := readSession(file)
	require.NoError(t, err)

	t.Run("the next start has the same credentials", func(t *testing.T) {
		again := startDev(t, data)
		second, err := readSession(file)
		require.NoError(t, err)
		require.Equal(t, first.ownerKey, second.ownerKey)
		require.Equal(t, first.memberKey, second.memberKey)
		require.Equal(t, again.api, second.baseURL, "with the address of this start")
		secondToken, err := os.ReadFile(token)
		require.NoError(t, err)
		require.Equal(t, firstToken, secondToken)
		next, _ := requirePasteWorks(again)
		require.NotEqual(t, commands, next, "with another name to register")
		require.Equal(t, exitOK, again.wait())
	})
	t.Run("revoked credentials are replaced", func(t *testing.T) {
		id := strings.Split(first.ownerKey, "_")[1]
		environ := []string{"AIKEYS_DATABASE_URL=sqlite:" + filepath.Join(data, "aikeys.db")}
		mustAikeysd(t, environ, "admin", "token", "revoke", "--customer", "acme", "--project", "chat", "--id", id)
		mustAikeysd(t, environ, "admin", "dataplane", "revoke", "--name", "dev")
		again := startDev(t, data)
		second, err := readSession(file)
		require.NoError(t, err)
		require.NotEqual(t, first.ownerKey, second.ownerKey)
		require.Equal(t, first.memberKey, second.memberKey)
		requirePasteWorks(again)
		require.Equal(t, exitOK, again.wait())
	})
}

func TestDevKeepsRolesThatWereChanged(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	require.Equal(t, exitOK, startDev(t, data).wait())
	environ := []string{"AIKEYS_DATABASE_URL=sqlite:" + filepath.Join(data, "aikeys.db")}
	project := []string{"--customer", "acme", "--project", "chat"}
	mustAikeysd(t, environ, append([]string{"admin", "member", "set", "--user", "bob", "--role", "owner"}, project...)...)
	require.Equal(t, exitOK, startDev(t, data).wait())
	require.Regexp(t, `bob +owner`, mustAikeysd(t, environ, append([]string{"admin", "member", "list"}, project...)...))
}

func TestDevLogFollowsItsSettings(t *testing.T) {
	t.Parallel()
	s := startDev(t, t.TempDir(), "--log-format", "json", "--log-level", "debug")
	require.Equal(t, exitOK, s.wait())
	require.Equal(t, 2, strings.Count(s.stderr.String(), `"msg":"stopped"`), "the service and the gateway")

	quiet := startDev(t, t.TempDir(), "--log-level", "error")
	require.Equal(t, exitOK, quiet.wait())
	require.Empty(t, quiet.stderr.String())
}

func TestDevServesThePagesAndPackedSDKs(t *testing.T) {
	dir := t.TempDir()
	const sdk = "agentrouter-go-1.2.3.tar.gz"
	require.NoError(t, os.Mkdir(filepath.Join(dir, "dist"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "dist", sdk), []byte("packed"), 0o600))
	require.NoError(t, buildPrograms()) // needs the folder of this package
	t.Chdir(dir)
	s := startDev(t, filepath.Join(dir, "data"))
	for path, text := range map[string]string{
		"/console": `"/console/app.js"`, "/docs": "Register an AI key", "/docs/getting-started": "export AGENTROUTER_BASE_URL=" + s.api, "/docs/sdks": sdk,
		"/openapi.yaml": "- url: " + s.api, "/problems/not-found": "not_found", "/docs/downloads/" + sdk: "packed",
	} {
		got := s.get(s.api+path, "")
		require.Equal(t, http.StatusOK, got.status, path)
		require.Contains(t, got.body, text, path)
	}
	require.Contains(t, s.stdout.String(), s.api+"/docs")
	require.Less(t, strings.Index(s.stdout.String(), s.api+"/console"), strings.Index(s.stdout.String(), s.api+"/docs"), "the console comes first")
	require.Equal(t, exitOK, s.wait())
}

func TestDevFailures(t *testing.T) {
	dev := func(t *testing.T, environ []string, args ...string) outcome {
		t.Helper()
		return aikeysd(t, environ, slices.Concat([]string{"dev", "--data", t.TempDir()}, anyPorts, args)...)
	}
	t.Run("no gateway program", func(t *testing.T) {
		t.Setenv("PATH", t.TempDir())
		got := dev(t, nil)
		require.Equal(t, exitFailure, got.code)
		require.Contains(t, got.stderr, `there is no aikeys-gateway, neither in the folder of this program nor in PATH`)
	})
	require.NoError(t, buildPrograms())
	t.Run("the gateway's address is taken", func(t *testing.T) {
		var binder net.ListenConfig
		taken, err := binder.Listen(t.Context(), "tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer func() { require.NoError(t, taken.Close()) }()
		got := dev(t, nil, "--gateway-listen", taken.Addr().String())
		require.Equal(t, exitFailure, got.code)
		require.Contains(t, got.stderr, taken.Addr().String()+" is taken, perhaps by another aikeys-gateway")
		require.Contains(t, got.stderr, "--gateway-listen gives it another address")
		require.NotContains(t, got.stdout, "is ready")
	})
	t.Run("the gateway refuses an upstream", func(t *testing.T) {
		got := dev(t, nil, "--upstream", "nobody=http://127.0.0.1:1")
		require.Equal(t, exitUsage, got.code, got.stderr)
		require.Contains(t, got.stderr, "the gateway refuses them")
	})
	t.Run("the folder of downloads is missing", func(t *testing.T) {
		got := dev(t, []string{"AIKEYS_DOWNLOADS=" + filepath.Join(t.TempDir(), "none")})
		require.NotEqual(t, exitOK, got.code)
		require.Contains(t, got.stderr, "AIKEYS_DOWNLOADS: can't read the downloads")
	})
}

func TestDevRefusesProductionSettings(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
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
		"an upstream of no provider":  {args: []string{"--upstream", "http://127.0.0.1:1"}, says: "--upstream: must be provider=URL"},
		"other machines' data planes": {args: []string{"--dataplane-listen", ":8081"}, says: "--dataplane-listen: dev listens on this machine only"},
		"other machines' gateway":     {args: []string{"--gateway-listen", ":8090"}, says: "--gateway-listen: must be an address of this machine"},
		"other machines' ops":         {environ: []string{"AIKEYS_OPS_LISTEN=:8082"}, says: "AIKEYS_OPS_LISTEN: dev listens on this machine only"},
	} {
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
