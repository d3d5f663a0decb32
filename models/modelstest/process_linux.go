package modelstest

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// dieWithParent asks the kernel to shut the server down at once when the thread that starts it ends.
func dieWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGQUIT }

// childrenOf returns the ids of a process's children; none when it is gone.
func childrenOf(parent int) (children []int) {
	pid := strconv.Itoa(parent)
	text, _ := os.ReadFile("/proc/" + pid + "/task/" + pid + "/children")
	for field := range strings.FieldsSeq(string(text)) {
		if child, err := strconv.Atoi(field); err == nil {
			children = append(children, child)
		}
	}
	return children
}

// waitGone waits until none of the processes runs. A zombie counts as gone, since another process may have to reap it.
func waitGone(pids []int, timeout time.Duration) error {
	deadline := time.Now().Add(timeout)
	for _, pid := range pids {
		for {
			if !isRunning(pid) {
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("process %d still runs %s after SIGKILL", pid, timeout)
			}
			time.Sleep(time.Millisecond)
		}
	}
	return nil
}

// isRunning reads a process's state (proc(5), /proc/pid/stat: "1234 (name) S 1 …", where the name may hold parentheses).
func isRunning(pid int) bool {
	stat, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	state := bytes.TrimSpace(stat[bytes.LastIndexByte(stat, ')')+1:])
	return len(state) > 0 && state[0] != 'Z'
}
