//go:build unix && !linux

package cli

import "syscall"

// HideMemory turns core dumps off.
func HideMemory() error { return syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}) }
