package local

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/keyset"

	"github.com/agentrouter/aikeys/sealer"
)

// The errors of the functions that manage KEKs, besides those of Open and sealer.ErrUnknownKEK.
var (
	// ErrPrimary says that the primary KEK can't be retired.
	ErrPrimary = errors.New("the primary key-encryption key can't be retired: make another one primary first")
	// ErrRetired says that a retired KEK can't be made primary.
	ErrRetired = errors.New("the key-encryption key is retired: enable it first")
)

// idPrefix begins the id of every KEK of this backend.
const idPrefix = "local:"

func kekID(keyID uint32) string { return fmt.Sprintf("%s%08x", idPrefix, keyID) }

func unknownKEK(id string) error {
	return fmt.Errorf("%w: %q is not in the keyset", sealer.ErrUnknownKEK, id)
}

// List returns the KEKs in the file at path, the primary one first and retired ones last.
func List(path string) ([]sealer.KEK, error) {
	handle, err := readKeyset(path)
	if err != nil {
		return nil, fmt.Errorf("list KEKs: %w", err)
	}
	return list(handle), nil
}

func list(handle *keyset.Handle) []sealer.KEK {
	order := []sealer.KEKState{sealer.KEKPrimary, sealer.KEKEnabled, sealer.KEKRetired}
	var found []sealer.KEK
	for i := range handle.Len() {
		entry, err := handle.Entry(i)
		if err != nil {
			continue // happens only for an index out of range
		}
		state := sealer.KEKRetired
		switch {
		case entry.IsPrimary():
			state = sealer.KEKPrimary
		case entry.KeyStatus() == keyset.Enabled:
			state = sealer.KEKEnabled
		}
		found = append(found, sealer.KEK{ID: kekID(entry.KeyID()), State: state})
	}
	slices.SortStableFunc(found, func(a, b sealer.KEK) int {
		return cmp.Compare(slices.Index(order, a.State), slices.Index(order, b.State))
	})
	return found
}

// AddKEK adds a new, enabled KEK to the file at path and returns its id. If there is no file, it creates one as Open
// does, and the new KEK is primary. Otherwise, the primary KEK stays primary.
//
// Like the three functions below, it replaces the file atomically and syncs it to the disk before it returns: a reader, even
// after a crash, finds the old file or the new one. A lock on the directory serializes the changes.
func AddKEK(path string) (id string, err error) {
	if err := makeDir(filepath.Dir(path)); err != nil {
		return "", fmt.Errorf("add KEK: %w", err)
	}
	err = change(path, func(target string) (*keyset.Handle, error) {
		if _, err := os.Stat(target); errors.Is(err, fs.ErrNotExist) {
			if err := ensureKeyset(target); err != nil {
				return nil, err
			}
			keks, err := List(target)
			if err == nil {
				id = keks[0].ID
			}
			return nil, err
		}
		handle, _, err := readKEKs(target)
		if err != nil {
			return nil, err
		}
		manager := keyset.NewManagerFromHandle(handle)
		keyID, err := manager.Add(aead.AES256GCMKeyTemplate())
		if err != nil {
			return nil, err
		}
		id = kekID(keyID)
		return manager.Handle()
	})
	if err != nil {
		return "", fmt.Errorf("add KEK: %w", err)
	}
	return id, nil
}

// SetPrimary makes a KEK primary, so that it wraps new data keys. The previous one stays enabled. Errors: sealer.ErrUnknownKEK,
// ErrRetired.
func SetPrimary(path, id string) error { return setState(path, id, sealer.KEKPrimary) }

// Retire takes a KEK out of use: envelopes under it don't open until it is enabled again. The caller makes sure that no envelope
// needs it. Errors: sealer.ErrUnknownKEK, ErrPrimary.
func Retire(path, id string) error { return setState(path, id, sealer.KEKRetired) }

// Enable makes a retired KEK usable again, so that envelopes under it open. Error: sealer.ErrUnknownKEK.
func Enable(path, id string) error { return setState(path, id, sealer.KEKEnabled) }

// setState changes the state of one KEK. It does not write the file if nothing changes.
func setState(path, id string, want sealer.KEKState) error {
	err := change(path, func(target string) (*keyset.Handle, error) {
		handle, read, err := readKEKs(target) // an error for an unusable keyset, which must not be changed
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(read.all, func(k sealer.KEK) bool { return k.ID == id })
		if i < 0 {
			return nil, unknownKEK(id)
		}
		switch now := read.all[i].State; {
		case now == want, now == sealer.KEKPrimary && want == sealer.KEKEnabled: // a primary KEK counts as enabled
			return nil, nil //nolint:nilnil // nothing to write
		case now == sealer.KEKPrimary:
			return nil, ErrPrimary
		case now == sealer.KEKRetired && want == sealer.KEKPrimary:
			return nil, ErrRetired
		}
		keyID, err := strconv.ParseUint(strings.TrimPrefix(id, idPrefix), 16, 32)
		if err != nil {
			return nil, err
		}
		manager := keyset.NewManagerFromHandle(handle)
		set := map[sealer.KEKState]func(uint32) error{
			sealer.KEKPrimary: manager.SetPrimary, sealer.KEKEnabled: manager.Enable, sealer.KEKRetired: manager.Disable,
		}
		if err := set[want](uint32(keyID)); err != nil {
			return nil, err
		}
		return manager.Handle()
	})
	if err != nil {
		return fmt.Errorf("make KEK %s: %w", want, err)
	}
	return nil
}

// change replaces the file at path with the keyset that edit returns, under the lock of the directory. If edit returns
// a nil keyset, change writes nothing. If path is a symbolic link, change replaces its target.
func change(path string, edit func(target string) (*keyset.Handle, error)) error {
	target, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		target, err = path, nil
	}
	if err != nil {
		return err
	}
	dir := filepath.Dir(target)
	unlock, err := lock(dir)
	if err != nil {
		return err
	}
	defer unlock()
	handle, err := edit(target)
	if err != nil || handle == nil {
		return err
	}
	info, err := os.Stat(target)
	if err != nil {
		return err
	}
	temporary, err := writeTemporary(dir, handle, info.Mode().Perm())
	if err != nil {
		return fmt.Errorf("write keyset file: %w", err)
	}
	if err := os.Rename(temporary, target); err != nil {
		return fmt.Errorf("write keyset file: %w", errors.Join(err, os.Remove(temporary)))
	}
	return syncDir(dir)
}

// lock locks a directory against changes by other processes, and waits for the lock. The system releases it when the process
// ends.
func lock(dir string) (unlock func(), err error) {
	file, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("lock directory of keyset file: %w", err)
	}
	for {
		err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("lock directory of keyset file: %w", errors.Join(err, file.Close()))
	}
	return func() { _ = file.Close() }, nil // closing releases the lock
}
