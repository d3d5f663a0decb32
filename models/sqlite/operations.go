package sqlite

import (
	"context"
	"strconv"

	"github.com/agentrouter/aikeys/internal/position"
	"github.com/agentrouter/aikeys/models"
)

// The only writer numbers events as it writes them, so they commit in the order of their numbers.
const (
	txNumber        = `(SELECT COALESCE(MAX(tx), 0) + 1 FROM events)`
	currentPosition = `(SELECT (COALESCE(MAX(tx), 0) + 1) || ':' || (COALESCE(MAX(tx), 0) + 1) || ':' FROM events)`
)

// Register implements models.Engine. The statements run one after the other in one savepoint of the writer.
func (e *engine) Register(
	ctx context.Context, c models.Caller, needs models.Role, r models.Registration, now int64,
) (status models.CallerStatus, outcome models.RegisterOutcome, err error) {
	err = e.writer.do(ctx, func(*models.Tx) error {
		err := e.writer.queryRow(models.CallerStatement, models.CallerParams(c, now), &status.Live, &status.Role)
		if err != nil || status.Check(needs) != nil {
			return err
		}
		if r.Quota > 0 {
			var params models.Params
			statement := `SELECT ` + r.ActiveKeys(&params)
			if err := e.writer.queryRow(statement, params, &outcome.Active); err != nil {
				return err
			}
			if outcome.Full = outcome.Active >= r.Quota; outcome.Full {
				return nil
			}
		}
		if isKept, err := e.isDestinationKept(r); err != nil || !isKept {
			return err
		}
		if r.Idempotency != nil {
			claimed, err := e.writer.insert(models.IdempotencyRow(*r.Idempotency), " ON CONFLICT DO NOTHING")
			if err != nil || claimed == 0 {
				return err
			}
		}
		if _, err := e.writer.insert(models.KeyRow(r.Key), ""); err != nil {
			return err
		}
		outcome.Stored = true
		if outcome.IsShared, err = e.addFingerprints(c, r, now); err != nil {
			return err
		}
		err = e.writer.queryRow(`SELECT `+models.UserKeysColumns+` FROM (SELECT 1) AS one LEFT JOIN `+models.UserKeysTable,
			models.CallerParams(c, now), outcome.UserKeys.Dest()...)
		if err != nil {
			return err
		}
		var params models.Params
		event := models.EventRow(r.Event)
		_, err = e.writer.exec(event.Into("tx")+`VALUES (`+txNumber+`, `+params.Add(event.Values...)+`)`, params...)
		return err
	})
	return status, outcome, err
}

// isDestinationKept reports whether the key of a registration may still be sent to the provider that it was sealed for.
func (e *engine) isDestinationKept(r models.Registration) (isKept bool, err error) {
	if r.Key.Destination == "" {
		return true, nil
	}
	var params models.Params
	statement := `SELECT ` + r.IsDestinationKept(&params, "")
	err = e.writer.queryRow(statement, params, &isKept)
	return isKept, err
}

// addFingerprints stores the fingerprints of a registration, and reports whether another key of the customer has one of them.
func (e *engine) addFingerprints(c models.Caller, r models.Registration, now int64) (isShared bool, err error) {
	for _, fingerprint := range r.Fingerprints {
		var found bool
		params := models.CallerParams(c, now)
		statement := `SELECT EXISTS (` + models.SharedFingerprint + `= ` + params.Add(fingerprint) + `)`
		if err := e.writer.queryRow(statement, params, &found); err != nil {
			return false, err
		}
		isShared = isShared || found
		row := models.FingerprintRow(models.KeyFingerprint{CustomerID: r.Key.CustomerID, Fingerprint: fingerprint, KeyID: r.Key.ID, Version: r.Key.Version})
		if _, err := e.writer.insert(row, " ON CONFLICT DO NOTHING"); err != nil {
			return false, err
		}
	}
	return isShared, nil
}

// insert stores a row within a transaction, and returns how many rows it stored.
func (w *writer) insert(row *models.Insert, onConflict string) (int64, error) {
	var params models.Params
	done, err := w.exec(row.Into()+`VALUES (`+params.Add(row.Values...)+`)`+onConflict, params...)
	if err != nil {
		return 0, err
	}
	return done.RowsAffected()
}

// rewrapStatements store a new envelope for a key's active version and for another version.
var rewrapStatements = [...]string{
	`UPDATE ai_keys SET envelope = ?, kek_id = ? WHERE id = ? AND version = ? AND envelope = ?`,
	`UPDATE key_versions SET envelope = ?, kek_id = ? WHERE key_id = ? AND version = ? AND envelope = ?`,
}

