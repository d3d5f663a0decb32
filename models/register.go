package models

import (
	"bytes"
	"context"
	"errors"
	"strconv"
	"strings"
	"time"
)

// IdempotencyLife is how long an Idempotency-Key is remembered.
const IdempotencyLife = 24 * time.Hour

// Registration is all that one register writes, in one transaction.
type Registration struct {
	Key   Key
	Event Event
	// Idempotency is nil when the request carries no Idempotency-Key.
	Idempotency *IdempotencyRecord
}

// registered is what an engine's register statement found.
type registered struct {
	standing
	// stored is false when the idempotency key had been used before.
	stored bool
}

// RegisterKey stores the key, its event and its idempotency record at once, if the caller's role covers needs. It returns
// the key that stands: the new one, or the one that the same request with the same idempotency key made before. Errors:
// ErrSessionEnded, ErrNotMember, ErrForbidden, ErrAlreadyExists for a name in use, ErrIdempotencyReuse.
func (s *Store) RegisterKey(ctx context.Context, c Caller, needs Role, r Registration, now int64) (Key, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	got, err := s.register(ctx, c, needs, r, now)
	if err != nil {
		return Key{}, s.classify(err)
	}
	if err := got.check(needs); err != nil {
		return Key{}, err
	}
	if got.stored {
		s.Wake()
		return r.Key, nil
	}
	if r.Idempotency == nil {
		return Key{}, errors.New("register: nothing was stored, and nothing stood in its way")
	}
	return s.replay(ctx, c, *r.Idempotency, now)
}

func (s *Store) replay(ctx context.Context, c Caller, want IdempotencyRecord, now int64) (Key, error) {
	var had IdempotencyRecord
	err := s.orm(requestPool).WithContext(ctx).Where("customer_id = ? AND project_id = ? AND user_id = ? AND key_hash = ?",
		want.CustomerID, want.ProjectID, want.UserID, want.KeyHash).Take(&had).Error
	if err != nil {
		return Key{}, s.classify(err)
	}
	if !bytes.Equal(had.Fingerprint, want.Fingerprint) {
		return Key{}, ErrIdempotencyReuse
	}
	return s.GetKey(ctx, c, had.KeyID, now)
}

const (
	insertKey = `INSERT INTO ai_keys (id, customer_id, project_id, user_id, provider, name, display_suffix, version,
envelope, kek_id, created_at, created_by) `
	insertEvent = `INSERT INTO events (tx, customer_id, project_id, scope_user_id, id, type, outcome, at, actor_user_id,
actor_method, actor_token_id, key_id, token_id, provider, member_id, role, source_ip, request_id) `
	insertIdempotency = `INSERT INTO idempotency_records (customer_id, project_id, user_id, key_hash, fingerprint, key_id,
created_at) `
)

func keyArgs(k Key) []any {
	return []any{k.ID, k.CustomerID, k.ProjectID, k.UserID, k.Provider, k.Name, k.DisplaySuffix, k.Version,
		k.Envelope, k.KEKID, k.CreatedAt, k.CreatedBy}
}

func eventArgs(e Event) []any {
	return []any{e.CustomerID, e.ProjectID, e.ScopeUserID, e.ID, string(e.Type), string(e.Outcome), e.At, e.ActorUserID,
		e.ActorMethod, e.ActorTokenID, e.KeyID, e.TokenID, e.Provider, e.MemberID, string(e.Role), e.SourceIP, e.RequestID}
}

func idempotencyArgs(r IdempotencyRecord) []any {
	return []any{r.CustomerID, r.ProjectID, r.UserID, r.KeyHash, r.Fingerprint, r.KeyID, r.CreatedAt}
}

// params returns n parameters from $first on: "$7, $8, $9".
func params(first, n int) string {
	names := make([]string, n)
	for i := range names {
		names[i] = "$" + strconv.Itoa(first+i)
	}
	return strings.Join(names, ", ")
}
