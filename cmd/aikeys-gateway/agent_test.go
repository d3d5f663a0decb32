package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
	"github.com/agentrouter/aikeys/dataplane/gateway/gatewaytest"
)

// startAgent starts an agent on a unix socket.
func (e *env) startAgent(args ...string) *process {
	e.t.Helper()
	dir, err := os.MkdirTemp("", "gw-") // t.TempDir may be too long for a socket's path
	require.NoError(e.t, err)
	e.t.Cleanup(func() { _ = os.RemoveAll(dir) })
	cmd := exec.Command(os.Args[0], append([]string{"agent", "--agent-listen", "unix:" + dir + "/a.sock"}, args...)...)
	cmd.Env = e.environ
	return launch(e.t, cmd).awaitListening().awaitReady()
}

// asker asks an agent over connections that it keeps, and counts them.
type asker struct {
	http.Client

	connections atomic.Int64
}

func (p *process) newAsker() *asker {
	a := &asker{}
	a.Client = http.Client{Timeout: patience, Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		a.connections.Add(1)
		return new(net.Dialer).DialContext(ctx, "unix", strings.TrimPrefix(p.address.Agent, "unix:"))
	}}}
	return a
}

// ask asks for the key of the caller's request to OpenAI, and returns the status and the key.
func (client *asker) ask() (status int, secret string) {
	response, err := client.Post("http://agent/v1/key", "", strings.NewReader(
		`{"provider": "openai", "path": "/chat/completions", "client_ip": "192.0.2.7", "credential": "`+callerToken+`"}`))
	if err != nil {
		return 0, ""
	}
	defer func() { _ = response.Body.Close() }()
	var answer struct{ Secret string }
	if json.NewDecoder(response.Body).Decode(&answer) != nil {
		return 0, ""
	}
	return response.StatusCode, answer.Secret
}

func (p *process) requireAnswer(status int, secret string) {
	p.t.Helper()
	client := p.newAsker()
	defer client.CloseIdleConnections()
	gotStatus, gotSecret := client.ask()
	require.Equal(p.t, status, gotStatus)
	require.Equal(p.t, secret, gotSecret)
}

func TestAgentStopsNamingARevokedKey(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	p := e.startAgent()
	require.Empty(t, p.address.Gateway, "it serves no requests")
	kept := p.newAsker()
	defer kept.CloseIdleConnections()
	status, secret := kept.ask()
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, providerSecret, secret)
	tx := e.control.RevokeKey(e.key)
	p.await("acknowledged", func() bool { return e.control.Acknowledged(tx) })
	p.requireAnswer(http.StatusForbidden, "")
	status, secret = kept.ask()
	require.Equal(t, http.StatusForbidden, status, "on a connection of before, too")
	require.Empty(t, secret)
	require.EqualValues(t, 1, kept.connections.Load())
	p.awaitLog(`"face":"agent"`)
	require.Contains(t, p.log.String(), `"client":"192.0.2.7"`)
	require.NotContains(t, p.log.String(), providerSecret)
	require.NotContains(t, p.log.String(), callerToken)
}

// Questions get their answer or none while the agent stops and while it is killed, which leaves its socket behind for the next one.
func TestAgentRestartsUnderLoad(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	p := e.startAgent()
	var asking sync.WaitGroup
	defer asking.Wait()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var answered, wrong atomic.Int64
	for range 4 {
		client := p.newAsker()
		asking.Go(func() {
			defer client.CloseIdleConnections()
			for ctx.Err() == nil {
				switch status, secret := client.ask(); {
				case status == http.StatusOK && secret == providerSecret:
					answered.Add(1)
				case status != 0:
					wrong.Add(1)
				}
				time.Sleep(time.Millisecond) // the interval of questions
			}
		})
	}
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		before := answered.Load()
		p.await("answering", func() bool { return answered.Load() > before+20 })
		code := p.end(signal)
		require.Equal(t, signal == syscall.SIGTERM, code == 0, p.log.String())
		p = e.startAgent("--agent-listen", p.address.Agent)
	}
	before := answered.Load()
	p.await("answering again", func() bool { return answered.Load() > before+20 })
	require.Zero(t, wrong.Load())
}

// While it hears nothing of the control plane, the agent asks it for each answer, or refuses.
func TestAgentNamesNoKeyWithoutALease(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	p := e.startAgent()
	p.requireAnswer(http.StatusOK, providerSecret)
	e.control.StopHeartbeats()
	p.await("without a lease", func() bool { return p.readyz().status == http.StatusServiceUnavailable })
	e.control.SetFault(dataplanetest.Unavailable, dataplanetest.Fetch)
	p.requireAnswer(http.StatusServiceUnavailable, "")
}

func TestAgentAnswersOnlyItsOwnUser(t *testing.T) {
	t.Parallel()
	p := newEnv(t).startAgent()
	path := strings.TrimPrefix(p.address.Agent, "unix:")
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o600), info.Mode().Perm())
	if os.Geteuid() != 0 {
		return // only root can act as other users; unixsocket.TestOtherUsersAreDisconnected runs for everybody
	}
	require.NoError(t, os.Chmod(filepath.Dir(path), 0o755))
	curl := exec.CommandContext(t.Context(), "curl", "--silent", "--show-error", "--unix-socket", path, "--data", "{}", "http://agent/v1/key")
	curl.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	got, err := curl.CombinedOutput()
	require.Error(t, err)
	require.NotContains(t, string(got), "problems")
}

// The programs on the agent's page get the provider's answer, and say why they are refused.
func TestAgentsPageHasWorkingPrograms(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/agent.md")
	require.NoError(t, err)
	for heading, run := range map[string][]string{
		"curl": {"bash", "-eu", "ask.sh"}, "Python": {"python3", "-B", "ask.py"}, "Node": {"node", "ask.mjs"}, "Go": {"go", "run", "ask.go"},
	} {
		t.Run(heading, func(t *testing.T) {
			t.Parallel()
			e := newEnv(t, gatewaytest.Answering("Hello"))
			p := e.startAgent()
			block := regexp.MustCompile("(?s)\n### " + heading + "\n\n```[a-z]+\n(.*?)\n```").FindSubmatch(page)
			require.NotNil(t, block)
			dir := t.TempDir()
			program := bytes.ReplaceAll(block[1], []byte("/run/aikeys-gateway/agent.sock"), []byte(strings.TrimPrefix(p.address.Agent, "unix:")))
			require.NoError(t, os.WriteFile(filepath.Join(dir, run[len(run)-1]), program, 0o600))
			call := func(credential string) (string, error) {
				cmd := exec.CommandContext(t.Context(), run[0], run[1:]...)
				cmd.Dir, cmd.Env = dir, append(os.Environ(), "AGENTROUTER_API_KEY="+credential)
				output, err := cmd.CombinedOutput()
				return string(output), err
			}
			got, err := call(callerToken)
			require.NoError(t, err, got)
			if heading == "curl" {
				require.Contains(t, got, providerSecret)
			} else {
				require.Contains(t, got, "Hello")
				require.Len(t, e.provider.Requests(), 1)
				e.provider.RequireNeverSaw(t, callerToken)
			}
			got, err = call("ak_EXAMPLE_wrong")
			require.Error(t, err)
			require.Contains(t, got, "The AgentRouter API key or session token")
		})
	}
}
