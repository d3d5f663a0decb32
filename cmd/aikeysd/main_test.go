package main

import (
	"bufio"
	"context"
	"database/sql"
	"flag"
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

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/cmd/internal/programtest"
	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
	"github.com/agentrouter/aikeys/models/modelstest"
)

const (
	exitOK      = cli.ExitOK
	exitFailure = cli.ExitFailure
	exitUsage   = cli.ExitUsage

	fakeSecret = "sk-proj-EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE-0001"
)

var (
	shared   string // folder of the programs, which is in PATH; buildPrograms builds them
	anyKeyID = regexp.MustCompile(`byok_[0-9A-Z]{26}`)
)

func TestMain(m *testing.M) {
	flag.Parse()
	_ = flag.Set("test.parallel", "4")            // most tests wait for other processes
	shared, _ = os.MkdirTemp("", "aikeysd-test-") // without it, the first test that needs it fails
	_ = os.Setenv("PATH", shared+string(os.PathListSeparator)+os.Getenv("PATH"))
	modelstest.Main(m, func() { _ = os.RemoveAll(shared) })
}

// buildPrograms builds the programs of a whole installation.
var buildPrograms = sync.OnceValue(func() error {
	return programtest.Build(shared, ".", "../aikeys-gateway", "../aikeys-demo", "../secrets-svc")
})

// aikeysd runs the program to its end.
func aikeysd(t *testing.T, environ []string, args ...string) programtest.Outcome {
	t.Helper()
	return programtest.Program(run).Run(t, environ, args...)
}

// mustAikeysd runs the program, which has to succeed, and returns its standard output.
func mustAikeysd(t *testing.T, environ []string, args ...string) string {
	t.Helper()
	got := aikeysd(t, environ, args...)
	require.Equal(t, exitOK, got.Code, got.Stderr)
	return got.Stdout
}

// runAdmin runs an admin command on acme/chat.
func runAdmin(t *testing.T, environ []string, args ...string) programtest.Outcome {
	t.Helper()
	return aikeysd(t, environ, slices.Concat([]string{"admin"}, args, []string{"--customer", "acme", "--project", "chat"})...)
}

// newEnviron returns the variables of an installation that has a migrated database and listens on free ports of this
// machine.
func newEnviron(t *testing.T) []string {
	t.Helper()
	return []string{
		"AIKEYS_LISTEN=127.0.0.1:0", "AIKEYS_OPS_LISTEN=127.0.0.1:0", "AIKEYS_DATAPLANE_LISTEN=127.0.0.1:0",
		"AIKEYS_DATABASE_URL=" + modelstest.EngineSQLite.MigratedURL(t), "AIKEYS_SEALER=local:" + filepath.Join(t.TempDir(), "keyset.json"),
	}
}

// with returns the variables and the changes. The last value of a variable wins.
func with(environ []string, changes ...string) []string { return slices.Concat(environ, changes) }

// databaseOf returns the database's URL in the variables. The last value wins.
func databaseOf(environ []string) string {
	all := strings.Split(strings.Join(environ, "\n"), "AIKEYS_DATABASE_URL=")
	url, _, _ := strings.Cut(all[len(all)-1], "\n")
	return url
}

// newOwner makes alice the owner of acme/chat, and returns an API key of hers.
func newOwner(t *testing.T, environ []string) string {
	t.Helper()
	set := runAdmin(t, environ, "member", "set", "--user", "alice", "--role", "owner")
	require.Equal(t, exitOK, set.Code, set.Stderr)
	return strings.TrimSpace(runAdmin(t, environ, "token", "create", "--user", "alice").Stdout)
}

// newDataPlane makes a data plane for acme, and returns its credential.
func newDataPlane(t *testing.T, environ []string) string {
	t.Helper()
	return strings.TrimSpace(mustAikeysd(t, environ, "admin", "dataplane", "create", "--name", "edge-1", "--customer", "acme"))
}

// server is an aikeysd that serves, in this process or in another.
type server struct {
	*programtest.Process

	t                   *testing.T
	api, dataplane, ops string // URLs
}

// begin starts "serve" or "dev", and returns at once. The program runs until the test ends.
func begin(t *testing.T, environ []string, args ...string) *server {
	return &server{Process: programtest.Program(run).Start(t, environ, args...), t: t}
}

// launch runs a command that becomes "serve" in a process of its own, and returns once it is ready.
func launch(t *testing.T, environ []string, words ...string) *server {
	t.Helper()
	require.NoError(t, buildPrograms())
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Env = environ
	s := &server{Process: programtest.Launch(t, cmd), t: t}
	s.awaitLog(`"msg":"ready"`)
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
	s.AwaitLog(text)
	if strings.Contains(s.Output(), "listening") { // a log of a higher level has no such line
		s.api, s.dataplane, s.ops = s.URL("api"), s.URL("dataplane"), s.URL("ops")
	}
}

// runDataPlane runs a data plane, as a gateway does, until the test ends.
func (s *server) runDataPlane(token string) *dataplane.Resolver {
	s.t.Helper()
	plane, err := dataplane.New(dataplane.Config{ControlPlane: s.dataplane, Token: func() string { return token }})
	require.NoError(s.t, err)
	dataplanetest.Run(s.t, plane)
	return plane
}

// resolve returns the id of the key with which a data plane serves alice. It returns "" while the control plane refuses
// or can't be reached.
func resolve(t *testing.T, plane *dataplane.Resolver) (id string) {
	if found, err := plane.Resolve(t.Context(), dataplane.ForUser("acme", "chat", "alice", "openai")); err == nil {
		id = found.ID
	}
	return id
}

func (s *server) get(url, token string) programtest.Reply {
	return programtest.Send(http.MethodGet, url, token, "")
}

// register registers a made-up key of OpenAI for acme/chat, and returns its id.
func (s *server) register(owner, name string) (id string) {
	s.t.Helper()
	got := programtest.Send(http.MethodPost, s.api+"/v1/aikeys", owner, registerBody(name))
	require.Equal(s.t, http.StatusCreated, got.Status, got.Body)
	return anyKeyID.FindString(got.Body)
}

func registerBody(name string) string {
	return `{"provider":"openai","name":"` + name + `","secret":"` + fakeSecret + `"}`
}

// fetch asks for a key as a data plane does.
func (s *server) fetch(plane, id string) programtest.Reply {
	s.t.Helper()
	return programtest.Send(http.MethodPost, s.dataplane+"/v1/fetch", plane, `{"key_id":"`+id+`"}`)
}

// follow opens a data plane's stream and returns its lines, once the first heartbeat has come. The stream ends with the test.
func (s *server) follow(client *http.Client, plane string) <-chan string {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s.t.Cleanup(cancel)
	var body io.ReadCloser
	s.Await("the stream is open", func() bool {
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

// openRequest sends a register request without the last byte of its body. The request stays in flight until the test
// sends this byte.
func (s *server) openRequest(owner string) net.Conn {
	s.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.api, "http://"))
	require.NoError(s.t, err)
	s.t.Cleanup(func() { _ = conn.Close() })
	require.NoError(s.t, conn.SetDeadline(time.Now().Add(programtest.Patience)))
	body := registerBody("slow")
	fmt.Fprintf(conn, "POST /v1/aikeys HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		owner, len(body), body[:len(body)-1])
	s.awaitInFlight()
	return conn
}

func (s *server) awaitInFlight() {
	s.t.Helper()
	s.Await("a request is in flight", func() bool {
		return strings.Contains(s.get(s.ops+"/metrics", "").Body, `aikeys_http_requests_in_flight{listener="public"} 1`)
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
