//go:build !linux

package main

import (
	"errors"
	"syscall"
)

// hideMemory turns core dumps off.
func hideMemory() error { return syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}) }

var errLockUnsupported = errors.New("memory can be locked on Linux only")

// lockMemory is not supported on this system.
func lockMemory() error { return errLockUnsupported }
