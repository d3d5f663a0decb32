package main

import (
	"bufio"
	"database/sql"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
)

func TestServeBecomesReadyAnswersAndStops(t *testing.T) {
	environ := newEnviron(t)
	token := newOwner(t, environ)
	s := startReady(t, environ)

	require.JSONEq(t, `{"ready":true,"checks":{"service":"ok","database":"ok","schema":"ok","keyset":"ok"}}`, s.get(s.ops+"/readyz").body)
	require.Equal(t, http.StatusOK, s.get(s.ops+"/healthz").status)
	require.Equal(t, http.StatusUnauthorized, s.get(s.api+"/v1/whoami").status)
	who := call(t, newClient(), http.MethodGet, s.api+"/v1/whoami", token, "")
	require.Equal(t, http.StatusOK, who.status, who.body)
	require.Contains(t, who.body, `"alice"`)
	require.Empty(t, who.header.Get("Strict-Transport-Security"), "which would be ignored over plain HTTP")

	require.Equal(t, exitOK, s.wait())
	require.Contains(t, s.stderr.String(), `"msg":"stopped"`)
	_, err := tryCall(t.Context(), newClient(), http.MethodGet, s.ops+"/healthz", "", "")
	require.Error(t, err)
}

func TestStoppingCutsNoRequestInFlight(t *testing.T) {
	environ := newEnviron(t)
	token := newOwner(t, environ)
	s := startReady(t, environ)
	body := registerBody("slow", fakeSecret)
	conn := openRequest(t, s, token, body)

	s.stop()
	s.eventually("readiness ends at once", func() bool {
		ready := s.get(s.ops + "/readyz")
		return ready.status == http.StatusServiceUnavailable && strings.Contains(ready.body, `"service":"draining"`)
	})
	s.eventually("new connections are refused", func() bool {
		_, err := tryCall(t.Context(), newClient(), http.MethodGet, s.api+"/v1/whoami", token, "")
		return err != nil
	})
	fmt.Fprint(conn, body[len(body)-1:])
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	defer func() { _ = response.Body.Close() }()
	require.Equal(t, http.StatusCreated, response.StatusCode)
	require.Equal(t, exitOK, s.end())
}

func TestStoppingGivesUpOnRequestsThatDoNotEnd(t *testing.T) {
	environ := newEnviron(t)
	token := newOwner(t, environ)
	s := startReady(t, environ, "--shutdown-timeout", "100ms")
	openRequest(t, s, token, registerBody("endless", fakeSecret))
	require.Equal(t, exitFailure, s.wait())
	require.Contains(t, s.stderr.String(), "aikeysd: requests in flight were cut after 100ms")
}

