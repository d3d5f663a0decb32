package cli

import (
	"fmt"
	"syscall"
)

// HideMemory keeps the memory out of core dumps, and hides it from other processes of the same user (prctl(2),
// PR_SET_DUMPABLE).
func HideMemory() error {
	if err := syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}); err != nil {
		return fmt.Errorf("turn core dumps off: %w", err)
	}
	if _, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, syscall.PR_SET_DUMPABLE, 0, 0); errno != 0 {
		return fmt.Errorf("turn core dumps off: %w", errno)
	}
	return nil
}
