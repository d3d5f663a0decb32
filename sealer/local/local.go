// Package local is the sealer backend that needs no other service: its key-encryption keys (KEKs) are in a file. It is the
// default of an embedded installation. Anyone who can read both the file and the database can read every secret, so keep
// their backups apart. Losing the file means losing every secret.
//
// The file is a cleartext Tink keyset in JSON whose keys are all AES-256-GCM. Open creates it on the first start.
// AddKEK, SetPrimary, Retire and Enable change it, and so can any Tink tool. A Sealer reads the file again when it has
// changed. To rotate: add a KEK, and copy the file to every machine that has it; make the KEK primary, and copy the
// file again; then re-wrap. A KEK may wrap 2^32 data keys, the limit for random nonces (NIST SP 800-38D, section 8.3).
//
// The package works on Unix systems, where file modes and owners protect the file. It imports package sealer,
// internal/filereload and internal/secretfile, and no other package of ours.
package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/tink-crypto/tink-go/v2/aead/aesgcm"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/agentrouter/aikeys/internal/filereload"
	"github.com/agentrouter/aikeys/sealer"
)

// kekLen is the length of a KEK in bytes, for AES-256.
const kekLen = 32

// Options are the options of OpenWith. Open uses the zero value.
type Options struct {
	// If MustExist is set and the file is missing, OpenWith returns fs.ErrNotExist and does not create the file.
	MustExist bool
	// Log gets a line when the file has been read again and when it can't be read; nil logs nothing.
	Log *slog.Logger
}

// Sealer is a sealer.Sealer with the KEKs of a file. It reads the file again when the file has changed: at once if an
// envelope names an unknown KEK, otherwise within a second. If the file is broken or missing, the Sealer keeps using
// the KEKs that it read before.
type Sealer struct {
	sealer.Sealer
	keks *filereload.Value[*keks]
}

// Open returns a Sealer with the KEKs in the file at path. The id of a KEK is "local:" and the 8 hexadecimal digits of its
// Tink key id. Open creates a missing file, with one new KEK and mode 0600, and missing directories above it, with mode 0700.
// Processes that start at the same time end up with the same file. The file system must support hard links.
//
// Open never changes an existing file. The file must meet the conditions of secretfile.Read; otherwise the error is
// ErrInsecureFile. If the file is empty or damaged, or if it holds keys of another type, the error is ErrKeyset.
func Open(path string) (sealer.Sealer, error) { return OpenWith(path, Options{}) }

// OpenWith is Open with options.
func OpenWith(path string, options Options) (*Sealer, error) {
	if !options.MustExist {
		if err := ensureKeyset(path); err != nil {
			return nil, fmt.Errorf("open local sealer: %w", err)
		}
	}
	current, err := filereload.Open(filereload.Source[*keks]{
		Name: "keyset file", Files: []string{path}, Log: options.Log,
		Load: func() (*keks, error) {
			_, read, err := readKEKs(path)
			return read, err
		},
		Describe: func(k *keks) []slog.Attr {
			return []slog.Attr{slog.String("file", path), slog.String("primary", k.all[0].ID), slog.Int("keks", len(k.all))}
		},
	})
	if err != nil {
		return nil, fmt.Errorf("open local sealer: %w", err)
	}
	return &Sealer{Sealer: sealer.NewEnvelopeSealer(keysetFile{current}), keks: current}, nil
}

// Check reads the file now if it has changed. If the file can't be used, Check returns the reason, and the KEKs that were read
// before stay in use.
func (s *Sealer) Check(ctx context.Context) error { return s.keks.Refresh(ctx) }

// keysetFile implements sealer.KEKs with a file that is read again when it changes.
type keysetFile struct{ *filereload.Value[*keks] }

// List implements sealer.KEKs.
func (f keysetFile) List(ctx context.Context) ([]sealer.KEK, error) { return f.Get(ctx).all, nil }

// Wrap implements sealer.KEKs.
func (f keysetFile) Wrap(ctx context.Context, kekID string, dataKey, associatedData []byte) ([]byte, error) {
	return f.Current().Wrap(ctx, kekID, dataKey, associatedData)
}

// Unwrap implements sealer.KEKs. If the KEK is unknown, it checks the file at once: the KEK may have just been added.
func (f keysetFile) Unwrap(ctx context.Context, kekID string, wrapped, associatedData []byte) ([]byte, error) {
	dataKey, err := f.Get(ctx).Unwrap(ctx, kekID, wrapped, associatedData)
	if !errors.Is(err, sealer.ErrUnknownKEK) || f.Refresh(ctx) != nil {
		return dataKey, err
	}
	return f.Current().Unwrap(ctx, kekID, wrapped, associatedData)
}

// readKEKs reads the keyset in the file at path, and its KEKs.
func readKEKs(path string) (*keyset.Handle, *keks, error) {
	handle, err := readKeyset(path)
	if err != nil {
		return nil, nil, err
	}
	read, err := newKEKs(handle)
	if err != nil {
		return nil, nil, fmt.Errorf("keyset file %q: %w", path, err)
	}
	return handle, read, nil
}

// keks are the KEKs of a keyset. They are immutable.
type keks struct {
	aeads map[string]tink.AEAD // :: KEK id → the enabled key of that id
	all   []sealer.KEK         // the primary one first, retired ones last
}

// newKEKs returns the enabled keys of a keyset. Disabled keys count as unknown KEKs.
func newKEKs(handle *keyset.Handle) (*keks, error) {
	result := &keks{aeads: make(map[string]tink.AEAD, handle.Len()), all: list(handle)}
	for i := range handle.Len() {
		entry, err := handle.Entry(i)
		if err != nil {
			return nil, fmt.Errorf("%w: entry %d: %w", ErrKeyset, i, err)
		}
		if entry.KeyStatus() != keyset.Enabled {
			continue
		}
		id := kekID(entry.KeyID())
		key, ok := entry.Key().(*aesgcm.Key)
		if !ok || key.KeyBytes().Len() != kekLen {
			return nil, fmt.Errorf("%w: key %s is not an AES-256-GCM key", ErrKeyset, id)
		}
		if result.aeads[id], err = aesgcm.NewAEAD(key); err != nil {
			return nil, fmt.Errorf("%w: key %s: %w", ErrKeyset, id, err)
		}
	}
	return result, nil
}

// Wrap does what sealer.KEKs.Wrap says.
func (k *keks) Wrap(_ context.Context, kekID string, dataKey, associatedData []byte) ([]byte, error) {
	kek, ok := k.aeads[kekID]
	if !ok {
		return nil, unknownKEK(kekID)
	}
	return kek.Encrypt(dataKey, associatedData)
}

// Unwrap does what sealer.KEKs.Unwrap says.
func (k *keks) Unwrap(_ context.Context, kekID string, wrapped, associatedData []byte) ([]byte, error) {
	kek, ok := k.aeads[kekID]
	if !ok {
		return nil, unknownKEK(kekID)
	}
	dataKey, err := kek.Decrypt(wrapped, associatedData)
	if err != nil {
		return nil, sealer.ErrBinding
	}
	return dataKey, nil
}
