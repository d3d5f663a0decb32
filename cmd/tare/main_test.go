package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/agentrouter/aikeys/cmd/internal/programtest"
)

// testTimeout is for each wait of a test for tare.
const testTimeout = 20 * time.Second

// live is the program as users have it and a session at a running server. TestMain builds and starts them before the tests.
var live struct {
	tare string
	env  map[string]string // the variables of the session file
}

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "tare")
	if err = errors.Join(err, programtest.Build(dir, "../tare", "../aikeysd", "../aikeys-gateway")); err != nil {
		panic(err)
	}
	const ports = "--listen 127.0.0.1:0 --dataplane-listen 127.0.0.1:0 --ops-listen 127.0.0.1:0 --gateway-listen 127.0.0.1:0"
	var output programtest.Output
	server := exec.Command(filepath.Join(dir, "aikeysd"), strings.Fields("dev "+ports+" --data "+dir+"/data")...)
	server.Stdout, server.Stderr = &output, &output
	if err := server.Start(); err != nil {
		panic(err)
	}
	for end := time.Now().Add(programtest.Patience); !strings.Contains(output.String(), "Ctrl-C stops it"); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			_ = server.Process.Kill()
			panic(output.String())
		}
	}
	session, err := os.ReadFile(filepath.Join(dir, "data", "session.env"))
	live.tare, live.env = filepath.Join(dir, "tare"), map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^export (\w+)=(.*)$`).FindAllStringSubmatch(string(session), -1) {
		live.env[m[1]] = m[2]
	}
	code := m.Run()
	err = errors.Join(err, server.Process.Signal(os.Interrupt), server.Wait(), os.RemoveAll(dir))
	if code == 0 && err != nil {
		panic(err)
	}
	os.Exit(code)
}

// user runs tare with an environment and profiles of their own.
type user struct {
	t      *testing.T
	config string
	env    []string
}

// newUser returns a user who has not logged in.
func newUser(t *testing.T, env ...string) *user {
	home := t.TempDir()
	config := filepath.Join(home, "settings", "tare")
	return &user{t, config, append([]string{
		"HOME=" + home, "PATH=" + os.Getenv("PATH"), "LC_ALL=C.UTF-8", "TERM=xterm", "XDG_CONFIG_HOME=" + filepath.Dir(config),
		keyringVariable + "=off",
	}, env...)}
}

// newUserAt returns a user whose environment has a session.
func newUserAt(t *testing.T, baseURL, apiKey string) *user {
	return newUser(t, "AGENTROUTER_BASE_URL="+baseURL, "AGENTROUTER_API_KEY="+apiKey)
}

// alice is an owner of the live server's project.
func alice(t *testing.T) *user {
	return newUserAt(t, live.env["AGENTROUTER_BASE_URL"], live.env["AGENTROUTER_API_KEY"])
}

// bob is a member of the live server's project.
func bob(t *testing.T) *user {
	return newUserAt(t, live.env["AGENTROUTER_BASE_URL"], live.env["AGENTROUTER_MEMBER_API_KEY"])
}

// command returns a command line of tare. A single argument is split at spaces.
func (u *user) command(args ...string) *exec.Cmd {
	if len(args) == 1 {
		args = strings.Fields(args[0])
	}
	cmd := exec.Command(live.tare, args...)
	cmd.Env = u.env
	return cmd
}

// runWithInput runs a command line with stdin as its standard input.
func (u *user) runWithInput(stdin string, args ...string) programtest.Outcome {
	u.t.Helper()
	cmd := u.command(args...)
	cmd.Stdin = strings.NewReader(stdin)
	return programtest.Launch(u.t, cmd).Outcome()
}

func (u *user) run(args ...string) programtest.Outcome {
	u.t.Helper()
	return u.runWithInput("", args...)
}

// runOK runs a command that must succeed and print nothing but its result.
func (u *user) runOK(args ...string) string {
	u.t.Helper()
	got := u.run(args...)
	require.Equal(u.t, exitOK, got.Code, "%q said:\n%s", args, got.Output())
	require.Empty(u.t, got.Stderr, "%q", args)
	return got.Stdout
}

var keyIDPattern = regexp.MustCompile(`byok_[0-9A-Z]{26}`)

// testSecret looks like a key of OpenAI.
const testSecret = "sk-proj-EXAMPLE-EXAMPLE-EXAMPLE-hunter2"

// addKey registers a key, which the test's cleanup revokes, and returns its id.
func (u *user) addKey(name string, flags ...string) string {
	u.t.Helper()
	got := u.runWithInput(testSecret+"\n", append([]string{"api", "byok", "add", "--provider", "openai", "--name", name}, flags...)...)
	require.Equal(u.t, exitOK, got.Code, got.Output())
	id := keyIDPattern.FindString(got.Stdout)
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
	_, key, _ := strings.Cut(strings.Join(u.env, "\n")+"\n", "AGENTROUTER_API_KEY=")
	key, _, _ = strings.Cut(key, "\n")
	got := programtest.Send(method, live.env["AGENTROUTER_BASE_URL"]+path, key, "")
	require.Equal(u.t, http.StatusOK, got.Status, got.Body)
	return got.Body
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
		body, _ := io.ReadAll(r.Body) // the server notices only after the body that the client is gone
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

// receiptDocument returns a receipt for three data planes, with the members of each kind of receipt.
func receiptDocument(acknowledged int) map[string]any {
	const at = "2026-11-23T09:30:00Z"
	r := map[string]any{
		"state": "complete", "revoked_at": at, "revoked_by": "alice", "disabled_at": at, "disabled_by": "alice", "rotated_at": at, "rotated_by": "alice",
		"data_planes": 3, "acknowledged": acknowledged, "slowest_ms": 10 * acknowledged,
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
	text string // the output that was read
}

// runInTerminal runs a command line in a terminal.
func (u *user) runInTerminal(columns uint16, args ...string) *terminalRun {
	u.t.Helper()
	cmd := u.command(args...)
	tty, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 50, Cols: columns})
	require.NoError(u.t, err)
	late := time.AfterFunc(testTimeout, func() { _ = cmd.Process.Kill() })
	u.t.Cleanup(func() {
		late.Stop()
		_ = cmd.Process.Kill() // it may have ended before
		_ = cmd.Wait()
		_ = tty.Close()
	})
	return &terminalRun{t: u.t, cmd: cmd, tty: tty}
}

// read reads more of the output. It reports whether there may be still more.
func (s *terminalRun) read() bool {
	chunk := make([]byte, 4096)
	n, err := s.tty.Read(chunk)
	s.text += string(chunk[:n])
	return err == nil
}

// output returns the output that was read, with plain line ends.
func (s *terminalRun) output() string { return strings.ReplaceAll(s.text, "\r\n", "\n") }

// expect waits until the output contains a text.
func (s *terminalRun) expect(text string) *terminalRun {
	s.t.Helper()
	for !strings.Contains(s.output(), text) {
		require.True(s.t, s.read(), "tare has not shown %q, but:\n%s", text, s.output())
	}
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
	for s.read() {
	}
	_ = s.cmd.Wait() // the code is checked
	return s.cmd.ProcessState.ExitCode(), s.output()
}

// controlCodes matches the control sequences of colours and of the progress line.
var controlCodes = regexp.MustCompile(`\x1b\[[0-9;]*[mK]`)

// TestPageSession runs the blocks of docs/tare.md in order and compares their output.
func TestPageSession(t *testing.T) {
	sessionBlock := regexp.MustCompile("(?s)```bash session\n(.*?\n)```\n(?:\n```text\n(.*?\n)```\n)?")
	volatile := map[string]*regexp.Regexp{ // what differs between runs
		"ULID":   regexp.MustCompile(`[0-7][0-9A-HJKMNP-TV-Z]{25}`),
		"TIME":   regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC`),
		"AGO":    regexp.MustCompile(`just now|\d+s ago`),
		"N ms":   regexp.MustCompile(`\d+ ms`),
		"SERVER": regexp.MustCompile(`http://127\.0\.0\.1:\d+`),
		" ":      regexp.MustCompile(` +`), // columns are as wide as their widest cell
	}
	normalize := func(text string) string {
		for to, each := range volatile {
			text = each.ReplaceAllString(text, to)
		}
		return text
	}
	page, err := os.ReadFile("../../docs/tare.md")
	require.NoError(t, err)
	blocks := sessionBlock.FindAllStringSubmatch(string(page), -1)
	require.Greater(t, len(blocks), 6)
	script := "set -euo pipefail\n"
	for _, b := range blocks {
		script += b[1] + "printf '\\0'\n"
	}
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", script)
	cmd.Dir = filepath.Dir(live.tare)
	cmd.Env = newUser(t, "PATH="+cmd.Dir+":"+os.Getenv("PATH")).env
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	printed := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
	require.Len(t, printed, len(blocks))
	for i, b := range blocks {
		require.Equal(t, normalize(b[2]), normalize(printed[i]), b[1])
	}
}

