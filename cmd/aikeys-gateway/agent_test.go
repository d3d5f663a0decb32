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

	"github.com/agentrouter/aikeys/cmd/internal/programtest"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
	"github.com/agentrouter/aikeys/dataplane/gateway/gatewaytest"
)

// newAgentClient returns a client that keeps its connections to an agent, and counts them.
func newAgentClient(agent *programtest.Process) (client *http.Client, connections *atomic.Int64) {
	connections = &atomic.Int64{}
	return &http.Client{Timeout: programtest.Patience, Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		connections.Add(1)
		return new(net.Dialer).DialContext(ctx, "unix", strings.TrimPrefix(agent.URL("agent"), "unix:"))
	}}}, connections
}

// askForKey asks an agent for the key of the caller's request to OpenAI, and returns the status and the key.
func askForKey(client *http.Client) (status int, secret string) {
	got := programtest.SendBy(client, http.MethodPost, "http://agent/v1/key", "",
		`{"provider": "openai", "path": "/chat/completions", "client_ip": "192.0.2.7", "credential": "`+callerToken+`"}`)
	var answer struct{ Secret string }
	if json.Unmarshal([]byte(got.Body), &answer) != nil {
		return 0, ""
	}
	return got.Status, answer.Secret
}

func requireAnswer(t *testing.T, agent *programtest.Process, status int, secret string) {
	t.Helper()
	client, _ := newAgentClient(agent)
	defer client.CloseIdleConnections()
	gotStatus, gotSecret := askForKey(client)
	require.Equal(t, status, gotStatus)
	require.Equal(t, secret, gotSecret)
}

func TestAgentStopsNamingARevokedKey(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	p := e.startAgent()
	require.Empty(t, p.URL("gateway"), "it serves no requests")
	kept, connections := newAgentClient(p)
	defer kept.CloseIdleConnections()
	status, secret := askForKey(kept)
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, providerSecret, secret)
	tx := e.control.RevokeKey(e.key)
	p.Await("acknowledged", func() bool { return e.control.Acknowledged(tx) })
	requireAnswer(t, p, http.StatusForbidden, "")
	status, secret = askForKey(kept)
	require.Equal(t, http.StatusForbidden, status, "on a connection of before, too")
	require.Empty(t, secret)
	require.EqualValues(t, 1, connections.Load())
	p.AwaitLog(`"face":"agent"`)
	require.Contains(t, p.Output(), `"client":"192.0.2.7"`)
	require.NotContains(t, p.Output(), providerSecret)
	require.NotContains(t, p.Output(), callerToken)
}

