package models_test

import (
	"bufio"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
)

func TestMigrationsArePendingThenApplied(t *testing.T) {
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		store := modelstest.OpenStore(t, e.URL(t), models.Options{})
		pending, err := store.Migrations(t.Context())
		require.NoError(t, err)
		require.NotEmpty(t, pending)
		for i, step := range pending {
			require.EqualValues(t, i+1, step.Version)
			require.NotEmpty(t, step.Name)
			require.Zero(t, step.AppliedAt)
		}
		applied, err := store.Migrate(t.Context())
		require.NoError(t, err)
		require.Equal(t, len(pending), applied)
		again, err := store.Migrate(t.Context())
		require.NoError(t, err)
		require.Zero(t, again)
		done, err := store.Migrations(t.Context())
		require.NoError(t, err)
		require.Len(t, done, len(pending))
		for _, step := range done {
			require.WithinDuration(t, time.Now(), step.AppliedAt, time.Minute)
		}
	})
}

func TestManyReplicasMigrateAtOnceAndEachStepIsAppliedOnce(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		url := e.URL(t)
		stores := make([]*models.Store, 8)
		for i := range stores {
			stores[i] = modelstest.OpenStore(t, url, models.Options{})
		}
		type migrated struct {
			applied int
			err     error
		}
		total := 0
		for _, m := range together(len(stores), func(i int) (m migrated) {
			m.applied, m.err = stores[i].Migrate(t.Context())
			return m
		}) {
			require.NoError(t, m.err)
			total += m.applied
		}
		steps, err := stores[0].Migrations(t.Context())
		require.NoError(t, err)
		require.Equal(t, len(steps), total)
		require.Len(t, query[int](t, models.Conn(stores[7]), "SELECT version_id FROM goose_db_version"), 1+total, "each step once")
		newFixture(t, url, models.Options{})
	})
}

// Several processes share a file in another way than several connections of one process.
func TestManyProcessesMigrateOneFile(t *testing.T) {
	t.Parallel()
	url := modelstest.EngineSQLite.URL(t)
	children, lines := make([]*exec.Cmd, 4), make([]*bufio.Scanner, 4)
	for i := range children {
		children[i], lines[i] = startChild(t, url)
	}
	for i, child := range children {
		require.True(t, lines[i].Scan())
		require.Equal(t, "migrated", lines[i].Text())
		_ = child.Process.Kill() // it may have ended, without a project to load
		require.Error(t, child.Wait())
	}
	f := newFixture(t, url, models.Options{})
	versions := query[int](t, models.Conn(f.Store), "SELECT version_id FROM goose_db_version")
	slices.Sort(versions)
	require.Len(t, slices.Compact(slices.Clone(versions)), len(versions), "each step once")
}

func TestAMigrationMayTakeLongerThanAMethod(t *testing.T) {
	t.Parallel()
	f := open(t, modelstest.AsOwner(t, modelstest.EnginePostgres.MigratedURL(t)), models.Options{Timeout: 300 * time.Millisecond})
	released := time.AfterFunc(time.Second, f.hold("LOCK TABLE goose_db_version"))
	defer released.Stop()
	_, err := f.Migrate(t.Context())
	require.NoError(t, err)
}

