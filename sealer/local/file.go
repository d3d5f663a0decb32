//go:build unix

package local

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
)

// The sentinels of Open, wrapped with %w. Their texts name the file and what to do, and quote nothing of its content.
var (
	// ErrInsecureFile says that users other than that of this process may read or write the keyset file.
	ErrInsecureFile = errors.New("insecure keyset file")
	// ErrKeyset says that the file is not a keyset of AES-256-GCM keys.
	ErrKeyset = errors.New("invalid keyset")
)

const (
	dirMode  = 0o700
	fileMode = 0o600
	// othersMode is the mask of the permissions of group and others, none of which a keyset file may have.
	othersMode = 0o077
	// maxFileLen is the most that is read, in bytes; a keyset with one KEK has about 300.
	maxFileLen = 1 << 20
)

// ensureKeyset creates a keyset file at path unless a file exists, and syncs its name to the disk. It does not look at the
// content of an existing file.
func ensureKeyset(path string) error {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if err := createKeyset(path); err != nil {
			return err
		}
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w (is it a symbolic link to a file that is missing?)", err)
		}
	}
	// Another process may have just created the file and not yet reached this line. An envelope must not outlive the file that
	// opens it, so no process continues before the file's name is on the disk.
	return syncDir(filepath.Dir(path))
}

func readKeyset(path string) (*keyset.Handle, error) {
	// O_NONBLOCK keeps the opening of a named pipe from blocking until it has a writer; it does not affect a regular file.
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("read keyset file: %w", err)
	}
	defer func() { _ = file.Close() }() // it is only read

	// The open file is checked rather than the path, which may by now refer to another file.
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("read keyset file: %w", err)
	}
	if err := checkSecure(path, info, os.Geteuid()); err != nil {
		return nil, err
	}
	if info.Size() > maxFileLen {
		return nil, fmt.Errorf("%w: file %q has %d bytes, want at most %d", ErrKeyset, path, info.Size(), maxFileLen)
	}
	content, err := io.ReadAll(io.LimitReader(file, maxFileLen))
	if err != nil {
		return nil, fmt.Errorf("read keyset file: %w", err)
	}
	defer clear(content)
	if len(content) == 0 {
		return nil, fmt.Errorf("%w: file %q is empty; restore it from a backup", ErrKeyset, path)
	}
	handle, err := insecurecleartextkeyset.Read(keyset.NewJSONReader(bytes.NewReader(content)))
	if err != nil {
		// The cause is left out, since a parser's error may quote the content.
		return nil, fmt.Errorf("%w: file %q is not a valid Tink keyset in JSON; restore it from a backup", ErrKeyset, path)
	}
	return handle, nil
}

// checkSecure returns ErrInsecureFile unless the file is a regular file that belongs to uid and that nobody else can access.
func checkSecure(path string, info fs.FileInfo, uid int) error {
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%w: %q is not a regular file", ErrInsecureFile, path)
	}
	if mode := info.Mode().Perm(); mode&othersMode != 0 {
		return fmt.Errorf("%w: %q has mode %#o, so group or others can access it; run: chmod 600 %q",
			ErrInsecureFile, path, mode, path)
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); !ok || int(stat.Uid) != uid {
		return fmt.Errorf("%w: %q belongs to another user; run: chown %d %q", ErrInsecureFile, path, uid, path)
	}
	return nil
}

// createKeyset writes a new keyset to path unless the path already exists, which is not an error. The file appears complete or
// not at all: it is written under a temporary name and then linked to path, which fails if path exists. A process that is
// killed in between may leave its temporary file behind, with mode 0600; it is never read and can be deleted.
func createKeyset(path string) error {
	dir := filepath.Dir(path)
	if err := makeDir(dir); err != nil {
		return err
	}
	handle, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	if err != nil {
		return fmt.Errorf("create keyset file: %w", err)
	}
	temporary, err := writeTemporary(dir, handle, fileMode)
	if err != nil {
		return fmt.Errorf("create keyset file: %w", err)
	}
	linkErr := os.Link(temporary, path)
	if errors.Is(linkErr, fs.ErrExist) {
		linkErr = nil // another process was first, and its keyset is used
	}
	if err := errors.Join(linkErr, os.Remove(temporary)); err != nil {
		return fmt.Errorf("create keyset file: %w", err)
	}
	return nil
}

// writeTemporary writes a keyset to a new file in dir, syncs it to the disk, and returns the file's path.
func writeTemporary(dir string, handle *keyset.Handle, mode fs.FileMode) (path string, err error) {
	file, err := os.CreateTemp(dir, ".keyset-*.tmp") // has mode 0600
	if err != nil {
		return "", err
	}
	err = errors.Join(
		insecurecleartextkeyset.Write(handle, keyset.NewJSONWriter(file)),
		file.Chmod(mode),
		file.Sync(),
		file.Close(),
	)
	if err != nil {
		return "", errors.Join(err, os.Remove(file.Name()))
	}
	return file.Name(), nil
}

// makeDir creates dir and its missing parents, and syncs each new name to the disk.
func makeDir(dir string) error {
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(dir)
	if err := makeDir(parent); err != nil {
		return err
	}
	if err := os.Mkdir(dir, dirMode); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(parent)
}

// syncDir syncs the names in a directory to the disk.
func syncDir(dir string) error {
	file, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync directory of keyset file: %w", err)
	}
	if err := errors.Join(file.Sync(), file.Close()); err != nil {
		return fmt.Errorf("sync directory of keyset file: %w", err)
	}
	return nil
}