// openRequest sends a request all but the last byte of its body.
func openRequest(t *testing.T, s *server, token, body string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.api, "http://"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	fmt.Fprintf(conn, "POST /v1/aikeys HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		token, len(body), body[:len(body)-1])
	s.eventually("the request is in flight", func() bool {
		return strings.Contains(s.get(s.ops+"/metrics").body, `aikeys_http_requests_in_flight{listener="public"} 1`)
	})
	return conn
}

func TestServeOutlivesADatabaseThatComesLater(t *testing.T) {
	cluster := modelstest.StartCluster(t, modelstest.WithoutFsync())
	require.NoError(t, cluster.Stop(modelstest.Fast))
	environ := with(newEnviron(t), "AIKEYS_DATABASE_URL="+cluster.URL("postgres"))
	s := start(t, environ, "serve")

	unready := s.get(s.ops + "/readyz")
	require.Equal(t, http.StatusServiceUnavailable, unready.status)
	require.JSONEq(t, `{"ready":false,"checks":{"service":"starting","database":"unavailable","schema":"pending","keyset":"pending"}}`, unready.body)
	refused := s.get(s.api + "/v1/whoami")
	require.Equal(t, http.StatusServiceUnavailable, refused.status)
	require.NotEmpty(t, refused.header.Get("Retry-After"))
	require.Equal(t, http.StatusOK, s.get(s.ops+"/healthz").status, "it lives")
	time.Sleep(3 * firstRetry)

	require.NoError(t, cluster.Start())
	s.awaitReady()
	require.Equal(t, 1, strings.Count(s.stderr.String(), `"waiting_for":"database"`), "told once:\n%s", s.stderr)
	token := newOwner(t, environ)
	require.Equal(t, http.StatusOK, call(t, newClient(), http.MethodGet, s.api+"/v1/whoami", token, "").status)
	require.Regexp(t, `aikeys_db_connections_max 16\n`, s.get(s.ops+"/metrics").body)
	require.Equal(t, exitOK, s.wait())

	t.Run("a wrong keyset is refused then as well", func(t *testing.T) {
		require.NoError(t, cluster.Stop(modelstest.Fast))
		other := start(t, with(newEnviron(t), "AIKEYS_DATABASE_URL="+cluster.URL("postgres")), "serve")
		require.Equal(t, http.StatusServiceUnavailable, other.get(other.ops+"/readyz").status)
		require.NoError(t, cluster.Start())
		require.Equal(t, exitFailure, other.end())
		require.Contains(t, other.stderr.String(), "does not open this database")
	})
}

func TestAWrongKeysetIsRefusedBeforeAnythingChanges(t *testing.T) {
	environ := newEnviron(t)
	token := newOwner(t, environ)
	s := startReady(t, environ)
	require.Equal(t, http.StatusCreated, call(t, newClient(), http.MethodPost, s.api+"/v1/aikeys", token, registerBody("a", fakeSecret)).status)
	require.Equal(t, exitOK, s.wait())
	_, database, _ := strings.Cut(environ[2], "=")
	before := dump(t, database)

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
	require.Equal(t, before, dump(t, database))
	require.Equal(t, exitOK, startReady(t, environ).wait(), "the right keyset opens it as before")
}

func open(t *testing.T, database string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", strings.TrimPrefix(database, "sqlite:"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func tamper(t *testing.T, database, statement string) {
	t.Helper()
	_, err := open(t, database).ExecContext(t.Context(), statement)
	require.NoError(t, err)
}

// dump returns the schema and all rows of a SQLite database.
func dump(t *testing.T, database string) string {
	t.Helper()
	db := open(t, database)
	var text strings.Builder
	var tables []string
	for _, row := range rows(t, db, `SELECT name, sql FROM sqlite_master WHERE type = 'table' ORDER BY name`) {
		tables = append(tables, fmt.Sprint(row[0]))
		fmt.Fprintln(&text, row...)
	}
	require.Contains(t, tables, "canaries")
	for _, table := range tables {
		for _, row := range rows(t, db, `SELECT * FROM `+table+` ORDER BY 1, 2`) {
			fmt.Fprintln(&text, table, row)
		}
	}
	return text.String()
}

func rows(t *testing.T, db *sql.DB, query string) (all [][]any) {
	t.Helper()
	found, err := db.QueryContext(t.Context(), query)
	require.NoError(t, err)
	defer func() { _ = found.Close() }()
	columns, err := found.Columns()
	require.NoError(t, err)
	for found.Next() {
		row, to := make([]any, len(columns)), make([]any, len(columns))
		for i := range row {
			to[i] = &row[i]
		}
		require.NoError(t, found.Scan(to...))
		all = append(all, row)
	}
	require.NoError(t, found.Err())
	return all
}

func TestTwoProcessesShareOneSQLiteFile(t *testing.T) {
	environ := newEnviron(t)
	token := newOwner(t, environ)
	first, second := startReady(t, environ), startReady(t, environ)
	require.Equal(t, http.StatusCreated, call(t, newClient(), http.MethodPost, first.api+"/v1/aikeys", token, registerBody("a", fakeSecret)).status)
	require.Equal(t, http.StatusCreated, call(t, newClient(), http.MethodPost, second.api+"/v1/aikeys", token, registerBody("b", fakeSecret)).status)
	require.Equal(t, 2, strings.Count(call(t, newClient(), http.MethodGet, first.api+"/v1/aikeys", token, "").body, "byok_"))
}

func TestMigrateNeverWaitsForTheOperator(t *testing.T) {
	environ := newEnviron(t)
	s := start(t, environ, "serve", "--migrate", "never")
	s.eventually("it says what it waits for", func() bool { return strings.Contains(s.stderr.String(), "run: aikeysd migrate up") })
	require.Contains(t, s.get(s.ops+"/readyz").body, `"schema":"pending"`)
	require.Contains(t, mustAikeysd(t, environ, "migrate", "status"), "pending")
	require.Regexp(t, `is up to date, after [1-9]\d* migrations`, mustAikeysd(t, environ, "migrate", "up"))
	s.awaitReady()
	require.NotContains(t, mustAikeysd(t, environ, "migrate", "status"), "pending")
	require.Contains(t, mustAikeysd(t, environ, "migrate", "up"), "is up to date")
}

func TestStartsThatAreHopelessEnd(t *testing.T) {
	cases := map[string]struct {
		prepare func(t *testing.T, environ []string) []string
		says    string
	}{
		"the port is taken": {func(t *testing.T, environ []string) []string {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			t.Cleanup(func() { _ = listener.Close() })
			return with(environ, "AIKEYS_OPS_LISTEN="+listener.Addr().String())
		}, "choose another address with --ops-listen or AIKEYS_OPS_LISTEN"},
		"the file is no database": {func(t *testing.T, environ []string) []string {
			path := filepath.Join(t.TempDir(), "a.db")
			require.NoError(t, os.WriteFile(path, []byte(strings.Repeat("not a database ", 100)), 0o600))
			return with(environ, "AIKEYS_DATABASE_URL=sqlite:"+path)
		}, "file is not a database"},
		"the keyset is open to others": {func(t *testing.T, environ []string) []string {
			path := filepath.Join(t.TempDir(), "keyset.json")
			require.NoError(t, os.WriteFile(path, []byte("{}"), 0o644))
			return with(environ, "AIKEYS_SEALER=local:"+path)
		}, "chmod 600"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got := aikeysd(t, tc.prepare(t, newEnviron(t)), "serve")
			require.Equal(t, exitFailure, got.code)
			last := got.stderr[strings.LastIndex(strings.TrimSpace(got.stderr), "\n")+1:]
			require.Contains(t, last, "aikeysd: ")
			require.Contains(t, last, tc.says)
		})
	}
}

func TestOldIdempotencyRecordsAreForgottenInBatches(t *testing.T) {
	environ := newEnviron(t)
	newOwner(t, environ)
	_, database, _ := strings.Cut(environ[2], "=")
	old := time.Now().Add(-models.IdempotencyLife - time.Minute).UnixMicro()
	insert := `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d)
		INSERT INTO idempotency_records SELECT 'acme', 'chat', 'alice', '%s' || i, 'f', 'byok_x', %d + i FROM n`
	tamper(t, database, fmt.Sprintf(insert, 2*cleanupBatch+1, "old", old))
	tamper(t, database, fmt.Sprintf(insert, 3, "new", time.Now().UnixMicro()))
	s := startReady(t, environ)
	s.eventually("they are deleted", func() bool {
		return strings.Contains(s.stderr.String(), `"msg":"old records deleted","kind":"idempotency"`)
	})
	require.Contains(t, s.stderr.String(), fmt.Sprintf(`"records":%d`, 2*cleanupBatch+1))
	require.Equal(t, exitOK, s.wait())
	left := rows(t, open(t, database), `SELECT COUNT(*) FROM idempotency_records`)
	require.EqualValues(t, 3, left[0][0])
}
