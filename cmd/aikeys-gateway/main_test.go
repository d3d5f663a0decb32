package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
)

// patience is how long a test waits for an expected event.
const patience = 20 * time.Second

// callerToken is a caller's API key that the control plane of these tests accepts.
const callerToken = "ak_EXAMPLE_caller"

// outcome is the result of one run of the program.
type outcome struct {
	code           int
	stdout, stderr string
}

// runGateway runs the program to its end.
func runGateway(t *testing.T, environ []string, args ...string) outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var stdout, stderr bytes.Buffer
	code := run(ctx, args, environ, &stdout, &stderr)
	require.NoError(t, ctx.Err(), "it did not exit; its output:\n%s", &stderr)
	return outcome{code, stdout.String(), stderr.String()}
}

// tokenFile returns a file with a data plane's credential.
func tokenFile(t *testing.T, credential string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "edge.token")
	require.NoError(t, os.WriteFile(file, []byte(credential+"\n"), 0o600))
	return file
}

// environOf returns the variables of a gateway of a control plane, on free ports of this machine.
func environOf(t *testing.T, controlPlane string) []string {
	t.Helper()
	return []string{
		"AIKEYS_GATEWAY_LISTEN=127.0.0.1:0", "AIKEYS_GATEWAY_OPS_LISTEN=127.0.0.1:0",
		"AIKEYS_GATEWAY_CONTROL_PLANE=" + controlPlane, "AIKEYS_GATEWAY_TOKEN_FILE=" + tokenFile(t, dataplanetest.Token),
	}
}

// served is a running gateway.
type served struct {
	t                     *testing.T
	url, ops              string
	forwardAuth, extAuthz string
	said, standardOutput  *lockedBuffer
	stop                  context.CancelFunc
	exited                chan struct{}
	code                  int
}

// startGateway runs "serve" in this process until the test ends, and returns once it listens.
func startGateway(t *testing.T, environ []string, args ...string) *served {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s := &served{t: t, said: &lockedBuffer{}, standardOutput: &lockedBuffer{}, stop: cancel, exited: make(chan struct{})}
	go func() {
		defer close(s.exited)
		s.code = run(ctx, append([]string{"serve"}, args...), environ, s.standardOutput, s.said)
	}()
	t.Cleanup(func() { s.end() })
	s.eventually("listening", s.readAddresses)
	return s
}

// readAddresses finds the addresses in the log.
func (s *served) readAddresses() bool {
	for line := range strings.Lines(s.said.String()) {
		var entry struct {
			Msg, Gateway, Ops string
			ForwardAuth       string `json:"forward_auth"`
			ExtAuthz          string `json:"ext_authz"`
		}
		if json.Unmarshal([]byte(line), &entry) == nil && entry.Msg == "listening" {
			s.url, s.ops, s.forwardAuth, s.extAuthz = entry.Gateway, entry.Ops, entry.ForwardAuth, entry.ExtAuthz
			return true
		}
	}
	return false
}

// end asks the program to stop and returns its exit code.
func (s *served) end() int {
	s.t.Helper()
	s.stop()
	return s.wait()
}

func (s *served) wait() int {
	s.t.Helper()
	select {
	case <-s.exited:
	case <-time.After(patience):
		require.Fail(s.t, "it did not stop", s.said.String())
	}
	return s.code
}

func (s *served) eventually(what string, happened func() bool) {
	s.t.Helper()
	for end := time.Now().Add(patience); !happened(); time.Sleep(2 * time.Millisecond) {
		select {
		case <-s.exited:
			if !happened() {
				require.Fail(s.t, "it ended before: "+what, s.said.String())
			}
		default:
		}
		if time.Now().After(end) {
			require.Fail(s.t, "never happened: "+what, s.said.String())
		}
	}
}

// awaitReady waits until the gateway has a lease.
func (s *served) awaitReady() *served {
	s.t.Helper()
	s.eventually("ready", func() bool { return s.readyz().status == http.StatusOK })
	return s
}

func (s *served) readyz() reply { return send(s.t, http.MethodGet, s.ops+"/readyz", "") }

// reply is a response that was read.
type reply struct {
	status int
	header http.Header
	body   string
}

// send sends one request over a connection of its own; token may be empty.
func send(t *testing.T, method, url, token string, header ...string) reply {
	t.Helper()
	got, err := trySend(t.Context(), nil, method, url, token, header...)
	require.NoError(t, err)
	return got
}

func trySend(ctx context.Context, transport *http.Transport, method, url, token string, header ...string) (reply, error) {
	request, err := http.NewRequestWithContext(ctx, method, url, http.NoBody)
	if err != nil {
		return reply{}, err
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	if transport == nil {
		transport = &http.Transport{}
	}
	transport.DisableKeepAlives = true
	client := &http.Client{Timeout: patience, Transport: transport}
	response, err := client.Do(request)
	if err != nil {
		return reply{}, err
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	return reply{response.StatusCode, response.Header, string(text)}, err
}

func newLog(to io.Writer) *slog.Logger { return cli.NewLogger(to, cli.LogJSON, "info") }

// The exit codes, by short names.
const (
	exitOK      = cli.ExitOK
	exitFailure = cli.ExitFailure
	exitUsage   = cli.ExitUsage
)
