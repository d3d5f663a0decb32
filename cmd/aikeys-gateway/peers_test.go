package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/websocket"
	"golang.org/x/sys/unix"

	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
	"github.com/agentrouter/aikeys/dataplane/gateway/gatewaytest"
	"github.com/agentrouter/aikeys/internal/tlsfiles/tlsfilestest"
)

// certifiedName is a name in the certificates of providers that run WithTLS.
const certifiedName = "example.com"

// startProxy runs nginx, Caddy, HAProxy or Envoy, as make test installs them, with its sample configuration, and returns its URL. A listener of
// the gateway's, and the provider, which runs WithTLS, take the place of those that the sample names. Pairs are further texts to
// replace.
func startProxy(t *testing.T, name string, gateway *process, provider *gatewaytest.Provider, pairs ...string) (url string) {
	t.Helper()
	// The address is bound, though not listened on, until the test ends: no other process gets it.
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	require.NoError(t, err)
	unix.CloseOnExec(socket)
	t.Cleanup(func() { _ = unix.Close(socket) })
	require.NoError(t, unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
	require.NoError(t, unix.Bind(socket, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	bound, err := unix.Getsockname(socket)
	require.NoError(t, err)
	inet, ok := bound.(*unix.SockaddrInet4)
	require.True(t, ok)
	address := "127.0.0.1:" + strconv.Itoa(inet.Port)

	dir := t.TempDir()
	authorities := filepath.Join(dir, "provider.pem")
	require.NoError(t, os.WriteFile(authorities, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: provider.Certificate().Raw}), 0o600))
	files, program, args := []string{"nginx.conf"}, "/usr/sbin/nginx", []string{ // one process, so that ending it leaves none behind
		"-e", "stderr", "-g", "daemon off; master_process off; pid " + dir + "/nginx.pid;", "-c", dir + "/nginx.conf"}
	listens, format := " reuseport", func(address string) string { return address }
	asked, answers := "unix:/run/aikeys-gateway/forward-auth.sock", gateway.address.ForwardAuth
	if name == "Envoy" {
		found, err := exec.Command("../../tools/peers.sh", "envoy").Output()
		require.NoError(t, err)
		files, program = []string{"envoy.yaml"}, strings.TrimSpace(string(found))
		args = []string{"--config-path", "envoy.yaml", "--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"}
		asked, answers, listens = "/run/aikeys-gateway/ext-authz.sock", strings.TrimPrefix(gateway.address.ExtAuthz, "unix:"), ""
		format = func(address string) string {
			host, port, _ := net.SplitHostPort(address)
			return "{address: " + host + ", port_value: " + port + "}"
		}
	}
	if name == "nginx" {
		if found, err := exec.LookPath(name); err == nil {
			program = found
		}
		pairs = append(pairs, "worker_processes auto", "worker_processes 1") // each would open a socket, and one process serves one
	}
	if name == "Caddy" { // it trusts the provider by SSL_CERT_FILE, whose certificate has its address, too
		found, err := exec.LookPath("caddy")
		require.NoError(t, err)
		files, program, args = []string{"Caddyfile"}, found, []string{"run", "--config", "Caddyfile"}
		asked, answers, listens = "unix//run/aikeys-gateway/forward-auth.sock", "unix/"+strings.TrimPrefix(gateway.address.ForwardAuth, "unix:"), ""
		pairs = append(pairs, "https://api.openai.com {", provider.URL+" {", "https://api.anthropic.com {", provider.URL+" {", "{upstream_hostport}", certifiedName)
	}
	if name == "HAProxy" {
		files, program, args, listens = []string{"haproxy.cfg", "haproxy.lua"}, "/usr/sbin/haproxy", []string{"-db", "-f", "haproxy.cfg"}, ""
		if found, err := exec.LookPath("haproxy"); err == nil {
			program = found
		}
		asked, answers = "unix@/run/aikeys-gateway/forward-auth.sock", "unix@"+strings.TrimPrefix(gateway.address.ForwardAuth, "unix:")
	}
	texts := make([]string, len(files))
	for i, file := range files {
		text, err := os.ReadFile(filepath.Join("..", "..", "docs", "samples", file))
		require.NoError(t, err)
		texts[i] = string(text)
	}
	from := strings.TrimPrefix(provider.URL, "https://")
	pairs = append(pairs, asked, answers, format("127.0.0.1:8000"), format(address)+listens)
	if name != "Caddy" {
		pairs = append(pairs, format("api.openai.com:443"), format(from), format("api.anthropic.com:443"), format(from),
			"api.openai.com", certifiedName, "api.anthropic.com", certifiedName, "/etc/ssl/certs/ca-certificates.crt", authorities)
	}
	for pair := range slices.Chunk(pairs, 2) {
		require.Contains(t, strings.Join(texts, "\n"), pair[0])
		for i := range texts {
			texts[i] = strings.ReplaceAll(texts[i], pair[0], pair[1])
		}
	}
	for i, file := range files {
		require.NoError(t, os.WriteFile(filepath.Join(dir, file), []byte(texts[i]), 0o600))
	}

	cmd := exec.Command(program, args...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "LC_ALL=C", "SSL_CERT_FILE=" + authorities}
	launch(t, cmd).await("listening", func() bool {
		conn, err := net.DialTimeout("tcp", address, time.Second)
		return err == nil && conn.Close() == nil
	})
	return "http://" + address
}

// eachProxy runs a test on each of the proxies, and gives it a gateway that answers all of them.
func eachProxy(t *testing.T, test func(t *testing.T, proxy string, e *env, gateway *process)) {
	t.Helper()
	t.Parallel()
	for _, proxy := range []string{"nginx", "Caddy", "HAProxy", "Envoy"} {
		t.Run(proxy, func(t *testing.T) {
			t.Parallel()
			e := newEnv(t, gatewaytest.WithTLS())
			test(t, proxy, e, e.startForProxies())
		})
	}
}

// question asks for a completion.
const question = `{"model": "m", "max_tokens": 9, "messages": []}`

// sdk is an official SDK: the program that uses it, the provider's path in the gateway, the variables with the SDK's base URL and key,
// how many requests the program makes, and the class of the error for a wrong key.
type sdk struct {
	script, path, baseURL, key string
	requests                   int
	refusal                    string
}

// The official SDKs work with the base URL and the key changed and nothing else. A provider sends each chunk only once the SDK has
// the one before it, so nothing in between buffers.
func TestProviderSDKs(t *testing.T) {
	t.Parallel()
	folder, err := filepath.Abs("../../tools/peers")
	require.NoError(t, err)
	openAI, anthropic := sdk{"openai_client", "/openai", "OPENAI_BASE_URL", "OPENAI_API_KEY", 2, "AuthenticationError"},
		sdk{"anthropic_client", "/anthropic", "ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY", 2, "AuthenticationError"}
	google, googleByOpenAI := sdk{"google_client", "/gemini", "GOOGLE_GEMINI_BASE_URL", "GEMINI_API_KEY", 4, "ClientError"},
		sdk{"openai_client", "/gemini/v1beta/openai", "OPENAI_BASE_URL", "OPENAI_API_KEY", 2, "AuthenticationError"}
	googleInNode := google
	googleInNode.refusal = "ApiError"
	for name, through := range map[string]map[string][]sdk{
		"gateway": {".py": {openAI, anthropic, google}, ".mjs": {openAI, anthropic, googleInNode, googleByOpenAI}},
		"nginx":   {".mjs": {openAI, anthropic}}, // Python takes seconds to start
		"HAProxy": {".mjs": {openAI, anthropic}},
		"Envoy":   {".mjs": {openAI, anthropic}},
	} {
		for language, sdks := range through {
			for _, sdk := range sdks {
				t.Run(sdk.script+language+" of "+sdk.path+" through "+name, func(t *testing.T) {
					t.Parallel()
					release := make(chan struct{}, 1024)
					options := []gatewaytest.Option{gatewaytest.ReleasedBy(release)}
					if name != "gateway" {
						options = append(options, gatewaytest.WithTLS())
					}
					e := newEnv(t, options...)
					gateway := e.startForProxies()
					url := gateway.address.Gateway
					if name != "gateway" {
						url = startProxy(t, name, gateway, e.provider)
					}
					type result struct {
						Text         string `json:"text"`
						StreamedText string `json:"streamed_text"`
						Chunks       int    `json:"chunks"`
						Error        struct {
							Class  string `json:"class"`
							Status int    `json:"status"`
							Text   string `json:"message"`
						} `json:"error"`
					}
					call := func(key string) (got result) {
						ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
						defer cancel()
						program, args := filepath.Join(folder, ".venv", "bin", "python"), []string{"-B"}
						if language == ".mjs" {
							program, args = "node", nil
						}
						cmd := exec.CommandContext(ctx, program, append(args, filepath.Join(folder, sdk.script+language))...)
						cmd.Env = []string{
							"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "LC_ALL=C.UTF-8", sdk.baseURL + "=" + url + sdk.path, sdk.key + "=" + key}
						var stdout, stderr bytes.Buffer
						cmd.Stdout = &stdout
						progress, err := cmd.StderrPipe()
						require.NoError(t, err)
						require.NoError(t, cmd.Start(), "`make test` installs the SDKs")
						release <- struct{}{}
						for lines := bufio.NewScanner(progress); lines.Scan(); {
							stderr.WriteString(lines.Text() + "\n")
							if strings.HasPrefix(lines.Text(), "chunk ") {
								release <- struct{}{}
							}
						}
						require.NoError(t, cmd.Wait(), "%s", &stderr)
						require.NoError(t, json.Unmarshal(stdout.Bytes(), &got), "%s", &stdout)
						return got
					}
					const text = "Hello from the fake provider."
					require.Equal(t, result{Text: text, StreamedText: text, Chunks: 6}, call(callerToken))
					require.Len(t, e.provider.Requests(), sdk.requests)
					e.provider.RequireNeverSaw(t, callerToken)
					refused := call("ak_revoked_0001").Error
					require.Equal(t, http.StatusUnauthorized, refused.Status)
					require.Equal(t, sdk.refusal, refused.Class)
					require.Contains(t, refused.Text, "The AgentRouter API key or session token that came with this request is not valid")
					require.Len(t, e.provider.Requests(), sdk.requests, "what is refused does not reach the provider")
				})
			}
		}
	}
}

// A Realtime session opens for a server, which sends its key in a header, and for a browser, which has to send it as a protocol.
func TestRealtimeSessions(t *testing.T) {
	t.Parallel()
	folder, err := filepath.Abs("../../tools/peers")
	require.NoError(t, err)
	opened := make(chan http.Header, 1)
	provider := httptest.NewServer(websocket.Server{Handler: func(ws *websocket.Conn) {
		opened <- ws.Request().Header
		for text := `{"type": "session.created"}`; websocket.Message.Send(ws, text) == nil && websocket.Message.Receive(ws, &text) == nil; {
		}
	}})
	t.Cleanup(provider.Close)
	e := newEnv(t)
	own := tlsfilestest.WriteCertificate(t, t.TempDir(), 1) // Node's SDK opens sessions over TLS only
	gateway := e.start("--upstream", "openai="+provider.URL+"/v1", "--tls-cert", own.CertFile, "--tls-key", own.KeyFile).awaitReady()
	for name, args := range map[string][]string{
		"a server in Python": {filepath.Join(folder, ".venv", "bin", "python"), "-B", filepath.Join(folder, "realtime_client.py")},
		"a server in Node":   {"node", filepath.Join(folder, "realtime_client.mjs"), "server"},
		"a browser":          {"node", filepath.Join(folder, "realtime_client.mjs"), "browser"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, args[0], args[1:]...)
			cmd.Env = []string{
				"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "LC_ALL=C.UTF-8", "OPENAI_BASE_URL=" + gateway.address.Gateway + "/openai", "OPENAI_API_KEY=" + callerToken,
				"SSL_CERT_FILE=" + own.CertFile, "NODE_EXTRA_CA_CERTS=" + own.CertFile}
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			stdout, err := cmd.Output()
			require.NoError(t, err, "%s", &stderr)
			require.JSONEq(t, `["session.created", "input_audio_buffer.clear"]`, string(stdout))
			seen := <-opened
			require.Equal(t, []string{"Bearer " + providerSecret}, seen.Values("Authorization"))
			require.NotContains(t, fmt.Sprint(seen), callerToken)
			require.Equal(t, name == "a browser", seen.Get("Sec-WebSocket-Protocol") == "realtime")
		})
	}
}

