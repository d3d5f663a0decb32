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

// The sentinels of those who manage KEKs, beside those of Open and sealer.ErrUnknownKEK.
var (
	// ErrPrimary says that a KEK can't be retired because it is the primary one.
	ErrPrimary = errors.New("the primary key-encryption key can't be retired: make another one primary first")
	// ErrRetired says that a KEK can't be made primary because it is retired.
	ErrRetired = errors.New("the key-encryption key is retired: enable it first")
)

// idPrefix begins the id of every KEK of this backend.
const idPrefix = "local:"

func kekID(keyID uint32) string { return fmt.Sprintf("%s%08x", idPrefix, keyID) }

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
			continue // there is none but for an index beyond the length
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

// AddKEK adds a new KEK to the file at path, enabled, and returns its id. Where there is no file, it makes one as Open
// does, and the KEK is primary: the one case in which it is.
//
// Like the three functions below it changes the file in one step, which is on the disk when it returns: who reads the
// file meanwhile, or after a crash, finds the old one or the new one. Those who change files of one directory take turns.
func AddKEK(path string) (id string, err error) {
	if err := makeDir(filepath.Dir(path)); err != nil {
		return "", fmt.Errorf("add KEK: %w", err)
	}
	made := false
	err = change(path, func(target string) (*keyset.Handle, error) {
		if _, err := os.Stat(target); errors.Is(err, fs.ErrNotExist) {
			made = true
			return nil, ensureKeyset(target)
		}
		manager, _, err := open(target)
		if err != nil {
			return nil, err
		}
		keyID, err := manager.Add(aead.AES256GCMKeyTemplate())
		if err != nil {
			return nil, err
		}
		id = kekID(keyID)
		return manager.Handle()
	})
	if made && err == nil {
		keks, err := List(path)
		if err != nil {
			return "", err
		}
		return keks[0].ID, nil
	}
	if err != nil {
		return "", fmt.Errorf("add KEK: %w", err)
	}
	return id, nil
}

// SetPrimary makes a KEK the one that wraps new data keys. The one before stays enabled. Errors: sealer.ErrUnknownKEK,
// ErrRetired.
func SetPrimary(path, id string) error {
	return setState(path, id, sealer.KEKPrimary, func(m *keyset.Manager, keyID uint32, now sealer.KEKState) error {
		if now == sealer.KEKRetired {
			return ErrRetired
		}
		return m.SetPrimary(keyID)
	})
}

// Retire takes a KEK out of use: envelopes under it don't open until it is enabled again. That none is left is for the
// caller to know. Errors: sealer.ErrUnknownKEK, ErrPrimary.
func Retire(path, id string) error {
	return setState(path, id, sealer.KEKRetired, func(m *keyset.Manager, keyID uint32, now sealer.KEKState) error {
		if now == sealer.KEKPrimary {
			return ErrPrimary
		}
		return m.Disable(keyID)
	})
}

// Enable brings a retired KEK back; envelopes under it open again. Error: sealer.ErrUnknownKEK.
func Enable(path, id string) error {
	return setState(path, id, sealer.KEKEnabled, func(m *keyset.Manager, keyID uint32, now sealer.KEKState) error {
		if now == sealer.KEKPrimary {
			return nil // it is enabled, and more
		}
		return m.Enable(keyID)
	})
}

// setState changes the state of one KEK. A KEK that is in that state already leaves the file alone.
func setState(
	path, id string, want sealer.KEKState, set func(m *keyset.Manager, keyID uint32, now sealer.KEKState) error,
) error {
	err := change(path, func(target string) (*keyset.Handle, error) {
		manager, keks, err := open(target)
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(keks, func(k sealer.KEK) bool { return k.ID == id })
		if i < 0 {
			return nil, fmt.Errorf("%w: %q is not in the keyset", sealer.ErrUnknownKEK, id)
		}
		if keks[i].State == want {
			return nil, nil //nolint:nilnil // nothing to write
		}
		keyID, err := strconv.ParseUint(strings.TrimPrefix(id, idPrefix), 16, 32)
		if err != nil {
			return nil, err
		}
		if err := set(manager, uint32(keyID), keks[i].State); err != nil {
			return nil, err
		}
		return manager.Handle()
	})
	if err != nil {
		return fmt.Errorf("make KEK %s: %w", want, err)
	}
	return nil
}

func open(path string) (*keyset.Manager, []sealer.KEK, error) {
	handle, err := readKeyset(path)
	if err != nil {
		return nil, nil, err
	}
	if _, err := newKEKs(handle); err != nil { // nothing is added to a keyset that would not serve
		return nil, nil, fmt.Errorf("keyset file %q: %w", path, err)
	}
	return keyset.NewManagerFromHandle(handle), list(handle), nil
}

// change puts the keyset that edit returns in the place of the file at path, while nobody else may. A nil keyset changes
// nothing. What a symbolic link leads to is changed, not the link.
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

// lock waits until nobody else changes files of a directory. A process that ends, however, gives its lock back.
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
	return func() { _ = file.Close() }, nil // which unlocks; it was only read
}
