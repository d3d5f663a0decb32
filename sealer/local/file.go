//go:build unix

package local

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"

	"github.com/agentrouter/aikeys/internal/secretfile"
)

// The errors of Open, wrapped with %w. Their texts name the file and say what to do; they never quote the file.
var (
	// ErrInsecureFile says that users other than that of this process may read or write the keyset file.
	ErrInsecureFile = secretfile.ErrInsecure
	// ErrKeyset says that the file is not a keyset of AES-256-GCM keys.
	ErrKeyset = errors.New("invalid keyset")
)

const (
	dirMode  = 0o700
	fileMode = 0o600
)

// ensureKeyset creates a keyset file at path unless a file exists, and syncs its name to the disk. It does not read an existing file.
func ensureKeyset(path string) error {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if err := createKeyset(path); err != nil {
			return err
		}
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w (is it a symbolic link to a file that is missing?)", err)
		}
	}
	// Another process may have just created the file without having synced the directory yet. An envelope must not
	// outlive the file that opens it, so no process continues before the file's name is on the disk.
	return syncDir(filepath.Dir(path))
}

func readKeyset(path string) (*keyset.Handle, error) {
	content, err := secretfile.Read(path)
	if errors.Is(err, secretfile.ErrTooLarge) {
		return nil, fmt.Errorf("%w: %w", ErrKeyset, err)
	}
	if err != nil {
		return nil, fmt.Errorf("read keyset file: %w", err)
	}
	defer clear(content)
	if len(content) == 0 {
		return nil, fmt.Errorf("%w: file %q is empty; restore it from a backup", ErrKeyset, path)
	}
	handle, err := insecurecleartextkeyset.Read(keyset.NewJSONReader(bytes.NewReader(content)))
	if err != nil {
		// The cause is left out, because a parser's error may quote the file.
		return nil, fmt.Errorf("%w: file %q is not a valid Tink keyset in JSON; restore it from a backup", ErrKeyset, path)
	}
	return handle, nil
}

// createKeyset writes a new keyset to path. If path already exists, it changes nothing and returns nil. The file
// appears complete or not at all: it is written under a temporary name and then linked to path; linking fails if path
// exists. A process that is killed in between may leave its temporary file behind, with mode 0600. It is never read and
// can be deleted.
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
		linkErr = nil // the keyset of another process is used
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
	if err == nil {
		err = errors.Join(file.Sync(), file.Close())
	}
	if err != nil {
		return fmt.Errorf("sync directory of keyset file: %w", err)
	}
	return nil
}
