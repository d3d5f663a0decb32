package modelstest

import (
	"bufio"
	"fmt"
	"os"
	osexec "os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestClusterEndsWithItsProcess(t *testing.T) {
	owner := osexec.CommandContext(t.Context(), os.Args[0])
	owner.Env = append(os.Environ(), envHelper+"=1")
	owner.Stderr = os.Stderr
	stdout, err := owner.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, owner.Start())
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	var pid int
	var dir string
	_, err = fmt.Sscan(line, &pid, &dir)
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	require.True(t, isRunning(pid))

	require.NoError(t, owner.Process.Kill())
	require.Error(t, owner.Wait(), "killed")
	require.NoError(t, waitGone([]int{pid}, 20*time.Second))
}
