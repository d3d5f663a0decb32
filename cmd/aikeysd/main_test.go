package main

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/models/modelstest"
)

const (
	exitOK      = cli.ExitOK
	exitFailure = cli.ExitFailure
	exitUsage   = cli.ExitUsage

	// patience is how long a test waits for what must happen.
	patience   = 60 * time.Second
	fakeSecret = "sk-proj-EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE-0001"
)

var (
	shared   string // folder of the programs, which is in PATH; buildPrograms builds them
	client   = &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	anyKeyID = regexp.MustCompile(`byok_[0-9A-Z]{26}`)
	listens  = regexp.MustCompile(`listening"?(?:[ ,]"?api"?[=:]"?([^ ",]+)"?)?(?:[ ,]"?dataplane"?[=:]"?([^ ",]+)"?)?[ ,]"?ops"?[=:]"?([^ ",]+)`)
)

// TestMain also requires that no run of the program leaves a goroutine behind.
func TestMain(m *testing.M) {
	shared, _ = os.MkdirTemp("", "aikeysd-test-") // without it, the first test that needs it fails
	_ = os.Setenv("PATH", shared+string(os.PathListSeparator)+os.Getenv("PATH"))
	code := modelstest.Main(m)
	stopOpenBao()
	_ = os.RemoveAll(shared)
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// buildPrograms builds the programs of a whole installation as they are shipped: without the race detector, without cgo.
var buildPrograms = sync.OnceValue(func() error {
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", shared+"/", ".", "../aikeys-gateway", "../aikeys-demo", "../secrets-svc")
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0")
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, output)
	}
	return nil
})

// buffer is an output that a test reads while the program writes it.
type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// outcome is the result of one run of the program.
type outcome struct {
	code           int
	stdout, stderr string
}

// aikeysd runs the program to its end.
func aikeysd(t *testing.T, environ []string, args ...string) outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var stdout, stderr bytes.Buffer
	code := run(ctx, args, environ, &stdout, &stderr)
	require.NoError(t, ctx.Err(), "aikeysd %s did not end by itself; it said:\n%s", strings.Join(args, " "), &stderr)
	return outcome{code, stdout.String(), stderr.String()}
}

// mustAikeysd runs the program, which has to succeed, and returns its standard output.
func mustAikeysd(t *testing.T, environ []string, args ...string) string {
	t.Helper()
	got := aikeysd(t, environ, args...)
	require.Equal(t, exitOK, got.code, got.stderr)
	return got.stdout
}

// runAdmin runs an admin command on acme/chat.
func runAdmin(t *testing.T, environ []string, args ...string) outcome {
	t.Helper()
	return aikeysd(t, environ, slices.Concat([]string{"admin"}, args, []string{"--customer", "acme", "--project", "chat"})...)
}

// newEnviron returns the variables of an installation with a database that is migrated, on free ports of this machine.
func newEnviron(t *testing.T) []string {
	t.Helper()
	return []string{
		"AIKEYS_LISTEN=127.0.0.1:0", "AIKEYS_OPS_LISTEN=127.0.0.1:0", "AIKEYS_DATAPLANE_LISTEN=127.0.0.1:0",
		"AIKEYS_DATABASE_URL=" + modelstest.EngineSQLite.MigratedURL(t), "AIKEYS_SEALER=local:" + filepath.Join(t.TempDir(), "keyset.json"),
	}
}

// with returns the variables with further ones, which win over those before them.
func with(environ []string, changes ...string) []string { return slices.Concat(environ, changes) }

// databaseOf returns the URL of the database in the variables.
func databaseOf(environ []string) (url string) {
	for _, entry := range environ {
		if text, ok := strings.CutPrefix(entry, "AIKEYS_DATABASE_URL="); ok {
			url = text
		}
	}
	return url
}

// newOwner makes alice the owner of acme/chat, and returns an API key of hers.
func newOwner(t *testing.T, environ []string) string {
	t.Helper()
	set := runAdmin(t, environ, "member", "set", "--user", "alice", "--role", "owner")
	require.Equal(t, exitOK, set.code, set.stderr)
	return strings.TrimSpace(runAdmin(t, environ, "token", "create", "--user", "alice").stdout)
}

