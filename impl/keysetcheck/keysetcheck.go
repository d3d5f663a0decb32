// Package keysetcheck proves that the sealer holds the key-encryption keys (KEKs) of this database.
//
// The first start seals one random value, the canary, and stores it in the database. A sealer that can't open the canary has
// another keyset: keys sealed by it would be unreadable with the right keyset, and vice versa.
//
// A process that may seal but not open can't open the canary. It trusts the KEK ids in the database. A process that may
// open stores them there: it stores the ids of the KEKs that its sealer has while the sealer can open the canary, so
// these KEKs belong to the canary's keyset.
//
// The key of fingerprints is derived from the canary's value, which is sealed and stays the same when the KEK changes.
//
// The package may import models and sealer.
package keysetcheck

import (
	"context"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"

	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/sealer"
)

var (
	// ErrWrongKEK says that the sealer can't open this database's canary: it has another keyset.
	ErrWrongKEK = errors.New("the sealer's keyset does not open this database's canary: it is not the keyset that the keys were sealed with")
	// ErrUnproven wraps sealer.ErrUnavailable. It says that no process that may open has found the sealer's KEK in this
	// database's keyset. Either the sealer has another keyset, or no such process has looked yet.
	ErrUnproven = fmt.Errorf("%w: no process that may open has found the sealer's key-encryption key in this database's keyset", sealer.ErrUnavailable)
	// ErrNoCanary wraps sealer.ErrUnavailable. It says that there is no canary yet, and that this process does not seal one.
	ErrNoCanary = fmt.Errorf("%w: no process that seals has started with this database yet", sealer.ErrUnavailable)
)

// Use is what a process uses the sealer for.
type Use int

// The uses of a sealer.
const (
	SealAndOpen Use = iota
	SealOnly
	OpenOnly
)

// size is the length of the canary's value in bytes.
const size = 32

// Checker checks that the sealer has this database's keyset. It is safe for concurrent use.
type Checker struct {
	store  *models.Store
	sealer sealer.Sealer
	use    Use

	mu      sync.Mutex // guards isRight
	isRight bool       // whether Check has succeeded

	checked      sync.Map                       // :: KEKs that CheckKEKs found to be of this database's keyset → true
	fingerprints atomic.Pointer[FingerprintKey] // nil until the canary was opened
	asked        atomic.Int64                   // when a process that only seals last tried to open the canary, in Unix nanoseconds
}

// New returns a Checker. It seals and opens nothing yet.
func New(store *models.Store, s sealer.Sealer, use Use) *Checker {
	return &Checker{store: store, sealer: s, use: use}
}

// Check returns nil if the sealer has this database's keyset. Once it has succeeded, further calls check nothing. If
// the database has no canary, it creates one. If the sealer has another keyset, the error is ErrWrongKEK. If Check
// can't decide yet, the error is models.ErrUnavailable or sealer.ErrUnavailable; ErrUnproven and ErrNoCanary wrap the
// latter.
func (c *Checker) Check(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isRight {
		return nil
	}
	row, err := c.store.Canary(ctx)
	switch {
	case errors.Is(err, models.ErrNotFound) && c.use == OpenOnly:
		return ErrNoCanary
	case errors.Is(err, models.ErrNotFound):
		row, err = c.createCanary(ctx)
	}
	if err != nil {
		return err
	}
	if c.use == SealOnly {
		err = c.trySeal(ctx)
	} else {
		err = c.openCanary(ctx, row)
	}
	c.isRight = err == nil
	return err
}

// Recheck checks the sealer's present keyset, which may have been replaced while the service runs. If the process may
// open, Recheck stores which KEKs the sealer has, for processes that only seal. Call it only after Check has succeeded.
// It returns the errors of Check and CheckKEKs.
func (c *Checker) Recheck(ctx context.Context) error {
	if c.use == SealOnly {
		return c.trySeal(ctx)
	}
	keks, err := c.sealer.KEKs(ctx)
	if err != nil {
		return err
	}
	if err := c.CheckKEKs(ctx, fmt.Sprint(keks)); err != nil {
		return err
	}
	ids := make([]string, len(keks))
	for i, kek := range keks {
		ids[i] = kek.ID
	}
	return c.store.AddKEKs(ctx, ids)
}

