package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/agentrouter/aikeys/cmd/internal/programtest"
	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
)

func TestServeBecomesReadyAnswersAndStops(t *testing.T) {
	t.Parallel()
	environ := newEnviron(t)
	token := newOwner(t, environ)
	s := startReady(t, environ)

	require.JSONEq(t, `{"ready":true,"checks":{"service":"ok","database":"ok","schema":"ok","keyset":"ok"}}`, s.get(s.ops+"/readyz", "").Body)
	require.Equal(t, http.StatusOK, s.get(s.ops+"/healthz", "").Status)
	require.Equal(t, http.StatusUnauthorized, s.get(s.api+"/v1/whoami", "").Status)
	who := s.get(s.api+"/v1/whoami", token)
	require.Equal(t, http.StatusOK, who.Status, who.Body)
	require.Contains(t, who.Body, `"alice"`)
	require.Empty(t, who.Header.Get("Strict-Transport-Security"), "which would be ignored over plain HTTP")

	second := startReady(t, environ)
	s.register(token, "a")
	second.register(token, "b")
	require.Len(t, anyKeyID.FindAllString(s.get(s.api+"/v1/aikeys", token).Body, -1), 2, "two processes share one SQLite file")

	require.Equal(t, exitOK, s.Stop())
	require.Contains(t, s.Stderr.String(), `"msg":"stopped"`)
	require.Zero(t, s.get(s.ops+"/healthz", "").Status)
}

func TestPagesOfNamedOriginsCallTheAPI(t *testing.T) {
	t.Parallel()
	environ := newEnviron(t)
	token := newOwner(t, environ)
	s := startReady(t, append(environ, "AIKEYS_CORS_ORIGINS=https://keys.example.com"))
	for _, tc := range []struct {
		method, origin, credential string
		status                     int
		allowed                    string
	}{
		{http.MethodOptions, "https://keys.example.com", "", http.StatusNoContent, "https://keys.example.com"},
		{http.MethodOptions, "https://evil.example", "", http.StatusNoContent, ""},
		{http.MethodGet, "https://keys.example.com", token, http.StatusOK, "https://keys.example.com"},
		{http.MethodGet, "https://keys.example.com", "wrong", http.StatusUnauthorized, "https://keys.example.com"},
		{http.MethodGet, "https://evil.example", token, http.StatusOK, ""},
	} {
		request, err := http.NewRequestWithContext(t.Context(), tc.method, s.api+"/v1/whoami", nil)
		require.NoError(t, err)
		request.Header.Set("Origin", tc.origin)
		if tc.method == http.MethodOptions {
			request.Header.Set("Access-Control-Request-Method", http.MethodGet)
		} else {
			request.Header.Set("Authorization", "Bearer "+tc.credential)
		}
		response, err := programtest.Client.Do(request)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.Equal(t, []any{tc.status, tc.allowed}, []any{response.StatusCode, response.Header.Get("Access-Control-Allow-Origin")}, tc)
	}
}

func TestStoppingCutsNoRequestInFlight(t *testing.T) {
	t.Parallel()
	environ := newEnviron(t)
	token := newOwner(t, environ)
	s := startReady(t, environ)
	conn := s.openRequest(token)

	s.Signal(os.Interrupt)
	s.Await("readiness ends at once", func() bool {
		ready := s.get(s.ops+"/readyz", "")
		return ready.Status == http.StatusServiceUnavailable && strings.Contains(ready.Body, `"service":"draining"`)
	})
	s.Await("new connections are refused", func() bool {
		return s.get(s.api+"/v1/whoami", token).Status == 0
	})
	fmt.Fprint(conn, "}")
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	defer func() { _ = response.Body.Close() }()
	require.Equal(t, http.StatusCreated, response.StatusCode)
	require.Equal(t, exitOK, s.Wait())
}

func TestStoppingCutsRequestsThatDoNotEnd(t *testing.T) {
	t.Parallel()
	environ := newEnviron(t)
	token := newOwner(t, environ)
	s := startReady(t, environ, "--shutdown-timeout", "100ms")
	s.openRequest(token)
	require.Equal(t, exitFailure, s.Stop())
	require.Contains(t, s.Stderr.String(), "aikeysd: requests in flight were cut after 100ms")
}

