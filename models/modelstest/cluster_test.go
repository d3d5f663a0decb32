package modelstest

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

func TestClusterKeepsRowsAndURLOverRestarts(t *testing.T) {
	c := StartCluster(t)
	database := c.URL("postgres")
	execute(t, database, "CREATE TABLE keys (id text)")
	down := []struct {
		name string
		stop func() error
	}{
		{"killed", c.Kill},
		{"stopped fast", func() error { return c.Stop(Fast) }},
		{"stopped at once", func() error { return c.Stop(Immediate) }},
	}
	for i, tc := range down {
		t.Run(tc.name, func(t *testing.T) {
			execute(t, database, "INSERT INTO keys VALUES ('byok_1')")
			require.NoError(t, tc.stop())
			require.Error(t, exec(t.Context(), database, "SELECT 1"), "nothing may listen while the cluster is down")
			require.NoError(t, tc.stop(), "ending what has ended does nothing")
			require.NoError(t, c.Start())
			require.Equal(t, i+1, query[int](t, database, "SELECT count(*) FROM keys"))
		})
	}
}

func TestKill(t *testing.T) {
	c := StartCluster(t)
	execute(t, c.URL("postgres"), "CREATE TABLE keys (id text)")
	conn, err := pgx.Connect(t.Context(), c.URL("postgres"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) }) // broken by then
	tx, err := conn.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), "INSERT INTO keys VALUES ('byok_1')")
	require.NoError(t, err)

	backend := query[int](t, c.URL("postgres"), "SELECT pid FROM pg_stat_activity WHERE state = 'idle in transaction'")
	require.NoError(t, c.Kill())
	require.NoError(t, waitGone([]int{backend}, 0), "the backend runs on")
	require.Error(t, tx.Commit(t.Context()))
	require.NoError(t, c.Start())
	require.Equal(t, 0, query[int](t, c.URL("postgres"), "SELECT count(*) FROM keys"))
}
