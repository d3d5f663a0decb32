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
	"time"

	"github.com/stretchr/testify/require"

	agentrouter "github.com/tetrateio/agentrouter-go"
	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"

	"github.com/agentrouter/aikeys/cmd/internal/programtest"
)

// anyPorts are the flags with which dev listens on free ports.
var anyPorts = []string{"--listen", "127.0.0.1:0", "--dataplane-listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0",
	"--gateway-listen", "127.0.0.1:0"}

// startDev runs "dev" in a folder and returns once it has printed its summary.
func startDev(t *testing.T, data string, args ...string) *server {
	t.Helper()
	require.NoError(t, buildPrograms())
	s := begin(t, nil, slices.Concat([]string{"dev", "--data", data}, anyPorts, args)...)
	s.awaitLog("Ctrl-C stops it")
	return s
}

func TestDevSummaryCommandsWork(t *testing.T) {
	t.Parallel()
	// requirePasteWorks runs the summary's unchanged commands in bash. It returns the commands and their output.
	requirePasteWorks := func(s *server) (commands, printed string) {
		_, commands, _ = strings.Cut(s.Stdout.String(), "The secret is made up.\n")
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
	require.Contains(t, s.Stderr.String(), "level=INFO msg=ready", "logs are text")
	require.Equal(t, exitOK, s.Stop())
	require.Equal(t, 2, strings.Count(s.Stderr.String(), "msg=stopped"), "the service and the gateway")
	require.NotContains(t, s.Stderr.String(), "reconnecting", "the gateway stops first")

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
		require.Equal(t, exitOK, again.Stop())
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
		require.Equal(t, exitOK, again.Stop())
	})
}

func TestDevKeepsRolesThatWereChanged(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	require.Equal(t, exitOK, startDev(t, data).Stop())
	environ := []string{"AIKEYS_DATABASE_URL=sqlite:" + filepath.Join(data, "aikeys.db")}
	project := []string{"--customer", "acme", "--project", "chat"}
	mustAikeysd(t, environ, append([]string{"admin", "member", "set", "--user", "bob", "--role", "owner"}, project...)...)
	require.Equal(t, exitOK, startDev(t, data).Stop())
	require.Regexp(t, `bob +owner`, mustAikeysd(t, environ, append([]string{"admin", "member", "list"}, project...)...))
}

func TestDevLogFollowsItsSettings(t *testing.T) {
	t.Parallel()
	s := startDev(t, t.TempDir(), "--log-format", "json", "--log-level", "debug")
	require.Equal(t, exitOK, s.Stop())
	require.Equal(t, 2, strings.Count(s.Stderr.String(), `"msg":"stopped"`), "the service and the gateway")

	quiet := startDev(t, t.TempDir(), "--log-level", "error")
	require.Equal(t, exitOK, quiet.Stop())
	require.Empty(t, quiet.Stderr.String())
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
		require.Equal(t, http.StatusOK, got.Status, path)
		require.Contains(t, got.Body, text, path)
	}
	require.Contains(t, s.Stdout.String(), s.api+"/docs")
	require.Less(t, strings.Index(s.Stdout.String(), s.api+"/console"), strings.Index(s.Stdout.String(), s.api+"/docs"), "the console comes first")
	require.Equal(t, exitOK, s.Stop())
}

