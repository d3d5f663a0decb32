package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
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

	"github.com/agentrouter/aikeys/cmd/internal/programtest"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
	"github.com/agentrouter/aikeys/dataplane/gateway/fakeprovider"
	"github.com/agentrouter/aikeys/dataplane/gateway/gatewaytest"
	pub "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/providers"
	"github.com/agentrouter/aikeys/internal/tlsfiles/tlsfilestest"
	"github.com/agentrouter/aikeys/models/modelstest"
)

// certifiedName is a name in the certificates of providers that run WithTLS.
const certifiedName = "example.com"

// startProxy runs nginx, Caddy, HAProxy or Envoy, as make test installs them, with the proxy's sample configuration. It
// returns the proxy's URL. In the sample, it replaces the gateway with a listener of gateway, and the providers with
// provider, which must run WithTLS. pairs are further replacements: each old text is followed by its new text.
func startProxy(t *testing.T, name string, gateway *programtest.Process, provider *gatewaytest.Provider, pairs ...string) (url string) {
	t.Helper()
	// A socket is bound to the address until the test ends, so that no other process gets the address.
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
	asked, answers := "unix:/run/aikeys-gateway/forward-auth.sock", gateway.URL("forward_auth")
	if name == "Envoy" {
		found, err := exec.Command("../../tools/peers.sh", "envoy").Output()
		require.NoError(t, err)
		files, program = []string{"envoy.yaml"}, strings.TrimSpace(string(found))
		args = []string{"--config-path", "envoy.yaml", "--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"}
		asked, answers, listens = "/run/aikeys-gateway/ext-authz.sock", strings.TrimPrefix(gateway.URL("ext_authz"), "unix:"), ""
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
	if name == "Caddy" { // by SSL_CERT_FILE, it trusts the provider's certificate, which also has the address
		found, err := exec.LookPath("caddy")
		require.NoError(t, err)
		files, program, args = []string{"Caddyfile"}, found, []string{"run", "--config", "Caddyfile"}
		asked, answers, listens = "unix//run/aikeys-gateway/forward-auth.sock", "unix/"+strings.TrimPrefix(gateway.URL("forward_auth"), "unix:"), ""
		pairs = append(pairs, "https://api.openai.com {", provider.URL+" {", "https://api.anthropic.com {", provider.URL+" {", "{upstream_hostport}", certifiedName)
	}
	if name == "HAProxy" {
		files, program, args, listens = []string{"haproxy.cfg", "haproxy.lua"}, "/usr/sbin/haproxy", []string{"-db", "-f", "haproxy.cfg"}, ""
		if found, err := exec.LookPath("haproxy"); err == nil {
			program = found
		}
		asked, answers = "unix@/run/aikeys-gateway/forward-auth.sock", "unix@"+strings.TrimPrefix(gateway.URL("forward_auth"), "unix:")
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
	programtest.Launch(t, cmd).Await("it listens", func() bool {
		conn, err := net.DialTimeout("tcp", address, time.Second)
		return err == nil && conn.Close() == nil
	})
	return "http://" + address
}

// eachProxy runs a test on each of the proxies, and gives it a gateway that answers all of them.
func eachProxy(t *testing.T, test func(t *testing.T, proxy string, e *env, gateway *programtest.Process)) {
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

// runTool runs a command below tools with variables, and returns its output.
func runTool(t *testing.T, command string, environ ...string) (output []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	tools, err := filepath.Abs("../../tools")
	require.NoError(t, err)
	words := strings.Fields(command)
	if words[0] != "node" {
		words[0] = filepath.Join(tools, words[0])
	}
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	cmd.Dir, cmd.Env = tools, append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "LC_ALL=C.UTF-8"}, environ...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	output, err = cmd.Output()
	require.NoError(t, err, "`make test` installs what it needs: %s", &stderr)
	return output
}

// question asks for a completion.
const question = `{"model": "m", "max_tokens": 9, "messages": []}`

// The official SDKs work with the gateway if only the base URL and the key are changed. A provider sends each chunk
// only after the SDK has got the previous one, so a buffer in between would stop the stream.
func TestProviderSDKs(t *testing.T) {
	t.Parallel()
	folder, err := filepath.Abs("../../tools/peers")
	require.NoError(t, err)
	type sdk struct {
		script, path string // the program that uses the SDK, and the provider's path in the gateway
		baseURL, key string // the variables with the SDK's base URL and key
		requests     int    // how many the program makes
		refusal      string // the class of the error for a wrong key
	}
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
					url := gateway.URL("gateway")
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
	opened := make(chan http.Header, 1)
	provider := httptest.NewServer(websocket.Server{Handler: func(ws *websocket.Conn) {
		opened <- ws.Request().Header
		for text := `{"type": "session.created"}`; websocket.Message.Send(ws, text) == nil && websocket.Message.Receive(ws, &text) == nil; {
		}
	}})
	t.Cleanup(provider.Close)
	e := newEnv(t)
	own := tlsfilestest.WriteCertificate(t, t.TempDir(), 1) // Node's SDK opens sessions over TLS only
	gateway := e.start("--upstream", "openai="+provider.URL+"/v1", "--tls-cert", own.CertFile, "--tls-key", own.KeyFile).AwaitReady()
	for name, command := range map[string]string{
		"a server in Python": "peers/.venv/bin/python -B peers/realtime_client.py",
		"a server in Node":   "node peers/realtime_client.mjs server",
		"a browser":          "node peers/realtime_client.mjs browser",
	} {
		t.Run(name, func(t *testing.T) {
			stdout := runTool(t, command, "OPENAI_BASE_URL="+gateway.URL("gateway")+"/openai", "OPENAI_API_KEY="+callerToken,
				"SSL_CERT_FILE="+own.CertFile, "NODE_EXTRA_CA_CERTS="+own.CertFile)
			require.JSONEq(t, `["session.created", "input_audio_buffer.clear"]`, string(stdout))
			seen := <-opened
			require.Equal(t, []string{"Bearer " + providerSecret}, seen.Values("Authorization"))
			require.NotContains(t, fmt.Sprint(seen), callerToken)
			require.Equal(t, name == "a browser", seen.Get("Sec-WebSocket-Protocol") == "realtime")
		})
	}
}

// Google's SDKs also get pages, downloads, another version and Live sessions through the gateway.
func TestGoogleSDKsPageDownloadAndTalk(t *testing.T) {
	t.Parallel()
	// The provider answers lists of files, downloads, questions and Live sessions as Gemini does. It accepts only one
	// credential.
	provider := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
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
	}))
	t.Cleanup(provider.Close)
	e := newEnv(t)
	own := tlsfilestest.WriteCertificate(t, t.TempDir(), 1) // Python's SDK opens Live sessions over TLS only
	gateway := e.start("--upstream", "gemini="+provider.URL+"/v1beta", "--tls-cert", own.CertFile, "--tls-key", own.KeyFile).AwaitReady()
	for _, command := range []string{"peers/.venv/bin/python -B peers/google_paths.py", "node peers/google_paths.mjs"} {
		t.Run(filepath.Base(command), func(t *testing.T) {
			t.Parallel()
			stdout := runTool(t, command, "GOOGLE_GEMINI_BASE_URL="+gateway.URL("gateway")+"/gemini", "GEMINI_API_KEY="+callerToken,
				"SSL_CERT_FILE="+own.CertFile, "NODE_EXTRA_CA_CERTS="+own.CertFile)
			require.JSONEq(t, `{"files": ["files/a", "files/b"], "download": "Hello", "alpha": "v1alpha", "live": "Hello"}`, string(stdout))
		})
	}
}

