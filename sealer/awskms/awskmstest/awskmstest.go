// Package awskmstest runs emulators of AWS KMS for tests: moto and local-kms. Neither checks signatures. moto also
// serves disabled keys. local-kms has no replicas, so tests of replicas use moto.
//
// For tests only. It imports testify and none of our packages. `tools/peers.sh install` installs moto; local-kms is built here.
package awskmstest

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"
)

// patience is how long an emulator may take to start. It does not include the build of local-kms.
const patience = 60 * time.Second

// Region is where the keys are.
const Region = "eu-central-1"

// Server is an emulator behind a proxy that a test can make hang, fail or lie.
type Server struct {
	// URL is the endpoint.
	URL string
	// Admin may do anything.
	Admin *kms.Client

	dir       string
	cmd       *exec.Cmd
	output    output
	proxy     *httptest.Server
	intercept atomic.Pointer[func(http.Handler) http.Handler]
}

// output is what the emulator has written.
type output struct {
	mu   sync.Mutex
	text []byte
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text = append(o.text, p...)
	return len(p), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.text)
}

// Start starts an emulator, moto or local-kms, that stops when the test ends.
func Start(t testing.TB, name string) *Server {
	t.Helper()
	s, err := Run(name)
	require.NoError(t, err)
	t.Cleanup(s.Stop)
	return s
}

// Environ returns the variables that AWS's default chain reads. The emulators ignore the values.
func Environ() []string {
	return []string{
		"AWS_ACCESS_KEY_ID=test", "AWS_SECRET_ACCESS_KEY=test", "AWS_EC2_METADATA_DISABLED=true",
		"AWS_CONFIG_FILE=" + os.DevNull, "AWS_SHARED_CREDENTIALS_FILE=" + os.DevNull,
	}
}

// SetCredentials sets the variables of Environ in this process.
func SetCredentials() {
	for _, variable := range Environ() {
		name, value, _ := strings.Cut(variable, "=")
		_ = os.Setenv(name, value) // fails only for names that are not valid
	}
}

// Run starts an emulator, for a TestMain.
func Run(name string) (*Server, error) {
	s := &Server{}
	if err := s.start(name); err != nil {
		s.Stop()
		return nil, fmt.Errorf("%s: %w: %s", name, err, s.output.String())
	}
	return s, nil
}

func (s *Server) start(name string) (err error) {
	if s.dir, err = os.MkdirTemp("", "awskms"); err != nil {
		return err
	}
	_, file, _, _ := runtime.Caller(0)
	tools := filepath.Join(filepath.Dir(file), "..", "..", "..", "tools")
	switch name {
	case "moto":
		s.cmd = exec.CommandContext(context.Background(), filepath.Join(tools, "peers", ".venv", "bin", "moto_server"), "-H", "127.0.0.1", "-p", "0") //nolint:gosec // G204: as installed
	case "local-kms":
		program := filepath.Join(s.dir, "localkms")
		build := exec.CommandContext(context.Background(), "go", "build", "-o", program, ".") //nolint:gosec // G204: a program of ours
		build.Dir = filepath.Join(tools, "localkms")
		if text, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, text)
		}
		s.cmd = exec.CommandContext(context.Background(), program, filepath.Join(s.dir, "data")) //nolint:gosec // G204: as built
	}
	s.cmd.Stdout, s.cmd.Stderr = &s.output, &s.output
	if err := s.cmd.Start(); err != nil {
		return fmt.Errorf("is it installed (tools/peers.sh install)? %w", err)
	}
	target, err := s.awaitURL()
	if err != nil {
		return err
	}
	forward := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }}
	s.proxy = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handler := http.Handler(forward)
		if intercept := s.intercept.Load(); intercept != nil {
			handler = (*intercept)(handler)
		}
		handler.ServeHTTP(w, r)
	}))
	s.URL = s.proxy.URL
	s.Admin = kms.New(kms.Options{
		Region: Region, BaseEndpoint: aws.String(target.String()), Credentials: credentials.NewStaticCredentialsProvider("test", "test", ""),
	})
	return nil
}

func (s *Server) awaitURL() (*url.URL, error) {
	running := regexp.MustCompile(`Running on (http://127\.0\.0\.1:\d+)`)
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if found := running.FindStringSubmatch(s.output.String()); found != nil {
			return url.Parse(found[1])
		}
	}
	return nil, context.DeadlineExceeded
}

// Stop ends the emulator.
func (s *Server) Stop() {
	if s.proxy != nil {
		s.proxy.CloseClientConnections()
		s.proxy.Close()
	}
	if s.cmd != nil && s.cmd.Process != nil {
		_ = s.cmd.Process.Kill() // it has no state to keep
		_ = s.cmd.Wait()
	}
	_ = os.RemoveAll(s.dir)
}

// Intercept puts a handler between clients and the emulator, until the test ends.
func (s *Server) Intercept(t testing.TB, intercept func(server http.Handler) http.Handler) {
	s.intercept.Store(&intercept)
	t.Cleanup(func() { s.intercept.Store(nil) })
}

// NewKey makes a key, and returns its ARN.
func (s *Server) NewKey(t testing.TB, input *kms.CreateKeyInput) (arn string) {
	t.Helper()
	if input.KeyUsage == "" {
		input.KeyUsage = types.KeyUsageTypeEncryptDecrypt // AWS's default, which moto does not fill in
	}
	made, err := s.Admin.CreateKey(t.Context(), input)
	require.NoError(t, err)
	return *made.KeyMetadata.Arn
}

// Sealer returns the URL of a key.
func (s *Server) Sealer(key string) string {
	return "awskms://" + Region + "/" + key + "?endpoint=" + url.QueryEscape(s.URL)
}
