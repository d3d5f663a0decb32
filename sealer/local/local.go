// Package local is the sealer backend that needs no other service: its key-encryption keys (KEKs) stand in a file. It
// is the default of an embedded installation. Whoever can read both the file and the database can read every secret,
// so keep their backups apart; whoever loses the file has lost every secret.
//
// The file is a cleartext Tink keyset in JSON whose keys are all AES-256-GCM. Open makes it on the first start. AddKEK,
// SetPrimary, Retire and Enable change it, and so can any Tink tool. A Sealer reads it again by itself when it has
// changed. To rotate: add the KEK, bring the file to every machine that has one, make the KEK primary in the same way,
// then re-wrap. A KEK may wrap 2^32 data keys, the limit for random nonces (NIST SP 800-38D, section 8.3).
//
// Works on Unix systems, whose file modes and owners protect the file. Imports package sealer and none other of ours.
package local

import (
	"context"
	"fmt"
	"log/slog"
	"slices"

	"github.com/tink-crypto/tink-go/v2/aead/aesgcm"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/agentrouter/aikeys/sealer"
)

// kekLen is the length of a KEK in bytes, for AES-256.
const kekLen = 32

// Options are what an operator of a Sealer may choose. The zero value is what Open uses.
type Options struct {
	// MustExist refuses a file that is missing, with fs.ErrNotExist, where it would be made otherwise.
	MustExist bool
	// Log is told when the file has been read again, and when it can't be; nil tells nobody.
	Log *slog.Logger
}

// Sealer is a sealer.Sealer with the KEKs of a file, which is read again when it has changed: at once when an envelope
// names a KEK that is not known, else within a second. A file that is broken or gone leaves the KEKs that were read
// before in force, all of them.
type Sealer struct {
	sealer.Sealer
	keyset *keysetFile
}

var _ sealer.KEKLister = (*Sealer)(nil)

// Open returns a Sealer with the KEKs in the file at path. The id of a KEK is "local:" and the 8 hexadecimal digits of
// its Tink key id. A file that is missing is made, with one new KEK and mode 0600, and so are missing directories above
// it, with mode 0700; processes that start at the same time end up with the same file. The file system must have hard
// links.
//
// An existing file is never changed. It must be a regular file that belongs to the user of this process and that no one
// else may read or write, else the error is ErrInsecureFile. A symbolic link is followed, and the same is asked of the
// file that it leads to. A file that is empty, damaged or holds keys of another type gives ErrKeyset.
func Open(path string) (sealer.Sealer, error) { return OpenWith(path, Options{}) }

// OpenWith is Open with options.
func OpenWith(path string, options Options) (*Sealer, error) {
	if !options.MustExist {
		if err := ensureKeyset(path); err != nil {
			return nil, fmt.Errorf("open local sealer: %w", err)
		}
	}
	keyset, err := openKeysetFile(path, options.Log)
	if err != nil {
		return nil, fmt.Errorf("open local sealer: %w", err)
	}
	return &Sealer{Sealer: sealer.NewEnvelopeSealer(keyset), keyset: keyset}, nil
}

// KEKs implements sealer.KEKLister.
func (s *Sealer) KEKs(ctx context.Context) ([]sealer.KEK, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("list KEKs: %w", err)
	}
	return slices.Clone(s.keyset.keks.Get(ctx).all), nil
}

// Check looks at the file now, and returns why it can't be used. Until that is mended, the KEKs that were read before
// are in force.
func (s *Sealer) Check(ctx context.Context) error { return s.keyset.keks.Refresh(ctx) }

// keks implements sealer.KEKs; it does not change once made.
type keks struct {
	primary string
	aeads   map[string]tink.AEAD // :: KEK id → the enabled key of that id
	all     []sealer.KEK         // the primary one first, retired ones last
}

// newKEKs takes the enabled keys of a keyset; envelopes under a disabled one are of an unknown KEK.
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
		if entry.IsPrimary() {
			result.primary = id
		}
	}
	return result, nil
}

// Primary implements sealer.KEKs.
func (k *keks) Primary(context.Context) (string, error) { return k.primary, nil }

// Wrap implements sealer.KEKs.
func (k *keks) Wrap(_ context.Context, kekID string, dataKey, associatedData []byte) ([]byte, error) {
	kek, ok := k.aeads[kekID]
	if !ok {
		return nil, fmt.Errorf("%w: %q is not in the keyset", sealer.ErrUnknownKEK, kekID)
	}
	return kek.Encrypt(dataKey, associatedData)
}

// Unwrap implements sealer.KEKs.
func (k *keks) Unwrap(_ context.Context, kekID string, wrapped, associatedData []byte) ([]byte, error) {
	kek, ok := k.aeads[kekID]
	if !ok {
		return nil, fmt.Errorf("%w: %q is not in the keyset", sealer.ErrUnknownKEK, kekID)
	}
	dataKey, err := kek.Decrypt(wrapped, associatedData)
	if err != nil {
		return nil, sealer.ErrBinding
	}
	return dataKey, nil
}