// While the agent stops or is killed, each question gets the right answer or no answer. A killed agent leaves its
// socket file behind, and the next agent replaces it.
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
		client, _ := newAgentClient(p)
		asking.Go(func() {
			defer client.CloseIdleConnections()
			for ctx.Err() == nil {
				switch status, secret := askForKey(client); {
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
		p.Await("answering", func() bool { return answered.Load() > before+20 })
		code := p.End(signal)
		require.Equal(t, signal == syscall.SIGTERM, code == 0, p.Output())
		p = e.startAgent()
	}
	before := answered.Load()
	p.Await("answering again", func() bool { return answered.Load() > before+20 })
	require.Zero(t, wrong.Load())
}

// While the agent has no lease, it asks the control plane for each answer, or refuses.
func TestAgentNamesNoKeyWithoutALease(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	p := e.startAgent()
	requireAnswer(t, p, http.StatusOK, providerSecret)
	e.control.StopHeartbeats()
	p.Await("without a lease", func() bool { return p.Readyz().Status == http.StatusServiceUnavailable })
	e.control.SetFault(dataplanetest.Unavailable, dataplanetest.Fetch)
	requireAnswer(t, p, http.StatusServiceUnavailable, "")
}

func TestAgentAnswersOnlyItsOwnUser(t *testing.T) {
	t.Parallel()
	p := newEnv(t).startAgent()
	path := strings.TrimPrefix(p.URL("agent"), "unix:")
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
			program := bytes.ReplaceAll(block[1], []byte("/run/aikeys-gateway/agent.sock"), []byte(strings.TrimPrefix(p.URL("agent"), "unix:")))
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

// LiteLLM sends each request with the key that the agent names for its caller, and sends no request without a key.
func TestLiteLLMAsksTheAgent(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	agent := e.startAgent()
	program, err := filepath.Abs("../../tools/litellm/.venv/bin/litellm")
	require.NoError(t, err)
	dir := t.TempDir()
	for _, name := range []string{"aikeys.py", "config.yaml"} {
		text, err := os.ReadFile(filepath.Join("..", "..", "docs", "samples", "litellm", name))
		require.NoError(t, err)
		text = bytes.ReplaceAll(text, []byte("/run/aikeys-gateway/agent.sock"), []byte(strings.TrimPrefix(agent.URL("agent"), "unix:")))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), text, 0o600))
	}
	cmd := exec.Command(program, "--config", "config.yaml", "--host", "127.0.0.1", "--port", "0")
	cmd.Dir, cmd.Env = dir, []string{
		"PATH=" + filepath.Dir(program) + ":" + os.Getenv("PATH"), "HOME=" + dir, "LC_ALL=C.UTF-8", "PYTHONDONTWRITEBYTECODE=1",
		"LITELLM_LOCAL_MODEL_COST_MAP=True", "LITELLM_MASTER_KEY=sk-" + strings.Repeat("0123456789abcdef", 4)}
	p, url := programtest.Launch(t, cmd), ""
	require.Eventually(t, func() bool {
		url = regexp.MustCompile(`http://127\.0\.0\.1:[1-9]\d*`).FindString(p.Output())
		return url != "" && programtest.Send(http.MethodGet, url+"/health/liveliness", "", "").Status == http.StatusOK
	}, 3*programtest.Patience, programtest.Patience/100, "never ready; `make test` installs it: %s", p.Output())

	const inference = `{"model": "openai/gpt-5", "messages": [{"role": "user", "content": "Hello"}]`
	for body, path := range map[string]string{
		inference + `}`:                 "/v1/chat/completions",
		inference + `, "stream": true}`: "/v1/chat/completions",
		`{"model": "anthropic/claude-5", "max_tokens": 9, "messages": [{"role": "user", "content": "Hello"}]}`: "/v1/messages",
	} {
		got := programtest.Send(http.MethodPost, url+path, callerToken, body)
		require.Equal(t, http.StatusOK, got.Status, "%s\n%s", got.Body, p.Output())
		require.Contains(t, got.Body, "fake")
	}
	e.provider.RequireNeverSaw(t, callerToken)
	served := len(e.provider.Requests())
	require.Equal(t, 3, served)

	refused := func(status int, path, credential, body, says string) {
		t.Helper()
		got := programtest.Send(http.MethodPost, url+path, credential, body)
		require.Equal(t, status, got.Status, got.Body)
		require.Contains(t, got.Body, says)
	}
	refused(http.StatusUnauthorized, "/v1/chat/completions", "ak_EXAMPLE_wrong", inference+`}`, "The AgentRouter API key or session token")
	refused(http.StatusForbidden, "/v1/chat/completions", callerToken, `{"model": "openai/", "messages": []}`, "LiteLLM does not serve this")
	refused(http.StatusForbidden, "/v1/responses", callerToken, `{"model": "openai/gpt-5", "input": "Hello"}`, "This path is not served")
	refused(http.StatusForbidden, "/key/generate", callerToken, `{}`, "This path is not served")
	for _, elsewhere := range []string{`"api_base": "http://127.0.0.1:9"`, `"base_url": "http://127.0.0.1:9"`, `"custom_llm_provider": "anthropic"`} {
		got := programtest.Send(http.MethodPost, url+"/v1/chat/completions", callerToken, inference+`, `+elsewhere+`}`)
		require.GreaterOrEqual(t, got.Status, http.StatusBadRequest, "the caller does not say where the key goes: %s", elsewhere)
	}
	tx := e.control.RevokeKey(e.key)
	agent.Await("acknowledged", func() bool { return e.control.Acknowledged(tx) })
	refused(http.StatusForbidden, "/v1/chat/completions", callerToken, inference+`}`, "The control plane of the test refuses this")
	agent.End(syscall.SIGKILL)
	refused(http.StatusServiceUnavailable, "/v1/messages", callerToken, `{"model": "anthropic/claude-5", "max_tokens": 9, "messages": []}`, "AI Keys is not available")
	require.Len(t, e.provider.Requests(), served, "what is refused is not sent")
	require.NotContains(t, p.Output(), providerSecret)
	require.NotContains(t, p.Output(), callerToken)
}

// onLoopback makes a server of Node listen on any free port of this machine only, and log its URL.
const onLoopback = `data:text/javascript,import net from "node:net"; const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function () {
  this.once("listening", () => console.log("listening node=http://127.0.0.1:" + this.address().port));
  return listen.call(this, 0, "127.0.0.1");
};`

