//go:build unix

package secretfile

import (
	"io/fs"
	"syscall"
)

// nonBlocking keeps the opening of a named pipe from waiting for a writer. It does not affect a regular file.
const nonBlocking = syscall.O_NONBLOCK

// ownerOf returns the number of the user to whom a file belongs.
func ownerOf(info fs.FileInfo) (uid int, known bool) {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return -1, true // nobody's
	}
	return int(stat.Uid), true
}