// newDataPlane makes a data plane for acme, and returns its credential.
func newDataPlane(t *testing.T, environ []string) string {
	t.Helper()
	return strings.TrimSpace(mustAikeysd(t, environ, "admin", "dataplane", "create", "--name", "edge-1", "--customer", "acme"))
}

// server is the program serving, in this process or another.
type server struct {
	t                   *testing.T
	api, dataplane, ops string // URLs
	stdout, stderr      buffer
	stop                context.CancelFunc // asks it to stop, as the first signal does
	exited              chan struct{}
	code                int
}

// begin runs "serve" or "dev" until the test ends, and returns at once.
func begin(t *testing.T, environ []string, args ...string) *server {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s := &server{t: t, stop: cancel, exited: make(chan struct{})}
	go func() {
		defer close(s.exited)
		s.code = run(ctx, args, environ, &s.stdout, &s.stderr)
	}()
	t.Cleanup(func() { s.wait() })
	return s
}

// startReady runs "serve" and returns once it is ready.
func startReady(t *testing.T, environ []string, args ...string) *server {
	t.Helper()
	s := begin(t, environ, append([]string{"serve"}, args...)...)
	s.awaitLog(`"msg":"ready"`)
	return s
}

// awaitLog waits for a text in the log, and reads the URLs from it.
func (s *server) awaitLog(text string) {
	s.t.Helper()
	s.eventually(text, func() bool { return strings.Contains(s.stderr.String(), text) })
	if found := listens.FindStringSubmatch(s.stderr.String()); found != nil {
		s.api, s.dataplane, s.ops = found[1], found[2], found[3]
	}
}

// wait asks the program to stop and returns its exit code.
func (s *server) wait() int {
	s.t.Helper()
	s.stop()
	return s.end()
}

// end returns the exit code of a program that ends by itself.
func (s *server) end() int {
	s.t.Helper()
	select {
	case <-s.exited:
	case <-time.After(patience):
		require.Fail(s.t, "aikeysd did not stop", s.stderr.String())
	}
	return s.code
}

func (s *server) eventually(what string, happened func() bool) {
	s.t.Helper()
	for end := time.Now().Add(patience); !happened(); time.Sleep(5 * time.Millisecond) {
		select {
		case <-s.exited:
			if !happened() {
				require.Fail(s.t, "aikeysd ended before: "+what, s.stderr.String())
			}
		default:
		}
		if time.Now().After(end) {
			require.Fail(s.t, "never happened: "+what, s.stderr.String())
		}
	}
}

// reply is an HTTP response that was read.
type reply struct {
	status int
	header http.Header
	body   string
}

