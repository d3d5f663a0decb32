//go:build unix

package secretfile

import (
	"io/fs"
	"syscall"
)

// nonBlocking keeps open from waiting for the writer of a named pipe. It does not affect regular files.
const nonBlocking = syscall.O_NONBLOCK

// ownerOf returns the number of the user who owns a file.
func ownerOf(info fs.FileInfo) (uid int, known bool) {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return -1, true // unknown: no process has this number
	}
	return int(stat.Uid), true
}
