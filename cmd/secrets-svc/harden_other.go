//go:build !linux

package main

import "errors"

var errLockUnsupported = errors.New("memory can be locked on Linux only")

// lockMemory is not supported on this system.
func lockMemory() error { return errLockUnsupported }
