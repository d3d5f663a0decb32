package postgres

import (
	"context"

	"github.com/agentrouter/aikeys/models"
)

const (
	// newestKey selects the newest active key of a scope. The planner reads one entry of an index for it.
	newestKey = `SELECT id, version, last_used_at, last_failure_at, last_failure_status, envelope FROM ai_keys
WHERE customer_id = $3 AND project_id = $4 AND provider = $6 AND revoked_at = 0 AND user_id = `

	fetchStatement = `SELECT ` + models.FetchColumns + `, ` + currentPosition + ` FROM ` + models.FetchTables + `
LEFT JOIN LATERAL (` + newestKey + `$5 ORDER BY seq DESC LIMIT 1) o ON $5 <> ''
LEFT JOIN LATERAL (` + newestKey + `'' ORDER BY seq DESC LIMIT 1) k ON true`

	fetchByIDStatement = `SELECT ` + models.FetchByIDColumns + `, ` + currentPosition + ` FROM ` + models.FetchByIDTables
)

// Fetch implements models.Engine.
func (e *engine) Fetch(ctx context.Context, dataPlaneID string, c models.Caller, provider string, now int64) (row models.FetchRow, err error) {
	var asOf string
	params := models.FetchParams(dataPlaneID, c, provider, now)
	if err := e.QueryRow(ctx, fetchStatement, params, append(row.Dest(), &asOf)...); err != nil {
		return row, err
	}
	row.AsOf, err = parsePosition(asOf)
	return row, err
}

// FetchByID implements models.Engine.
func (e *engine) FetchByID(ctx context.Context, dataPlaneID, id string, now int64) (row models.FetchByIDRow, err error) {
	var asOf string
	if err := e.QueryRow(ctx, fetchByIDStatement, []any{dataPlaneID, now, id}, append(row.Dest(), &asOf)...); err != nil {
		return row, err
	}
	row.AsOf, err = parsePosition(asOf)
	return row, err
}

// RecordFetch implements models.Engine.
func (e *engine) RecordFetch(ctx context.Context, r models.FetchRecord) error {
	return e.records.Do(ctx, r)
}

// maxRecords bounds how many records one commit carries.
const maxRecords = 256

// insertRecords stores a group of records in one commit, which does not wait for the disk: a crash of the database server can
// lose records of fetches, and nothing else. One statement for each record would cost a commit before each answer.
func (e *engine) insertRecords(group []models.FetchRecord) error {
	ctx, cancel := context.WithTimeout(context.Background(), e.timeout)
	defer cancel()
	n := len(group)
	at, versions := make([]int64, n), make([]uint32, n)
	var dataPlanes, customers, projects, users, tokens, providers, keys, decisions, reasons, requests []string
	for i, r := range group {
		at[i], versions[i] = r.At, r.Version
		dataPlanes, customers, projects = append(dataPlanes, r.DataPlaneID), append(customers, r.CustomerID), append(projects, r.ProjectID)
		users, tokens, providers = append(users, r.UserID), append(tokens, r.TokenID), append(providers, r.Provider)
		keys, decisions = append(keys, r.KeyID), append(decisions, string(r.Decision))
		reasons, requests = append(reasons, r.Reason), append(requests, r.RequestID)
	}
	_, err := e.reserved.Exec(ctx, `WITH quick AS (SELECT set_config('synchronous_commit', 'off', true))
INSERT INTO fetches (at, data_plane_id, customer_id, project_id, user_id, token_id, provider, key_id, version, decision, reason, request_id)
SELECT r.* FROM quick, unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
  $9::integer[], $10::text[], $11::text[], $12::text[]) AS r`,
		at, dataPlanes, customers, projects, users, tokens, providers, keys, versions, decisions, reasons, requests)
	return err
}
