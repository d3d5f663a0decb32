package models_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
)

// planChanges adds 4,000 events to a planFixture, 20 in each transaction.
func planChanges(t *testing.T, f *fixture) {
	t.Helper()
	require.NoError(t, models.Exec(t.Context(), f.Store, `
WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 3999)
INSERT INTO events (tx, customer_id, project_id, scope_user_id, id, type, outcome, at, actor_user_id, actor_method, actor_token_id, key_id, token_id,
provider, member_id, role, source_ip, request_id)
SELECT i / 20 + 1, 'acme', 'p' || i % 100, '', 'evt_' || i, 'policy.set', CASE i % 4 WHEN 0 THEN 'denied' ELSE 'allowed' END, 1, '', '', '', '', '', '', '',
'', '', '' FROM n`))
	require.NoError(t, models.Exec(t.Context(), f.Store, "ANALYZE events"))
}

// sqlitePlan is what SQLite says of its plan for a statement, a step a line.
func sqlitePlan(t *testing.T, f *fixture, statement string, args ...any) string {
	t.Helper()
	rows, err := models.Conn(f.Store).QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+models.BindSQLite(statement), args...)
	require.NoError(t, err)
	defer func() { require.NoError(t, rows.Close()) }()
	var plan strings.Builder
	for rows.Next() {
		var id, parent, unused int
		var detail string
		require.NoError(t, rows.Scan(&id, &parent, &unused, &detail))
		fmt.Fprintln(&plan, detail)
	}
	require.NoError(t, rows.Err())
	return plan.String()
}

func TestSQLiteFetchesAndFindsChangesByIndex(t *testing.T) {
	t.Parallel()
	f, caller := planFixture(t, modelstest.EngineSQLite)
	planChanges(t, f)
	requireNoScan := func(plan string) {
		t.Helper()
		for line := range strings.Lines(plan) {
			if what, scans := strings.CutPrefix(strings.TrimSpace(line), "SCAN "); scans {
				require.Contains(t, []string{"one", "c", "CONSTANT", "1"}, strings.Fields(what)[0], plan)
			}
		}
		require.NotContains(t, plan, "AUTOMATIC")
	}
	forCaller, byID := models.FetchSQL(f.Store)
	plan := sqlitePlan(t, f, forCaller, append(models.CallerArgs(caller, now()), "openai", "dp")...)
	requireNoScan(plan)
	require.Equal(t, 2, strings.Count(plan, "SEARCH ai_keys USING INDEX ai_keys_serving (customer_id=? AND project_id=? AND user_id=? AND provider=?)"), plan)
	plan = sqlitePlan(t, f, byID, "dp", now(), "byok_1000042")
	requireNoScan(plan)
	require.Contains(t, plan, "SEARCH k USING INDEX sqlite_autoindex_ai_keys_1 (id=?)")
	statement, args := models.ChangesSQL(f.Store, models.Position{Xmin: 150, Xmax: 150}, 50)
	plan = sqlitePlan(t, f, statement, args...)
	requireNoScan(plan)
	require.Contains(t, plan, "SEARCH events USING INDEX events_by_tx (tx>?)")
}

// postgresPlan runs a statement as a connection of the pool does, and returns the plan.
func postgresPlan(t *testing.T, f *fixture, statement, args string) (plan planNode) {
	t.Helper()
	conn, err := models.Conn(f.Store).Conn(t.Context())
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close()) }()
	_, err = conn.ExecContext(t.Context(), "PREPARE planned AS "+statement)
	require.NoError(t, err)
	var text []byte
	require.NoError(t, conn.QueryRowContext(t.Context(), "EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE planned"+args).Scan(&text))
	_, err = conn.ExecContext(t.Context(), "DEALLOCATE planned")
	require.NoError(t, err)
	var plans []struct{ Plan planNode }
	require.NoError(t, json.Unmarshal(text, &plans))
	return plans[0].Plan
}

// scans are the indexes by which a plan reads tables, each with the rows that it looked at.
func scans(t *testing.T, plan planNode) map[string][]float64 {
	t.Helper()
	found := map[string][]float64{}
	plan.walk(func(n planNode) {
		if n.Relation == "ai_keys" || n.Relation == "events" {
			require.NotEmpty(t, n.Index, "%s of %s", n.Type, n.Relation)
			found[n.Index] = append(found[n.Index], (n.Rows+n.Removed)*max(n.Loops, 1))
		}
	})
	return found
}

func TestPostgresFetchesAndFindsChangesByIndex(t *testing.T) {
	t.Parallel()
	f, caller := planFixture(t, modelstest.EnginePostgres)
	planChanges(t, f)
	forCaller, byID := models.FetchSQL(f.Store)

	found := scans(t, postgresPlan(t, f, forCaller, fmt.Sprintf("('', 1, '%s', '%s', '%s', 'openai', 'dp')", caller.CustomerID, caller.ProjectID, caller.UserID)))
	require.Equal(t, map[string][]float64{"ai_keys_serving": {1, 1}, "events_by_tx": {1}}, found, "the newest own and project keys, and the newest event")

	found = scans(t, postgresPlan(t, f, byID, "('dp', 1, 'byok_1000042')"))
	require.Equal(t, map[string][]float64{"ai_keys_pkey": {1}, "events_by_tx": {1}}, found)

	for name, c := range map[string]struct {
		since string
		rows  float64
	}{
		"nothing new": {"(201, NULL, 50)", 0},
		"the newest":  {"(200, NULL, 500)", 20},
		"those open":  {"(201, '{7,9}', 500)", 40},
		"cut short":   {"(1, NULL, 30)", 50}, // with the denied among them
	} {
		statement, _ := models.ChangesSQL(f.Store, models.Position{}, 0)
		found := scans(t, postgresPlan(t, f, statement, c.since))
		require.Len(t, found, 1, name)
		var rows float64
		for _, n := range found["events_by_tx"] {
			rows += n
		}
		require.LessOrEqual(t, rows, c.rows+1, "%s: %v", name, found)
	}
}
