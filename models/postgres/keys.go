package postgres

import (
	"context"

	"github.com/agentrouter/aikeys/models"
)

// registerStatement is one statement, and so one round trip and one transaction: it finds out who the caller is and, if their
// role suffices, stores the key, its event and its idempotency record. Three statements in a transaction take five round trips.
func registerStatement(c models.Caller, needs models.Role, r models.Registration, now int64) (string, models.Params) {
	params := models.CallerParams(c, now)
	allowed := ` FROM caller WHERE live AND (role = 'owner' OR role = ` + params.Add(string(needs)) + `)`
	statement := `WITH caller AS (SELECT ` + models.CallerColumns + ` FROM ` + models.CallerTables + `),
`
	source := allowed
	if r.Idempotency != nil {
		row := models.IdempotencyRow(*r.Idempotency)
		statement += `claimed AS (` + row.Into() + `SELECT ` + params.Add(row.Values...) + allowed + ` ON CONFLICT DO NOTHING RETURNING 1),
`
		source = ` FROM claimed`
	}
	key, event := models.KeyRow(r.Key), models.EventRow(r.Event)
	statement += `stored AS (` + key.Into() + `SELECT ` + params.Add(key.Values...) + source + ` RETURNING 1),
recorded AS (` + event.Into("tx") + `SELECT ` + txNumber + `, ` + params.Add(event.Values...) + ` FROM stored)
SELECT live, role, EXISTS (SELECT 1 FROM stored) FROM caller`
	return statement, params
}

// Register implements models.Engine.
func (e *engine) Register(
	ctx context.Context, c models.Caller, needs models.Role, r models.Registration, now int64,
) (status models.CallerStatus, stored bool, err error) {
	statement, params := registerStatement(c, needs, r, now)
	// All of the result must be read: its last message says whether the transaction was committed.
	err = e.Query(ctx, statement, params, func(row models.Row) error { return row.Scan(&status.Live, &status.Role, &stored) })
	return status, stored, err
}

// rewrapStatement locks the rows that nobody has locked, and changes these. Waiting for locks could end in a deadlock with a
// transaction that holds some of them, and would hold up those that wait for the rows it has already. None of the columns is
// indexed, so that a row that finds room on its page costs no index a write.
const rewrapStatement = `WITH given AS (
  SELECT * FROM unnest($1::text[], $2::integer[], $3::bytea[], $4::bytea[], $5::text[]) AS g (id, version, old, new, kek_id)
), held AS MATERIALIZED (
  SELECT k.id FROM given g JOIN ai_keys k ON k.id = g.id AND k.version = g.version AND k.envelope = g.old
  FOR NO KEY UPDATE OF k SKIP LOCKED
)
UPDATE ai_keys k SET envelope = g.new, kek_id = g.kek_id FROM held h JOIN given g ON g.id = h.id
WHERE k.id = h.id AND k.version = g.version AND k.envelope = g.old RETURNING k.id`

// Rewrap implements models.Engine.
func (e *engine) Rewrap(ctx context.Context, batch []models.Rewrapping) ([]string, error) {
	n := len(batch)
	ids, versions, keks := make([]string, n), make([]uint32, n), make([]string, n)
	olds, news := make([][]byte, n), make([][]byte, n)
	for i, r := range batch {
		ids[i], versions[i], keks[i], olds[i], news[i] = r.KeyID, r.Version, r.KEKID, r.Old, r.New
	}
	stored := make([]string, 0, n)
	err := e.Query(ctx, rewrapStatement, []any{ids, versions, olds, news, keks}, func(row models.Row) error {
		var id string
		err := row.Scan(&id)
		stored = append(stored, id)
		return err
	})
	return stored, err
}

// Statements returns the hand-written statements of the hot paths by what they do: get, list, insert-key and insert-event. A
// benchmark measures them without the service.
func Statements() map[string]string {
	insert := func(row *models.Insert, first string, further ...string) string {
		return row.Into(further...) + `VALUES (` + first + new(models.Params).Add(row.Values...) + `)`
	}
	list, _ := models.ListKeysStatement(models.Caller{}, models.KeyFilter{Limit: 51}, 0)
	return map[string]string{
		"get":          models.GetKeyStatement,
		"list":         list,
		"insert-key":   insert(models.KeyRow(models.Key{}), ""),
		"insert-event": insert(models.EventRow(models.Event{}), txNumber+", ", "tx"),
	}
}