func TestDevFailures(t *testing.T) {
	dev := func(t *testing.T, environ []string, args ...string) programtest.Outcome {
		t.Helper()
		return aikeysd(t, environ, slices.Concat([]string{"dev", "--data", t.TempDir()}, anyPorts, args)...)
	}
	t.Run("no gateway program", func(t *testing.T) {
		t.Setenv("PATH", t.TempDir())
		got := dev(t, nil)
		require.Equal(t, exitFailure, got.Code)
		require.Contains(t, got.Stderr, `there is no aikeys-gateway, neither in the folder of this program nor in PATH`)
	})
	require.NoError(t, buildPrograms())
	t.Run("the gateway's address is taken", func(t *testing.T) {
		var binder net.ListenConfig
		taken, err := binder.Listen(t.Context(), "tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer func() { require.NoError(t, taken.Close()) }()
		got := dev(t, nil, "--gateway-listen", taken.Addr().String())
		require.Equal(t, exitFailure, got.Code)
		require.Contains(t, got.Stderr, taken.Addr().String()+" is taken, perhaps by another aikeys-gateway")
		require.Contains(t, got.Stderr, "--gateway-listen gives it another address")
		require.NotContains(t, got.Stdout, "is ready")
	})
	t.Run("the gateway refuses an upstream", func(t *testing.T) {
		got := dev(t, nil, "--upstream", "nobody=http://127.0.0.1:1")
		require.Equal(t, exitUsage, got.Code, got.Stderr)
		require.Contains(t, got.Stderr, "the gateway refuses them")
	})
	t.Run("the folder of downloads is missing", func(t *testing.T) {
		got := dev(t, []string{"AIKEYS_DOWNLOADS=" + filepath.Join(t.TempDir(), "none")})
		require.NotEqual(t, exitOK, got.Code)
		require.Contains(t, got.Stderr, "AIKEYS_DOWNLOADS: can't read the downloads")
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
			require.Equal(t, exitUsage, got.Code)
			require.Contains(t, got.Stderr, tc.says)
			require.NotContains(t, got.Stderr, "hunter2")
			require.NoDirExists(t, data, "nothing is made")
		})
	}
}

// sdk returns a client of the Go SDK.
func (s *server) sdk(token string) *agentrouter.Client {
	s.t.Helper()
	client, err := agentrouter.New(s.t.Context(), agentrouter.WithBaseURL(s.api), agentrouter.WithAPIKey(token), agentrouter.WithHTTPClient(programtest.Client))
	require.NoError(s.t, err)
	return client
}

