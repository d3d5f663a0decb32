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

const (
	planPage     = 20
	planProjects = 100
	planKeys     = 20_000
)

// planFixture has 20,000 keys over 100 projects: of the 200 of each, half are the project's, and a quarter each are mia's
// and moe's own. Every fifth is revoked. mia's other projects hold nothing.
func planFixture(t *testing.T, e modelstest.Engine) (*fixture, models.Caller) {
	t.Helper()
	f := newFixture(t, modelstest.NewStore(t, e))
	caller := models.Caller{CustomerID: acme, ProjectID: "p0042", UserID: "mia"}
	f.addMember(caller, models.RoleOwner)
	text := "CAST($1 AS text)"
	if e == modelstest.EngineSQLite {
		text = "$1"
	}
	require.NoError(t, models.Exec(t.Context(), f.Store, fmt.Sprintf(`
WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < %d)
INSERT INTO ai_keys (id, customer_id, project_id, user_id, provider, name, display_suffix, version, envelope, kek_id, created_at,
created_by, revoked_at)
SELECT 'byok_' || (1000000 + i), %s, 'p' || substr('' || (10000 + i %% %d), 2),
    CASE i / %d %% 4 WHEN 0 THEN 'mia' WHEN 1 THEN 'moe' ELSE '' END,
    'openai', 'key ' || i, 'wxyz', 1, $2, 'kek-1', i, 'olga', CASE i %% 5 WHEN 0 THEN 1 ELSE 0 END
FROM n`, planKeys-1, text, planProjects, planProjects), acme, []byte(strings.Repeat("e", 300))))
	require.NoError(t, models.Exec(t.Context(), f.Store, "ANALYZE ai_keys"))
	return f, caller
}

func TestSQLiteFindsKeysByIndexAndSortsNoMoreThanAPage(t *testing.T) {
	t.Parallel()
	f, caller := planFixture(t, modelstest.EngineSQLite)
	explain := func(statement string, args ...any) string {
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
	args := models.CallerArgs(caller, now())

	get := explain(models.GetKeySQL, append(args, "byok_1000042")...)
	// Either index finds the one row that has the id.
	require.Regexp(t, `SEARCH k USING INDEX (sqlite_autoindex_ai_keys_1 \(id=\?|ai_keys_by_scope \(.* AND id=\?)\)`, get)
	requireNoScan(t, get)

	list := explain(models.ListKeysSQL, append(args, "~", "", "", planPage)...)
	require.Equal(t, 2, strings.Count(list, "SEARCH ai_keys USING INDEX ai_keys_by_scope (customer_id=? AND project_id=? AND user_id=? AND id<?)"), list)
	require.Equal(t, 1, strings.Count(list, "USE TEMP B-TREE FOR ORDER BY"), "only the two pages are sorted:\n%s", list)
	requireNoScan(t, list)
}

// requireNoScan checks that nothing is read from one end to the other but the results of the query's own parts.
func requireNoScan(t *testing.T, plan string) {
	t.Helper()
	for line := range strings.Lines(plan) {
		if what, scans := strings.CutPrefix(strings.TrimSpace(line), "SCAN "); scans {
			require.NotContains(t, []string{"ai_keys", "t", "m"}, strings.Fields(what)[0], plan)
		}
	}
	require.NotContains(t, plan, "AUTOMATIC")
}

// planNode is a node of Postgres' EXPLAIN (ANALYZE, FORMAT JSON).
type planNode struct {
	Type     string     `json:"Node Type"`
	Relation string     `json:"Relation Name"`
	Index    string     `json:"Index Name"`
	Rows     float64    `json:"Actual Rows"`
	Loops    float64    `json:"Actual Loops"`
	Removed  float64    `json:"Rows Removed by Filter"`
	Plans    []planNode `json:"Plans"`
}

func (n planNode) walk(visit func(planNode)) {
	visit(n)
	for _, child := range n.Plans {
		child.walk(visit)
	}
}

func TestPostgresFindsKeysByIndexAndSortsNoMoreThanAPage(t *testing.T) {
	t.Parallel()
	f, caller := planFixture(t, modelstest.EnginePostgres)
	conn, err := models.Conn(f.Store).Conn(t.Context())
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close()) }()
	// The plan that a prepared statement ends up with: one for all parameters.
	_, err = conn.ExecContext(t.Context(), "SET plan_cache_mode = force_generic_plan")
	require.NoError(t, err)
	explain := func(name, statement, args string) (plan planNode) {
		_, err := conn.ExecContext(t.Context(), "PREPARE "+name+" AS "+statement)
		require.NoError(t, err)
		var text []byte
		err = conn.QueryRowContext(t.Context(), "EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE "+name+args).Scan(&text)
		require.NoError(t, err)
		var plans []struct{ Plan planNode }
		require.NoError(t, json.Unmarshal(text, &plans))
		return plans[0].Plan
	}
	who := fmt.Sprintf("('', 1, '%s', '%s', '%s', ", caller.CustomerID, caller.ProjectID, caller.UserID)

	scans := 0
	explain("get", models.GetKeySQL, who+"'byok_1000042')").walk(func(n planNode) {
		if n.Relation == "ai_keys" {
			require.Equal(t, "ai_keys_pkey", n.Index, n.Type)
			require.InDelta(t, 1, n.Rows, 0)
			scans++
		}
	})
	require.Equal(t, 1, scans)

	for name, before := range map[string]string{"first": "'~'", "middle": "'byok_1010000'"} {
		scans = 0
		explain("list_"+name, models.ListKeysSQL, who+before+fmt.Sprintf(", '', '', %d)", planPage)).walk(func(n planNode) {
			if n.Relation == "ai_keys" {
				require.Equal(t, "ai_keys_by_scope", n.Index, n.Type)
				require.LessOrEqual(t, n.Rows+n.Removed, float64(planPage), "reads more than a page of a scope")
				scans++
			}
			require.LessOrEqual(t, n.Rows*n.Loops, float64(2*planPage), "%s handles more than the two pages", n.Type)
		})
		require.Equal(t, 2, scans)
	}
}
