// Package vaulttest runs a real OpenBao server for tests, behind a proxy that a test can make hang, fail or lie.
//
// For tests only. It imports testify and none of our packages. `tools/peers.sh install` installs the server.
package vaulttest

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// patience is how long the server may take to start.
const patience = 60 * time.Second

// Server is an OpenBao server with a transit engine at transit. Its storage is memory.
type Server struct {
	// Host is the host and port of the proxy, which speaks TLS; CAFile has its certificate.
	Host, CAFile string
	// Root is the first token, which may do anything.
	Root string

	unsealKey string
	dir       string
	cmd       *exec.Cmd
	output    bytes.Buffer // written until the process has ended
	inside    *http.Client
	proxy     *httptest.Server
	intercept atomic.Pointer[func(http.Handler) http.Handler]
	keys      atomic.Int64
}

// Start starts a server that stops when the test ends.
func Start(t testing.TB) *Server {
	t.Helper()
	s, err := Run()
	require.NoError(t, err)
	t.Cleanup(s.Stop)
	return s
}

// Run starts a server, for a TestMain.
func Run() (*Server, error) {
	s := &Server{}
	if err := s.start(); err != nil {
		s.Stop()
		return nil, fmt.Errorf("OpenBao: %w", err)
	}
	return s, nil
}

// root returns the folder of the repository.
func root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..", "..")
}

func (s *Server) start() (err error) {
	program, err := exec.CommandContext(context.Background(), filepath.Join(root(), "tools", "peers.sh"), "openbao").Output() //nolint:gosec // G204: a script of ours
	if err != nil {
		return fmt.Errorf("it is not installed: tools/peers.sh install: %w", err)
	}
	if s.dir, err = os.MkdirTemp("", "bao"); err != nil { // a socket's path has at most 108 bytes
		return err
	}
	socket, config := filepath.Join(s.dir, "sock"), filepath.Join(s.dir, "config.hcl")
	text := fmt.Sprintf("storage \"inmem\" {}\nlistener \"unix\" { address = %q }\napi_addr = \"http://127.0.0.1\"\ndisable_clustering = true\n", socket)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return err
	}
	s.cmd = exec.CommandContext(context.Background(), strings.TrimSpace(string(program)), "server", "-config="+config, "-log-level=warn") //nolint:gosec // G204: as installed
	s.cmd.Stdout, s.cmd.Stderr, s.cmd.Env = &s.output, &s.output, []string{"HOME=" + s.dir}
	if err := s.cmd.Start(); err != nil {
		return err
	}
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	s.inside = &http.Client{Transport: transport, Timeout: patience}
	s.serveProxy(transport)
	s.CAFile = filepath.Join(s.dir, "ca.pem")
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.proxy.Certificate().Raw})
	if err := os.WriteFile(s.CAFile, authority, 0o600); err != nil {
		return err
	}
	return s.prepare()
}

func (s *Server) serveProxy(transport http.RoundTripper) {
	forward := &httputil.ReverseProxy{Transport: transport, Rewrite: func(r *httputil.ProxyRequest) {
		r.Out.URL.Scheme, r.Out.URL.Host = "http", "openbao"
	}}
	s.proxy = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handler := http.Handler(forward)
		if intercept := s.intercept.Load(); intercept != nil {
			handler = (*intercept)(handler)
		}
		handler.ServeHTTP(w, r)
	}))
	s.proxy.EnableHTTP2 = true
	s.proxy.StartTLS()
	s.Host = strings.TrimPrefix(s.proxy.URL, "https://")
}

// prepare waits for the server, initializes and unseals it.
func (s *Server) prepare() error {
	var made struct {
		Keys  []string `json:"keys_base64"`
		Token string   `json:"root_token"`
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		err := s.call("", http.MethodPut, "sys/init", map[string]any{"secret_shares": 1, "secret_threshold": 1}, &made)
		if err == nil {
			break
		}
		if time.Now().After(deadline) || !isDial(err) {
			return err
		}
	}
	s.Root, s.unsealKey = made.Token, made.Keys[0]
	if err := s.unseal(); err != nil {
		return err
	}
	return s.call(s.Root, http.MethodPost, "sys/mounts/transit", map[string]any{"type": "transit"}, nil)
}

func isDial(err error) bool {
	var failed *net.OpError
	return errors.As(err, &failed) && failed.Op == "dial"
}

