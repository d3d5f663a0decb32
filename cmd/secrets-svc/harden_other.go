//go:build !linux

package main

import (
	"errors"
	"syscall"
)

// hideMemory turns core dumps off.
func hideMemory() error { return syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}) }

var errLockUnsupported = errors.New("memory is locked on Linux alone")

// lockMemory is not there on this system.
func lockMemory() error { return errLockUnsupported }
