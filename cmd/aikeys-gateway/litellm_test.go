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
)

// startLiteLLM runs the LiteLLM proxy with its sample, before an agent, and returns it and its URL.
func startLiteLLM(t *testing.T, agent *process) (p *process, url string) {
	t.Helper()
	program, err := filepath.Abs("../../tools/litellm/.venv/bin/litellm")
	require.NoError(t, err)
	dir := t.TempDir()
	for _, name := range []string{"aikeys.py", "config.yaml"} {
		text, err := os.ReadFile(filepath.Join("..", "..", "docs", "samples", "litellm", name))
		require.NoError(t, err)
		text = bytes.ReplaceAll(text, []byte("/run/aikeys-gateway/agent.sock"), []byte(strings.TrimPrefix(agent.address.Agent, "unix:")))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), text, 0o600))
	}
	cmd := exec.Command(program, "--config", "config.yaml", "--host", "127.0.0.1", "--port", "0")
	cmd.Dir, cmd.Env = dir, []string{
		"PATH=" + filepath.Dir(program) + ":" + os.Getenv("PATH"), "HOME=" + dir, "LC_ALL=C.UTF-8", "PYTHONDONTWRITEBYTECODE=1",
		"LITELLM_LOCAL_MODEL_COST_MAP=True", "LITELLM_MASTER_KEY=sk-" + strings.Repeat("0123456789abcdef", 4)}
	p = launch(t, cmd)
	listening := regexp.MustCompile(`http://127\.0\.0\.1:[1-9]\d*`)
	require.Eventually(t, func() bool {
		url = listening.FindString(p.log.String())
		return url != "" && send(http.MethodGet, url+"/health/liveliness", "", "").status == http.StatusOK
	}, 3*patience, patience/100, "never ready; `make test` installs it: %s", &p.log)
	return p, url
}

// LiteLLM sends each request with the key that the agent names for its caller, and none without.
func TestLiteLLMAsksTheAgent(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	agent := e.startAgent()
	p, url := startLiteLLM(t, agent)
	const inference = `{"model": "openai/gpt-5", "messages": [{"role": "user", "content": "Hello"}]`
	for body, path := range map[string]string{
		inference + `}`:                 "/v1/chat/completions",
		inference + `, "stream": true}`: "/v1/chat/completions",
		`{"model": "anthropic/claude-5", "max_tokens": 9, "messages": [{"role": "user", "content": "Hello"}]}`: "/v1/messages",
	} {
		got := send(http.MethodPost, url+path, callerToken, body, "Content-Type", "application/json")
		require.Equal(t, http.StatusOK, got.status, "%s\n%s", got.body, &p.log)
		require.Contains(t, got.body, "fake")
	}
	e.provider.RequireNeverSaw(t, callerToken)
	served := len(e.provider.Requests())
	require.Equal(t, 3, served)

	refused := func(status int, path, credential, body, says string) {
		t.Helper()
		got := send(http.MethodPost, url+path, credential, body, "Content-Type", "application/json")
		require.Equal(t, status, got.status, got.body)
		require.Contains(t, got.body, says)
	}
	refused(http.StatusUnauthorized, "/v1/chat/completions", "ak_EXAMPLE_wrong", inference+`}`, "The AgentRouter API key or session token")
	refused(http.StatusForbidden, "/v1/chat/completions", callerToken, `{"model": "openai/", "messages": []}`, "LiteLLM does not serve this")
	refused(http.StatusForbidden, "/v1/responses", callerToken, `{"model": "openai/gpt-5", "input": "Hello"}`, "This path is not served")
	refused(http.StatusForbidden, "/key/generate", callerToken, `{}`, "This path is not served")
	for _, elsewhere := range []string{`"api_base": "http://127.0.0.1:9"`, `"base_url": "http://127.0.0.1:9"`, `"custom_llm_provider": "anthropic"`} {
		got := send(http.MethodPost, url+"/v1/chat/completions", callerToken, inference+`, `+elsewhere+`}`, "Content-Type", "application/json")
		require.GreaterOrEqual(t, got.status, http.StatusBadRequest, "the caller does not say where the key goes: %s", elsewhere)
	}
	tx := e.control.RevokeKey(e.key)
	agent.await("acknowledged", func() bool { return e.control.Acknowledged(tx) })
	refused(http.StatusForbidden, "/v1/chat/completions", callerToken, inference+`}`, "The control plane of the test refuses this")
	agent.end(syscall.SIGKILL)
	refused(http.StatusServiceUnavailable, "/v1/messages", callerToken, `{"model": "anthropic/claude-5", "max_tokens": 9, "messages": []}`, "AI Keys is not available")
	require.Len(t, e.provider.Requests(), served, "what is refused is not sent")
	require.NotContains(t, p.log.String(), providerSecret)
	require.NotContains(t, p.log.String(), callerToken)
}