// Frameworks show the text of an error only if it has the form that the provider's errors have.
func TestFrameworksShowWhyARequestWasRefused(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	gateway := e.startForProxies()
	for command, count := range map[string]int{
		"node peers/refusals.mjs": 19, "peers/.venv/bin/python -B peers/refusals.py": 2, "litellm/.venv/bin/python -B litellm/refusals.py": 12,
	} {
		t.Run(command[strings.LastIndexByte(command, ' ')+1:], func(t *testing.T) {
			t.Parallel()
			stdout := runTool(t, command, "LITELLM_LOCAL_MODEL_COST_MAP=True", "GATEWAY="+gateway.URL("gateway"), "API_KEY=ak_revoked_0001")
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
	eachProxy(t, func(t *testing.T, proxy string, e *env, gateway *programtest.Process) {
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
				require.Equal(t, http.StatusOK, programtest.Send(http.MethodPost, url+path, "", question, append(headers, carrier, value)...).Status)
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
			got := programtest.Send(http.MethodPost, url+path, callerToken, question)
			require.Contains(t, []int{http.StatusNotFound, http.StatusBadRequest}, got.Status, path) // 400 for a path that HAProxy does not change
			require.NotContains(t, got.Header, "Agentrouter-Key-Id")
			require.NotContains(t, got.Header, "Authorization")
		}
		for _, status := range []int{http.StatusUnauthorized, http.StatusForbidden, http.StatusInternalServerError} {
			e.provider.Reject(providerSecret, status)
			got := programtest.Send(http.MethodPost, url+"/anthropic/v1/messages", "", question, "X-Api-Key", callerToken)
			require.Equal(t, status, got.Status)
			require.Contains(t, got.Body, "req_fake", "it is the provider's answer")
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
		got := programtest.Send(http.MethodPost, url+"/gemini/v1beta/models/m:generateContent?"+strings.ReplaceAll(query, "*", callerToken), "", question)
		seen := e.provider.Requests()
		require.Len(t, seen, 1, "%s: %d %s", query, got.Status, got.Body)
		require.Equal(t, "alt=sse", seen[0].RawQuery, query)
		require.Equal(t, providerSecret, seen[0].Header.Get("X-Goog-Api-Key"))
		e.provider.RequireNeverSaw(t, callerToken)
	}
}

// A filter behind ext_authz gets the key in the metadata, and only the key of its own provider. No header has the key.
// Here the route's headers stand in for Envoy AI Gateway's filter.
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
		programtest.Send(http.MethodPost, url+path, callerToken, question)
		seen := e.provider.Requests()
		require.Len(t, seen, 1)
		require.Equal(t, secret, cmp.Or(seen[0].Header.Get("From-Metadata"), "-"))
		seen[0].Header.Del("From-Metadata")
		require.NotContains(t, fmt.Sprint(seen[0].Header), providerSecret)
		e.provider.RequireNeverSaw(t, callerToken)
	}
	require.Equal(t, http.StatusUnauthorized, programtest.Send(http.MethodPost, url+"/openai/chat/completions", "ak_EXAMPLE_wrong", question).Status)
}

// HAProxy continues after an error in Lua. It must not send the request to the provider, because the request still has
// the caller's credential.
func TestHAProxyStopsWhenLuaFails(t *testing.T) {
	t.Parallel()
	e := newEnv(t, gatewaytest.WithTLS())
	url := startProxy(t, "HAProxy", e.startForProxies(), e.provider, "local asked = {}", `local asked = error("of the test")`)
	require.Equal(t, http.StatusServiceUnavailable, programtest.Send(http.MethodPost, url+"/openai/chat/completions", callerToken, question).Status)
	require.Empty(t, e.provider.Requests())
}

func TestSampleProxiesForwardRefusals(t *testing.T) {
	eachProxy(t, func(t *testing.T, proxy string, e *env, gateway *programtest.Process) {
		e.control.AddCredential("ak_EXAMPLE_removed", dataplanetest.Credential{UserID: "bob"})
		e.control.RemoveMember("bob")
		url := startProxy(t, proxy, gateway, e.provider)
		refused := func(credential string, status int, text string) {
			got := programtest.Send(http.MethodPost, url+"/openai/chat/completions", credential, question)
			require.Equal(t, status, got.Status, got.Body)
			require.Regexp(t, "^application/(problem[+])?json$", got.Header.Get("Content-Type"))
			require.Contains(t, got.Body, `"message":"`+text)
			got = programtest.Send(http.MethodPost, url+"/anthropic/v1/messages", credential, question)
			require.Equal(t, status, got.Status, got.Body)
			require.Contains(t, got.Body, `"type":"error"`)
			require.Contains(t, got.Body, `"message":"`+text)
			require.Equal(t, status == http.StatusServiceUnavailable, got.Header.Get("Retry-After") == "1")
		}
		refused("ak_EXAMPLE_wrong", http.StatusUnauthorized, "The AgentRouter API key or session token")
		refused("ak_EXAMPLE_removed", http.StatusForbidden, "You are not a member of this project")
		tx := e.control.RevokeKey(e.key)
		gateway.Await("acknowledged", func() bool { return e.control.Acknowledged(tx) })
		got := programtest.Send(http.MethodPost, url+"/openai/chat/completions", callerToken, question)
		require.Equal(t, http.StatusForbidden, got.Status, "a revoked key is not used: %s", got.Body)
		e.control.SetFault(dataplanetest.Unavailable, dataplanetest.Fetch)
		refused("ak_EXAMPLE_unknown", http.StatusServiceUnavailable, "The gateway can't ask at the moment")
		gateway.End(syscall.SIGKILL)
		got = programtest.Send(http.MethodPost, url+"/openai/chat/completions", callerToken, question)
		require.Contains(t, []int{http.StatusServiceUnavailable, http.StatusBadGateway}, got.Status, "nobody passes without a gateway")
		require.Empty(t, e.provider.Requests())
	})
}

func TestSampleProxiesDoNotBufferRequests(t *testing.T) {
	eachProxy(t, func(t *testing.T, proxy string, e *env, gateway *programtest.Process) {
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
	eachProxy(t, func(t *testing.T, proxy string, e *env, gateway *programtest.Process) {
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
		require.GreaterOrEqual(t, programtest.Send(http.MethodPost, url+"/openai/chat/completions", callerToken, question).Status, http.StatusBadGateway)
		require.Equal(t, http.StatusNotFound, programtest.Send(http.MethodPost, url+"/anthropic/v1/messages", callerToken, question).Status, "no provider has such a name")
		require.Empty(t, e.provider.Requests())
	})
}

// serviceAccount returns a credential for Vertex AI.
func serviceAccount(t *testing.T) string {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	document, err := json.Marshal(map[string]string{
		"type": "service_account", "project_id": "example-project", "client_email": "robot@example-project.iam.gserviceaccount.com",
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))})
	require.NoError(t, err)
	return string(document)
}

// registerSecret registers a key of any provider, named after it.
func (c *controlPlane) registerSecret(replica *programtest.Process, provider, secret string) {
	c.t.Helper()
	body, err := json.Marshal(map[string]string{"provider": provider, "name": provider, "secret": secret})
	require.NoError(c.t, err)
	c.call(replica, http.MethodPost, "", string(body))
}

// For every API of every provider of the catalogue, the gateway sends the key as the API's documentation says, streams
// without a delay, and refuses requests in the API's form.
func TestEveryProviderOfTheCatalogueIsServed(t *testing.T) {
	t.Parallel()
	type stream struct{ event, whole string } // an event of a streamed answer, and the whole answer, where a test asks for one
	type documented struct {                  // an API, as its provider documents it
		provider, path string // at a gateway and at the provider's host
		header, prefix string // the header that takes the key, and what the value begins with
		answer         stream
		status         int // of the answer to a key that it does not take
		refusal        string
	}
	unrelated := map[string]string{ // providers' answers with 403 to a request with a wrong model, region or network
		"openai":       `{"error":{"message":"Project p does not have access to model m","code":"model_not_found"}}`,
		"anthropic":    `{"error":{"type":"forbidden","message":"Request not allowed"}}`,
		"groq":         `{"error":{"message":"The model m is blocked.","code":"model_permission_blocked_org"}}`,
		"openrouter":   `{"error":{"message":"m requires moderation","code":403,"metadata":{"flagged_input":"x"}}}`,
		"azure_openai": `{"error":{"code":"403","message":"Access denied due to Virtual Network/Firewall rules."}}`,
		"bedrock":      `{"message":"You don't have access to the model with the specified model ID."}`,
	}
	openAI := stream{"data: {\"id\":\"c1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hel\"},\"finish_reason\":null}]}\n\n",
		`{"id":"c1","object":"chat.completion","created":1,"model":"m","usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2},
			"choices":[{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":"Hello"}}]}`}
	anthropic := stream{"event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"Hel\"}}\n\n",
		`{"id":"m1","type":"message","role":"assistant","model":"m","content":[{"type":"text","text":"Hello"}],
			"stop_reason":"end_turn","usage":{"input_tokens":1,"output_tokens":1}}`}
	google := stream{event: "data: {\"candidates\":[{\"content\":{\"role\":\"model\",\"parts\":[{\"text\":\"Hel\"}]}}]}\r\n\r\n"}
	cohere := stream{"event: content-delta\ndata: {\"type\":\"content-delta\",\"index\":0,\"delta\":{\"message\":{\"content\":{\"text\":\"Hel\"}}}}\n\n",
		`{"id":"c1","finish_reason":"COMPLETE","message":{"role":"assistant","content":[{"type":"text","text":"Hello"}]}}`}
	apis := []documented{
		{"openai", "/v1/chat/completions", "Authorization", "Bearer sk-", openAI,
			401, `{"error":{"message":"Incorrect API key provided.","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}`},
		{"openai", "/v1/responses", "Authorization", "Bearer sk-", openAI,
			429, `{"error":{"message":"You exceeded your current quota.","type":"insufficient_quota","param":null,"code":"insufficient_quota"}}`},
		{"anthropic", "/v1/messages", "X-Api-Key", "sk-ant-", anthropic,
			401, `{"type":"error","error":{"type":"authentication_error","message":"invalid x-api-key"}}`},
		{"gemini", "/v1beta/models/m:streamGenerateContent?alt=sse", "X-Goog-Api-Key", "AQ.", google,
			400, `{"error":{"code":400,"message":"API key not valid.","status":"INVALID_ARGUMENT","details":[{"reason":"API_KEY_INVALID"}]}}`},
		{"gemini", "/v1beta/openai/chat/completions", "Authorization", "Bearer AQ.", openAI,
			400, `[{"error":{"code":400,"message":"API key not valid.","status":"INVALID_ARGUMENT","details":[{"reason":"API_KEY_INVALID"}]}}]`},
		{"groq", "/openai/v1/chat/completions", "Authorization", "Bearer gsk_", openAI,
			401, `{"error":{"message":"Invalid API Key","type":"invalid_request_error","code":"invalid_api_key"}}`},
		{"xai", "/v1/chat/completions", "Authorization", "Bearer xai-", openAI,
			400, `{"code":"Client specified an invalid argument","error":"Incorrect API key provided."}`},
		{"xai", "/v1/messages", "Authorization", "Bearer xai-", anthropic,
			400, `{"code":"Client specified an invalid argument","error":"Incorrect API key provided."}`},
		{"deepinfra", "/v1/openai/chat/completions", "Authorization", "Bearer EXAMPLE", openAI,
			401, `{"detail":{"error":"User not authenticated"}}`},
		{"deepinfra", "/v1/inference/m", "Authorization", "Bearer EXAMPLE", stream{event: "data: {\"token\":{\"text\":\"Hel\"}}\n\n"},
			401, `{"detail":{"error":"User not authenticated"}}`},
		{"mistral", "/v1/chat/completions", "Authorization", "Bearer EXAMPLE", openAI,
			401, `{"detail":"Unauthorized"}`},
		{"cohere", "/v2/chat", "Authorization", "Bearer EXAMPLE", cohere, 401, `{"message":"invalid api token"}`},
		{"cohere", "/v1/chat", "Authorization", "Bearer EXAMPLE", stream{event: "{\"event_type\":\"text-generation\",\"text\":\"Hel\"}\n"},
			401, `{"message":"invalid api token"}`},
		{"cohere", "/compatibility/v1/chat/completions", "Authorization", "Bearer EXAMPLE", openAI,
			401, `{"message":"invalid api token"}`},
		{"together", "/v1/chat/completions", "Authorization", "Bearer tgp_v1_", openAI,
			401, `{"error":{"message":"Invalid API key provided.","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}`},
		{"fireworks", "/inference/v1/chat/completions", "Authorization", "Bearer fw_", openAI,
			401, `{"error":{"object":"error","type":"invalid_request_error","code":"unauthorized","message":"The API key you provided is invalid."}}`},
		{"fireworks", "/inference/v1/messages", "Authorization", "Bearer fw_", anthropic,
			412, `{"error":{"message":"Account acme is suspended","code":"PRECONDITION_FAILED"}}`},
		{"deepseek", "/chat/completions", "Authorization", "Bearer sk-", openAI,
			402, `{"error":{"message":"Insufficient Balance","type":"unknown_error","param":null,"code":"invalid_request_error"}}`},
		{"deepseek", "/anthropic/v1/messages", "Authorization", "Bearer sk-", anthropic,
			401, `{"error":{"message":"Authentication Fails","type":"authentication_error","code":"invalid_request_error"}}`},
		{"perplexity", "/chat/completions", "Authorization", "Bearer pplx-", openAI,
			401, `{"error":{"message":"Invalid API key provided.","type":"invalid_api_key","code":401}}`},
		{"openrouter", "/api/v1/chat/completions", "Authorization", "Bearer sk-or-", openAI,
			401, `{"error":{"message":"No auth credentials found","code":401}}`},
		{"openrouter", "/api/v1/messages", "Authorization", "Bearer sk-or-", anthropic,
			402, `{"type":"error","error":{"type":"billing_error","message":"Insufficient credits"}}`},
		{"azure_openai", "/openai/v1/chat/completions", "Api-Key", "EXAMPLE", openAI,
			401, `{"error":{"code":"401","message":"Access denied due to invalid subscription key or wrong API endpoint."}}`},
		{"azure_openai", "/anthropic/v1/messages", "X-Api-Key", "EXAMPLE", anthropic,
			401, `{"error":{"code":"401","message":"Access denied due to invalid subscription key or wrong API endpoint."}}`},
		{"bedrock", "/model/m/invoke-with-response-stream", "Authorization", "Bearer bedrock-api-key-", stream{event: "\x00\x00\x00\x10an event of AWS's"},
			403, `{"Message":"Authentication failed: Please make sure your API Key is valid."}`},
		{"vertex", "/v1/projects/p/locations/europe-west1/publishers/google/models/m:streamGenerateContent?alt=sse", "Authorization", "Bearer eyJ", google,
			401, `{"error":{"code":401,"message":"Request had invalid authentication credentials.","status":"UNAUTHENTICATED"}}`},
		{"vertexanthropic", "/v1/projects/p/locations/global/publishers/anthropic/models/m:streamRawPredict", "Authorization", "Bearer eyJ", anthropic,
			401, `{"error":{"code":401,"message":"Request had invalid authentication credentials.","status":"UNAUTHENTICATED"}}`},
	}
	c := newControlPlane(t, modelstest.EngineSQLite.URL(t))
	replica := c.start()
	catalogue, err := providers.Load()
	require.NoError(t, err)
	untested, arrived, upstreams := map[string]bool{}, map[string]chan struct{}{}, []string{}
	for _, p := range catalogue.All() {
		secret := p.Example
		if strings.HasPrefix(p.Slug, "vertex") {
			secret = serviceAccount(t)
		}
		c.registerSecret(replica, p.Slug, secret)
		untested[p.Slug], arrived[p.Slug] = true, make(chan struct{}, 2)
		// The server accepts one credential. It answers with two streamed events, and sends the second event after the
		// first has arrived. If the request does not ask for a stream, the server sends a whole answer. If the body has
		// the word "refuse", the server answers that the key is wrong. If the body has the word "forbid", the server
		// answers that the key may not use the model.
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body) // a request that ends early is answered as another one
			i := slices.IndexFunc(apis, func(a documented) bool {
				path, _, _ := strings.Cut(a.path, "?")
				return a.provider == p.Slug && path == r.URL.Path
			})
			given := 0
			for _, name := range []string{"Authorization", "X-Api-Key", "X-Goog-Api-Key", "Api-Key"} {
				given += len(r.Header.Values(name))
			}
			if i < 0 || given != 1 || !strings.HasPrefix(r.Header.Get(apis[i].header), apis[i].prefix) {
				http.Error(w, fmt.Sprint("undocumented: ", r.URL.Path, " with ", given, " credentials"), http.StatusTeapot)
				return
			}
			reply := func(status int, body string) {
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(status)
				_, _ = io.WriteString(w, body)
			}
			switch text := strings.ReplaceAll(string(body), " ", ""); {
			case strings.Contains(text, "refuse"):
				reply(apis[i].status, apis[i].refusal)
			case strings.Contains(text, "forbid"):
				reply(http.StatusForbidden, cmp.Or(unrelated[p.Slug], `{"error":{"message":"No access to the model."}}`))
			case !strings.Contains(text, `"stream":true`):
				reply(http.StatusOK, apis[i].answer.whole)
			default:
				w.Header().Set("Content-Type", "text/event-stream")
				_, _ = io.WriteString(w, apis[i].answer.event)
				_ = http.NewResponseController(w).Flush()
				select {
				case <-arrived[p.Slug]:
					_, _ = io.WriteString(w, apis[i].answer.event)
				case <-r.Context().Done():
				}
			}
		}))
		t.Cleanup(server.Close)
		_, host, _ := strings.Cut(p.BaseURL, "://")
		upstream := server.URL + host[len(strings.SplitN(host, "/", 2)[0]):]
		if p.Slug == "openai" {
			c.upstream = upstream
		} else {
			upstreams = append(upstreams, "--upstream", p.Slug+"="+upstream)
		}
	}
	gateway := c.startGateway(replica.URL("dataplane"), "edge", upstreams...)
	for _, api := range apis {
		delete(untested, api.provider)
		t.Run(api.provider+" "+api.path, func(t *testing.T) {
			request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, gateway.URL("gateway")+"/"+api.provider+api.path, strings.NewReader(`{"model":"m","stream":true}`))
			require.NoError(t, err)
			request.Header.Set("Authorization", "Bearer "+c.alice)
			request.Header.Set("Content-Type", "application/json")
			response, err := http.DefaultClient.Do(request)
			require.NoError(t, err)
			defer func() { _ = response.Body.Close() }()
			first := make([]byte, len(api.answer.event))
			n, err := io.ReadFull(response.Body, first)
			require.NoError(t, err, "%d %s", response.StatusCode, first[:n])
			require.Equal(t, api.answer.event, string(first))
			arrived[api.provider] <- struct{}{}
			rest, err := io.ReadAll(response.Body)
			require.NoError(t, err)
			require.Equal(t, api.answer.event, string(rest))

			refused := programtest.Send(http.MethodPost, request.URL.String(), c.alice, `{"model":"refuse"}`)
			require.Equal(t, api.status, refused.Status)
			require.Equal(t, api.refusal, refused.Body)
		})
	}
	require.Empty(t, untested, "providers of the catalogue without an API here")
	for _, call := range []string{"/openai/v1/realtime/calls", "/openai/realtime/calls/c1/accept", "/azure_openai/openai/v1/realtime/calls"} {
		refused := programtest.Send(http.MethodPost, gateway.URL("gateway")+call, c.alice, "v=0", "Content-Type", "application/sdp")
		require.Equal(t, http.StatusForbidden, refused.Status, "%s goes on beside the gateway", call)
		require.Contains(t, refused.Body, "calls that a revocation does not end")
	}

	// Each SDK that a provider's documentation names requests a whole answer and a streamed one. Then it sends a
	// request with an API key that the gateway refuses.
	t.Run("SDKs", func(t *testing.T) {
		const refusal = "The AgentRouter API key or session token that came with this request is not valid"
		want := map[string][]string{}
		for client, provider := range map[string]string{
			"cohere": "cohere", "groq": "groq", "mistralai": "mistral", "together": "together",
			"openai deepinfra": "deepinfra", "openai deepseek": "deepseek", "openai fireworks": "fireworks", "openai openrouter": "openrouter",
			"openai perplexity": "perplexity", "openai xai": "xai",
			"anthropic deepseek": "deepseek", "anthropic fireworks": "fireworks", "anthropic openrouter": "openrouter", "anthropic xai": "xai",
		} {
			arrived[provider] <- struct{}{}
			want[client] = []string{"Hello", "HelHel", refusal}
		}
		var got map[string][]string
		printed := runTool(t, "peers/.venv/bin/python -B peers/vendor_clients.py", "GATEWAY_URL="+gateway.URL("gateway"), "AGENTROUTER_API_KEY="+c.alice)
		require.NoError(t, json.Unmarshal(printed, &got))
		for client, texts := range got {
			if len(texts) == 3 && strings.Contains(texts[2], refusal) {
				got[client][2] = refusal
			}
		}
		require.Equal(t, want, got)
	})

	// Each API first refuses its key. It then refuses requests of one or two users for reasons that have nothing to do
	// with the key. Only the first refusal counts as a failure of the key.
	t.Run("failures of keys", func(t *testing.T) {
		ask := func(api documented, token, model string, status int) {
			got := programtest.Send(http.MethodPost, gateway.URL("gateway")+"/"+api.provider+api.path, token, `{"model":"`+model+`"}`)
			require.Equal(t, status, got.Status, got.Body)
		}
		failures := func() map[string]pub.KeyFailure {
			var page struct{ Keys []pub.Key }
			got := programtest.Send(http.MethodGet, replica.URL("api")+"/v1/aikeys?page_size=100", c.alice, "")
			require.NoError(t, json.Unmarshal([]byte(got.Body), &page), got.Body)
			failures := map[string]pub.KeyFailure{}
			for _, k := range page.Keys {
				if k.LastFailure != nil {
					failures[k.Provider] = *k.LastFailure
				}
			}
			return failures
		}
		// refuse has the APIs refuse their keys, waits until these failures are reported, and returns all failures.
		refuse := func(apis ...documented) (now map[string]pub.KeyFailure) {
			before := failures()
			for _, api := range apis {
				ask(api, c.alice, "refuse", api.status)
			}
			gateway.Await("refusals are reported", func() bool {
				now = failures()
				return !slices.ContainsFunc(apis, func(api documented) bool { return !now[api.provider].At.After(before[api.provider].At) })
			})
			for _, api := range apis {
				reason := "rejected"
				if slices.Contains([]int{http.StatusPaymentRequired, http.StatusPreconditionFailed, http.StatusTooManyRequests}, api.status) {
					reason = "quota_exhausted"
				}
				require.Equal(t, []any{api.status, reason}, []any{now[api.provider].Status, *now[api.provider].Reason}, api.provider+api.path)
			}
			return now
		}
		for left := apis; len(left) > 0; { // a key's APIs one after another
			var round, later []documented
			for _, api := range left {
				if slices.ContainsFunc(round, func(r documented) bool { return r.provider == api.provider }) {
					later = append(later, api)
				} else {
					round = append(round, api)
				}
			}
			refuse(round...)
			left = later
		}
		before := failures()
		c.run("admin member set --customer acme --project chat --user bob --role member")
		bob := c.run("admin token create --customer acme --project chat --user bob")
		last := apis[len(apis)-1] // the only API of its provider
		for _, api := range apis[:len(apis)-1] {
			ask(api, c.alice, "forbid", http.StatusForbidden)
			if unrelated[api.provider] != "" { // without a rule for the answer, a 403 to two users is the key's failure
				ask(api, bob, "forbid", http.StatusForbidden)
			}
		}
		after := refuse(last) // reports are sent in order, so all earlier ones have arrived
		delete(before, last.provider)
		delete(after, last.provider)
		require.Equal(t, before, after, "a model, a region or a network is no key's failure")
	})
}