func (s *Server) unseal() error {
	if err := s.call("", http.MethodPut, "sys/unseal", map[string]any{"key": s.unsealKey}, nil); err != nil {
		return err
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) { // until it is active
		err := s.call("", http.MethodGet, "sys/health", nil, nil)
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

// Stop ends the server.
func (s *Server) Stop() {
	if s.proxy != nil {
		s.proxy.CloseClientConnections()
		s.proxy.Close()
		s.inside.CloseIdleConnections()
	}
	if s.cmd != nil && s.cmd.Process != nil {
		_ = s.cmd.Process.Kill() // it has no state to keep
		_ = s.cmd.Wait()
	}
	_ = os.RemoveAll(s.dir)
}

// Intercept puts a handler between clients and the server, until the test ends.
func (s *Server) Intercept(t testing.TB, intercept func(server http.Handler) http.Handler) {
	s.intercept.Store(&intercept)
	t.Cleanup(func() { s.intercept.Store(nil) })
}

// Admit removes the handler that Intercept has put in.
func (s *Server) Admit() { s.intercept.Store(nil) }

// Seal seals the server; Unseal unseals it.
func (s *Server) Seal(t testing.TB) {
	t.Helper()
	s.Call(t, http.MethodPut, "sys/seal", nil)
}

// Unseal unseals the server.
func (s *Server) Unseal(t testing.TB) {
	t.Helper()
	require.NoError(t, s.unseal())
}

// Call sends a request with the first token, and returns the data of the answer.
func (s *Server) Call(t testing.TB, method, path string, body map[string]any) map[string]any {
	t.Helper()
	var answer map[string]any
	require.NoError(t, s.call(s.Root, method, path, body, &answer), "%s %s", method, path)
	if data, ok := answer["data"].(map[string]any); ok {
		return data
	}
	return answer
}

// call sends a request past the proxy.
func (s *Server) call(token, method, path string, body map[string]any, into any) error {
	encoded, err := json.Marshal(body)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(context.Background(), method, "http://openbao/v1/"+path, bytes.NewReader(encoded))
	if err != nil {
		return err
	}
	request.Header.Set("X-Vault-Token", token)
	response, err := s.inside.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode >= http.StatusMultipleChoices {
		return fmt.Errorf("%s %s: %d %s %w", method, path, response.StatusCode, text, err)
	}
	if into == nil || len(text) == 0 {
		return nil
	}
	return json.Unmarshal(text, into)
}

// NewKey makes a key of the transit engine, and returns its name, which no other key has.
func (s *Server) NewKey(t testing.TB, settings map[string]any) (name string) {
	t.Helper()
	name = fmt.Sprintf("key-%d", s.keys.Add(1))
	s.Call(t, http.MethodPost, "transit/keys/"+name, settings)
	return name
}

// Policy returns the policy that the documentation gives, for this key.
func Policy(t testing.TB, key string) string {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(root(), "docs", "openbao.md"))
	require.NoError(t, err)
	_, after, found := strings.Cut(string(page), "```hcl\n")
	policy, _, ended := strings.Cut(after, "```")
	require.True(t, found && ended, "the page has no policy")
	require.Contains(t, policy, "/aikeys\"")
	return strings.ReplaceAll(policy, "/aikeys\"", "/"+key+"\"")
}

// WritePolicy stores a policy, and returns its name.
func (s *Server) WritePolicy(t testing.TB, policy string) (name string) {
	t.Helper()
	name = fmt.Sprintf("policy-%d", s.keys.Add(1))
	s.Call(t, http.MethodPut, "sys/policies/acl/"+name, map[string]any{"policy": policy})
	return name
}

// TokenFile makes a token with one policy. It returns a file that holds the token, and the policy's name.
func (s *Server) TokenFile(t testing.TB, policy string, settings map[string]any) (file, name string) {
	t.Helper()
	name = s.WritePolicy(t, policy)
	body := map[string]any{"policies": []string{name}, "no_default_policy": true, "no_parent": true}
	maps.Copy(body, settings)
	auth, _ := s.Call(t, http.MethodPost, "auth/token/create", body)["auth"].(map[string]any)
	file = filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, "%s\n", auth["client_token"]), 0o600))
	return file, name
}

// URLWithToken returns the URL of a key, with a token that has a policy.
func (s *Server) URLWithToken(t testing.TB, key, policy string) string {
	t.Helper()
	file, _ := s.TokenFile(t, policy, nil)
	return s.URL(key, "token_file="+file)
}

// URL returns the URL of a key of the transit engine, with these parameters.
func (s *Server) URL(key, parameters string) string {
	return fmt.Sprintf("vault+https://%s/transit/%s?ca=%s&%s", s.Host, key, s.CAFile, parameters)
}

// Sealer returns the URL of a new key, with a token that has the documented policy.
func (s *Server) Sealer(t testing.TB) (url, key string) {
	t.Helper()
	key = s.NewKey(t, nil)
	return s.URLWithToken(t, key, Policy(t, key)), key
}
