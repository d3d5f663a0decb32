package models_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
)

// The schema as lines that read alike on both engines: "column <table> <column> <type> <nullability> <default>" and
// "index <table> <unique or plain> (<columns>) <condition>". A primary key counts as a unique index.
//
// ai_keys.seq is the one difference: on SQLite it is the row's number and so the primary key, on Postgres a column of its
// own. Either way the engine alone gives it, and id is unique.
const (
	postgresSchema = `
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

	sqliteSchema = `
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
)

func engineOf(f *fixture) modelstest.Engine {
	if strings.HasPrefix(f.url, "sqlite:") {
		return modelstest.EngineSQLite
	}
	return modelstest.EnginePostgres
}

func schemaOf(t *testing.T, f *fixture) []string {
	t.Helper()
	statement := postgresSchema
	if engineOf(f) == modelstest.EngineSQLite {
		statement = sqliteSchema
	}
	schema := queryStrings(t, f, statement)
	slices.Sort(schema)
	return schema
}

// queryStrings runs a statement that returns one column of text.
func queryStrings(t *testing.T, f *fixture, statement string) (out []string) {
	t.Helper()
	rows, err := models.Conn(f.Store).QueryContext(t.Context(), statement)
	require.NoError(t, err)
	defer func() { require.NoError(t, rows.Close()) }()
	for rows.Next() {
		var line string
		require.NoError(t, rows.Scan(&line))
		out = append(out, line)
	}
	require.NoError(t, rows.Err())
	return out
}

func TestBothEnginesHaveTheSameTablesColumnsAndIndexes(t *testing.T) {
	schemas := map[modelstest.Engine][]string{}
	each(t, func(t *testing.T, f *fixture) {
		schema := schemaOf(t, f)
		require.Contains(t, schema, "column ai_keys envelope blob required none")
		require.Contains(t, schema, "index ai_keys unique (id) all")
		require.Contains(t, schema, "index ai_keys unique (customer_id,project_id,user_id,provider,name) revoked_at = 0")
		schemas[engineOf(f)] = schema
	})
	require.Equal(t, schemas[modelstest.EngineSQLite], schemas[modelstest.EnginePostgres])
}
