package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/stretchr/testify/require"
)

// testTimeout limits every wait of a test.
const testTimeout = 20 * time.Second

// live is the program as users have it and a session at a running server. TestMain builds and starts them before the tests.
var live struct {
	tare string
	env  map[string]string // the variables of the session file
}

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "tare")
		panicIf(err)
		defer func() { _ = os.RemoveAll(dir) }()
		build := exec.Command("go", "build", "-trimpath", "-o", dir+"/", "../tare", "../aikeysd", "../aikeys-gateway")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		out, err := build.CombinedOutput()
		if err != nil {
			panic(string(out))
		}
		const anyPort = "127.0.0.1:0"
		data := filepath.Join(dir, "data")
		server := exec.Command(filepath.Join(dir, "aikeysd"), "dev", "--data", data, "--listen", anyPort,
			"--dataplane-listen", anyPort, "--ops-listen", anyPort, "--gateway-listen", anyPort)
		output, err := server.StdoutPipe()
		panicIf(err)
		panicIf(server.Start())
		lines := bufio.NewScanner(output)
		for isReady := false; !isReady; isReady = strings.Contains(lines.Text(), "Ctrl-C stops it") {
			if !lines.Scan() {
				panic("aikeysd dev has ended before it was ready")
			}
		}
		var reading sync.WaitGroup
		reading.Go(func() { _, _ = io.Copy(io.Discard, output) }) // so that the server never blocks on its output
		defer func() {
			_ = server.Process.Signal(os.Interrupt)
			reading.Wait()
			_ = server.Wait()
		}()
		session, err := os.ReadFile(filepath.Join(data, "session.env"))
		panicIf(err)
		live.tare, live.env = filepath.Join(dir, "tare"), map[string]string{}
		for _, m := range regexp.MustCompile(`(?m)^export (\w+)=(.*)$`).FindAllStringSubmatch(string(session), -1) {
			live.env[m[1]] = m[2]
		}
		return m.Run()
	}())
}