// Rewrap implements models.Engine. It shares a commit with the writes of requests that wait.
func (e *engine) Rewrap(ctx context.Context, batch []models.Rewrapping) ([]string, error) {
	stored := make([]string, 0, len(batch))
	err := e.writer.do(ctx, func(*models.Tx) error {
		for _, r := range batch {
			for _, statement := range rewrapStatements {
				done, err := e.writer.exec(statement, r.New, r.KEKID, r.KeyID, r.Version, r.Old)
				if err != nil {
					return err
				}
				if n, err := done.RowsAffected(); err == nil && n > 0 {
					stored = append(stored, models.SealedName(r.KeyID, r.Version))
				}
			}
		}
		return nil
	})
	return stored, err
}

// SQLite has no LATERAL: a subquery finds the newest key of a scope that may serve, and a join reads it.
const (
	newestKey = `(SELECT id FROM ai_keys WHERE customer_id = $3 AND project_id = $4 AND provider = $6 AND ` + models.Usable + ` AND user_id = `

	fetchByIDStatement = `SELECT ` + models.FetchByIDColumns + `, ` + currentPosition + ` FROM ` + models.FetchByIDTables
)

var fetchStatement = `SELECT ` + models.FetchColumns + `, ` + models.ArrangedKeys(`json_group_array`, `json_object`, `hex(envelope)`) + `, ` +
	currentPosition + ` FROM ` + models.FetchTables + `
LEFT JOIN ai_keys o ON o.id = ` + newestKey + `$5 ORDER BY seq DESC LIMIT 1) AND $5 <> ''
LEFT JOIN ai_keys k ON k.id = ` + newestKey + `'' ORDER BY seq DESC LIMIT 1)`

// Fetch implements models.Engine.
func (e *engine) Fetch(ctx context.Context, dataPlaneID string, c models.Caller, provider string, now int64) (row models.FetchRow, err error) {
	var asOf string
	params := models.FetchParams(dataPlaneID, c, provider, now)
	if err := e.QueryRow(ctx, fetchStatement, params, append(row.Dest(), &asOf)...); err != nil {
		return row, err
	}
	row.AsOf, err = position.Parse(asOf)
	return row, err
}

// FetchByID implements models.Engine.
func (e *engine) FetchByID(ctx context.Context, dataPlaneID, id string, now int64) (row models.FetchByIDRow, err error) {
	var asOf string
	if err := e.QueryRow(ctx, fetchByIDStatement, []any{dataPlaneID, now, id}, append(row.Dest(), &asOf)...); err != nil {
		return row, err
	}
	row.AsOf, err = position.Parse(asOf)
	return row, err
}

// RecordFetch implements models.Engine.
func (e *engine) RecordFetch(ctx context.Context, r models.FetchRecord) error {
	return e.writer.do(ctx, func(*models.Tx) error {
		_, err := e.writer.exec(`INSERT INTO fetches (at, data_plane_id, customer_id, project_id, user_id, token_id, provider, key_id, version,
decision, reason, request_id, derived_until) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			r.At, r.DataPlaneID, r.CustomerID, r.ProjectID, r.UserID, r.TokenID, r.Provider, r.KeyID, r.Version,
			string(r.Decision), r.Reason, r.RequestID, r.DerivedUntil)
		return err
	})
}

// Position implements models.Engine.
func (e *engine) Position(ctx context.Context) (position.Position, error) {
	var text string
	if err := e.QueryRow(ctx, "SELECT "+currentPosition, nil, &text); err != nil {
		return position.Position{}, err
	}
	return position.Parse(text)
}

// Changes implements models.Engine.
func (e *engine) Changes(ctx context.Context, since position.Position, limit int) ([]models.Change, position.Position, error) {
	var (
		changes []models.Change
		text    string
	)
	err := e.Query(ctx, changesStatement(limit), []any{since.Xmax}, func(row models.Row) error {
		return models.ScanChange(row, &text, &changes)
	})
	if err != nil {
		return nil, position.Position{}, err
	}
	now, err := position.Parse(text)
	return changes, now, err
}

func changesStatement(limit int) string {
	return models.ChangesStatement(currentPosition, `SELECT `+models.ChangeColumns+` FROM events
WHERE tx >= $1 AND outcome = 'allowed' ORDER BY tx LIMIT `+strconv.Itoa(limit))
}

// Listen implements models.Engine. Only one process uses the database, and its own commits wake it.
func (e *engine) Listen(ctx context.Context, _ func()) error {
	<-ctx.Done()
	return nil
}

// CheckNotifications implements models.Engine. Only one process uses the database, so it needs none.
func (e *engine) CheckNotifications(context.Context) error { return nil }

// CheckCreate implements models.Engine. A process that can write the file can create tables.
func (e *engine) CheckCreate(context.Context) error { return nil }

// Notify implements models.Engine.
func (e *engine) Notify(context.Context) error { return nil }
