package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane/gateway/gatewaytest"
)

// peerPatience is how long another's program may take to start or to finish, on a machine that is busy.
const peerPatience = time.Minute

// peersFolder holds the SDKs and what calls them.
const peersFolder = "../../tools/peers"

// peerResult is what a client in tools/peers prints; its peer.py says what that is.
type peerResult struct {
	Text         string     `json:"text"`
	StreamedText string     `json:"streamed_text"`
	Chunks       int        `json:"chunks"`
	FirstMS      float64    `json:"first_ms"`
	LastMS       float64    `json:"last_ms"`
	Error        *peerError `json:"error"`
}

type peerError struct {
	Class   string `json:"class"`
	Status  int    `json:"status"`
	Message string `json:"message"`
}

// sdkScripts are the clients, one for each official SDK.
func sdkScripts() []string {
	return []string{"openai_client.py", "openai_client.mjs", "anthropic_client.py", "anthropic_client.mjs"}
}

// sdkEnviron changes what a user of the SDK changes, and no more: base URL and key. The base URL is a gateway's.
func sdkEnviron(script, gateway, key string) []string {
	provider, _, _ := strings.Cut(script, "_")
	prefix := strings.ToUpper(provider)
	return []string{prefix + "_BASE_URL=" + gateway + "/" + provider, prefix + "_API_KEY=" + key}
}

// runPeer runs a client of tools/peers in an environment that is otherwise empty.
func runPeer(t *testing.T, script string, env ...string) peerResult {
	t.Helper()
	return runPeerInStep(t, make(chan struct{}, 1024), script, env...)
}

// runPeerInStep runs a client, and puts something into the channel, which has room for it, at the start and whenever the
// client says that it has got a chunk. A provider that is ReleasedBy the channel sends a piece only once the client has
// the one before it: where anything between them held pieces back, neither would get further.
func runPeerInStep(t *testing.T, release chan struct{}, script string, env ...string) peerResult {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), peerPatience)
	defer cancel()
	cmd := peerCommand(ctx, t, script)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "LC_ALL=C.UTF-8"}, env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout = &stdout
	progress, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	release <- struct{}{}
	for lines := bufio.NewScanner(progress); lines.Scan(); {
		stderr.WriteString(lines.Text() + "\n")
		if strings.HasPrefix(lines.Text(), "chunk ") {
			release <- struct{}{}
		}
	}
	require.NoError(t, cmd.Wait(), "%s: %s", script, &stderr)
	for len(release) > 0 {
		<-release // one more than there were chunks
	}
	var result peerResult
	require.NoError(t, json.Unmarshal(stdout.Bytes(), &result), "%s printed %q", script, &stdout)
	return result
}

func peerCommand(ctx context.Context, t *testing.T, script string) *exec.Cmd {
	t.Helper()
	folder, err := filepath.Abs(peersFolder)
	require.NoError(t, err)
	program, args := filepath.Join(folder, ".venv", "bin", "python"), []string{"-B"}
	if filepath.Ext(script) == ".mjs" {
		require.DirExists(t, filepath.Join(folder, "node_modules", "openai"), "`make test` installs the SDKs for Node")
		program, args = findProgram(t, "node"), nil
	}
	require.FileExists(t, program, "`make test` installs the SDKs for Python")
	return exec.CommandContext(ctx, program, append(args, filepath.Join(folder, script))...)
}

// findProgram looks for a program in PATH, and where Debian has servers.
func findProgram(t *testing.T, name string) string {
	t.Helper()
	for _, candidate := range []string{name, "/usr/sbin/" + name} {
		if path, err := exec.LookPath(candidate); err == nil {
			return path
		}
	}
	require.FailNow(t, "there is no "+name+" on this machine", "`make test` installs it")
	return ""
}

// sample reads a sample configuration of docs/samples, and puts what the test has in place of what the sample names:
// pairs of texts, old and new, of which the old ones must be there.
func sample(t *testing.T, file string, pairs ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "samples", file))
	require.NoError(t, err)
	return replaced(t, string(text), pairs...)
}

func replaced(t *testing.T, text string, pairs ...string) string {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		require.Contains(t, text, pairs[i])
		text = strings.ReplaceAll(text, pairs[i], pairs[i+1])
	}
	return text
}

// certifiedName is a name in the certificates of providers that run WithTLS.
const certifiedName = "example.com"

// nginxSample is docs/samples/nginx.conf, with the address of a gateway's forward-auth listener, and a provider WithTLS
// in place of all providers.
func nginxSample(t *testing.T, gateway string, provider *gatewaytest.Provider) string {
	t.Helper()
	return sample(t, "nginx.conf",
		"127.0.0.1:8084", gateway,
		"api.openai.com:443", hostPort(provider),
		"api.anthropic.com:443", hostPort(provider),
		"api.openai.com", certifiedName,
		"api.anthropic.com", certifiedName,
		"/etc/ssl/certs/ca-certificates.crt", certificateFile(t, provider),
	)
}

