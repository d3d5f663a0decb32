package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// testTimeout limits every wait of a test.
const testTimeout = 20 * time.Second

// liveService is the program as users have it and a running server, which TestMain builds and starts once.
type liveService struct {
	tare   string
	server *exec.Cmd
	exited chan struct{}
	env    map[string]string // the variables of the session file
}

// live is set before the tests start.
var live liveService

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "tare")
		if err != nil {
			panic(err)
		}
		defer func() { _ = os.RemoveAll(dir) }()
		live = startLive(dir)
		defer live.end()
		return m.Run()
	}())
}

func startLive(dir string) liveService {
	build := exec.Command("go", "build", "-trimpath", "-o", dir+"/", "../tare", "../aikeysd", "../aikeys-gateway")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		panic(string(out))
	}
	data := filepath.Join(dir, "data")
	const anyPort = "127.0.0.1:0"
	server := exec.Command(filepath.Join(dir, "aikeysd"), "dev", "--data", data, "--listen", anyPort,
		"--dataplane-listen", anyPort, "--ops-listen", anyPort, "--gateway-listen", anyPort)
	said, err := os.Create(filepath.Join(dir, "said"))
	if err != nil {
		panic(err)
	}
	server.Stdout, server.Stderr = said, said
	if err := server.Start(); err != nil {
		panic(err)
	}
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		_ = server.Wait() // its output says why
	}()
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		text, err := os.ReadFile(said.Name())
		if err == nil && bytes.Contains(text, []byte("Ctrl-C stops it")) {
			break
		}
		if isClosed(exited) || time.Now().After(end) {
			panic("aikeysd dev is not ready; it said:\n" + string(text))
		}
	}
	session, err := os.ReadFile(filepath.Join(data, "session.env"))
	if err != nil {
		panic(err)
	}
	found := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^export (\w+)=(.*)$`).FindAllStringSubmatch(string(session), -1) {
		found[m[1]] = m[2]
	}
	return liveService{tare: filepath.Join(dir, "tare"), server: server, exited: exited, env: found}
}

func isClosed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func (m liveService) end() {
	_ = m.server.Process.Signal(os.Interrupt)
	<-m.exited
}

// user runs tare with an environment and profiles of their own.
type user struct {
	t      *testing.T
	config string
	env    []string
}

// newUser returns a user who has not logged in.
func newUser(t *testing.T, env ...string) *user {
	t.Helper()
	home := t.TempDir()
	config := filepath.Join(home, "settings", "tare")
	return &user{t, config, append([]string{
		"HOME=" + home, "PATH=" + os.Getenv("PATH"), "LC_ALL=C.UTF-8", "TERM=xterm", "XDG_CONFIG_HOME=" + filepath.Dir(config),
	}, env...)}
}

// newUserAt returns a user whose environment has a session.
func newUserAt(t *testing.T, baseURL, apiKey string) *user {
	t.Helper()
	return newUser(t, "AGENTROUTER_BASE_URL="+baseURL, "AGENTROUTER_API_KEY="+apiKey)
}

// alice is an owner of the live server's project.
func alice(t *testing.T) *user {
	t.Helper()
	return newUserAt(t, live.env["AGENTROUTER_BASE_URL"], live.env["AGENTROUTER_API_KEY"])
}

// bob is a member of the live server's project.
func bob(t *testing.T) *user {
	t.Helper()
	return newUserAt(t, live.env["AGENTROUTER_BASE_URL"], live.env["AGENTROUTER_MEMBER_API_KEY"])
}

// outcome is the result of one run.
type outcome struct {
	code           int
	stdout, stderr string
}

// all returns both outputs.
func (o outcome) all() string { return o.stdout + o.stderr }

// environ returns the environment and more variables.
func (u *user) environ(more ...string) []string { return slices.Concat(u.env, more) }

func (u *user) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, live.tare, args...)
	cmd.Env = u.env
	return cmd
}

// runWithInput runs a command line with stdin as its standard input. A single argument is split at spaces.
func (u *user) runWithInput(stdin string, args ...string) outcome {
	u.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout) // t.Context() has ended when a cleanup runs tare
	defer cancel()
	if len(args) == 1 {
		args = strings.Fields(args[0])
	}
	cmd := u.command(ctx, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	err := cmd.Run()
	require.NoError(u.t, ctx.Err(), "tare did not end; its output:\n%s%s", &stdout, &stderr)
	if err != nil {
		exit := (*exec.ExitError)(nil)
		require.ErrorAs(u.t, err, &exit)
	}
	return outcome{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

func (u *user) run(args ...string) outcome {
	u.t.Helper()
	return u.runWithInput("", args...)
}

// runOK runs a command that must succeed and print nothing but its result.
func (u *user) runOK(args ...string) string {
	u.t.Helper()
	got := u.run(args...)
	require.Equal(u.t, exitOK, got.code, "%q said:\n%s", args, got.all())
	require.Empty(u.t, got.stderr, "%q", args)
	return got.stdout
}

var keyIDPattern = regexp.MustCompile(`byok_[0-9A-Z]{26}`)

// testSecret looks like a key of OpenAI.
const testSecret = "sk-proj-EXAMPLE-EXAMPLE-EXAMPLE-hunter2"

// addKey registers a key, which the test's cleanup revokes, and returns its id.
func (u *user) addKey(name string, flags ...string) string {
	u.t.Helper()
	got := u.runWithInput(testSecret+"\n", append([]string{"api", "byok", "add", "--provider", "openai", "--name", name}, flags...)...)
	require.Equal(u.t, exitOK, got.code, got.all())
	id := keyIDPattern.FindString(got.stdout)
	require.NotEmpty(u.t, id)
	u.t.Cleanup(func() { u.revokeKey(id) })
	return id
}

func (u *user) revokeKey(id string) {
	request, err := http.NewRequestWithContext(context.Background(), http.MethodDelete,
		live.env["AGENTROUTER_BASE_URL"]+"/v1/aikeys/"+id, http.NoBody)
	require.NoError(u.t, err)
	u.sendRequest(request)
}

// apiAnswer returns the live server's response to a GET. The path is under the session's project unless it begins with /v1.
func (u *user) apiAnswer(path string) string {
	u.t.Helper()
	if !strings.HasPrefix(path, "/v1") {
		path = "/v1/customers/-/projects/-" + path
	}
	request, err := http.NewRequestWithContext(u.t.Context(), http.MethodGet, live.env["AGENTROUTER_BASE_URL"]+path, http.NoBody)
	require.NoError(u.t, err)
	return u.sendRequest(request)
}

func (u *user) sendRequest(request *http.Request) string {
	for _, entry := range u.env {
		if key, ok := strings.CutPrefix(entry, "AGENTROUTER_API_KEY="); ok {
			request.Header.Set("Authorization", "Bearer "+key)
		}
	}
	response, err := http.DefaultClient.Do(request)
	require.NoError(u.t, err)
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	require.NoError(u.t, err)
	require.Equal(u.t, http.StatusOK, response.StatusCode, "%s", text)
	return string(text)
}

func decodeJSON(t *testing.T, document string) map[string]any {
	t.Helper()
	var value map[string]any
	require.NoError(t, json.Unmarshal([]byte(document), &value), document)
	return value
}

// sampleID is the key's id in the API document's samples.
const sampleID = "byok_01M83VVAHV8M2T5K7N9R4W1XYZ"