func TestStoppingWaitsForNoStreamAndAnswersRevokes(t *testing.T) {
	t.Parallel()
	environ := newEnviron(t)
	owner := newOwner(t, environ)
	plane := newDataPlane(t, environ)
	s := startReady(t, environ, "--shutdown-timeout", "1h")
	lines := s.follow(programtest.Client, plane)
	id := s.register(owner, "a")
	answers := make(chan programtest.Reply, 1)
	go func() { answers <- programtest.Send(http.MethodDelete, s.api+"/v1/aikeys/"+id+"?wait=10s", owner, "") }()
	s.awaitInFlight()
	s.Signal(os.Interrupt)
	select {
	case got := <-answers:
		require.Equal(t, http.StatusOK, got.Status, got.Body)
		require.Contains(t, got.Body, `"state":"complete"`, "the lease has run out, or so the service must take it")
	case <-time.After(programtest.Patience):
		require.Fail(t, "the revoke was not answered", s.Stderr.String())
	}
	require.Equal(t, exitOK, s.Wait())
	for range lines { // the stream has ended; otherwise this loop would not end
	}
}

// A stranger opens more connections than both listeners have places for. Owners and data planes still get in, and open
// streams stay open.
func TestStrangersKeepNobodyOut(t *testing.T) {
	t.Parallel()
	environ := newEnviron(t)
	owner, plane := newOwner(t, environ), newDataPlane(t, environ)
	s := launch(t, environ, "sh", "-c", `ulimit -n 128 && exec "$0" serve`, filepath.Join(shared, "aikeysd"))
	fresh := &http.Client{Timeout: programtest.Patience, Transport: &http.Transport{DisableKeepAlives: true}} // each request is a newcomer
	ask := func(method, path string) programtest.Reply {
		return programtest.SendBy(fresh, method, s.api+path, owner, "")
	}
	id, lines := s.register(owner, "leaked"), s.follow(programtest.Client, plane)
	for _, url := range []string{s.api, s.dataplane} {
		for i := range 100 { // more than the 32 places
			conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
			require.NoError(t, err)
			t.Cleanup(func() { _ = conn.Close() })
			if i%2 == 0 {
				fmt.Fprint(conn, "GET /docs/problems HTTP/1.1\r\nHost: a\r\n\r\n")
			}
		}
	}
	require.Contains(t, ask(http.MethodGet, "/v1/aikeys").Body, id)
	require.Equal(t, http.StatusOK, ask(http.MethodDelete, "/v1/aikeys/"+id).Status)
	s.Await("the stream from before has the revocation", func() bool { return strings.Contains(<-lines, id) })
	s.follow(fresh, plane)
}

func TestProcess(t *testing.T) {
	t.Parallel()
	program := filepath.Join(shared, "aikeysd")
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(signal.String()+" stops it in order", func(t *testing.T) {
			t.Parallel()
			s := launch(t, newEnviron(t), "sh", "-c", `echo "pid=$$" && exec "$0" serve`, program)
			_, pid, _ := strings.Cut(strings.TrimSpace(s.Stdout.String()), "=")
			output, err := exec.CommandContext(t.Context(), "ps", "-o", "rss=", "-p", pid).Output()
			require.NoError(t, err)
			kib, err := strconv.Atoi(string(bytes.TrimSpace(output)))
			require.NoError(t, err)
			require.Less(t, kib, 80<<10, "it is small when idle")
			if limits, err := os.ReadFile("/proc/" + pid + "/limits"); err == nil { // on Linux
				require.Regexp(t, `Max core file size +0 +0 `, string(limits))
			}
			require.Equal(t, exitOK, s.End(signal))
			require.Contains(t, s.Stderr.String(), `"msg":"stopped"`)
		})
	}
	t.Run("a second signal ends it at once", func(t *testing.T) {
		t.Parallel()
		environ := newEnviron(t)
		token := newOwner(t, environ)
		s := launch(t, environ, program, "serve")
		s.openRequest(token)
		s.Signal(syscall.SIGTERM)
		s.AwaitLog("stopping")
		require.Equal(t, -1, s.End(syscall.SIGTERM), "the signal ended it")
		require.NotContains(t, s.Stderr.String(), `"msg":"stopped"`)
	})
}

