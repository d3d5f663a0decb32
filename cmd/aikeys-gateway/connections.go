package main

import (
	"net"
	"syscall"

	"golang.org/x/net/netutil"
)

// maxConnections leaves a third of the process's files to callers' connections, a third to those that are made for them to
// providers, and a third to the rest: strangers must not take the files that the control plane's stream and probes need.
func maxConnections(files uint64) int {
	const most, shares = 1_000_000, 3
	return max(1, int(min(files/shares, most)))
}

// bounded accepts as many connections at once as the process has files for; others wait in the kernel.
func bounded(listener net.Listener) net.Listener {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return listener
	}
	return netutil.LimitListener(listener, maxConnections(files.Cur))
}
