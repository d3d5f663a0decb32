package modelstest

import (
	"context"
	"fmt"
	"net/url"
	"os"
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

// envHelper names the variable that makes the test binary a bare process that owns a cluster: see
// TestClusterEndsWithItsProcess.
const envHelper = "MODELSTEST_HELPER"

func TestMain(m *testing.M) {
	if os.Getenv(envHelper) != "" {
		c, err := newCluster((*Cluster).create)
		if err != nil {
			panic(err)
		}
		fmt.Println(c.postmaster.Pid, c.dir)
		select {} // until it is killed
	}
	Main(m)
}

// query runs a statement that returns one value.
func query[T any](t *testing.T, database, statement string) T {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), database)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close(context.Background())) }()
	var value T
	require.NoError(t, conn.QueryRow(t.Context(), statement).Scan(&value))
	return value
}

func execute(t *testing.T, database, statement string) {
	t.Helper()
	require.NoError(t, exec(t.Context(), database, statement))
}

func TestPostgresDatabasePerTest(t *testing.T) {
	const tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
	var first string
	t.Run("first", func(t *testing.T) {
		first = Postgres(t)
		execute(t, first, "CREATE TABLE keys (id text)")
		require.Equal(t, 1, query[int](t, first, tables))
	})
	t.Run("second", func(t *testing.T) {
		second := Postgres(t)
		require.NotEqual(t, first, second)
		require.Equal(t, 0, query[int](t, second, tables))
	})
	err := exec(t.Context(), first, "SELECT 1")
	require.ErrorContains(t, err, "does not exist")
}

func TestPostgresOnAGivenServer(t *testing.T) {
	given := StartCluster(t)
	t.Setenv(EnvPostgresURL, given.URL("postgres"))
	u, err := url.Parse(Postgres(t))
	require.NoError(t, err)
	require.Equal(t, fmt.Sprintf("127.0.0.1:%d", given.port), u.Host)
	require.Equal(t, 1, query[int](t, given.URL("postgres"),
		"SELECT count(*) FROM pg_database WHERE datname = '"+u.Path[1:]+"'"))
}

func TestMalformedServerURLIsNotRepeated(t *testing.T) {
	for _, bad := range []string{"postgres://u:hunter2@[::1", "host=127.0.0.1 password=hunter2", "http://u:hunter2@h/"} {
		_, err := withDatabase(bad, "db")
		require.ErrorContains(t, err, EnvPostgresURL)
		require.NotContains(t, err.Error(), "hunter2")
	}
}

func TestMissingBinaries(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := findBinaries(t.TempDir())
	require.ErrorIs(t, err, errNoPostgres)
	require.ErrorContains(t, err, "apt-get install postgresql")
}
