package models_test

import (
	"os"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
)

// All tests of the store run as this user, so its rights suffice. Here is what they leave out.
func TestServiceUserMayNotChangeThePast(t *testing.T) {
	t.Parallel()
	f := newFixture(t, modelstest.EnginePostgres.MigratedURL(t), models.Options{})
	f.register(f.shared(olga))
	old := record("old")
	old.At = 1
	require.NoError(t, f.RecordFetch(t.Context(), old))
	f.dataPlane("edge", nil)
	events, system, fetches := f.count("events"), f.count("system_events"), f.count("fetches")
	require.Positive(t, events)
	require.Positive(t, system)
	require.Equal(t, 1, fetches)
	for _, statement := range []string{
		"UPDATE events SET outcome = 'ok'", "UPDATE events SET actor_user_id = 'mallory' WHERE false", "DELETE FROM events", "TRUNCATE events",
		"UPDATE system_events SET actor = 'mallory'", "DELETE FROM system_events", "TRUNCATE system_events", "DROP TABLE system_events",
		"INSERT INTO system_events SELECT * FROM system_events ON CONFLICT (id) DO UPDATE SET type = 'x'",
		"UPDATE fetches SET key_id = 'none'", "DELETE FROM fetches", "TRUNCATE fetches", "DELETE FROM fetches WHERE at < 0",
		"INSERT INTO events SELECT * FROM events ON CONFLICT (customer_id, project_id, scope_user_id, id) DO UPDATE SET type = 'x'",
		"MERGE INTO events e USING projects p ON e.customer_id = p.customer_id WHEN MATCHED THEN DELETE",
		"ALTER TABLE events OWNER TO CURRENT_USER", "DROP TABLE fetches", "CREATE RULE silent AS ON INSERT TO events DO INSTEAD NOTHING",
		"CREATE TABLE events2 (id text)", "ALTER TABLE fetches DISABLE TRIGGER ALL", "SET session_replication_role = replica",
		"INSERT INTO goose_db_version (version_id, is_applied) VALUES (99, true)", "SELECT id FROM events FOR UPDATE",
	} {
		err := models.Exec(t.Context(), f.Store, statement)
		var refusal *pgconn.PgError
		require.ErrorAs(t, err, &refusal, statement)
		require.Equal(t, "42501", refusal.Code, statement)
	}
	require.Equal(t, events, f.count("events"))
	require.Equal(t, system, f.count("system_events"))
	require.Equal(t, fetches, f.count("fetches"))

	page, err := os.ReadFile("../docs/operations.md")
	require.NoError(t, err)
	const deleteOldFetches = "DELETE FROM fetches WHERE at < (extract(epoch FROM now()) - 30 * 86400) * 1000000"
	require.Contains(t, string(page), deleteOldFetches, "what the owner runs")
	require.NoError(t, models.Exec(t.Context(), f.asOwner().Store, deleteOldFetches))
	require.Zero(t, f.count("fetches"))
	require.Equal(t, events, f.count("events"))
}
