package main

import (
	"errors"

	"golang.org/x/sys/unix"
)

var errLockLimit = errors.New("the process may lock too little memory: set the limit memlock to unlimited (LimitMEMLOCK=infinity), or grant CAP_IPC_LOCK")

// lockMemory keeps the process's memory out of swap.
func lockMemory() error {
	if err := mayLock(); err != nil {
		return err
	}
	return unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT) // locks memory when it is used, not when it is reserved
}

// mayLock returns an error unless the process may lock any amount of memory. With a limit, lockMemory must not try: memory that
// Go reserves counts too, and the first reservation beyond the limit would end the process.
func mayLock() error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil {
		return err
	}
	if limit.Cur != unix.RLIM_INFINITY && !hasCapability(unix.CAP_IPC_LOCK) {
		return errLockLimit
	}
	return nil
}

// hasCapability reports whether a capability of the process, below 32, is in effect.
func hasCapability(number int) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	return unix.Capget(&header, &sets[0]) == nil && sets[0].Effective&(1<<number) != 0
}