func TestMockIsTheService(t *testing.T) {
	t.Parallel()
	const origin = "http://localhost:5173"
	data := filepath.Join(t.TempDir(), "mock")
	s := startDev(t, data, "--mock", "--cors-origins", origin)
	ctx, keys := t.Context(), s.sdk("any").AIKeys()

	t.Run("it has a key in each state", func(t *testing.T) {
		has := map[string]func(k aikeysv1.Key) bool{
			"active":  func(k aikeysv1.Key) bool { return *k.Serves && k.Version == 2 },
			"revoked": func(k aikeysv1.Key) bool { return k.Receipt != nil && k.Receipt.State == "complete" },
			"failing": func(k aikeysv1.Key) bool {
				return k.LastFailure != nil && k.LastFailure.Status == http.StatusUnauthorized
			},
			"disabled":  func(k aikeysv1.Key) bool { return *k.Disabled },
			"limited":   func(k aikeysv1.Key) bool { return k.Limit != nil && k.Limit.RequestsPerMinute == 60 },
			"one's own": func(k aikeysv1.Key) bool { return k.UserScope && k.CreatedBy == devOwner },
		}
		list, err := keys.List(ctx, "", "")
		require.NoError(t, err)
		for _, k := range list.Keys {
			one, err := keys.Get(ctx, "", "", k.ID) // the answer has the receipt
			require.NoError(t, err)
			for name, is := range has {
				if is(one.Key) {
					delete(has, name)
				}
			}
		}
		require.Empty(t, has)
		empty, err := keys.List(ctx, devCustomer, mockEmptyProject)
		require.NoError(t, err)
		require.Empty(t, empty.Keys)
		denied := s.get(s.api+"/v1/customers/-/projects/-/events?outcome=denied", "any")
		require.Contains(t, denied.Body, `"user_id":"bob"`)
	})
	t.Run("what a program does there stays", func(t *testing.T) {
		added, err := keys.Register(ctx, "", "", "openai", "mine", "sk-proj-EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE-9999", false)
		require.NoError(t, err)
		_, err = keys.Register(ctx, "", "", "openai", "mine", "sk-proj-EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE-9998", false)
		require.ErrorIs(t, err, agentrouter.ErrAlreadyExists)
		revoked, err := keys.With(agentrouter.Wait(30*time.Second)).Revoke(ctx, "", "", added.Key.ID)
		require.NoError(t, err)
		require.EqualValues(t, "complete", revoked.Receipt.State)
		require.Equal(t, 1, revoked.Receipt.Acknowledged, "by the gateway")
	})
	t.Run("bob is a member, and a revoked API key is none", func(t *testing.T) {
		_, err := s.sdk(devMember).AIKeys().Register(ctx, "", "", "openai", "his", "sk-proj-EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE-9997", false)
		require.ErrorIs(t, err, agentrouter.ErrPermissionDenied)
		require.Equal(t, http.StatusUnauthorized, s.get(s.api+"/v1/whoami", "").Status)
		made := programtest.Send(http.MethodPost, s.api+"/v1/tokens", "any", `{"name": "laptop"}`)
		_, token, _ := strings.Cut(made.Body, `"api_key":"`)
		token, _, _ = strings.Cut(token, `"`)
		id := strings.Split(token, "_")[1]
		require.Equal(t, http.StatusOK, s.get(s.api+"/v1/whoami", token).Status)
		require.Equal(t, http.StatusOK, programtest.Send(http.MethodDelete, s.api+"/v1/tokens/"+id, "any", "").Status)
		require.Eventually(t, func() bool { return s.get(s.api+"/v1/whoami", token).Status == http.StatusUnauthorized }, programtest.Patience, 10*time.Millisecond)
	})
	t.Run("it answers with an example on request, and lists them", func(t *testing.T) {
		_, err := s.sdk("any").With(agentrouter.Header("Prefer", "example=quota_exceeded")).AIKeys().Register(
			ctx, "", "", "openai", "mine", "sk-proj-EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE-9996", false)
		var refused *agentrouter.Error
		require.ErrorAs(t, err, &refused)
		require.Equal(t, "/problems/quota-exceeded", refused.Type)
		index := s.get(s.api+"/", "")
		require.Contains(t, index.Body, "409&nbsp;quota_exceeded")
		require.Contains(t, s.get(s.api+"/openapi.yaml", "").Body, "- url: "+s.api)
	})
	t.Run("only the origins that are named may call", func(t *testing.T) {
		for from, allowed := range map[string]string{origin: origin, "http://localhost:3000": ""} {
			r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.api+"/v1/aikeys", nil)
			require.NoError(t, err)
			r.Header.Set("Origin", from)
			answer, err := programtest.Client.Do(r)
			require.NoError(t, err)
			require.NoError(t, answer.Body.Close())
			require.Equal(t, allowed, answer.Header.Get("Access-Control-Allow-Origin"))
		}
	})
	t.Run("the commands that it prints work", func(t *testing.T) {
		_, commands, _ := strings.Cut(s.Stdout.String(), "another terminal:\n")
		commands, _, _ = strings.Cut(commands, "Then point")
		cmd := exec.CommandContext(ctx, "bash", "-c", `curl() { command curl -o /dev/null -w '%{http_code} ' "$@"; }`+"\nset -e\n"+commands)
		cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
		printed, err := cmd.Output()
		require.NoError(t, err)
		require.Equal(t, "200 201 403 ", string(printed))
	})
	before, err := keys.List(ctx, "", "")
	require.NoError(t, err)
	require.Equal(t, exitOK, s.Stop())
	again := startDev(t, data, "--mock")
	after, err := again.sdk("any").AIKeys().List(ctx, "", "")
	require.NoError(t, err)
	require.Len(t, after.Keys, len(before.Keys))
	require.Equal(t, exitOK, again.Stop())
}
