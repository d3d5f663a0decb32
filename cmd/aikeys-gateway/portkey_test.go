package main

import (
	"bytes"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane/gateway/gatewaytest"
)

// onLoopback makes a server of Node listen on this machine only, on any free port, and say which.
const onLoopback = `data:text/javascript,import net from "node:net"; const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function () {
  this.once("listening", () => console.log("listening on http://127.0.0.1:" + this.address().port));
  return listen.call(this, 0, "127.0.0.1");
};`

// startNode runs a server in Node and returns it and its URL.
func startNode(t *testing.T, args ...string) (p *process, url string) {
	t.Helper()
	cmd := exec.Command("node", append([]string{"--import", onLoopback}, args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}
	p = launch(t, cmd)
	listening := regexp.MustCompile(`http://127\.0\.0\.1:[1-9]\d*`)
	p.await("listening; `make test` installs it", func() bool {
		url = listening.FindString(p.log.String())
		return url != ""
	})
	return p, url
}

// startPortkey runs the Portkey gateway, and its sample before it, which asks an agent. It returns both, and their URLs.
func startPortkey(t *testing.T, agent *process) (portkey, front *process, behind, url string) {
	t.Helper()
	portkey, behind = startNode(t, "../../tools/peers/node_modules/@portkey-ai/gateway/build/start-server.js", "--headless")
	text, err := os.ReadFile("../../docs/samples/portkey/front.mjs")
	require.NoError(t, err)
	text = bytes.ReplaceAll(text, []byte("/run/aikeys-gateway/agent.sock"), []byte(strings.TrimPrefix(agent.address.Agent, "unix:")))
	text = bytes.ReplaceAll(text, []byte("http://127.0.0.1:8787"), []byte(behind))
	sample := filepath.Join(t.TempDir(), "front.mjs")
	require.NoError(t, os.WriteFile(sample, text, 0o600))
	front, url = startNode(t, sample)
	return portkey, front, behind, url
}

// Portkey sends each request with the key that the agent names for its caller, and none without.
func TestPortkeyAsksTheAgent(t *testing.T) {
	t.Parallel()
	release := make(chan struct{}, 1)
	e := newEnv(t, gatewaytest.ReleasedBy(release))
	agent := e.startAgent()
	portkey, front, behind, url := startPortkey(t, agent)
	const inference = `{"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hello"}]`
	call := func(provider, path, credential, body string, headers ...string) reply {
		t.Helper()
		return send(http.MethodPost, url+path, credential, body, append(headers, "Content-Type", "application/json", "X-Portkey-Provider", provider)...)
	}
	for _, to := range [][2]string{{"openai", "/v1/chat/completions"}, {"anthropic", "/v1/messages"}, {"anthropic", "/v1/chat/completions"}} {
		// What a caller says of the destination is not believed.
		got := call(to[0], to[1], callerToken, inference+`}`, "X-Portkey-Custom-Host", "http://127.0.0.1:9",
			"X-Portkey-Config", `{"custom_host": "http://127.0.0.1:9"}`, "Cookie", "session="+callerToken)
		require.Equal(t, http.StatusOK, got.status, "%s\n%s", got.body, &portkey.log)
		require.Contains(t, got.body, "fake")
	}
	// The simpler way: Portkey sends requests through the gateway.
	got := send(http.MethodPost, behind+"/v1/chat/completions", callerToken, inference+`}`, "Content-Type", "application/json",
		"X-Portkey-Provider", "openai", "X-Portkey-Custom-Host", e.start().awaitReady().address.Gateway+"/openai")
	require.Equal(t, http.StatusOK, got.status, got.body)
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
		require.NoError(t, err, "%d %s\n%s", response.StatusCode, streamed, &portkey.log)
		streamed += string(buffer[:n])
	}
	require.NotContains(t, streamed, "[DONE]")
	close(release)
	served := len(e.provider.Requests())
	require.Equal(t, 5, served)

	refused := func(status int, provider, path, credential, body, says string) {
		t.Helper()
		got := call(provider, path, credential, body)
		require.Equal(t, status, got.status, got.body)
		require.Contains(t, got.body, says)
	}
	refused(http.StatusUnauthorized, "openai", "/v1/chat/completions", "ak_EXAMPLE_wrong", inference+`}`, "The AgentRouter API key or session token")
	refused(http.StatusUnauthorized, "openai", "/v1/chat/completions", "", inference+`}`, `"type":"error"`)
	refused(http.StatusBadRequest, "openai", "/v1/chat/completions", callerToken, `{"model": ["m"]}`, "not JSON with a model")
	refused(http.StatusForbidden, "openai", "/v1/files", callerToken, inference+`}`, "This is not served")
	refused(http.StatusForbidden, "constructor", "/v1/chat/completions", callerToken, inference+`}`, "This is not served")
	tx := e.control.RevokeKey(e.key)
	agent.await("acknowledged", func() bool { return e.control.Acknowledged(tx) })
	refused(http.StatusForbidden, "openai", "/v1/chat/completions", callerToken, inference+`}`, "The control plane of the test refuses this")
	agent.end(syscall.SIGKILL)
	refused(http.StatusServiceUnavailable, "anthropic", "/v1/messages", callerToken, inference+`}`, "AI Keys is not available")
	require.Len(t, e.provider.Requests(), served, "what is refused is not sent")
	for _, p := range []*process{portkey, front} {
		require.NotContains(t, p.log.String(), providerSecret)
		require.NotContains(t, p.log.String(), callerToken)
	}
}