// TestSamplesOfTheDocumentRun runs the samples unchanged except for the key's id, in an order that makes sense.
func TestSamplesOfTheDocumentRun(t *testing.T) {
	u := alice(t)
	u.env = append(u.env, "OPENAI_API_KEY="+testSecret, "PATH="+filepath.Dir(live.tare)+":"+os.Getenv("PATH"))
	text, err := os.ReadFile("../../spec/aikeys.yaml")
	require.NoError(t, err)
	var contract struct {
		Paths map[string]map[string]yaml.Node `yaml:"paths"`
	}
	require.NoError(t, yaml.Unmarshal(text, &contract))
	all := map[string]string{}
	for _, item := range contract.Paths {
		for method, node := range item {
			if method == "parameters" {
				continue
			}
			var operation struct {
				ID      string `yaml:"operationId"`
				Samples []struct {
					Label  string `yaml:"label"`
					Source string `yaml:"source"`
				} `yaml:"x-codeSamples"`
			}
			require.NoError(t, node.Decode(&operation))
			for _, sample := range operation.Samples {
				if sample.Label == "CLI" {
					all[operation.ID] = sample.Source
				}
			}
			require.Contains(t, all, operation.ID, "every operation has a command")
		}
	}
	folder := t.TempDir()
	runScript := func(stdin, script string) string {
		ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
		defer cancel()
		cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", script)
		cmd.Env, cmd.Dir = u.env, folder
		var stdout, stderr bytes.Buffer
		cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
		require.NoError(t, cmd.Run(), "%s\n%s%s", script, &stdout, &stderr)
		if strings.HasPrefix(stderr.String(), "No use of a key") || strings.HasPrefix(stderr.String(), "No data plane") { // none runs here
			return ""
		}
		if !strings.HasPrefix(stderr.String(), "There are more: ") { // the trail may be longer than one page
			require.Empty(t, stderr.String(), script)
		}
		require.NotEmpty(t, stdout.String(), script)
		return stdout.String()
	}
	commentedCommand := regexp.MustCompile(`(?m)^# +(.*\btare .*)$`)
	const sampleToken = "01M7W0BTX000000000000000AK"
	id, token := "", ""
	t.Cleanup(func() { u.runOK("api members set bob --role member"); u.runOK("api policy set --reset") })
	for _, operation := range []string{
		"registerKey", "listKeys", "getKey", "resolveKey", "getPolicy", "setPolicy", "listEvents", "listUsage", "listFetches", "listMembers",
		"getMemberImpact", "removeMember", "restoreMember", "setMember", "listProviders", "getSignInOptions", "whoAmI", "updateKey", "rotateKey", "listKeyVersions",
		"rollbackKey", "activateKeyVersion", "destroyKeyVersion", "findLeaks", "revokeKey",
		"addCustomProvider", "listCustomProviders", "removeCustomProvider",
		"listProjects", "createToken", "listTokens", "listProjectTokens", "revokeProjectToken", "revokeToken",
	} {
		require.Contains(t, all, operation)
		source := strings.ReplaceAll(strings.ReplaceAll(all[operation], sampleID, id), sampleToken, token)
		source = regexp.MustCompile(` (remove|revoke|destroy) `).ReplaceAllString(source, " $1 --yes ") // there is no terminal to confirm on
		if other := commentedCommand.FindStringSubmatch(source); other != nil {
			id = keyIDPattern.FindString(runScript("", other[1]))
			u.revokeKey(id)
		}
		input := testSecret
		if operation == "rotateKey" {
			input = strings.Replace(testSecret, "EXAMPLE", "ROTATED", 1)
		}
		out := runScript(input+"\n", source)
		require.NotContains(t, out, "hunter2")
		if operation == "registerKey" {
			id = keyIDPattern.FindString(out)
			require.NotEmpty(t, id)
			t.Cleanup(func() { u.revokeKey(id) })
		}
		if operation == "createToken" {
			token = regexp.MustCompile(`[0-7][0-9A-HJKMNP-TV-Z]{25}`).FindString(out)
			require.NotEmpty(t, token)
		}
		delete(all, operation)
	}
	require.Equal(t, []string{"verifyKey"}, slices.Collect(maps.Keys(all)), "samples that this test does not run: the service allows no tests")
}

