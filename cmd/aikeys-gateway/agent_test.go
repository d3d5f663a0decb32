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
	"syscall"
	"testing"

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

// ask asks the agent for the key of the caller's request to OpenAI, and returns the status and the key.
func (p *process) ask() (status int, secret string) {
	client := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", strings.TrimPrefix(p.address.Agent, "unix:"))
	}}}
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
	gotStatus, gotSecret := p.ask()
	require.Equal(p.t, status, gotStatus)
	require.Equal(p.t, secret, gotSecret)
}

func TestAgentStopsNamingARevokedKey(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	p := e.startAgent()
	require.Empty(t, p.address.Gateway, "it serves no requests")
	p.requireAnswer(http.StatusOK, providerSecret)
	tx := e.control.RevokeKey(e.key)
	p.await("acknowledged", func() bool { return e.control.Acknowledged(tx) })
	p.requireAnswer(http.StatusForbidden, "")
	p.awaitLog(`"face":"agent"`)
	require.Contains(t, p.log.String(), `"client":"192.0.2.7"`)
	require.NotContains(t, p.log.String(), providerSecret)
	require.NotContains(t, p.log.String(), callerToken)
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
