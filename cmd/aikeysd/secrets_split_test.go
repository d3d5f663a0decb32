package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// testRunSplit checks that the script behind "make run-split" starts all programs, and that one Ctrl-C, which comes to the
// script alone, ends them.
func testRunSplit(t *testing.T, binary string) {
	bin := filepath.Dir(binary)
	build := exec.CommandContext(t.Context(), "go", "build", "-o", bin+"/", ".", "../aikeys-gateway")
	build.Env = append(build.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
	output, err := build.CombinedOutput()
	require.NoError(t, err, "%s", output)
	data, err := os.MkdirTemp("", "split") //nolint:usetesting // a socket's path has 108 bytes at the most
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(data)) })
	for _, start := range []string{"the first start", "the next one, with what that made"} {
		s := &server{t: t, stdout: &buffer{}, stderr: &buffer{}, exited: make(chan struct{})}
		const anyPort = "127.0.0.1:0"
		script := exec.Command("../../tools/run-split.sh", "--listen", anyPort, "--dataplane-listen", anyPort, "--ops-listen", anyPort,
			"--gateway-listen", anyPort)
		script.Env = []string{"PATH=" + os.Getenv("PATH"), "DATA=" + data, "BIN=" + bin, "SECRETS_SVC_OPS_LISTEN=" + anyPort}
		script.Stdout, script.Stderr = s.stdout, s.stderr
		require.NoError(t, script.Start())
		go func() {
			defer close(s.exited)
			_ = script.Wait() // its code is looked at below
		}()
		t.Cleanup(func() {
			_ = script.Process.Signal(syscall.SIGTERM) // unless it has ended
			<-s.exited
		})
		s.eventually(start, func() bool { return strings.Contains(s.stdout.String(), "Ctrl-C stops it") })
		found := regexp.MustCompile(`secrets-svc is process (\d+), aikeysd (\d+)`).FindStringSubmatch(s.stderr.String())
		require.NotNil(t, found, s.stderr)
		require.NoError(t, script.Process.Signal(os.Interrupt))
		s.end()
		require.Equal(t, 0, script.ProcessState.ExitCode(), s.stderr)
		require.Equal(t, 3, strings.Count(s.stderr.String(), "msg=stopped"), "all end in order:\n%s", s.stderr)
		for _, text := range found[1:] {
			pid, err := strconv.Atoi(text)
			require.NoError(t, err)
			require.ErrorIs(t, syscall.Kill(pid, 0), syscall.ESRCH, "process %d is still there", pid)
		}
	}
	audit, err := os.ReadFile(filepath.Join(data, "audit.log"))
	require.NoError(t, err)
	require.Equal(t, 2, strings.Count(string(audit), `"key_id":"canary"`), "each start had it open the canary:\n%s", audit)
}
