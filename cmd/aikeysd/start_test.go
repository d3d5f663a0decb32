package main

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models/modelstest"
)

func TestServeOutlivesADatabaseThatComesLater(t *testing.T) {
	t.Parallel()
	cluster := modelstest.StartCluster(t, modelstest.WithoutFsync())
	require.NoError(t, cluster.Stop(modelstest.Fast))
	environ := with(newEnviron(t), "AIKEYS_DATABASE_URL="+cluster.URL("postgres"))
	s := begin(t, environ, "serve")
	s.awaitLog("listening")

	unready := s.get(s.ops+"/readyz", "")
	require.Equal(t, http.StatusServiceUnavailable, unready.status)
	require.JSONEq(t, `{"ready":false,"checks":{"service":"starting","database":"unavailable","schema":"pending","keyset":"pending"}}`, unready.body)
	refused := s.get(s.api+"/v1/whoami", "")
	require.Equal(t, http.StatusServiceUnavailable, refused.status)
	require.NotEmpty(t, refused.header.Get("Retry-After"))
	require.Equal(t, http.StatusOK, s.get(s.ops+"/healthz", "").status, "it lives")
	s.awaitLog(`"waiting_for":"database"`)

	require.NoError(t, cluster.Start())
	s.awaitLog(`"msg":"ready"`)
	require.Equal(t, 1, strings.Count(s.stderr.String(), `"waiting_for":"database"`), "logged once:\n%s", &s.stderr)
	token := newOwner(t, environ)
	require.Equal(t, http.StatusOK, s.get(s.api+"/v1/whoami", token).status)
	require.Regexp(t, `aikeys_db_connections_max 16\n`, s.get(s.ops+"/metrics", "").body)
	require.Equal(t, exitOK, s.wait())

	t.Run("a wrong keyset is refused then as well", func(t *testing.T) {
		require.NoError(t, cluster.Stop(modelstest.Fast))
		other := begin(t, with(newEnviron(t), "AIKEYS_DATABASE_URL="+cluster.URL("postgres")), "serve")
		other.awaitLog(`"waiting_for":"database"`)
		require.NoError(t, cluster.Start())
		require.Equal(t, exitFailure, other.end())
		require.Contains(t, other.stderr.String(), "does not open this database")
	})
}

func TestAWrongKeysetIsRefusedBeforeAnythingChanges(t *testing.T) {
	t.Parallel()
	environ := newEnviron(t)
	token := newOwner(t, environ)
	s := startReady(t, environ)
	s.register(token, "a")
	require.Equal(t, exitOK, s.wait())
	database := databaseOf(environ)
	dump := func() string { // the schema and all rows
		tables := query(t, database, `SELECT name, sql FROM sqlite_master WHERE type = 'table' ORDER BY name`)
		text := fmt.Sprintln(tables)
		require.Contains(t, text, "canaries")
		for _, table := range tables {
			text += fmt.Sprintln(table[0], query(t, database, fmt.Sprintf(`SELECT * FROM %s ORDER BY 1, 2`, table[0])))
		}
		return text
	}
	before := dump()

	got := aikeysd(t, with(environ, "AIKEYS_SEALER=local:"+filepath.Join(t.TempDir(), "other.json")), "serve")
	require.Equal(t, exitFailure, got.code)
	for _, says := range []string{
		"the sealer's keyset does not open this database", // what it means
		"AIKEYS_SEALER=local:", database, "backup",        // what to check
		"a new keyset was made", "nothing was changed in the database",
	} {
		require.Contains(t, got.stderr, says)
	}
	require.NotContains(t, got.stderr, `"msg":"ready"`)
	require.Equal(t, before, dump())
	require.Equal(t, exitOK, startReady(t, environ).wait(), "the right keyset opens it as before")
}

func TestMigrateNeverWaitsForTheOperator(t *testing.T) {
	t.Parallel()
	environ := newEnviron(t)
	s := begin(t, environ, "serve", "--migrate", "never")
	s.awaitLog("run: aikeysd migrate up")
	require.Contains(t, s.get(s.ops+"/readyz", "").body, `"schema":"pending"`)
	require.Contains(t, mustAikeysd(t, environ, "migrate", "status"), "pending")
	require.Regexp(t, `is up to date, after [1-9]\d* migrations`, mustAikeysd(t, environ, "migrate", "up"))
	s.awaitLog(`"msg":"ready"`)
	require.NotContains(t, mustAikeysd(t, environ, "migrate", "status"), "pending")
	require.Contains(t, mustAikeysd(t, environ, "migrate", "up"), "is up to date")
}
