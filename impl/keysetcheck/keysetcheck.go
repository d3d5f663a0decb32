// Package keysetcheck proves that the sealer holds the key-encryption keys (KEKs) of this database.
//
// The first start seals one random value, the canary, and stores it in the database. A sealer that can't open the canary has
// another keyset: keys sealed by it would be unreadable with the right keyset, and the other way round. The canary's value
// also keys the fingerprints of idempotent requests, so that a copy of the database alone can't be searched for a secret.
//
// The package may import models and sealer.
package keysetcheck

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"

	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/sealer"
)

// ErrWrongKEK says that the sealer can't open this database's canary: it has another keyset.
var ErrWrongKEK = errors.New("the sealer's keyset does not open this database's canary: it is not the keyset that the keys were sealed with")

// Binding returns the binding of the canary. It belongs to no tenant: "-" means the session's default in paths and is not
// valid as an id.
func Binding() sealer.Binding {
	return sealer.Binding{CustomerID: "-", ProjectID: "-", KeyID: "canary", Provider: "-", Version: 1}
}

// size is the length of the canary's value in bytes.
const size = 32

// Checker opens the canary and caches its value. It is safe for concurrent use.
type Checker struct {
	store  *models.Store
	sealer sealer.Sealer

	mu      sync.Mutex      // guards the fields below
	value   []byte          // of the canary; nil until it was opened
	checked map[string]bool // :: KEKs → whether the canary has opened while the sealer had them
}

// New returns a Checker. It opens nothing yet.
func New(store *models.Store, s sealer.Sealer) *Checker {
	return &Checker{store: store, sealer: s, checked: map[string]bool{}}
}

// Check opens the canary once, and creates one if the database has none. Errors: ErrWrongKEK; models.ErrUnavailable or
// sealer.ErrUnavailable if it can't be decided yet.
func (c *Checker) Check(ctx context.Context) error {
	_, err := c.FingerprintKey(ctx)
	return err
}

// FingerprintKey returns the canary's 32 bytes, the key for fingerprints of idempotent requests. Its errors are Check's.
func (c *Checker) FingerprintKey(ctx context.Context) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.value != nil {
		return c.value, nil
	}
	row, err := c.store.Canary(ctx)
	if errors.Is(err, models.ErrNotFound) {
		row, err = c.create(ctx)
	}
	if err != nil {
		return nil, err
	}
	opened, err := c.open(ctx, row)
	if err != nil {
		return nil, err
	}
	c.value = opened.Reveal()
	return c.value, nil
}

// CheckKEKs returns nil if the sealer still opens the canary. It asks the sealer once for each value of keks, which names one
// KEK or lists several: the keyset may be replaced while the service runs, and whatever a wrong one seals would be lost once
// the right one is back. Errors: sealer.ErrUnavailable, which wraps ErrWrongKEK for another keyset; models.ErrUnavailable.
func (c *Checker) CheckKEKs(ctx context.Context, keks string) error {
	c.mu.Lock()
	checked := c.checked[keks]
	c.mu.Unlock()
	if checked {
		return nil
	}
	if err := c.openAgain(ctx); errors.Is(err, ErrWrongKEK) {
		return fmt.Errorf("%w: %w", sealer.ErrUnavailable, err)
	} else if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.checked[keks] = true
	return nil
}

// Seal seals a secret and then makes sure that it was sealed under a KEK of this database's keyset. Errors: those of
// sealer.Sealer's Seal and of CheckKEKs.
func (c *Checker) Seal(ctx context.Context, binding sealer.Binding, secret sealer.Secret) (sealer.Envelope, error) {
	envelope, err := c.sealer.Seal(ctx, binding, secret)
	if err != nil {
		return sealer.Envelope{}, err
	}
	if err := c.CheckKEKs(ctx, envelope.KEKID); err != nil {
		return sealer.Envelope{}, err
	}
	return envelope, nil
}

// openAgain opens the canary whether or not its value is cached.
func (c *Checker) openAgain(ctx context.Context) error {
	if err := c.Check(ctx); err != nil { // creates a missing canary
		return err
	}
	row, err := c.store.Canary(ctx)
	if err != nil {
		return err
	}
	opened, err := c.open(ctx, row)
	opened.Wipe()
	return err
}

func (c *Checker) open(ctx context.Context, row models.Canary) (sealer.Secret, error) {
	opened, err := c.sealer.Open(ctx, Binding(), row.Envelope)
	switch {
	case errors.Is(err, sealer.ErrUnknownKEK), errors.Is(err, sealer.ErrBinding), errors.Is(err, sealer.ErrMalformed):
		return sealer.Secret{}, fmt.Errorf("%w (sealed with %s)", ErrWrongKEK, row.KEKID)
	case err != nil:
		return sealer.Secret{}, fmt.Errorf("canary: %w", err)
	}
	return opened, nil
}

// create seals and stores a new canary. If several replicas start at once, the first to store its canary wins and all get
// that one.
func (c *Checker) create(ctx context.Context) (models.Canary, error) {
	value := make([]byte, size)
	rand.Read(value) // never fails: it ends the process rather than return less
	envelope, err := c.sealer.Seal(ctx, Binding(), sealer.NewSecret(value))
	if err != nil {
		return models.Canary{}, fmt.Errorf("canary: %w", err)
	}
	var row models.Canary
	err = c.store.Transact(ctx, func(tx *models.Tx) (err error) {
		row, err = tx.KeepCanary(models.Canary{Envelope: envelope.Bytes, KEKID: envelope.KEKID})
		return err
	})
	return row, err
}
