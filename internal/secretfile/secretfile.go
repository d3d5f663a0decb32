// Package secretfile reads files that hold credentials: keysets, tokens, private keys, passwords, lists of clients. It refuses files
// that other users can read or change.
package secretfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// ErrInsecure says that users other than this process's user can read or change the file. The text names the file and
// says what to do; it does not quote the file.
var ErrInsecure = errors.New("insecure file")

// ErrTooLarge says that a file is larger than MaxLen.
var ErrTooLarge = errors.New("file has more than 1 MiB")

// MaxLen is the size of the largest file that Read accepts, in bytes.
const MaxLen = 1 << 20

// Read reads a file, unless the wrong users can access it. The file must be a regular file. Either it belongs to the
// user of this process and gives others no permissions, or it belongs to root, only root can change it, and only its
// group can read it. The second form is how Kubernetes mounts a Secret for the group of a pod (fsGroup), and how Debian
// keeps private keys. Read follows symbolic links, and ignores the modes of folders.
func Read(path string) ([]byte, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|nonBlocking, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // it was only read
	info, err := file.Stat()            // of the open file: the path may name another file by now
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

// Check returns the error that Read would return for the file's kind, owner or mode. It does not read the file.
func Check(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	return check(path, info, os.Geteuid())
}

// check returns ErrInsecure unless a process of the user uid may read the file.
func check(path string, info fs.FileInfo, uid int) error {
	const group, groupRead, others, root = 0o070, 0o040, 0o007, 0
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%w: %q is not a regular file", ErrInsecure, path)
	}
	owner, known := ownerOf(info)
	if !known {
		return nil // on this system, modes say nothing
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
