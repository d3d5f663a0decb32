// Package secretfile reads the files that hold credentials: keysets, tokens, private keys, passwords, lists of clients. It refuses
// those that other users can read or change. All programs read them by its rules.
package secretfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// ErrInsecure says that others than the user of this process can read or change the file. The text names the file and says what
// to do; it quotes nothing of the content.
var ErrInsecure = errors.New("insecure file")

// ErrTooLarge says that a file is larger than MaxLen.
var ErrTooLarge = errors.New("file has more than 1 MiB")

// MaxLen is the most that Read accepts, in bytes.
const MaxLen = 1 << 20

// Read returns what a file holds, if only the right users can access it: it is a regular file of the user of this process without
// permissions for others, or a file of root that nobody but root can change and at most its group can read. That is how Kubernetes
// mounts a Secret for the group of a pod (fsGroup), and how Debian keeps private keys. A symbolic link is followed, and the file at
// its end must meet the rule; the modes of folders are not looked at.
func Read(path string) ([]byte, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|nonBlocking, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // it is only read
	info, err := file.Stat()            // of the open file: the path may name another by now
	if err != nil {
		return nil, err
	}
	if err := check(path, info, os.Geteuid()); err != nil {
		return nil, err
	}
	if info.Size() > MaxLen {
		return nil, fmt.Errorf("%q: %w", path, ErrTooLarge)
	}
	return io.ReadAll(io.LimitReader(file, MaxLen))
}

// Check returns the error that Read would return for the file's kind, owner or mode, without reading it.
func Check(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	return check(path, info, os.Geteuid())
}

// check returns ErrInsecure unless the file meets the rule for a process of the user uid.
func check(path string, info fs.FileInfo, uid int) error {
	const (
		group, groupRead, others = 0o070, 0o040, 0o007

		root = 0
	)
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%w: %q is not a regular file", ErrInsecure, path)
	}
	owner, known := ownerOf(info)
	if !known {
		return nil // a system whose modes say nothing
	}
	switch mode := info.Mode().Perm(); {
	case owner == uid && mode&(group|others) != 0:
		return fmt.Errorf("%w: %q has mode %#o, so group or others can access it; run: chmod 600 %q", ErrInsecure, path, mode, path)
	case owner == root && mode&(group&^groupRead|others) != 0:
		return fmt.Errorf("%w: %q of root has mode %#o, so others can access it; run as root: chmod 640 %q, and give it a group of this process"+
			" (in Kubernetes: defaultMode 0400 and fsGroup)", ErrInsecure, path, mode, path)
	case owner != uid && owner != root:
		return fmt.Errorf("%w: %q belongs to another user; run: chown %d %q", ErrInsecure, path, uid, path)
	}
	return nil
}