// answerAsGemini answers lists of files, downloads, questions and Live sessions as Gemini does, with one credential alone.
func answerAsGemini(w http.ResponseWriter, r *http.Request) {
	version, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	switch {
	case r.Header.Get("X-Goog-Api-Key") != providerSecret || r.URL.Query().Has("key"):
		w.WriteHeader(http.StatusForbidden)
	case rest == "files" && r.URL.Query().Get("pageToken") == "":
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintf(w, `{"files":[{"name":"files/a","downloadUri":"http://%s/%s/files/a:download?alt=media"}],"nextPageToken":"second"}`, r.Host, version)
	case rest == "files":
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"files":[{"name":"files/b"}]}`)
	case rest == "files/a:download" && r.URL.RawQuery == "alt=media":
		_, _ = io.WriteString(w, "Hello")
	case rest == "models/m:generateContent":
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintf(w, `{"candidates":[{"content":{"role":"model","parts":[{"text":%q}]}}]}`, version)
	case version == "ws" && strings.HasSuffix(rest, ".GenerativeService.BidiGenerateContent"):
		websocket.Server{Handler: func(ws *websocket.Conn) {
			for _, answer := range []string{`{"setupComplete":{}}`, `{"serverContent":{"modelTurn":{"parts":[{"text":"Hello"}]},"turnComplete":true}}`} {
				var got string
				if websocket.Message.Receive(ws, &got) != nil || websocket.Message.Send(ws, answer) != nil {
					return
				}
			}
			_, _ = io.Copy(io.Discard, ws) // until the client hangs up
		}}.ServeHTTP(w, r)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

// What Google's SDKs ask for beside content comes back through the gateway: pages, downloads, another version, and Live sessions.
func TestGoogleSDKsPageDownloadAndTalk(t *testing.T) {
	t.Parallel()
	folder, err := filepath.Abs("../../tools/peers")
	require.NoError(t, err)
	provider := httptest.NewServer(http.HandlerFunc(answerAsGemini))
	t.Cleanup(provider.Close)
	e := newEnv(t)
	own := tlsfilestest.WriteCertificate(t, t.TempDir(), 1) // Python's SDK opens Live sessions over TLS only
	gateway := e.start("--upstream", "gemini="+provider.URL+"/v1beta", "--tls-cert", own.CertFile, "--tls-key", own.KeyFile).awaitReady()
	for _, args := range [][]string{
		{filepath.Join(folder, ".venv", "bin", "python"), "-B", filepath.Join(folder, "google_paths.py")}, {"node", filepath.Join(folder, "google_paths.mjs")},
	} {
		t.Run(filepath.Base(args[len(args)-1]), func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, args[0], args[1:]...)
			cmd.Env = []string{
				"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "LC_ALL=C.UTF-8", "GOOGLE_GEMINI_BASE_URL=" + gateway.address.Gateway + "/gemini",
				"GEMINI_API_KEY=" + callerToken, "SSL_CERT_FILE=" + own.CertFile, "NODE_EXTRA_CA_CERTS=" + own.CertFile}
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			stdout, err := cmd.Output()
			require.NoError(t, err, "%s\n%s", &stderr, &gateway.log)
			require.JSONEq(t, `{"files": ["files/a", "files/b"], "download": "Hello", "alpha": "v1alpha", "live": "Hello"}`, string(stdout))
		})
	}
}

// Frameworks show the text of an error only if it has the form that the provider's errors have.
func TestFrameworksShowWhyARequestWasRefused(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	gateway := e.startForProxies()
	tools, err := filepath.Abs("../../tools")
	require.NoError(t, err)
	for command, count := range map[string]int{
		"node peers/refusals.mjs": 19, "peers/.venv/bin/python -B peers/refusals.py": 2, "litellm/.venv/bin/python -B litellm/refusals.py": 12,
	} {
		t.Run(command[strings.LastIndexByte(command, ' ')+1:], func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			words := strings.Fields(command)
			if words[0] != "node" {
				words[0] = filepath.Join(tools, words[0])
			}
			cmd := exec.CommandContext(ctx, words[0], words[1:]...)
			cmd.Dir = tools
			cmd.Env = []string{
				"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "LC_ALL=C.UTF-8", "LITELLM_LOCAL_MODEL_COST_MAP=True",
				"GATEWAY=" + gateway.address.Gateway, "API_KEY=ak_revoked_0001"}
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			stdout, err := cmd.Output()
			require.NoError(t, err, "`make test` installs the frameworks: %s", &stderr)
			var shown map[string]string
			require.NoError(t, json.Unmarshal(stdout, &shown), "%s", stdout)
			require.Len(t, shown, count)
			for framework, text := range shown {
				require.Contains(t, text, "The AgentRouter API key or session token that came with this request is not valid", framework)
			}
		})
	}
}

func TestSampleProxiesReplaceTheCredential(t *testing.T) {
	eachProxy(t, func(t *testing.T, proxy string, e *env, gateway *process) {
		url := startProxy(t, proxy, gateway, e.provider)
		carriers := []string{"Authorization", "X-Api-Key", "X-Goog-Api-Key", "Api-Key"}
		for path, injected := range map[string]string{"/openai/chat/completions": "Authorization", "/anthropic/v1/messages": "X-Api-Key"} {
			for _, carrier := range carriers {
				e.provider.Forget()
				headers := []string{"Cookie", "session=" + callerToken, "X-Forwarded-For", "192.0.2.1"}
				value := callerToken
				if carrier == "Authorization" {
					value = "Bearer " + callerToken
				}
				require.Equal(t, http.StatusOK, send(http.MethodPost, url+path, "", question, append(headers, carrier, value)...).status)
				seen := e.provider.Requests()
				require.Len(t, seen, 1)
				e.provider.RequireNeverSaw(t, callerToken)
				require.Equal(t, certifiedName, seen[0].Host)
				require.Empty(t, seen[0].Header.Values("X-Forwarded-For"))
				for _, name := range carriers {
					if name == injected {
						require.Len(t, seen[0].Header.Values(name), 1)
					} else {
						require.Empty(t, strings.Join(seen[0].Header.Values(name), ""), name)
					}
				}
			}
		}
		for _, path := range []string{"/", "/auth/openai", "/_aikeys/openai", "/openai", "/openai/../auth/openai"} {
			got := send(http.MethodPost, url+path, callerToken, question)
			require.Contains(t, []int{http.StatusNotFound, http.StatusBadRequest}, got.status, path) // 400 is the gateway's, of a path that HAProxy leaves as it is
			require.NotContains(t, got.header, "Agentrouter-Key-Id")
			require.NotContains(t, got.header, "Authorization")
		}
		for _, status := range []int{http.StatusUnauthorized, http.StatusForbidden, http.StatusInternalServerError} {
			e.provider.Reject(providerSecret, status)
			got := send(http.MethodPost, url+"/anthropic/v1/messages", "", question, "X-Api-Key", callerToken)
			require.Equal(t, status, got.status)
			require.Contains(t, got.body, "req_fake", "it is the provider's answer")
		}
	})
}

// Envoy removes parameters by their literal names. However a caller encodes the name, the key must not reach the provider.
func TestEnvoyRemovesCredentialsFromTheQuery(t *testing.T) {
	t.Parallel()
	e := newEnv(t, gatewaytest.WithTLS())
	gateway := e.startForProxies()
	url := startProxy(t, "Envoy", gateway, e.provider, "{prefix: /anthropic/}", "{prefix: /gemini/}", "{provider: anthropic}", "{provider: gemini}")
	for _, query := range []string{
		"alt=sse&key=*", "key=*&alt=sse", "%6bey=*&alt=sse", "alt=sse&k%65y=*&key=*", "%6B%65%79=*&alt=sse&trace=*", "key=*&alt=sse&%6bey",
	} {
		e.provider.Forget()
		got := send(http.MethodPost, url+"/gemini/v1beta/models/m:generateContent?"+strings.ReplaceAll(query, "*", callerToken), "", question)
		seen := e.provider.Requests()
		require.Len(t, seen, 1, "%s: %d %s", query, got.status, got.body)
		require.Equal(t, "alt=sse", seen[0].RawQuery, query)
		require.Equal(t, providerSecret, seen[0].Header.Get("X-Goog-Api-Key"))
		e.provider.RequireNeverSaw(t, callerToken)
	}
}

// A filter behind ext_authz gets the key in the metadata, for its own provider alone; no header has it. Here the route's headers are in the
// place of Envoy AI Gateway's filter.
func TestEnvoyHandsTheKeyOverInMetadata(t *testing.T) {
	t.Parallel()
	e := newEnv(t, gatewaytest.WithTLS())
	const removed = "request_headers_to_remove: [cookie, x-forwarded-for]"
	url := startProxy(t, "Envoy", e.startForProxies(), e.provider,
		"{provider: openai}", "{provider: openai, credential: metadata}", "{provider: anthropic}", "{provider: anthropic, credential: metadata}", removed,
		removed+"\n                      request_headers_to_add:\n"+
			`                        - header: {key: from-metadata, value: "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:secret_for_openai)%"}`)
	for path, secret := range map[string]string{"/openai/chat/completions": providerSecret, "/anthropic/v1/messages": "-"} {
		e.provider.Forget()
		send(http.MethodPost, url+path, callerToken, question)
		seen := e.provider.Requests()
		require.Len(t, seen, 1)
		require.Equal(t, secret, cmp.Or(seen[0].Header.Get("From-Metadata"), "-"))
		seen[0].Header.Del("From-Metadata")
		require.NotContains(t, fmt.Sprint(seen[0].Header), providerSecret)
		e.provider.RequireNeverSaw(t, callerToken)
	}
	require.Equal(t, http.StatusUnauthorized, send(http.MethodPost, url+"/openai/chat/completions", "ak_EXAMPLE_wrong", question).status)
}

// HAProxy goes on after an error in Lua. The request must not, with the caller's credential in it.
func TestHAProxyStopsWhenLuaFails(t *testing.T) {
	t.Parallel()
	e := newEnv(t, gatewaytest.WithTLS())
	url := startProxy(t, "HAProxy", e.startForProxies(), e.provider, "local asked = {}", `local asked = error("of the test")`)
	require.Equal(t, http.StatusServiceUnavailable, send(http.MethodPost, url+"/openai/chat/completions", callerToken, question).status)
	require.Empty(t, e.provider.Requests())
}

func TestSampleProxiesForwardRefusals(t *testing.T) {
	eachProxy(t, func(t *testing.T, proxy string, e *env, gateway *process) {
		e.control.AddCredential("ak_EXAMPLE_removed", dataplanetest.Credential{UserID: "bob"})
		e.control.RemoveMember("bob")
		url := startProxy(t, proxy, gateway, e.provider)
		refused := func(credential string, status int, text string) {
			got := send(http.MethodPost, url+"/openai/chat/completions", credential, question)
			require.Equal(t, status, got.status, got.body)
			require.Regexp(t, "^application/(problem[+])?json$", got.header.Get("Content-Type"))
			require.Contains(t, got.body, `"message":"`+text)
			got = send(http.MethodPost, url+"/anthropic/v1/messages", credential, question)
			require.Equal(t, status, got.status, got.body)
			require.Contains(t, got.body, `"type":"error"`)
			require.Contains(t, got.body, `"message":"`+text)
			require.Equal(t, status == http.StatusServiceUnavailable, got.header.Get("Retry-After") == "1")
		}
		refused("ak_EXAMPLE_wrong", http.StatusUnauthorized, "The AgentRouter API key or session token")
		refused("ak_EXAMPLE_removed", http.StatusForbidden, "You are not a member of this project")
		tx := e.control.RevokeKey(e.key)
		gateway.await("acknowledged", func() bool { return e.control.Acknowledged(tx) })
		got := send(http.MethodPost, url+"/openai/chat/completions", callerToken, question)
		require.Equal(t, http.StatusForbidden, got.status, "a revoked key is not used: %s", got.body)
		e.control.SetFault(dataplanetest.Unavailable, dataplanetest.Fetch)
		refused("ak_EXAMPLE_unknown", http.StatusServiceUnavailable, "The gateway can't ask at the moment")
		gateway.end(syscall.SIGKILL)
		got = send(http.MethodPost, url+"/openai/chat/completions", callerToken, question)
		require.Contains(t, []int{http.StatusServiceUnavailable, http.StatusBadGateway}, got.status, "nobody passes without a gateway")
		require.Empty(t, e.provider.Requests())
	})
}