// With CUSTOM_PROVIDERS=off, owners can't add servers, nobody can register keys for existing servers, and no gateway
// gets their keys.
func TestCustomProvidersAreSwitchedOff(t *testing.T) {
	t.Parallel()
	c := newControlPlane(t, modelstest.EngineSQLite.URL(t))
	c.run("admin provider create --customer acme --slug x-ours --base-url http://127.0.0.1:9/v1")
	for _, setting := range []string{"owner", "off"} {
		want := []int{http.StatusForbidden, http.StatusBadRequest, http.StatusNotFound}
		if setting == "owner" {
			want = []int{http.StatusCreated, http.StatusCreated, http.StatusForbidden} // the last is the gateway's: it may not connect there
		}
		replica := c.start("AIKEYS_CUSTOM_PROVIDERS=" + setting)
		gateway := c.startGateway(replica.URL("dataplane"), setting)
		got := []int{}
		for _, call := range [][2]string{
			{replica.URL("api") + "/v1/customers/-/projects/-/providers", `{"slug":"x-theirs","base_url":"https://llm.example/v1"}`},
			{replica.URL("api") + "/v1/aikeys", `{"provider":"x-ours","name":"ours","secret":"EXAMPLE-EXAMPLE-EXAMPLE-0001"}`},
			{gateway.URL("gateway") + "/x-ours/chat/completions", `{"model":"m"}`},
		} {
			got = append(got, programtest.Send(http.MethodPost, call[0], c.alice, call[1]).Status)
		}
		require.Equal(t, want, got, setting)
	}
}

