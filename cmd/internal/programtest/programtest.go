// Package programtest runs our programs in tests, in the test's own process or in processes of their own, and sends them
// requests. Only tests may import it.
package programtest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Patience is how long a test waits for something that must happen. It is long enough for a busy machine.
const Patience = 60 * time.Second

// Build builds commands into a folder as they are shipped: without the race detector and without cgo.
func Build(folder string, packages ...string) error {
	args := []string{"build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", folder + "/"}
	cmd := exec.CommandContext(context.Background(), "go", append(args, packages...)...) //nolint:gosec // G204: a test names them
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0")
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, output)
	}
	return nil
}

// Output is what a program has written so far.
type Output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write implements io.Writer.
func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

// String returns the text.
func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// Process is a running program.
type Process struct {
	Stdout, Stderr Output
	// Signal sends a signal. A program in the test's own process stops at any signal.
	Signal func(os.Signal)

	t      testing.TB
	exited chan struct{}
	code   int // once exited is closed
}

// Launch starts a command in a process of its own, which is killed when the test ends.
func Launch(t testing.TB, cmd *exec.Cmd) *Process {
	t.Helper()
	p := &Process{t: t, exited: make(chan struct{}), Signal: func(s os.Signal) { _ = cmd.Process.Signal(s) }} // it may have exited
	cmd.Stdout, cmd.Stderr = &p.Stdout, &p.Stderr
	require.NoError(t, cmd.Start())
	go func() {
		defer close(p.exited)
		_ = cmd.Wait()
		p.code = cmd.ProcessState.ExitCode()
	}()
	t.Cleanup(func() { p.End(syscall.SIGKILL) })
	return p
}

// Program is the function of a program that main calls with the arguments and the environment.
type Program func(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int

// Start starts the program in this process, and stops it when the test ends.
func (run Program) Start(t testing.TB, environ []string, args ...string) *Process {
	ctx, cancel := context.WithCancel(context.Background())
	p := &Process{t: t, exited: make(chan struct{}), Signal: func(os.Signal) { cancel() }}
	go func() {
		defer close(p.exited)
		p.code = run(ctx, args, environ, &p.Stdout, &p.Stderr)
	}()
	t.Cleanup(func() { p.Stop() })
	return p
}

// Outcome is the result of one run of a program.
type Outcome struct {
	Code           int
	Stdout, Stderr string
}

// Output returns both outputs.
func (o Outcome) Output() string { return o.Stdout + o.Stderr }

// Run runs the program in this process to its end.
func (run Program) Run(t testing.TB, environ []string, args ...string) Outcome {
	t.Helper()
	return run.Start(t, environ, args...).Outcome()
}

// Output returns both outputs.
func (p *Process) Output() string { return p.Stdout.String() + p.Stderr.String() }

// Await waits until a condition holds.
func (p *Process) Await(what string, condition func() bool) {
	p.t.Helper()
	for end := time.Now().Add(Patience); !condition(); time.Sleep(5 * time.Millisecond) {
		select {
		case <-p.exited:
			require.True(p.t, condition(), "ended before: %s\n%s", what, p.Output())
			return
		default:
			require.True(p.t, time.Now().Before(end), "never: %s\n%s", what, p.Output())
		}
	}
}

// AwaitLog waits until the program has written a text.
func (p *Process) AwaitLog(text string) {
	p.t.Helper()
	p.Await("it writes "+text, func() bool { return strings.Contains(p.Output(), text) })
}

// URL waits until the program listens, and returns the address that it logs under a name, such as ops. If the program
// has no address of this name, URL returns "".
func (p *Process) URL(name string) string {
	p.t.Helper()
	p.AwaitLog("listening")
	found := regexp.MustCompile(`listening.*\b` + name + `"?[=:]"?([^\s",]+)`).FindStringSubmatch(p.Output())
	return append(found, "", "")[1]
}

// Readyz asks the program whether it is ready.
func (p *Process) Readyz() Reply {
	p.t.Helper()
	return Send(http.MethodGet, p.URL("ops")+"/readyz", "", "")
}

// AwaitReady waits until the program is ready, and returns it.
func (p *Process) AwaitReady() *Process {
	p.t.Helper()
	p.Await("it is ready", func() bool { return p.Readyz().Status == http.StatusOK })
	return p
}

// Wait waits until the program has ended, and returns its exit code.
func (p *Process) Wait() (code int) {
	p.t.Helper()
	select {
	case <-p.exited:
	case <-time.After(Patience):
		require.Fail(p.t, "it did not end", p.Output())
	}
	return p.code
}

// Outcome waits until the program has ended, and returns its result.
func (p *Process) Outcome() Outcome {
	p.t.Helper()
	return Outcome{p.Wait(), p.Stdout.String(), p.Stderr.String()}
}

// End sends a signal, waits until the program has ended, and returns its exit code.
func (p *Process) End(s os.Signal) (code int) {
	p.t.Helper()
	p.Signal(s)
	return p.Wait()
}

// Stop is End with the signal of Ctrl-C.
func (p *Process) Stop() (code int) {
	p.t.Helper()
	return p.End(os.Interrupt)
}

// Reply is a response that was read. If there was no response, Status is 0 and Body has the error.
type Reply struct {
	Status int
	Header http.Header
	Body   string
}

// Client opens a new connection for each request.
var Client = &http.Client{Timeout: Patience, Transport: &http.Transport{DisableKeepAlives: true}} //nolint:gochecknoglobals // no state

// Send sends a request. If token is not empty, Send adds it as a bearer token. headers are further headers, given as
// names and values. The body is JSON unless the headers say otherwise.
func Send(method, url, token, body string, headers ...string) Reply {
	return SendBy(Client, method, url, token, body, headers...)
}

// SendBy is Send with another client.
func SendBy(client *http.Client, method, url, token, body string, headers ...string) Reply {
	request, err := http.NewRequestWithContext(context.Background(), method, url, strings.NewReader(body))
	if err != nil {
		return Reply{Body: err.Error()}
	}
	if token != "" {
		headers = append([]string{"Authorization", "Bearer " + token}, headers...)
	}
	if body != "" {
		headers = append([]string{"Content-Type", "application/json"}, headers...)
	}
	for pair := range slices.Chunk(headers, 2) {
		request.Header.Set(pair[0], pair[1])
	}
	response, err := client.Do(request)
	if err != nil {
		return Reply{Body: err.Error()}
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return Reply{Body: err.Error()}
	}
	return Reply{response.StatusCode, response.Header, string(text)}
}
