// Package keysetcheck proves at start-up that the sealer holds the key-encryption keys of this database. One random value is
// sealed on the first start and kept in the database; a sealer that can't open it has another keyset, and whatever it
// sealed would split the keys in two. The value itself keys the fingerprints of idempotent requests, so that a copy of the
// database alone can't be searched for a secret. It may import models and sealer.
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

// ErrWrongKEK says that the sealer can't open what this database holds: it has another keyset.
var ErrWrongKEK = errors.New("the sealer's keyset does not open this database's canary: it is not the keyset that the keys were sealed with")

// Binding is what the canary is sealed as. It is of no tenant: "-" names the session's default in paths, and is refused as
// an id.
func Binding() sealer.Binding {
	return sealer.Binding{CustomerID: "-", ProjectID: "-", KeyID: "canary", Provider: "-", Version: 1}
}

const size = 32

// Keeper opens the canary once and remembers its value.
type Keeper struct {
	store   *models.Store
	sealer  sealer.Sealer
	mu      sync.Mutex
	value   []byte
	vouched map[string]bool // :: KEKs → whether the canary opened when they were the sealer's
}

// New returns a Keeper; it opens nothing yet.
func New(store *models.Store, s sealer.Sealer) *Keeper {
	return &Keeper{store: store, sealer: s, vouched: map[string]bool{}}
}

// Value returns the canary's 32 bytes, sealing a new canary where the database has none: ErrWrongKEK, or
// models.ErrUnavailable or sealer.ErrUnavailable when it can't be told yet.
func (k *Keeper) Value(ctx context.Context) ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.value != nil {
		return k.value, nil
	}
	row, err := k.store.Canary(ctx)
	if errors.Is(err, models.ErrNotFound) {
		row, err = k.plant(ctx)
	}
	if err != nil {
		return nil, err
	}
	opened, err := k.open(ctx, row)
	if err != nil {
		return nil, err
	}
	k.value = opened.Reveal()
	return k.value, nil
}

// Vouch returns nil if the sealer still opens this database's canary, and asks it once for each kek: the id of a KEK that
// something was sealed with, or a list of KEKs. A keyset may be put in another's place while the service runs, and what it
// sealed would be lost when the right one is back. Errors are sealer.ErrUnavailable, with ErrWrongKEK where it is another
// keyset, and models.ErrUnavailable.
func (k *Keeper) Vouch(ctx context.Context, kek string) error {
	k.mu.Lock()
	vouched := k.vouched[kek]
	k.mu.Unlock()
	if vouched {
		return nil
	}
	if err := k.reopen(ctx); errors.Is(err, ErrWrongKEK) {
		return fmt.Errorf("%w: %w", sealer.ErrUnavailable, err)
	} else if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.vouched[kek] = true
	return nil
}

func (k *Keeper) reopen(ctx context.Context) error {
	if _, err := k.Value(ctx); err != nil { // there is a canary from here on
		return err
	}
	row, err := k.store.Canary(ctx)
	if err != nil {
		return err
	}
	opened, err := k.open(ctx, row)
	opened.Wipe()
	return err
}

func (k *Keeper) open(ctx context.Context, row models.Canary) (sealer.Secret, error) {
	opened, err := k.sealer.Open(ctx, Binding(), row.Envelope)
	switch {
	case errors.Is(err, sealer.ErrUnknownKEK), errors.Is(err, sealer.ErrBinding), errors.Is(err, sealer.ErrMalformed):
		return sealer.Secret{}, fmt.Errorf("%w (sealed with %s)", ErrWrongKEK, row.KEKID)
	case err != nil:
		return sealer.Secret{}, fmt.Errorf("canary: %w", err)
	}
	return opened, nil
}

// plant seals a new value. Of several replicas that start at once one wins, and all use what it stored.
func (k *Keeper) plant(ctx context.Context) (models.Canary, error) {
	value := make([]byte, size)
	if _, err := rand.Read(value); err != nil {
		return models.Canary{}, fmt.Errorf("canary: %w", err)
	}
	envelope, err := k.sealer.Seal(ctx, Binding(), sealer.NewSecret(value))
	if err != nil {
		return models.Canary{}, fmt.Errorf("canary: %w", err)
	}
	var row models.Canary
	err = k.store.Transact(ctx, func(tx *models.Tx) (err error) {
		row, err = tx.KeepCanary(models.Canary{Envelope: envelope.Bytes, KEKID: envelope.KEKID})
		return err
	})
	return row, err
}