func panicIf(err error) {
	if err != nil {
		panic(err)
	}
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
		keyringVariable + "=off",
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

func (u *user) revokeKey(id string) { u.callAPI(http.MethodDelete, "/v1/aikeys/"+id) }

// callAPI returns the live server's response. The path is under the session's project unless it begins with /v1.
func (u *user) callAPI(method, path string) string {
	u.t.Helper()
	if !strings.HasPrefix(path, "/v1") {
		path = "/v1/customers/-/projects/-" + path
	}
	// t.Context() has ended when a cleanup revokes a key.
	request, err := http.NewRequestWithContext(context.Background(), method, live.env["AGENTROUTER_BASE_URL"]+path, http.NoBody)
	require.NoError(u.t, err)
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

// fakeService is a service whose answers a test chooses.
type fakeService struct {
	*httptest.Server
	mu       sync.Mutex
	requests []string
	body     string // of the last request
}

// newFakeService starts a service. answer gets the request as its method and last path segment: "DELETE key", "GET whoami".
func newFakeService(t *testing.T, answer func(request string, w http.ResponseWriter, r *http.Request)) *fakeService {
	t.Helper()
	s := &fakeService{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		request := r.Method + " " + r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
		if strings.Contains(r.URL.Path, "/aikeys/") {
			request = r.Method + " key"
		}
		body, _ := io.ReadAll(r.Body) // the server notices that the client is gone only after the body
		s.mu.Lock()
		s.requests, s.body = append(s.requests, request), string(body)
		s.mu.Unlock()
		answer(request, w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *fakeService) requestsSoFar() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string{}, s.requests...)
}

func (s *fakeService) lastBody() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.body
}

// user returns a user with a session at the service.
func (s *fakeService) user(t *testing.T) *user {
	return newUserAt(t, s.URL, "ak_EXAMPLE_of_a_fake_service")
}

func writeJSON(w http.ResponseWriter, status int, document any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(document) // the client may have gone
}

// writeProblem answers with a problem document.
func writeProblem(w http.ResponseWriter, status int, code, detail string) {
	writeJSON(w, status, map[string]any{
		"type": "/problems/x", "title": "x", "status": status, "detail": detail, "code": code, "request_id": "01M83VVAHQQW2E4R6T8Y0A1S3D",
	})
}

// keyDocument returns a key of the API.
func keyDocument(name string) map[string]any {
	return map[string]any{
		"id": sampleID, "customer_id": "acme", "project_id": "chat", "provider": "openai", "name": name, "display_suffix": "9f3c",
		"user_scope": false, "created_at": "2026-11-23T09:30:00.123456Z", "created_by": "alice", "state": "active",
	}
}

// receiptDocument returns a receipt for three data planes.
func receiptDocument(acknowledged int) map[string]any {
	r := map[string]any{
		"state": "complete", "revoked_at": "2026-11-23T09:30:00Z", "revoked_by": "alice", "data_planes": 3,
		"acknowledged": acknowledged, "slowest_ms": 10 * acknowledged,
	}
	if acknowledged < 3 {
		r["state"], r["complete_by"] = "pending", time.Now().UTC().Add(8*time.Second)
	}
	return map[string]any{"receipt": r}
}

// holdResponse waits as long as the request asks for, as the service does while a receipt is pending.
func holdResponse(r *http.Request) {
	wait, err := time.ParseDuration(r.URL.Query().Get("wait"))
	if err != nil {
		return
	}
	select {
	case <-r.Context().Done():
	case <-time.After(wait):
	}
}

func sessionDocument() map[string]any {
	return map[string]any{"customer_id": "acme", "project_id": "chat", "user_id": "alice", "role": "owner", "method": "api_key",
		"token_id": "01M83VVAHQQW2E4R6T8Y0A1S3D"}
}

// terminalRun is tare running in a terminal.
type terminalRun struct {
	t    *testing.T
	cmd  *exec.Cmd
	tty  *os.File
	mu   sync.Mutex
	text strings.Builder
	read chan struct{} // closed when the output has ended
}

// runInTerminal runs a command line in a terminal. A single argument is split at spaces.
func (u *user) runInTerminal(columns uint16, args ...string) *terminalRun {
	u.t.Helper()
	if len(args) == 1 {
		args = strings.Fields(args[0])
	}
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	cmd := u.command(ctx, args...)
	tty, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 50, Cols: columns})
	require.NoError(u.t, err)
	s := &terminalRun{t: u.t, cmd: cmd, tty: tty, read: make(chan struct{})}
	go s.readAll()
	u.t.Cleanup(func() {
		cancel()
		<-s.read
		if cmd.ProcessState == nil {
			_ = cmd.Wait() // the cleanup has stopped it
		}
		_ = tty.Close()
	})
	return s
}

// readAll reads until the program and with it its terminal has ended.
func (s *terminalRun) readAll() {
	defer close(s.read)
	chunk := make([]byte, 4096)
	for {
		n, err := s.tty.Read(chunk)
		s.mu.Lock()
		s.text.Write(chunk[:n])
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// output returns the output so far with plain line ends.
func (s *terminalRun) output() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.ReplaceAll(s.text.String(), "\r\n", "\n")
}

// expect waits until the output contains a text.
func (s *terminalRun) expect(text string) *terminalRun {
	s.t.Helper()
	require.Eventually(s.t, func() bool { return strings.Contains(s.output(), text) }, testTimeout, 2*time.Millisecond,
		"never shown: %q", text)
	return s
}

// typeKeys sends key presses.
func (s *terminalRun) typeKeys(text string) *terminalRun {
	s.t.Helper()
	_, err := io.WriteString(s.tty, text)
	require.NoError(s.t, err)
	return s
}

// wait waits for the end and returns the exit code and the output.
func (s *terminalRun) wait() (code int, shown string) {
	s.t.Helper()
	<-s.read
	err := s.cmd.Wait()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		require.NoError(s.t, err)
	}
	return s.cmd.ProcessState.ExitCode(), s.output()
}

// controlCodes matches the control sequences of colours and of the progress line.
var controlCodes = regexp.MustCompile(`\x1b\[[0-9;]*[mK]`)