// CheckKEKs returns nil if the sealer has this database's keyset. keks identifies the sealer's KEKs: it is the id of
// one KEK or, if the process may open, any text that names all of them. A text that has passed is not checked again.
// Checks continue while the service runs, because the keyset may be replaced: secrets sealed with a wrong keyset would
// be lost once the right keyset is back. Errors: models.ErrUnavailable; sealer.ErrUnavailable, together with
// ErrWrongKEK or ErrUnproven if one of them is the cause.
func (c *Checker) CheckKEKs(ctx context.Context, keks string) error {
	if _, isChecked := c.checked.Load(keks); isChecked {
		return nil
	}
	var err error
	if c.use == SealOnly {
		err = c.requireProven(ctx, keks)
	} else {
		err = c.reopenCanary(ctx)
	}
	if errors.Is(err, ErrWrongKEK) {
		return fmt.Errorf("%w: %w", sealer.ErrUnavailable, err)
	}
	if err == nil {
		c.checked.Store(keks, true)
	}
	return err
}

// Seal seals a secret, and then checks that it was sealed under a KEK of this database's keyset. It returns the errors
// of sealer.Sealer's Seal and of CheckKEKs.
func (c *Checker) Seal(ctx context.Context, binding sealer.Binding, secret sealer.Secret) (sealer.Envelope, error) {
	envelope, err := c.sealer.Seal(ctx, binding, secret)
	if err == nil {
		err = c.CheckKEKs(ctx, envelope.KEKID)
	}
	if err != nil {
		return sealer.Envelope{}, err
	}
	return envelope, nil
}

// Sealed is the sealed secret of a key: its envelope, and the fingerprints of its parts. Fingerprints is nil if the
// process has no key of fingerprints.
type Sealed struct {
	Envelope     sealer.Envelope
	Fingerprints [][]byte
}

// SealSecret seals the secret of a key, and makes the fingerprints of its parts.
func (c *Checker) SealSecret(ctx context.Context, binding sealer.Binding, secret sealer.Secret, parts []string) (Sealed, error) {
	envelope, err := c.Seal(ctx, binding, secret)
	if err != nil {
		return Sealed{}, err
	}
	return Sealed{envelope, c.FingerprintsOf(ctx, binding.CustomerID, parts...)}, nil
}

// askInterval is how often a process that only seals tries to open the canary. It may not be allowed to.
const askInterval = time.Minute

// ErrNoFingerprints wraps sealer.ErrUnavailable. It says that this process has no key of fingerprints, because it could not open the
// canary.
var ErrNoFingerprints = fmt.Errorf("%w: the canary, from which the key of fingerprints is derived, could not be opened", sealer.ErrUnavailable)

// FingerprintsOf returns the fingerprints of a customer's secrets, in their order. Without the key of fingerprints it
// returns nil, because secrets are stored even without fingerprints.
func (c *Checker) FingerprintsOf(ctx context.Context, customerID string, secrets ...string) (found [][]byte) {
	if key, err := c.Fingerprints(ctx); err == nil {
		found, _ = key.Of(customerID, secrets...)
	}
	return found
}

// Fingerprints returns the key of fingerprints. Errors: ErrNoFingerprints.
func (c *Checker) Fingerprints(ctx context.Context) (FingerprintKey, error) {
	if key := c.fingerprints.Load(); key != nil {
		return *key, nil
	}
	now, last := time.Now().UnixNano(), c.asked.Load()
	if now-last < askInterval.Nanoseconds() || !c.asked.CompareAndSwap(last, now) {
		return FingerprintKey{}, ErrNoFingerprints
	}
	if err := c.reopenCanary(ctx); err != nil {
		return FingerprintKey{}, fmt.Errorf("%w: %w", ErrNoFingerprints, err)
	}
	return *c.fingerprints.Load(), nil
}

// reopenCanary opens the canary even if Check has succeeded.
func (c *Checker) reopenCanary(ctx context.Context) error {
	if err := c.Check(ctx); err != nil { // creates a missing canary
		return err
	}
	row, err := c.store.Canary(ctx)
	if err != nil {
		return err
	}
	return c.openCanary(ctx, row)
}

