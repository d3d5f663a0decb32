package cli

import (
	"io/fs"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
)

// limitShare is the share of a container's memory that the Go runtime may use before it collects garbage more often. The
// rest is for memory that the runtime doesn't count.
const limitShare = 0.9

// TuneMemory sets the garbage collector's pace, unless the operator has set it. If the process runs in a container with
// a memory limit, TuneMemory also sets a limit for the Go runtime, so that garbage is collected before the system kills
// the process. Without a container's limit, it sets no limit, because the runtime would collect garbage without end if
// the live heap were above the limit. root is the machine's file system. gcPercent is the program's default for GOGC.
func TuneMemory(gcPercent int, root fs.FS, getenv func(string) string) {
	if getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if limit, ok := containerLimit(root); ok && getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(int64(limitShare * float64(limit)))
	}
}

// containerLimit returns the memory limit of the process's control group, in bytes
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
	limit, err = strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64) // "max" means no limit
	return limit, err == nil && limit > 0
}
