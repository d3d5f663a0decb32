package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	pub "github.com/agentrouter/aikeys/gen/aikeys"
	gensecret "github.com/agentrouter/aikeys/internal/secret"
	"github.com/agentrouter/aikeys/models/modelstest"
)

// The tests of faults run the programs as they are: aikeysd in processes of its own, on a database of its own, and
// gateways that reach it through links that the tests cut.

// programs are the binaries, built once.
var programs = sync.OnceValues(func() (folder string, err error) {
	if folder, err = os.MkdirTemp("", "aikeys-faults-"); err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-o", folder, "../aikeysd", ".")
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
	if output, err := cmd.CombinedOutput(); err != nil {
		return folder, fmt.Errorf("go build: %w\n%s", err, output)
	}
	return folder, nil
})

// built is whether there are binaries to remove.
var built atomic.Bool

func TestMain(m *testing.M) {
	code := modelstest.Main(m)
	if built.Load() {
		folder, _ := programs()
		_ = os.RemoveAll(folder)
	}
	os.Exit(code)
}

func programPath(t *testing.T, name string) string {
	t.Helper()
	built.Store(true)
	folder, err := programs()
	require.NoError(t, err)
	return filepath.Join(folder, name)
}

// control is a control plane: a database, and the processes that share it. Customer acme has the project chat, of which
// alice is the owner.
type control struct {
	t        *testing.T
	database string
	keyset   string
	alice    string // her API key
	edges    atomic.Int64

	mu       sync.Mutex
	replicas []*replica
}

// replica is one process.
type replica struct {
	t                   *testing.T
	cmd                 *exec.Cmd
	api, dataplane, ops string
	said                *lockedBuffer
	ended               bool
}

func startControl(t *testing.T, database string, replicas int) *control {
	t.Helper()
	c := &control{t: t, database: database, keyset: filepath.Join(t.TempDir(), "keyset.json")}
	c.aikeysd("migrate", "up")
	c.aikeysd("admin", "member", "set", "--customer", "acme", "--project", "chat", "--user", "alice", "--role", "owner")
	c.alice = c.token("alice")
	for range replicas {
		c.start()
	}
	return c
}

// aikeysd runs a command and returns its output.
func (c *control) aikeysd(args ...string) string {
	c.t.Helper()
	cmd := exec.CommandContext(c.t.Context(), programPath(c.t, "aikeysd"), args...)
	cmd.Env = []string{"AIKEYS_DATABASE_URL=" + c.database}
	var said bytes.Buffer
	cmd.Stderr = &said
	printed, err := cmd.Output()
	require.NoError(c.t, err, "aikeysd %s: %s", strings.Join(args, " "), &said)
	return strings.TrimSpace(string(printed))
}

// token returns a new API key of a member's.
func (c *control) token(user string) string {
	c.t.Helper()
	return c.aikeysd("admin", "token", "create", "--customer", "acme", "--project", "chat", "--user", user)
}

// edge returns a new data plane's credential.
func (c *control) edge() string {
	c.t.Helper()
	return c.aikeysd("admin", "dataplane", "create", "--name", fmt.Sprintf("edge-%d", c.edges.Add(1)), "--customer", "acme")
}

// start starts one more process, with variables of its own, and returns once it is ready.
func (c *control) start(environ ...string) *replica {
	c.t.Helper()
	r := &replica{t: c.t, said: &lockedBuffer{}}
	r.cmd = exec.CommandContext(context.Background(), programPath(c.t, "aikeysd"), "serve")
	r.cmd.Env = append([]string{
		"AIKEYS_DATABASE_URL=" + c.database, "AIKEYS_SEALER=local:" + c.keyset, "AIKEYS_RATE_LIMIT=0",
		"AIKEYS_FAILED_AUTH_LIMIT=0", "AIKEYS_LISTEN=127.0.0.1:0", "AIKEYS_DATAPLANE_LISTEN=127.0.0.1:0",
		"AIKEYS_OPS_LISTEN=127.0.0.1:0", "AIKEYS_LOG_FORMAT=json",
	}, environ...)
	r.cmd.Stderr = r.said
	require.NoError(c.t, r.cmd.Start())
	c.t.Cleanup(func() { r.end(syscall.SIGKILL) })
	require.Eventually(c.t, r.readAddresses, patience, 2*time.Millisecond, "it does not listen: %s", r.said)
	require.Eventually(c.t, r.ready, patience, 5*time.Millisecond, "it is not ready: %s", r.said)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.replicas = append(c.replicas, r)
	return r
}