// openCanary opens the canary, derives the key of fingerprints from it, and wipes the plaintext.
func (c *Checker) openCanary(ctx context.Context, row models.Canary) error {
	opened, err := c.sealer.Open(ctx, sealer.CanaryBinding(), row.Envelope)
	defer opened.Wipe()
	switch {
	case errors.Is(err, sealer.ErrUnknownKEK), errors.Is(err, sealer.ErrBinding), errors.Is(err, sealer.ErrMalformed):
		return fmt.Errorf("%w (sealed with %s)", ErrWrongKEK, row.KEKID)
	case err != nil:
		return fmt.Errorf("canary: %w", err)
	}
	key, err := NewFingerprintKey(opened.Reveal())
	c.fingerprints.Store(&key)
	return err
}

// trySeal seals a random value, and checks the KEK that it was sealed under.
func (c *Checker) trySeal(ctx context.Context) error {
	envelope, err := sealCanary(ctx, c.sealer)
	if err != nil {
		return err
	}
	return c.requireProven(ctx, envelope.KEKID)
}

func (c *Checker) requireProven(ctx context.Context, kekID string) error {
	found, err := c.store.HasKEK(ctx, kekID)
	if err == nil && !found {
		err = fmt.Errorf("%w (it seals with %s)", ErrUnproven, kekID)
	}
	return err
}

// createCanary seals and stores a new canary. If several replicas start at once, all get the canary that was stored first.
func (c *Checker) createCanary(ctx context.Context) (models.Canary, error) {
	envelope, err := sealCanary(ctx, c.sealer)
	if err != nil {
		return models.Canary{}, err
	}
	var row models.Canary
	err = c.store.Transact(ctx, func(tx *models.Tx) (err error) {
		row, err = tx.KeepCanary(models.Canary{Envelope: envelope.Bytes, KEKID: envelope.KEKID})
		return err
	})
	return row, err
}

// TrySeal returns nil if the sealer can seal. It needs no database.
func TrySeal(ctx context.Context, s sealer.Sealer) error {
	_, err := sealCanary(ctx, s)
	return err
}

func sealCanary(ctx context.Context, s sealer.Sealer) (sealer.Envelope, error) {
	value := make([]byte, size)
	rand.Read(value) // never fails: it ends the process rather than return less
	envelope, err := s.Seal(ctx, sealer.CanaryBinding(), sealer.NewSecret(value))
	if err != nil {
		return sealer.Envelope{}, fmt.Errorf("canary: %w", err)
	}
	return envelope, nil
}

// FingerprintKey makes the fingerprints of secrets. Equal fingerprints show that two secrets are equal, without opening
// either. Without the FingerprintKey, a fingerprint says nothing about its secret, and nobody can test guesses with it.
// Each customer has a key derived from the FingerprintKey, so that the fingerprints of one secret differ between
// customers. A FingerprintKey does not print its value.
type FingerprintKey struct{ root string }

// String implements fmt.Stringer.
func (FingerprintKey) String() string { return "[redacted]" }

// GoString implements fmt.GoStringer.
func (FingerprintKey) GoString() string { return "[redacted]" }

// NewFingerprintKey derives a FingerprintKey from random bytes. It does not keep the bytes.
func NewFingerprintKey(random []byte) (FingerprintKey, error) {
	root, err := hkdf.Extract(sha256.New, random, []byte("aikeys/v1/fingerprints"))
	if err != nil {
		return FingerprintKey{}, fmt.Errorf("derive the key of fingerprints: %w", err)
	}
	return FingerprintKey{string(root)}, nil
}

// Of returns the fingerprints of a customer's secrets, in their order. It ignores white space, and line ends written as
// a backslash and a letter, because line breaks do not change a private key.
func (k FingerprintKey) Of(customerID string, secrets ...string) ([][]byte, error) {
	key, err := hkdf.Expand(sha256.New, []byte(k.root), "customer:"+customerID, sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("derive the key of fingerprints: %w", err)
	}
	found := make([][]byte, len(secrets))
	for i, secret := range secrets {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(canonical(secret)))
		found[i] = mac.Sum(nil)
	}
	return found, nil
}

var lineEnds = strings.NewReplacer(`\r`, "", `\n`, "")

func canonical(secret string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return -1
		}
		return r
	}, lineEnds.Replace(secret))
}