func TestSampleProxiesDoNotBufferRequests(t *testing.T) {
	eachProxy(t, func(t *testing.T, proxy string, e *env, gateway *process) {
		url := startProxy(t, proxy, gateway, e.provider)
		body, write := io.Pipe()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/openai/chat/completions", body)
		require.NoError(t, err)
		request.Header.Set("Authorization", "Bearer "+callerToken)
		status := make(chan int, 1)
		go func() {
			response, err := http.DefaultClient.Do(request)
			if err == nil {
				_ = response.Body.Close()
				status <- response.StatusCode
			}
			close(status)
		}()
		defer func() { _ = write.Close() }() // ends the request, if the test has failed
		_, err = io.WriteString(write, `{"model": `)
		require.NoError(t, err)
		e.provider.Await(t, 1) // while the body has just begun
		_, err = io.WriteString(write, `"m"}`)
		require.NoError(t, err)
		require.NoError(t, write.Close())
		require.Equal(t, http.StatusOK, <-status)
		require.JSONEq(t, `{"model": "m"}`, string(e.provider.Requests()[0].Body))
	})
}

func TestSampleProxiesSendNothingToAnImpostor(t *testing.T) {
	eachProxy(t, func(t *testing.T, proxy string, e *env, gateway *process) {
		pairs := []string{"proxy_ssl_name api.openai.com", "proxy_ssl_name example.net", "/_aikeys/anthropic;", "/_aikeys/NONE;"}
		switch proxy {
		case "Caddy":
			pairs = []string{"https://api.openai.com {", "https://api.openai.com {\ntransport http {\ntls_server_name example.net\n}", "uri /auth/anthropic", "uri /auth/NONE"}
		case "HAProxy":
			pairs = []string{"str(api.openai.com)", "str(example.net)", "lua.aikeys anthropic", "lua.aikeys NONE"}
		case "Envoy":
			pairs = []string{"{exact: api.openai.com}", "{exact: example.net}", "{provider: anthropic}", "{provider: NONE}"}
		}
		url := startProxy(t, proxy, gateway, e.provider, pairs...)
		require.GreaterOrEqual(t, send(http.MethodPost, url+"/openai/chat/completions", callerToken, question).status, http.StatusBadGateway)
		require.Equal(t, http.StatusNotFound, send(http.MethodPost, url+"/anthropic/v1/messages", callerToken, question).status, "no provider has such a name")
		require.Empty(t, e.provider.Requests())
	})
}
