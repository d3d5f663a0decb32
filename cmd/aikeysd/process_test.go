package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// buildPrograms builds aikeysd, and the gateway that "dev" runs, once and as they are shipped: without the race detector,
// without cgo. It returns their folder, which TestMain removes.
var buildPrograms = sync.OnceValues(func() (dir string, err error) {
	if dir, err = os.MkdirTemp("", "aikeysd-test-"); err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-o", dir+"/", ".", "../aikeys-gateway")
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
	if output, err := cmd.CombinedOutput(); err != nil {
		return dir, fmt.Errorf("%w: %s", err, output)
	}
	builtPrograms = dir
	return dir, nil
})

// builtPrograms is the folder of the programs once they are built.
var builtPrograms string

// launch starts the program as a process of its own, and returns once it is ready.
func launch(t *testing.T, binary string, environ []string) (*exec.Cmd, *server) {
	t.Helper()
	s := &server{t: t, stderr: &buffer{}}
	cmd := exec.CommandContext(t.Context(), binary, "serve")
	cmd.Env, cmd.Stderr = environ, s.stderr
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // unless the test has ended it
		_ = cmd.Wait()
	})
	s.awaitReady()
	require.True(t, s.readAddresses())
	return cmd, s
}

func TestProcess(t *testing.T) {
	programs, err := buildPrograms()
	require.NoError(t, err)
	binary := filepath.Join(programs, "aikeysd")
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(signal.String()+" stops it in order", func(t *testing.T) {
			cmd, s := launch(t, binary, newEnviron(t))
			require.NoError(t, cmd.Process.Signal(signal))
			require.NoError(t, cmd.Wait(), "exit code 0")
			require.Contains(t, s.stderr.String(), `"msg":"stopped"`)
		})
	}
	t.Run("a second signal ends it at once", func(t *testing.T) {
		environ := newEnviron(t)
		token := newOwner(t, environ)
		cmd, s := launch(t, binary, environ)
		openRequest(t, s, token, registerBody("endless", fakeSecret))
		require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
		s.eventually("the first is heard", func() bool { return strings.Contains(s.stderr.String(), "stopping") })
		require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
		require.Error(t, cmd.Wait())
		status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
		require.True(t, ok)
		require.Equal(t, syscall.SIGTERM, status.Signal())
		require.NotContains(t, s.stderr.String(), `"msg":"stopped"`)
	})
	t.Run("it is small when idle", func(t *testing.T) {
		cmd, _ := launch(t, binary, newEnviron(t))
		require.Less(t, residentMiB(t, cmd.Process.Pid), 64)
		require.NoError(t, cmd.Process.Kill())
	})
}

// residentMiB asks ps, which Linux and macOS both have.
func residentMiB(t *testing.T, pid int) int {
	t.Helper()
	output, err := exec.CommandContext(t.Context(), "ps", "-o", "rss=", "-p", strconv.Itoa(pid)).Output()
	require.NoError(t, err)
	kib, err := strconv.Atoi(string(bytes.TrimSpace(output)))
	require.NoError(t, err)
	return kib / 1024
}
