package main

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"syscall"
)

var errLockLimit = errors.New("the process may lock too little memory: set the limit memlock to unlimited (LimitMEMLOCK=infinity), or grant CAP_IPC_LOCK")

const (
	rlimitMemlock = 8  // RLIMIT_MEMLOCK in asm-generic/resource.h
	capIPCLock    = 14 // CAP_IPC_LOCK in linux/capability.h
	mclOnFault    = 4  // MCL_ONFAULT in asm-generic/mman.h: lock what is used, not what is reserved
)

// lockMemory keeps the process's memory out of swap.
func lockMemory() error {
	if err := mayLock(); err != nil {
		return err
	}
	return syscall.Mlockall(syscall.MCL_CURRENT | syscall.MCL_FUTURE | mclOnFault)
}

// mayLock returns an error unless the process may lock any amount of memory. With a limit, locking is not tried: memory that
// Go reserves counts too, and the first reservation beyond the limit would end the process.
func mayLock() error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(rlimitMemlock, &limit); err != nil {
		return err
	}
	if limit.Cur != ^uint64(0) && !hasCapability(capIPCLock) {
		return errLockLimit
	}
	return nil
}

// hasCapability reports whether the process has a capability in effect (proc_pid_status(5)).
func hasCapability(number uint) bool {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(status)) {
		if text, ok := strings.CutPrefix(line, "CapEff:"); ok {
			set, err := strconv.ParseUint(strings.TrimSpace(text), 16, 64)
			return err == nil && set&(1<<number) != 0
		}
	}
	return false
}
