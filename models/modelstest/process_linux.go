package modelstest

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"
)

// dieWithParent asks the kernel to shut the server down at once when the thread that starts it ends.
func dieWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGQUIT }

// childrenOf returns the ids of a process's children.
func childrenOf(parent int) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var children []int
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if _, ppid, ok := processStat(pid); ok && ppid == parent {
			children = append(children, pid)
		}
	}
	return children, nil
}

// waitGone waits until none of the processes runs. A zombie counts as gone, since another process may have to reap it.
func waitGone(pids []int, timeout time.Duration) error {
	deadline := time.Now().Add(timeout)
	for _, pid := range pids {
		for {
			if state, _, ok := processStat(pid); !ok || state == 'Z' {
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

// processStat reads a process's state and its parent (proc(5), /proc/pid/stat); not ok when it is gone.
func processStat(pid int) (state byte, parent int, ok bool) {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, 0, false
	}
	// "1234 (name) S 1 …": the name may hold spaces and parentheses, so look from its end.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 2 {
		return 0, 0, false
	}
	parent, err = strconv.Atoi(string(fields[1]))
	return fields[0][0], parent, err == nil
}
