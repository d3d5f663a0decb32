package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/sealer/remote"
)

const (
	childVariable = "TEST_AS_SECRETS_SVC" // makes the test binary be the program, as a process of its own
	// patience is longer than any step of a test takes, even on a busy machine.
	patience, often = 30 * time.Second, 20 * time.Millisecond
)

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		os.Exit(run(cli.UntilSignal(), os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// installation is a folder with what a service needs.
type installation struct {
	t   *testing.T
	dir string
}

// install makes a folder with a clients file, in which the user of this process may do everything in the namespace main,
// and no keys. Its path is short, as a socket's has to be.
func install(t *testing.T) *installation {
	t.Helper()
	dir, err := os.MkdirTemp("", "svc") //nolint:usetesting // a socket's path has at most 104 bytes
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	require.NoError(t, os.Chmod(dir, 0o755)) // other users connect to the socket in it
	i := &installation{t, dir}
	i.clients(fmt.Sprintf("clients:\n  - {name: tests, uids: [%d], namespace: main, may: [seal, open, rewrap, status]}\n", os.Geteuid()))
	return i
}

func (i *installation) path(name string) string { return filepath.Join(i.dir, name) }

func (i *installation) clients(text string) {
	i.t.Helper()
	require.NoError(i.t, os.WriteFile(i.path("clients.yaml"), []byte(text), 0o600))
}

func (i *installation) environ() []string {
	return []string{
		"PATH=" + os.Getenv("PATH"), "SECRETS_SVC_LISTEN=unix:" + i.path("api.sock"), "SECRETS_SVC_OPS_LISTEN=127.0.0.1:0",
		"SECRETS_SVC_CLIENTS=" + i.path("clients.yaml"), "SECRETS_SVC_KEYS=" + i.path("keys"),
		"SECRETS_SVC_LOG_LEVEL=debug",
	}
}

// outcome is the result of a command.
type outcome struct {
	code           int
	stdout, stderr string
}

// run runs a command in this process; entries of environ win over the installation's.
func (i *installation) run(environ []string, args ...string) outcome {
	i.t.Helper()
	var stdout, stderr bytes.Buffer
	code := run(context.Background(), args, slices.Concat(i.environ(), environ), &stdout, &stderr)
	return outcome{code, stdout.String(), stderr.String()}
}

// must runs a command that must succeed, and returns its output.
func (i *installation) must(args ...string) string {
	i.t.Helper()
	got := i.run(nil, args...)
	require.Equal(i.t, cli.ExitOK, got.code, "%v: %s", args, got.stderr)
	return strings.TrimSpace(got.stdout)
}

// create makes a key in the namespace main.
func (i *installation) create() string {
	i.t.Helper()
	return i.must("keys", "create", "--namespace", "main")
}

// server is a service as a process of its own.
type server struct {
	*installation
	cmd *exec.Cmd
	ops string
}

// launch starts the program, and returns once it listens. Its log is the file log, its standard output the file audit.
func (i *installation) launch(args ...string) *server {
	i.t.Helper()
	s := &server{installation: i, cmd: exec.Command(os.Args[0], append([]string{"serve"}, args...)...)}
	s.cmd.Env = append(i.environ(), childVariable+"=1")
	log, err := os.OpenFile(i.path("log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	require.NoError(i.t, err)
	audit, err := os.OpenFile(i.path("audit"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	require.NoError(i.t, err)
	s.cmd.Stderr, s.cmd.Stdout = log, audit
	before := len(i.read("log"))
	require.NoError(i.t, s.cmd.Start())
	require.NoError(i.t, errors.Join(log.Close(), audit.Close())) // the process has its own descriptors
	i.t.Cleanup(func() {
		_ = s.cmd.Process.Kill() // unless it has ended
		_ = s.cmd.Wait()
	})
	require.Eventually(i.t, func() bool {
		_, s.ops, _ = strings.Cut(i.read("log")[before:], `"ops":"`)
		s.ops, _, _ = strings.Cut(s.ops, `"`)
		return s.ops != ""
	}, patience, often, "%s", i.read("log"))
	return s
}

func (i *installation) read(name string) string {
	i.t.Helper()
	text, err := os.ReadFile(i.path(name))
	require.NoError(i.t, err)
	return string(text)
}

// stop shuts the service down cleanly.
func (s *server) stop() {
	s.t.Helper()
	require.NoError(s.t, s.cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(s.t, s.cmd.Wait(), "exit code 0")
}

// client returns a sealer that asks the service over its socket.
func (i *installation) client() *remote.Sealer {
	i.t.Helper()
	client, err := remote.New(remote.Config{Socket: i.path("api.sock")})
	require.NoError(i.t, err)
	i.t.Cleanup(func() { require.NoError(i.t, client.Close()) })
	return client
}

func (s *server) get(path string) (status int, body string) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, s.ops+path, http.NoBody)
	require.NoError(s.t, err)
	reply, err := http.DefaultClient.Do(req)
	require.NoError(s.t, err)
	defer func() { _ = reply.Body.Close() }()
	text, err := io.ReadAll(reply.Body)
	require.NoError(s.t, err)
	return reply.StatusCode, string(text)
}

// The program that holds the key-encryption keys must link no database driver, no ORM, and no code of sessions. Package
// database/sql itself comes with the metrics, and does nothing without a driver; go-jose comes with the client of OpenBao.
func TestNoDatabaseIsLinked(t *testing.T) {
	forbidden := regexp.MustCompile(`gorm|jackc/|sqlite|lib/pq|go-oidc|golang-jwt|/otlp` +
		`|^github\.com/agentrouter/aikeys/(models|impl/(auth|feed|aikeys|dataplane))(/|$)`)
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
	require.NoError(t, err)
	packages := strings.Fields(string(out))
	require.Contains(t, packages, "github.com/agentrouter/aikeys/impl/secrets")
	for _, linked := range packages {
		require.False(t, forbidden.MatchString(linked), linked)
	}
	for _, example := range []string{
		"gorm.io/gorm", "github.com/jackc/pgx/v5", "modernc.org/sqlite", "github.com/agentrouter/aikeys/models",
		"github.com/agentrouter/aikeys/impl/auth", "github.com/agentrouter/aikeys/impl/feed", "go.opentelemetry.io/otel/exporters/otlp/otlptrace",
	} {
		require.True(t, forbidden.MatchString(example), example)
	}
}