// BenchmarkFirstOutput measures the time from the start of a process to the first byte of its output. The processes are
// tare with --help, tare with a list from a server on this machine, curl with the same list, and echo, which does
// almost nothing. They take turns, so that other load on the machine affects all of them.
func BenchmarkFirstOutput(b *testing.B) {
	base, key := live.env["AGENTROUTER_BASE_URL"], live.env["AGENTROUTER_API_KEY"]
	env := []string{"AGENTROUTER_BASE_URL=" + base, "AGENTROUTER_API_KEY=" + key, "HOME=" + b.TempDir()}
	curl := exec.CommandContext(b.Context(), "curl", "-sS", base+"/v1/aikeys", "--oauth2-bearer", key).Args
	commands := map[string][]string{
		"help": {live.tare, "--help"}, "list": {live.tare, "api", "byok", "list"}, "curl": curl, "echo": {"/bin/echo"},
	}
	register := exec.CommandContext(b.Context(), live.tare, "api", "byok", "add", "--provider", "openai", "--name", "bench",
		"--secret", testSecret)
	register.Env = env
	require.NoError(b, register.Run(), "a list has something to show")
	timeFirstOutput := func(args []string) time.Duration {
		ctx, cancel := context.WithTimeout(b.Context(), testTimeout)
		defer cancel()
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		cmd.Env = env
		out, err := cmd.StdoutPipe()
		require.NoError(b, err)
		begun := time.Now()
		require.NoError(b, cmd.Start())
		_, err = io.ReadFull(out, make([]byte, 1))
		took := time.Since(begun)
		require.NoError(b, err, args)
		_, err = io.Copy(io.Discard, out)
		require.NoError(b, err)
		require.NoError(b, cmd.Wait())
		return took
	}
	const rounds = 100 // how often each command runs
	times := map[string][]time.Duration{}
	for b.Loop() {
		for range rounds {
			for name, args := range commands {
				times[name] = append(times[name], timeFirstOutput(args))
			}
		}
	}
	milliseconds := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	for name, each := range times {
		slices.Sort(each)
		b.ReportMetric(milliseconds(each[len(each)/2]), name+"-ms")
		b.ReportMetric(milliseconds(each[len(each)*95/100]), name+"-p95-ms")
	}
	b.ReportMetric(milliseconds(times["list"][len(times["list"])/2])/milliseconds(times["curl"][len(times["curl"])/2]), "list/curl")
	b.ReportMetric(0, "ns/op")
}
