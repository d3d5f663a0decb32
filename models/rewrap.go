package models

import (
	"cmp"
	"context"
	"math"
)

// Rewrapping puts another envelope in the place of a key's.
type Rewrapping struct {
	KeyID string
	// Version and Old are what the new envelope was made from. A key that no longer has them keeps what it has.
	Version  uint32
	Old, New []byte
	// KEKID names the key-encryption key that New needs.
	KEKID string
}

const sealedColumns = `id, customer_id, project_id, user_id, provider, name, version, revoked_at, envelope, kek_id`

func sealedFields(k *Key) []any {
	return []any{&k.ID, &k.CustomerID, &k.ProjectID, &k.UserID, &k.Provider, &k.Name, &versionColumn{&k.Version}, &k.RevokedAt,
		&k.Envelope, &k.KEKID}
}

// versionColumn reads a version. One that no key can have is 0, which no envelope opens under: a row that was damaged keeps no
// other from being read.
type versionColumn struct{ to *uint32 }

// Scan implements sql.Scanner.
func (v *versionColumn) Scan(value any) error {
	*v.to = 0
	if n, ok := value.(int64); ok && n > 0 && n <= math.MaxUint32 {
		*v.to = uint32(n)
	}
	return nil
}

// SealedKeys returns keys of all customers with their envelopes, revoked ones too, in the order of their ids: limit at
// the most, after the given id. An empty one begins.
func (s *Store) SealedKeys(ctx context.Context, after string, limit int) ([]Key, error) {
	return s.sealedKeys(ctx, `SELECT `+sealedColumns+` FROM ai_keys WHERE id > $1 ORDER BY id LIMIT $2`, limit, after, limit)
}

// SealedKeysOf is SealedKeys for one project: its own keys and those of all its users.
func (s *Store) SealedKeysOf(ctx context.Context, customerID, projectID, after string, limit int) ([]Key, error) {
	return s.sealedKeys(ctx, `SELECT `+sealedColumns+` FROM ai_keys WHERE customer_id = $1 AND project_id = $2 AND id > $3
ORDER BY id LIMIT $4`, limit, customerID, projectID, after, limit)
}

// SealedKey returns one key with its envelope: ErrNotFound.
func (s *Store) SealedKey(ctx context.Context, id string) (Key, error) {
	keys, err := s.sealedKeys(ctx, `SELECT `+sealedColumns+` FROM ai_keys WHERE id = $1`, 1, id)
	if err != nil || len(keys) == 0 {
		return Key{}, cmp.Or(err, ErrNotFound)
	}
	return keys[0], nil
}

func (s *Store) sealedKeys(ctx context.Context, statement string, limit int, args ...any) ([]Key, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	keys := make([]Key, 0, limit)
	err := s.query(ctx, statement, args, func(row scanner) error {
		var k Key
		if err := row.Scan(sealedFields(&k)...); err != nil {
			return err
		}
		keys = append(keys, k)
		return nil
	})
	return keys, s.classify(err)
}

// Rewrap stores new envelopes in one short transaction, and returns the ids of the keys that have theirs. The others
// were changed since, or are being changed: it waits for nobody, and leaves a key be that another transaction holds.
func (s *Store) Rewrap(ctx context.Context, batch []Rewrapping) ([]string, error) {
	if len(batch) == 0 {
		return nil, nil
	}
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	stored, err := s.rewrap(ctx, batch)
	if err != nil {
		return nil, s.classify(err)
	}
	return stored, nil
}

// RewrapCanary puts another envelope in the place of the canary's, and tells whether the old one was still there.
func (s *Store) RewrapCanary(ctx context.Context, old []byte, c Canary) (stored bool, err error) {
	err = s.Transact(ctx, func(tx *Tx) error {
		done, err := tx.exec(`UPDATE canaries SET envelope = $1, kek_id = $2 WHERE id = 1 AND envelope = $3`, []any{c.Envelope, c.KEKID, old})
		stored = done == 1
		return err
	})
	return stored, err
}

// postgresRewrap locks what it can lock at once. To wait for locks could end in a deadlock with a transaction that has
// some of them, and holds up whoever waits for those that it has already. No column that it changes is indexed, so a
// row that finds room on its page costs no index a write.
const postgresRewrap = `WITH given AS (
  SELECT * FROM unnest($1::text[], $2::integer[], $3::bytea[], $4::bytea[], $5::text[]) AS g (id, version, old, new, kek_id)
), held AS MATERIALIZED (
  SELECT k.id FROM given g JOIN ai_keys k ON k.id = g.id AND k.version = g.version AND k.envelope = g.old
  FOR NO KEY UPDATE OF k SKIP LOCKED
)
UPDATE ai_keys k SET envelope = g.new, kek_id = g.kek_id FROM held h JOIN given g ON g.id = h.id
WHERE k.id = h.id AND k.version = g.version AND k.envelope = g.old RETURNING k.id`

func (p *postgresEngine) rewrap(ctx context.Context, batch []Rewrapping) ([]string, error) {
	n := len(batch)
	ids, versions, keks := make([]string, n), make([]int32, n), make([]string, n)
	olds, news := make([][]byte, n), make([][]byte, n)
	for i, r := range batch {
		ids[i], versions[i], keks[i] = r.KeyID, int32(r.Version), r.KEKID //nolint:gosec // G115: it came from a column of this type
		olds[i], news[i] = r.Old, r.New
	}
	stored := make([]string, 0, n)
	err := p.query(ctx, postgresRewrap, []any{ids, versions, olds, news, keks}, func(row scanner) error {
		var id string
		err := row.Scan(&id)
		stored = append(stored, id)
		return err
	})
	return stored, err
}

// rewrap shares a commit with the writes of requests that wait, as they do with one another: one batch at a time is in
// their queue.
func (e *sqliteEngine) rewrap(ctx context.Context, batch []Rewrapping) ([]string, error) {
	stored := make([]string, 0, len(batch))
	err := e.writer.do(ctx, func(tx *Tx) error {
		for _, r := range batch {
			done, err := tx.exec(`UPDATE ai_keys SET envelope = $1, kek_id = $2 WHERE id = $3 AND version = $4 AND envelope = $5`,
				[]any{r.New, r.KEKID, r.KeyID, r.Version, r.Old})
			if err != nil {
				return err
			}
			if done == 1 {
				stored = append(stored, r.KeyID)
			}
		}
		return nil
	})
	return stored, err
}