// The clouds' own SDKs are served with tokens that the control plane signs, or with Azure's key. The provider sees
// neither the caller's credential nor the registered AWS secret access key or Google private key.
func TestCloudSDKs(t *testing.T) {
	t.Parallel()
	c := newControlPlane(t, modelstest.EngineSQLite.URL(t))
	replica := c.start()
	const access, azureKey = "EXAMPLE/SECRET/ACCESS/KEY/EXAMPLE", "EXAMPLEEXAMPLEAZUREKEYEXAMPLE"
	robot := serviceAccount(t)
	for provider, secret := range map[string]string{
		"bedrock": `{"access_key_id": "AKIAEXAMPLE", "secret_access_key": "` + access + `", "region": "us-east-1"}`, "vertex": robot, "vertexanthropic": robot,
		"azure_openai": `{"endpoint": "https://my-resource.services.ai.azure.com/", "api_key": "` + azureKey + `"}`,
	} {
		c.registerSecret(replica, provider, secret)
	}
	leaked := make(chan string, 100)
	clouds := fakeprovider.New(fakeprovider.Options{AnySecret: true, Pieces: []string{"Hel", "lo"}})
	cloud := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		for _, secret := range []string{c.alice, access, "PRIVATE"} {
			if seen := fmt.Sprint(r.URL, r.Header, string(body)); err != nil || strings.Contains(seen, secret) {
				leaked <- seen
			}
		}
		token, key, anthropicKey := r.Header.Get("Authorization"), r.Header.Get("Api-Key"), r.Header.Get("X-Api-Key")
		hasOne := strings.HasPrefix(token, "Bearer bedrock-api-key-") && key+anthropicKey == ""
		switch {
		case strings.HasPrefix(r.URL.Path, "/anthropic/"):
			hasOne = anthropicKey == azureKey && token+key == ""
		case strings.HasPrefix(r.URL.Path, "/openai/"):
			hasOne = key == azureKey && token+anthropicKey == ""
		case strings.Contains(r.URL.Path, "/projects/example-project/locations/europe-west1/publishers/"):
			hasOne = strings.HasPrefix(token, "Bearer eyJ") && key+anthropicKey == ""
		}
		if !hasOne {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		r.Header.Set("Authorization", cmp.Or(token, "Bearer "+key)) // where the fake provider expects Azure's key
		clouds.ServeHTTP(w, r)
	}))
	t.Cleanup(cloud.Close)
	gateway := c.startGateway(replica.URL("dataplane"), "edge", "--upstream", "bedrock="+cloud.URL, "--upstream", "vertexanthropic="+cloud.URL+"/v1",
		"--upstream", "vertex="+cloud.URL+"/v1", "--upstream", "azure_openai="+cloud.URL)
	both := []string{
		"bedrock", "bedrock streamed", "bedrock signed", "bedrock signed streamed", "vertex", "vertex streamed", "azure deployment",
		"azure deployment streamed", "azure v1", "azure v1 streamed", "foundry", "foundry streamed",
	}
	for command, names := range map[string][]string{
		"peers/.venv/bin/python -B peers/cloud_clients.py": append([]string{"boto3", "boto3 streamed", "boto3 profile", "boto3 profile streamed"}, both...),
		"node peers/cloud_clients.mjs":                     append([]string{"genai", "genai streamed"}, both...),
	} {
		t.Run(filepath.Base(command), func(t *testing.T) {
			t.Parallel()
			printed := runTool(t, command, "AWS_EC2_METADATA_DISABLED=true", "GATEWAY_URL="+gateway.URL("gateway"), "AGENTROUTER_API_KEY="+c.alice)
			texts, want := map[string]string{}, map[string]string{}
			require.NoError(t, json.Unmarshal(printed, &texts))
			for _, name := range names {
				want[name] = "Hello"
			}
			require.Equal(t, want, texts)
			require.Empty(t, leaked)
		})
	}
}
