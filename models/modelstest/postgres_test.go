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

// envHelper makes the test binary a bare process that owns a cluster; see TestClusterEndsWithItsProcess.
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
	os.Exit(Main(m))
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