func (r *replica) readAddresses() bool {
	for line := range strings.Lines(r.said.String()) {
		var entry struct{ Msg, API, Dataplane, Ops string }
		if json.Unmarshal([]byte(line), &entry) == nil && entry.Msg == "listening" {
			r.api, r.dataplane, r.ops = entry.API, entry.Dataplane, entry.Ops
			return true
		}
	}
	return false
}

func (r *replica) ready() bool {
	got, err := trySend(context.Background(), nil, http.MethodGet, r.ops+"/readyz", "")
	return err == nil && got.status == http.StatusOK
}

// end ends the process with a signal and waits until it has exited.
func (r *replica) end(signal syscall.Signal) {
	if !r.ended {
		r.ended = true
		_ = r.cmd.Process.Signal(signal)
		_ = r.cmd.Wait()
	}
}

// metrics returns the process's metrics.
func (r *replica) metrics() string { return send(r.t, http.MethodGet, r.ops+"/metrics", "").body }

// streams reports whether data planes have streams to the process.
func (r *replica) streams() bool { return !strings.Contains(r.metrics(), "aikeys_feed_streams 0\n") }

// addresses are where the processes that have not ended serve data planes.
func (c *control) addresses() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var found []string
	for _, r := range c.replicas {
		found = append(found, strings.TrimPrefix(r.dataplane, "http://"))
	}
	return found
}

// end ends a process and takes it off the addresses.
func (c *control) end(r *replica, signal syscall.Signal) {
	r.end(signal)
	c.forget(r)
}

func (c *control) forget(gone *replica) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var rest []*replica
	for _, r := range c.replicas {
		if r != gone {
			rest = append(rest, r)
		}
	}
	c.replicas = rest
}

// at returns one of the processes.
func (c *control) at(i int) *replica {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.replicas[i]
}

// people is the public API with a user's credential.
type people struct{ *pub.ClientWithResponses }

func callAs(t *testing.T, api, token string) people {
	t.Helper()
	client, err := pub.NewClientWithResponses(api, pub.WithHTTPClient(&http.Client{
		Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true},
	}), pub.WithRequestEditorFn(func(_ context.Context, r *http.Request) error {
		r.Header.Set("Authorization", "Bearer "+token)
		return nil
	}))
	require.NoError(t, err)
	return people{client}
}

// owner is the public API of a process as alice calls it.
func (c *control) owner(r *replica) people { return callAs(c.t, r.api, c.alice) }

// register registers a key for OpenAI and returns its id.
func (p people) register(t *testing.T, secret string, own bool) string {
	t.Helper()
	reply, err := p.RegisterKeyWithResponse(t.Context(), "-", "-", nil, pub.RegisterRequest{
		Provider: "openai", Name: "a key " + rand.Text(), Secret: gensecret.New(secret), UserScope: &own,
	})
	require.NoError(t, err)
	require.Equal(t, http.StatusCreated, reply.StatusCode(), "%s", reply.Body)
	return reply.JSON201.Key.ID
}

// revocation is a revocation that the control plane has answered.
type revocation struct {
	pub.Receipt

	sent, answered time.Time
}

// requireCompleteBy fails the test unless the receipt says that it is complete a time after the revocation.
func (r revocation) requireCompleteBy(t *testing.T, after time.Duration) {
	t.Helper()
	require.False(t, r.CompleteBy.Before(r.sent.Add(-rounding)), "complete by %v, sent at %v", r.CompleteBy, r.sent)
	require.False(t, r.CompleteBy.After(r.answered.Add(after+rounding)), "complete by %v, answered at %v", r.CompleteBy, r.answered)
}

// revoke revokes a key and waits for its receipt for at most the given time.
func (p people) revoke(t *testing.T, key, wait string) revocation {
	t.Helper()
	r, err := p.tryRevoke(t.Context(), key, wait)
	require.NoError(t, err)
	return r
}

func (p people) tryRevoke(ctx context.Context, key, wait string) (revocation, error) {
	r := revocation{sent: time.Now()}
	reply, err := p.RevokeKeyWithResponse(ctx, "-", "-", key, &pub.RevokeKeyParams{Wait: &wait})
	switch {
	case err != nil:
		return r, err
	case reply.JSON200 == nil:
		return r, fmt.Errorf("%d: %s", reply.StatusCode(), reply.Body)
	}
	r.answered, r.Receipt = time.Now(), reply.JSON200.Receipt
	return r, nil
}

// receipt returns a revoked key's receipt.
func (p people) receipt(t *testing.T, key string) pub.Receipt {
	t.Helper()
	reply, err := p.GetKeyWithResponse(t.Context(), "-", "-", key)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, reply.StatusCode(), "%s", reply.Body)
	require.NotNil(t, reply.JSON200.Key.Receipt)
	return *reply.JSON200.Key.Receipt
}