// envoySample is docs/samples/envoy.yaml, with the address of a gateway's ext_authz listener, and a provider WithTLS in
// place of all providers.
func envoySample(t *testing.T, gateway string, provider *gatewaytest.Provider) string {
	t.Helper()
	return sample(t, "envoy.yaml",
		"{address: 127.0.0.1, port_value: 8085}", envoyAddress(t, gateway),
		"{address: api.openai.com, port_value: 443}", envoyAddress(t, hostPort(provider)),
		"{address: api.anthropic.com, port_value: 443}", envoyAddress(t, hostPort(provider)),
		"api.openai.com", certifiedName,
		"api.anthropic.com", certifiedName,
		"/etc/ssl/certs/ca-certificates.crt", certificateFile(t, provider),
	)
}

func hostPort(provider *gatewaytest.Provider) string {
	return strings.TrimPrefix(provider.URL, "https://")
}

func envoyAddress(t *testing.T, address string) string {
	t.Helper()
	host, port, err := net.SplitHostPort(address)
	require.NoError(t, err)
	return "{address: " + host + ", port_value: " + port + "}"
}

// certificateFile is a file to trust the provider by.
func certificateFile(t *testing.T, provider *gatewaytest.Provider) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "provider.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: provider.Certificate().Raw})
	require.NoError(t, os.WriteFile(file, text, 0o600))
	return file
}

// startNginx runs nginx with a configuration that listens where docs/samples/nginx.conf does, and returns the URL at
// which it listens instead. It ends with the test.
func startNginx(t *testing.T, config string) (url string) {
	t.Helper()
	address := freeAddress(t)
	file := configFile(t, "nginx.conf", replaced(t, config, "127.0.0.1:8000", address))
	// One process, so that ending it leaves none behind.
	global := "daemon off; master_process off; pid " + filepath.Join(filepath.Dir(file), "nginx.pid") + ";"
	startProxy(t, address, findProgram(t, "nginx"), "-e", "stderr", "-g", global, "-c", file)
	return "http://" + address
}

// startEnvoy runs Envoy with a configuration that listens where docs/samples/envoy.yaml does, and returns the URL at
// which it listens instead. It ends with the test.
func startEnvoy(t *testing.T, config string) (url string) {
	t.Helper()
	find := exec.CommandContext(t.Context(), "../../tools/peers.sh", "envoy")
	program, err := find.Output()
	require.NoError(t, err, "`make test` installs Envoy")
	address := freeAddress(t)
	file := configFile(t, "envoy.yaml",
		replaced(t, config, "{address: 127.0.0.1, port_value: 8000}", envoyAddress(t, address)))
	startProxy(t, address, strings.TrimSpace(string(program)),
		"--config-path", file, "--concurrency", "1", "--disable-hot-restart", "--log-level", "warning")
	return "http://" + address
}

func configFile(t *testing.T, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	return file
}

// freeAddress returns an address that nobody listens on, below the ports that kernels give to outgoing connections.
func freeAddress(t *testing.T) string {
	t.Helper()
	const low, high = 15000, 30000
	for range 100 {
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(low+rand.IntN(high-low)))
		if listener, err := net.Listen("tcp", address); err == nil {
			require.NoError(t, listener.Close())
			return address
		}
	}
	require.FailNow(t, "no free port found")
	return ""
}

// lockedBuffer takes what a process prints while a test reads it.
type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(text []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(text)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// startProxy starts a program and returns once it listens. Its output shows when the test fails.
func startProxy(t *testing.T, address, program string, args ...string) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background()) // the test's own ends before its clean-ups
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second // then it is killed
	output := &lockedBuffer{}
	cmd.Stdout, cmd.Stderr = output, output
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "LC_ALL=C"}
	require.NoError(t, cmd.Start())
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		_ = cmd.Wait() // a test that needs it notices its absence
	}()
	t.Cleanup(func() {
		stop()
		<-exited
		if t.Failed() {
			t.Logf("%s:\n%s", filepath.Base(program), output)
		}
	})
	require.Eventually(t, func() bool {
		select {
		case <-exited:
			return true
		default:
		}
		conn, err := net.DialTimeout("tcp", address, time.Second)
		if err != nil {
			return false
		}
		return conn.Close() == nil
	}, peerPatience, 20*time.Millisecond, "%s does not listen", program)
	select {
	case <-exited:
		require.FailNow(t, filepath.Base(program)+" ended", output.String())
	default:
	}
}
