//go:build unix && !linux

package modelstest

import (
	"syscall"
	"time"
)

// dieWithParent does nothing: only Linux can tie a child's life to ours. A killed test process leaves its cluster.
func dieWithParent(*syscall.SysProcAttr) {}

// childrenOf finds none: without /proc, the server's children exit once they notice their parent's death.
func childrenOf(int) []int { return nil }

func waitGone([]int, time.Duration) error { return nil }