// The schema must be the same on both engines, and the same as the schema that other tests begin with. The only
// difference is ai_keys.seq. On SQLite it is the rowid, and so the primary key. On PostgreSQL it is a separate column.
// On both, only the engine assigns it, and id is unique.
func TestMigrationsMakeOneSchema(t *testing.T) {
	// Both statements return the same lines: "column <table> <column> <type> <nullability> <default>", "reference <table> <table>" and
	// "index <table> <unique or plain> (<columns>) <condition>". A primary key counts as a unique index.
	const postgresSchema = `
SELECT concat_ws(' ', 'column', table_name, column_name,
    CASE data_type WHEN 'bytea' THEN 'blob' WHEN 'bigint' THEN 'integer' ELSE data_type END,
    CASE is_nullable WHEN 'NO' THEN 'required' ELSE 'optional' END,
    replace(coalesce(column_default, 'none'), '::text', ''))
FROM information_schema.columns WHERE table_schema = current_schema() AND table_name <> 'goose_db_version'
UNION ALL
SELECT concat_ws(' ', 'index', i.indrelid::regclass, CASE WHEN i.indisunique THEN 'unique' ELSE 'plain' END,
    '(' || (SELECT string_agg(a.attname, ',' ORDER BY k.n) FROM unnest(i.indkey) WITH ORDINALITY AS k(attnum, n)
        JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum) || ')',
    replace(trim(BOTH '()' FROM coalesce(pg_get_expr(i.indpred, i.indrelid), 'all')), '::text', ''))
FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
WHERE c.relnamespace = current_schema()::regnamespace AND c.relname <> 'goose_db_version'
UNION ALL
SELECT concat_ws(' ', 'reference', conrelid::regclass, confrelid::regclass) FROM pg_constraint
WHERE contype = 'f' AND connamespace = current_schema()::regnamespace`
	const sqliteSchema = `
WITH tables AS (SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND name <> 'goose_db_version')
SELECT concat_ws(' ', 'column', t.name, c.name, lower(c.type),
    CASE WHEN c."notnull" OR c.pk > 0 THEN 'required' ELSE 'optional' END, coalesce(c.dflt_value, 'none'))
FROM tables t, pragma_table_info(t.name) c
UNION ALL
SELECT concat_ws(' ', 'index', t.name, CASE WHEN i."unique" THEN 'unique' ELSE 'plain' END,
    '(' || (SELECT group_concat(name, ',') FROM (SELECT name FROM pragma_index_info(i.name) ORDER BY seqno)) || ')',
    coalesce((SELECT trim(substr(sql, instr(sql, 'WHERE ') + 6), '()') FROM sqlite_master m WHERE i.partial AND m.name = i.name), 'all'))
FROM tables t, pragma_index_list(t.name) i
UNION ALL
SELECT concat_ws(' ', 'index', t.name, 'unique', '(' || c.name || ')', 'all') FROM tables t, pragma_table_info(t.name) c
WHERE c.pk = 1 AND lower(c.type) = 'integer' AND c.name <> 'seq'
UNION ALL
SELECT DISTINCT concat_ws(' ', 'reference', t.name, r."table") FROM tables t, pragma_foreign_key_list(t.name) r`
	schema := func(t *testing.T, f *fixture) []string {
		t.Helper()
		statement := postgresSchema
		if f.isSQLite() {
			statement = sqliteSchema
		}
		lines := query[string](t, models.Conn(f.Store), statement)
		slices.Sort(lines)
		return lines
	}
	var first []string
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		f := newFixture(t, e.MigratedURL(t), models.Options{})
		f.register(f.shared(olga))
		f = f.asOwner()
		start := schema(t, f)
		require.Contains(t, start, "column ai_keys envelope blob required none")
		require.Contains(t, start, "index ai_keys unique (id) all")
		require.Contains(t, start, "index ai_keys unique (customer_id,project_id,user_id,provider,name) revoked_at = 0")
		if first == nil {
			first = start
		}
		require.Equal(t, first, start, "both engines have the same tables, columns and indexes")

		goose, err := models.Migrator(f.Store)
		require.NoError(t, err)
		_, err = goose.DownTo(t.Context(), 0)
		require.NoError(t, err)
		require.Empty(t, schema(t, f), "down leaves nothing behind")
		_, err = f.Migrate(t.Context())
		require.NoError(t, err)
		require.Equal(t, start, schema(t, f))
		again := newFixture(t, f.url, models.Options{})
		again.register(again.shared(olga))
	})
}

// All tests of the store run as the service's user, so they show that its rights suffice. This test checks what the
// rights do not allow.
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