func TestStartsThatAreHopelessEnd(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, taken.Close()) }()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a.db"), []byte(strings.Repeat("not a database ", 100)), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "keyset.json"), []byte("{}"), 0o644))
	for name, tc := range map[string]struct{ change, says string }{
		"the port is taken": {"AIKEYS_OPS_LISTEN=" + taken.Addr().String(), "choose another address with --ops-listen or AIKEYS_OPS_LISTEN"},
		"the file is no database": {
			"AIKEYS_DATABASE_URL=sqlite:" + dir + "/a.db", "file is not a database"},
		"the keyset is open to others": {"AIKEYS_SEALER=local:" + dir + "/keyset.json", "chmod 600"},
		"an old sealer is missing": {
			"AIKEYS_SEALER_OLD=local:" + dir + "/none.json", "AIKEYS_SEALER_OLD: there is no keyset at "},
	} {
		got := aikeysd(t, with(newEnviron(t), tc.change), "serve")
		require.Equal(t, exitFailure, got.Code, name)
		last := got.Stderr[strings.LastIndex(strings.TrimSpace(got.Stderr), "\n")+1:]
		require.Contains(t, last, "aikeysd: ", name)
		require.Contains(t, last, tc.says, name)
	}
}

func TestOldRecordsAreDeletedInBatches(t *testing.T) {
	t.Parallel()
	environ := newEnviron(t)
	newOwner(t, environ)
	database, now := databaseOf(environ), time.Now()
	insert := func(count int, prefix string, fetched, idempotent time.Time) {
		numbers := fmt.Sprintf(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d) `, count)
		query(t, database, numbers+fmt.Sprintf(`INSERT INTO fetches (at, data_plane_id, customer_id, project_id, user_id, token_id, provider,
			key_id, version, decision, reason, request_id)
			SELECT %d + i, 'd', 'acme', 'chat', '', '', 'openai', '', 0, 'denied', 'no_key', '' FROM n`, fetched.UnixMicro()))
		query(t, database, numbers+fmt.Sprintf(`INSERT INTO idempotency_records (customer_id, project_id, user_id, key_hash, fingerprint, key_id, created_at)
			SELECT 'acme', 'chat', 'alice', '%s' || i, 'f', 'byok_x', %d + i FROM n`, prefix, idempotent.UnixMicro()))
		query(t, database, numbers+fmt.Sprintf(`INSERT INTO key_usage
			SELECT 'acme', 'chat', %d, 'byok_' || i, 'alice', 0, 1, 0, 0 FROM n`, fetched.Unix()/86400))
	}
	insert(2*cleanupBatch+1, "old", now.Add(-8*24*time.Hour), now.Add(-models.IdempotencyLife-time.Minute))
	insert(3, "new", now.Add(-6*24*time.Hour), now)
	left := func() (fetches, idempotency any) {
		row := query(t, database, `SELECT (SELECT COUNT(*) FROM fetches), (SELECT COUNT(*) FROM idempotency_records)`)[0]
		return row[0], row[1]
	}
	deleted := func(kind string) string {
		return fmt.Sprintf(`"msg":"old records deleted","kind":%q,"records":%d`, kind, 2*cleanupBatch+1)
	}

	s := startReady(t, environ, "--fetch-retention", "0")
	s.awaitLog(deleted("idempotency"))
	require.Equal(t, exitOK, s.Stop())
	fetches, idempotency := left()
	require.EqualValues(t, 2*cleanupBatch+4, fetches, "they are kept forever")
	require.EqualValues(t, 3, idempotency)
	s = startReady(t, environ, "--fetch-retention", "7d", "--usage-retention", "7d")
	s.awaitLog(deleted("fetch"))
	s.awaitLog(deleted("usage"))
	require.Equal(t, exitOK, s.Stop())
	fetches, _ = left()
	require.EqualValues(t, 3, fetches)
	require.EqualValues(t, 3, query(t, database, `SELECT COUNT(*) FROM key_usage`)[0][0])

	list := mustAikeysd(t, environ, "admin", "fetches", "--customer", "acme", "--project", "chat", "--limit", "2")
	require.Equal(t, 3, strings.Count(list, "\n"), "the head and two")
	require.Regexp(t, ` d +- +openai +- +denied +no_key\n`, list)
}

func TestLogsMetricsAndTracesHoldNothingSecret(t *testing.T) {
	t.Parallel()
	const marker = "CANARY7f3aCANARY" // is in each secret that the test sends
	var (
		mu    sync.Mutex
		names []string
		raw   strings.Builder
	)
	traces := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		batch := &collector.ExportTraceServiceRequest{}
		if err != nil || r.URL.Path != "/v1/traces" || proto.Unmarshal(body, batch) != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		raw.Write(body)
		for _, resource := range batch.GetResourceSpans() {
			for _, scope := range resource.GetScopeSpans() {
				for _, span := range scope.GetSpans() {
					names = append(names, span.GetName())
				}
			}
		}
	}))
	defer traces.Close()
	environ := with(newEnviron(t), "AIKEYS_LOG_LEVEL=debug", "OTEL_EXPORTER_OTLP_ENDPOINT="+traces.URL)
	token := newOwner(t, environ)
	s := startReady(t, environ)
	const secret = "sk-proj-" + marker + "-EXAMPLE-EXAMPLE-EXAMPLE"
	register := func(name, secret string) string {
		return `{"provider":"openai","name":"` + name + `","secret":"` + secret + `"}`
	}
	for _, tc := range []struct {
		status             int
		method, path, body string
		header, value      string // in addition to those that all requests have
	}{
		{http.StatusCreated, "POST", "/v1/aikeys", register("first", secret), "Idempotency-Key", marker},
		{http.StatusBadRequest, "POST", "/v1/aikeys", register("second", secret+" "), "", ""},
		{http.StatusBadRequest, "POST", "/v1/aikeys", `{"provider":"openai","secret":"` + secret + `"}`, "", ""},
		{http.StatusBadRequest, "POST", "/v1/aikeys", `{"` + marker + `":"` + secret + `"}`, "", ""},
		{http.StatusBadRequest, "POST", "/v1/aikeys", `{"secret":"` + secret, "", ""},
		{http.StatusBadRequest, "GET", "/v1/aikeys?" + marker + "=" + marker, "", "", ""},
		{http.StatusBadRequest, "GET", "/v1/aikeys/" + marker, "", "", ""},
		{http.StatusConflict, "POST", "/v1/aikeys", register("first", secret), "", ""},
		{http.StatusUnsupportedMediaType, "POST", "/v1/aikeys", "secret=" + secret, "Content-Type", "text/" + marker},
		{http.StatusUnauthorized, "GET", "/v1/whoami", "", "Authorization", "Bearer ak_" + marker},
		{http.StatusUnauthorized, "GET", "/v1/whoami", "", "Authorization", marker},
		{http.StatusNotFound, "GET", "/" + marker, "", "", ""},
		{http.StatusMethodNotAllowed, "PATCH", "/v1/aikeys", secret, "", ""},
		{http.StatusOK, "GET", "/v1/aikeys", "", "", ""},
		{http.StatusOK, "GET", "/v1/whoami", "", "", ""},
	} {
		r, err := http.NewRequestWithContext(t.Context(), tc.method, s.api+tc.path, strings.NewReader(tc.body))
		require.NoError(t, err)
		for name, value := range map[string]string{
			"Content-Type": "application/json", "Authorization": "Bearer " + token, "User-Agent": marker, "Tracestate": "vendor=" + marker,
			"Traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		} {
			r.Header.Set(name, value)
		}
		if tc.header != "" {
			r.Header.Set(tc.header, tc.value)
		}
		response, err := programtest.Client.Do(r)
		require.NoError(t, err)
		body, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.Equal(t, tc.status, response.StatusCode, "%s %s: %s", r.Method, r.URL, body)
		require.NotContains(t, string(body), marker)
	}
	for _, address := range []string{s.api, s.ops} { // requests that are not HTTP
		conn, err := net.Dial("tcp", strings.TrimPrefix(address, "http://"))
		require.NoError(t, err)
		require.NoError(t, conn.SetDeadline(time.Now().Add(programtest.Patience)))
		fmt.Fprintf(conn, "%s /%s HTTP/%s\r\n\r\n", marker, marker, marker)
		_, err = io.ReadAll(conn)
		require.NoError(t, err)
		require.NoError(t, conn.Close())
	}
	metrics, readiness := s.get(s.ops+"/metrics", "").Body, s.get(s.ops+"/readyz", "").Body
	require.Equal(t, exitOK, s.Stop())

	mu.Lock()
	defer mu.Unlock()
	for where, text := range map[string]string{
		"log": s.Stderr.String(), "metrics": metrics, "readiness": readiness, "spans": raw.String(), "standard output": s.Stdout.String(),
	} {
		require.NotContains(t, text, marker, where)
		require.NotContains(t, text, strings.Split(token, "_")[2], where)
	}
	// The logs have lines; otherwise the checks above would prove nothing.
	require.Contains(t, s.Stderr.String(), `"operation":"registerKey"`)
	require.Contains(t, metrics, `aikeys_http_requests_total{listener="public",operation="registerKey",status="201"} 1`)
	require.Contains(t, metrics, `aikeys_session_lookups_total`)
	require.Contains(t, names, "registerKey", "spans are named after the operation, and the last ones are sent at the end")
	require.Contains(t, names, "whoAmI")
	require.Contains(t, raw.String(), "aikeysd")
}

func TestWithoutACollectorNothingIsTraced(t *testing.T) {
	s := &service{getenv: newProgram([]string{"OTEL_SERVICE_NAME=x"}, io.Discard, io.Discard).Getenv}
	require.NoError(t, s.openTraces(t.Context()))
	require.Nil(t, s.traces)
	require.Empty(t, s.closers)
}

func TestServeOutlivesADatabaseThatComesLater(t *testing.T) {
	t.Parallel()
	cluster := modelstest.StartCluster(t)
	require.NoError(t, cluster.Stop(modelstest.Fast))
	environ := with(newEnviron(t), "AIKEYS_DATABASE_URL="+cluster.URL("postgres"))
	s := begin(t, environ, "serve")
	s.awaitLog("listening")

	unready := s.get(s.ops+"/readyz", "")
	require.Equal(t, http.StatusServiceUnavailable, unready.Status)
	require.JSONEq(t, `{"ready":false,"checks":{"service":"starting","database":"unavailable","schema":"pending","keyset":"pending"}}`, unready.Body)
	refused := s.get(s.api+"/v1/whoami", "")
	require.Equal(t, http.StatusServiceUnavailable, refused.Status)
	require.NotEmpty(t, refused.Header.Get("Retry-After"))
	require.Equal(t, http.StatusOK, s.get(s.ops+"/healthz", "").Status, "it lives")
	s.awaitLog(`"waiting_for":"database"`)

	require.NoError(t, cluster.Start())
	s.awaitLog(`"msg":"ready"`)
	require.Equal(t, 1, strings.Count(s.Stderr.String(), `"waiting_for":"database"`), "logged once:\n%s", &s.Stderr)
	token := newOwner(t, environ)
	require.Equal(t, http.StatusOK, s.get(s.api+"/v1/whoami", token).Status)
	require.Regexp(t, `aikeys_db_connections_max 16\n`, s.get(s.ops+"/metrics", "").Body)
	require.Equal(t, exitOK, s.Stop())

	t.Run("a wrong keyset is refused then as well", func(t *testing.T) {
		require.NoError(t, cluster.Stop(modelstest.Fast))
		other := begin(t, with(newEnviron(t), "AIKEYS_DATABASE_URL="+cluster.URL("postgres")), "serve")
		other.awaitLog(`"waiting_for":"database"`)
		require.NoError(t, cluster.Start())
		require.Equal(t, exitFailure, other.Wait())
		require.Contains(t, other.Stderr.String(), "does not open this database")
	})
}

func TestAWrongKeysetIsRefusedBeforeAnythingChanges(t *testing.T) {
	t.Parallel()
	environ := newEnviron(t)
	token := newOwner(t, environ)
	s := startReady(t, environ)
	s.register(token, "a")
	require.Equal(t, exitOK, s.Stop())
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
	require.Equal(t, exitFailure, got.Code)
	for _, says := range []string{
		"the sealer's keyset does not open this database", // what it means
		"AIKEYS_SEALER=local:", database, "backup",        // what to check
		"a new keyset was made", "nothing was changed in the database",
	} {
		require.Contains(t, got.Stderr, says)
	}
	require.NotContains(t, got.Stderr, `"msg":"ready"`)
	require.Equal(t, before, dump())
	require.Equal(t, exitOK, startReady(t, environ).Stop(), "the right keyset opens it as before")
}

func TestMigrateNeverWaitsForTheOperator(t *testing.T) {
	t.Parallel()
	environ := with(newEnviron(t), "AIKEYS_DATABASE_URL="+modelstest.EngineSQLite.URL(t))
	s := begin(t, environ, "serve", "--migrate", "never")
	s.awaitLog("run: aikeysd migrate up")
	require.Contains(t, s.get(s.ops+"/readyz", "").Body, `"schema":"pending"`)
	require.Contains(t, mustAikeysd(t, environ, "migrate", "status"), "pending")
	require.Regexp(t, `is up to date, after [1-9]\d* migrations`, mustAikeysd(t, environ, "migrate", "up"))
	s.awaitLog(`"msg":"ready"`)
	require.NotContains(t, mustAikeysd(t, environ, "migrate", "status"), "pending")
	require.Contains(t, mustAikeysd(t, environ, "migrate", "up"), "is up to date")
}

// The primary fails before its standby has received the last commit. The old primary comes back as a standby that can't
// follow the new primary. For a while, the database's address still leads to the old primary. Throughout, a data plane
// serves requests and follows a replica that knows only this address.
func TestFailoverServesNoRevokedKey(t *testing.T) {
	t.Parallel()
	primary := modelstest.StartCluster(t)
	address := modelstest.NewAddress(t, primary)
	environ := with(newEnviron(t), "AIKEYS_DATABASE_URL="+address.URL("postgres"))
	mustAikeysd(t, environ, "migrate", "up")
	owner, plane := newOwner(t, environ), newDataPlane(t, environ)
	replica := startReady(t, environ)
	key := replica.register(owner, "first")
	resolver := replica.runDataPlane(plane)
	replica.Await("the data plane serves", func() bool { return resolve(t, resolver) == key })
	standby := modelstest.StartStandby(t, primary)
	require.NoError(t, standby.Stop(modelstest.Fast))
	replica.register(owner, "lost") // the standby never has it

	var (
		complete   atomic.Bool
		done       = make(chan struct{})
		load       sync.WaitGroup
		lateServes atomic.Int64
	)
	for range 4 {
		load.Go(func() {
			for {
				select {
				case <-done:
					return
				case <-time.After(time.Millisecond):
				}
				after := complete.Load()
				if resolve(t, resolver) == key && after {
					lateServes.Add(1)
				}
			}
		})
	}
	require.NoError(t, primary.Stop(modelstest.Immediate))
	require.NoError(t, standby.Start())
	standby.Promote(t)
	primary.Follow(t, standby)
	require.NoError(t, primary.Start())
	replica.Await("the replica notices that the address leads to a standby", func() bool {
		got := replica.get(replica.ops+"/readyz", "")
		return got.Status == http.StatusServiceUnavailable && strings.Contains(got.Body, `"database":"read-only"`)
	})
	replica.Await("the data plane stops serving", func() bool {
		_, err := resolver.Resolve(t.Context(), dataplane.ForUser("acme", "chat", "alice", "openai"))
		return errors.Is(err, dataplane.ErrUnavailable)
	})

	// Another replica is at the new primary already.
	second := startReady(t, with(environ, "AIKEYS_DATABASE_URL="+standby.URL("postgres")))
	receipt := programtest.Send(http.MethodDelete, second.api+"/v1/aikeys/"+key+"?wait=10s", owner, "")
	require.Contains(t, receipt.Body, `"state":"complete"`)
	complete.Store(true)

	moved := time.Now()
	address.MoveTo(standby)
	next, attempts := "", 0
	replica.Await("the replica takes writes again", func() bool {
		attempts++ // a register whose answer is lost may have stored its key
		got := programtest.Send(http.MethodPost, replica.api+"/v1/aikeys", owner, registerBody(fmt.Sprintf("next-%d", attempts)))
		next = anyKeyID.FindString(got.Body)
		return got.Status == http.StatusCreated
	})
	replica.Await("the data plane serves the next key", func() bool { return resolve(t, resolver) == next })
	t.Logf("recovered %s after the address moved", time.Since(moved).Round(time.Millisecond))
	close(done)
	load.Wait()
	require.Zero(t, lateServes.Load(), "requests that were served with the revoked key after its receipt was complete")
}

// Patroni switches over, and also replaces a crashed primary. Throughout, a client registers keys and repeats each
// revocation until its receipt is complete, and a data plane serves requests.
func TestPatroniFailoverServesNoRevokedKey(t *testing.T) {
	t.Parallel()
	cluster := modelstest.StartPatroni(t)
	environ := with(newEnviron(t), "AIKEYS_DATABASE_URL="+cluster.URL("postgres"))
	mustAikeysd(t, environ, "migrate", "up")
	owner, plane := newOwner(t, environ), newDataPlane(t, environ)
	replica := startReady(t, environ)
	resolver := replica.runDataPlane(plane)
	var (
		revoked    sync.Map // ids of keys whose receipts are complete
		receipts   atomic.Int64
		lateServes atomic.Int64
		load       sync.WaitGroup
		done       = make(chan struct{})
	)
	isDone := func() bool {
		select {
		case <-done:
			return true
		case <-time.After(time.Millisecond):
			return false
		}
	}
	for range 4 {
		load.Go(func() {
			for !isDone() {
				before := map[any]bool{}
				revoked.Range(func(id, _ any) bool { before[id] = true; return true })
				if before[resolve(t, resolver)] {
					lateServes.Add(1)
				}
			}
		})
	}
	load.Go(func() {
		for n := 0; !isDone(); n++ {
			// A register whose answer is lost may have stored its key: the next one has another name.
			got := programtest.Send(http.MethodPost, replica.api+"/v1/aikeys", owner, registerBody(fmt.Sprintf("key-%d", n)))
			key := anyKeyID.FindString(got.Body)
			if got.Status != http.StatusCreated {
				continue
			}
			for !strings.Contains(programtest.Send(http.MethodDelete, replica.api+"/v1/aikeys/"+key+"?wait=5s", owner, "").Body, `"state":"complete"`) {
				if isDone() {
					return
				}
			}
			revoked.Store(key, true)
			receipts.Add(1)
		}
	})
	replica.Await("keys come and go", func() bool { return receipts.Load() > 3 })
	for name, fault := range map[string]func(testing.TB){"switchover": cluster.Switchover, "crash": cluster.CrashPrimary} {
		fault(t)
		replaced, before := time.Now(), receipts.Load()
		replica.Await("keys come and go again", func() bool { return receipts.Load() > before+1 })
		t.Logf("%s: two receipts %s after there was a primary", name, time.Since(replaced).Round(time.Millisecond))
	}
	close(done)
	load.Wait()
	require.Zero(t, lateServes.Load(), "requests that were served with a revoked key after its receipt was complete")
}
