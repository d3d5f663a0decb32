package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/impl/secrets/secretstest"
	"github.com/agentrouter/aikeys/models/modelstest"
	"github.com/agentrouter/aikeys/sealer/sealertest"
)

// TestMain also sees to it that no run of the program leaves a goroutine behind.
func TestMain(m *testing.M) {
	code := modelstest.Main(m)
	_ = os.RemoveAll(builtPrograms) // the system clears its temporary folder of what is left
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// The exit codes, by short names.
const (
	exitOK      = cli.ExitOK
	exitFailure = cli.ExitFailure
	exitUsage   = cli.ExitUsage
)

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

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

// outcome is what one run of the program left.
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

// newEnviron returns the variables of an installation in a folder of its own, on free ports of this machine. It seals with
// a keyset file or with a secrets service, whichever secretstest is asked for.
func newEnviron(t *testing.T) []string {
	t.Helper()
	environ := newLocalEnviron(t)
	if secretstest.IsRemote(t) {
		return with(environ, "AIKEYS_SEALER=secrets+unix:"+secretstest.Serve(t, sealertest.New(t)))
	}
	return environ
}

// newLocalEnviron is newEnviron with a keyset file, for what is about that.
func newLocalEnviron(t *testing.T) []string {
	t.Helper()
	dir := t.TempDir()
	return []string{
		"AIKEYS_LISTEN=127.0.0.1:0", "AIKEYS_OPS_LISTEN=127.0.0.1:0",
		"AIKEYS_DATABASE_URL=sqlite:" + filepath.Join(dir, "aikeys.db"), "AIKEYS_SEALER=local:" + filepath.Join(dir, "keyset.json"),
		"AIKEYS_DATAPLANE_LISTEN=127.0.0.1:0",
	}
}

// with returns the variables with some of them replaced or added.
func with(environ []string, changes ...string) []string {
	all := append([]string{}, environ...)
	for _, change := range changes {
		name, _, _ := strings.Cut(change, "=")
		for i := range all {
			if strings.HasPrefix(all[i], name+"=") {
				all[i] = change
			}
		}
		all = append(all, change)
	}
	return all
}

// server is the program serving, in this process.
type server struct {
	t              *testing.T
	api, ops       string // URLs
	dataplane      string // another
	stdout, stderr *buffer
	stop           context.CancelFunc // asks it to stop, as the first signal does
	exited         chan struct{}
	code           int
}

// start runs "serve" or "dev" until the test ends, and returns once it listens.
func start(t *testing.T, environ []string, args ...string) *server {
	t.Helper()
	s := startQuiet(t, environ, args...)
	s.eventually("listening", func() bool { return s.readAddresses() })
	return s
}

// startQuiet runs "serve" or "dev" until the test ends, and returns at once: it may log nothing.
func startQuiet(t *testing.T, environ []string, args ...string) *server {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s := &server{t: t, stdout: &buffer{}, stderr: &buffer{}, stop: cancel, exited: make(chan struct{})}
	go func() {
		defer close(s.exited)
		s.code = run(ctx, args, environ, s.stdout, s.stderr)
	}()
	t.Cleanup(func() { s.wait() })
	return s
}

// readAddresses finds the URLs in the log, JSON or text.
func (s *server) readAddresses() bool {
	for line := range strings.Lines(s.stderr.String()) {
		if !strings.Contains(line, "listening") {
			continue
		}
		var entry struct{ API, Ops, Dataplane string }
		if json.Unmarshal([]byte(line), &entry) == nil {
			s.api, s.ops, s.dataplane = entry.API, entry.Ops, entry.Dataplane
		}
		for field := range strings.FieldsSeq(line) {
			switch name, value, _ := strings.Cut(field, "="); name {
			case "api":
				s.api = value
			case "ops":
				s.ops = value
			case "dataplane":
				s.dataplane = value
			}
		}
		return true
	}
	return false
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
	for end := time.Now().Add(patience); !happened(); time.Sleep(2 * time.Millisecond) {
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

func (s *server) awaitReady() *server {
	s.t.Helper()
	s.eventually("ready", func() bool { return strings.Contains(s.stderr.String(), `"msg":"ready"`) })
	return s
}

// startReady runs "serve" and returns once it is ready.
func startReady(t *testing.T, environ []string, args ...string) *server {
	t.Helper()
	return start(t, environ, append([]string{"serve"}, args...)...).awaitReady()
}

// newClient returns a client that leaves no connection open behind it.
func newClient() *http.Client {
	return &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
}

// reply is an HTTP response that was read.
type reply struct {
	status int
	header http.Header
	body   string
}

// call sends one request; token and body may be empty.
func call(t *testing.T, client *http.Client, method, url, token, body string) reply {
	t.Helper()
	got, err := tryCall(t.Context(), client, method, url, token, body)
	require.NoError(t, err)
	return got
}

func tryCall(ctx context.Context, client *http.Client, method, url, token, body string) (reply, error) {
	request, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
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

func (s *server) get(url string) reply {
	s.t.Helper()
	return call(s.t, newClient(), http.MethodGet, url, "", "")
}

// newOwner makes alice the owner of acme/chat, and returns an API key of hers.
func newOwner(t *testing.T, environ []string) string {
	t.Helper()
	mustAikeysd(t, environ, "admin", "member", "set", "--customer", "acme", "--project", "chat", "--user", "alice", "--role", "owner")
	token := mustAikeysd(t, environ, "admin", "token", "create", "--customer", "acme", "--project", "chat", "--user", "alice")
	return strings.TrimSuffix(token, "\n")
}

// registerBody is a register of a made-up OpenAI key.
func registerBody(name, secret string) string {
	return `{"provider":"openai","name":"` + name + `","secret":"` + secret + `"}`
}

const fakeSecret = "sk-proj-EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE-0001"