// startNode runs a server in Node, which logs its URL as "node".
func startNode(t *testing.T, args ...string) *programtest.Process {
	cmd := exec.Command("node", append([]string{"--import", onLoopback}, args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}
	return programtest.Launch(t, cmd)
}

// Portkey sends each request with the key that the agent names for its caller, and sends no request without a key.
func TestPortkeyAsksTheAgent(t *testing.T) {
	t.Parallel()
	release := make(chan struct{}, 1)
	e := newEnv(t, gatewaytest.ReleasedBy(release))
	agent := e.startAgent()
	portkey := startNode(t, "../../tools/peers/node_modules/@portkey-ai/gateway/build/start-server.js", "--headless") // `make test` installs it
	behind := portkey.URL("node")
	text, err := os.ReadFile("../../docs/samples/portkey/front.mjs")
	require.NoError(t, err)
	text = bytes.ReplaceAll(text, []byte("/run/aikeys-gateway/agent.sock"), []byte(strings.TrimPrefix(agent.URL("agent"), "unix:")))
	text = bytes.ReplaceAll(text, []byte("http://127.0.0.1:8787"), []byte(behind))
	sample := filepath.Join(t.TempDir(), "front.mjs")
	require.NoError(t, os.WriteFile(sample, text, 0o600))
	front := startNode(t, sample)
	url := front.URL("node")
	const inference = `{"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hello"}]`
	call := func(provider, path, credential, body string, headers ...string) programtest.Reply {
		t.Helper()
		return programtest.Send(http.MethodPost, url+path, credential, body, append(headers, "Content-Type", "application/json", "X-Portkey-Provider", provider)...)
	}
	for _, to := range [][2]string{{"openai", "/v1/chat/completions"}, {"anthropic", "/v1/messages"}, {"anthropic", "/v1/chat/completions"}} {
		// Headers of a caller do not change the destination.
		got := call(to[0], to[1], callerToken, inference+`}`, "X-Portkey-Custom-Host", "http://127.0.0.1:9",
			"X-Portkey-Config", `{"custom_host": "http://127.0.0.1:9"}`, "Cookie", "session="+callerToken)
		require.Equal(t, http.StatusOK, got.Status, "%s\n%s", got.Body, portkey.Output())
		require.Contains(t, got.Body, "fake")
	}
	// The simpler way: Portkey sends requests through the gateway.
	got := programtest.Send(http.MethodPost, behind+"/v1/chat/completions", callerToken, inference+`}`, "Content-Type", "application/json",
		"X-Portkey-Provider", "openai", "X-Portkey-Custom-Host", e.start().AwaitReady().URL("gateway")+"/openai")
	require.Equal(t, http.StatusOK, got.Status, got.Body)
	e.provider.RequireNeverSaw(t, callerToken)

	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/v1/chat/completions", strings.NewReader(inference+`, "stream": true}`))
	require.NoError(t, err)
	request.Header = http.Header{"Authorization": {"Bearer " + callerToken}, "Content-Type": {"application/json"}, "X-Portkey-Provider": {"openai"}}
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer func() { _ = response.Body.Close() }()
	streamed := ""
	for buffer := make([]byte, 4096); !strings.Contains(streamed, "Hello"); { // while the provider holds the rest back
		select {
		case release <- struct{}{}:
		default:
		}
		n, err := response.Body.Read(buffer)
		require.NoError(t, err, "%d %s\n%s", response.StatusCode, streamed, portkey.Output())
		streamed += string(buffer[:n])
	}
	require.NotContains(t, streamed, "[DONE]")
	close(release)
	served := len(e.provider.Requests())
	require.Equal(t, 5, served)

	refused := func(status int, provider, path, credential, body, says string) {
		t.Helper()
		got := call(provider, path, credential, body)
		require.Equal(t, status, got.Status, got.Body)
		require.Contains(t, got.Body, says)
	}
	refused(http.StatusUnauthorized, "openai", "/v1/chat/completions", "ak_EXAMPLE_wrong", inference+`}`, "The AgentRouter API key or session token")
	refused(http.StatusUnauthorized, "openai", "/v1/chat/completions", "", inference+`}`, `"type":"error"`)
	refused(http.StatusBadRequest, "openai", "/v1/chat/completions", callerToken, `{"model": ["m"]}`, "not JSON with a model")
	refused(http.StatusForbidden, "openai", "/v1/files", callerToken, inference+`}`, "This is not served")
	refused(http.StatusForbidden, "constructor", "/v1/chat/completions", callerToken, inference+`}`, "This is not served")
	tx := e.control.RevokeKey(e.key)
	agent.Await("acknowledged", func() bool { return e.control.Acknowledged(tx) })
	refused(http.StatusForbidden, "openai", "/v1/chat/completions", callerToken, inference+`}`, "The control plane of the test refuses this")
	agent.End(syscall.SIGKILL)
	refused(http.StatusServiceUnavailable, "anthropic", "/v1/messages", callerToken, inference+`}`, "AI Keys is not available")
	require.Len(t, e.provider.Requests(), served, "what is refused is not sent")
	for _, p := range []*programtest.Process{portkey, front} {
		require.NotContains(t, p.Output(), providerSecret)
		require.NotContains(t, p.Output(), callerToken)
	}
}