// tryCall sends one request; token and body may be empty.
func tryCall(client *http.Client, method, url, token, body string) (reply, error) {
	request, err := http.NewRequestWithContext(context.Background(), method, url, strings.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := client.Do(request)
	if err != nil {
		return reply{}, err
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	return reply{response.StatusCode, response.Header, string(text)}, err
}

func call(t *testing.T, method, url, token, body string) reply {
	t.Helper()
	got, err := tryCall(client, method, url, token, body)
	require.NoError(t, err)
	return got
}

func (s *server) get(url, token string) reply {
	s.t.Helper()
	return call(s.t, http.MethodGet, url, token, "")
}

// register registers a made-up key of OpenAI for acme/chat, and returns its id.
func (s *server) register(owner, name string) (id string) {
	s.t.Helper()
	got := call(s.t, http.MethodPost, s.api+"/v1/aikeys", owner, registerBody(name))
	require.Equal(s.t, http.StatusCreated, got.status, got.body)
	return anyKeyID.FindString(got.body)
}

func registerBody(name string) string {
	return `{"provider":"openai","name":"` + name + `","secret":"` + fakeSecret + `"}`
}

// fetch asks for a key as a data plane does.
func (s *server) fetch(plane, id string) reply {
	s.t.Helper()
	return call(s.t, http.MethodPost, s.dataplane+"/v1/fetch", plane, `{"key_id":"`+id+`"}`)
}

// follow opens a data plane's stream and returns its lines, once the first heartbeat has come. The stream ends with the test.
func (s *server) follow(client *http.Client, plane string) <-chan string {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s.t.Cleanup(cancel)
	var body io.ReadCloser
	s.eventually("the stream is open", func() bool {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.dataplane+"/v1/events", http.NoBody)
		require.NoError(s.t, err)
		if plane != "" {
			request.Header.Set("Authorization", "Bearer "+plane)
		}
		response, err := (&http.Client{Transport: client.Transport}).Do(request) //nolint:bodyclose // its reader does
		require.NoError(s.t, err)
		body = response.Body
		return response.StatusCode == http.StatusOK || body.Close() != nil
	})
	lines := make(chan string, 1024)
	go func() {
		defer close(lines)
		defer func() { _ = body.Close() }()
		for scanner := bufio.NewScanner(body); scanner.Scan(); {
			lines <- scanner.Text()
		}
	}()
	for line := range lines {
		if line == "event: heartbeat" {
			break
		}
	}
	return lines
}

// openRequest sends a register all but the last byte of its body, which completes it.
func (s *server) openRequest(owner string) net.Conn {
	s.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.api, "http://"))
	require.NoError(s.t, err)
	s.t.Cleanup(func() { _ = conn.Close() })
	require.NoError(s.t, conn.SetDeadline(time.Now().Add(patience)))
	body := registerBody("slow")
	fmt.Fprintf(conn, "POST /v1/aikeys HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		owner, len(body), body[:len(body)-1])
	s.awaitInFlight()
	return conn
}

func (s *server) awaitInFlight() {
	s.t.Helper()
	s.eventually("a request is in flight", func() bool {
		return strings.Contains(s.get(s.ops+"/metrics", "").body, `aikeys_http_requests_in_flight{listener="public"} 1`)
	})
}

// query runs a statement on a SQLite database and returns the rows.
func query(t *testing.T, database, statement string) (all [][]any) {
	t.Helper()
	db, err := sql.Open("sqlite", strings.TrimPrefix(database, "sqlite:"))
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	found, err := db.QueryContext(t.Context(), statement)
	require.NoError(t, err)
	defer func() { _ = found.Close() }()
	columns, err := found.Columns()
	require.NoError(t, err)
	for found.Next() {
		row, to := make([]any, len(columns)), make([]any, len(columns))
		for i := range row {
			to[i] = &row[i]
		}
		require.NoError(t, found.Scan(to...))
		all = append(all, row)
	}
	require.NoError(t, found.Err())
	return all
}

func TestRootHelp(t *testing.T) {
	help := mustAikeysd(t, nil)
	require.Equal(t, help, mustAikeysd(t, nil, "--help"))
	for _, text := range []string{"Start here:\n  dev ", "Serve:\n  serve ", "Operate:\n  admin ", "Exit codes: 0"} {
		require.Contains(t, help, text)
	}
	require.Contains(t, strings.Join(strings.Fields(help), " "), `Run "aikeys-demo" to watch it for a few seconds, and "aikeysd dev" to try it`)
}

func TestHelpShowsRequiredFlagsFirst(t *testing.T) {
	for command, flags := range map[string][]string{
		"member set":       {"customer", "project", "user", "role", "database-url"},
		"token create":     {"customer", "project", "user", "expires", "database-url"},
		"token revoke":     {"customer", "project", "id", "database-url"},
		"dataplane create": {"name", "customer", "expires", "database-url"},
		"dataplane revoke": {"name", "database-url"},
		"fetches":          {"customer", "project", "limit", "database-url"},
	} {
		help, last := mustAikeysd(t, nil, append(append([]string{"admin"}, strings.Fields(command)...), "--help")...), 0
		_, help, _ = strings.Cut(help, "\nFlags:\n")
		for _, flag := range flags {
			at := strings.Index(help, " --"+flag+" ")
			require.Greater(t, at, last, "%s: --%s", command, flag)
			last = at
		}
	}
}
