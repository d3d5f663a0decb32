package cli

import (
	"io/fs"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
)

// limitShare is how much of a container's memory the Go runtime may use before it collects harder; the rest is for what
// it doesn't count.
const limitShare = 0.9

// TuneMemory sets the garbage collector's pace, unless the operator has. A container's limit, if there is one, becomes
// the runtime's: a heap that GOGC lets grow fivefold should be collected rather than the process killed. No limit is made
// up where there is none, since a live heap beyond it would be collected without end. root is the machine's file system,
// gcPercent the program's default of GOGC.
func TuneMemory(gcPercent int, root fs.FS, getenv func(string) string) {
	if getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if limit, ok := containerLimit(root); ok && getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(int64(limitShare * float64(limit)))
	}
}

// containerLimit is the memory limit of the process's control group, in bytes
// (https://docs.kernel.org/admin-guide/cgroup-v2.html#memory-interface-files).
func containerLimit(root fs.FS) (limit int64, ok bool) {
	groups, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return 0, false
	}
	own, ok := strings.CutPrefix(strings.TrimSpace(string(groups)), "0::/")
	if !ok {
		return 0, false
	}
	text, err := fs.ReadFile(root, path.Join("sys/fs/cgroup", own, "memory.max"))
	if err != nil {
		return 0, false
	}
	limit, err = strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64) // "max" where there is no limit
	return limit, err == nil && limit > 0
}
