package bench

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
	pg "github.com/agentrouter/aikeys/models/postgres"
)

// The data: as many keys, projects and sessions as a middling installation has.
const (
	keyCount     = 60_000
	projectCount = 1_000
	// usedKeys are what wrk and pgbench ask for, in the first usedProjects.
	usedProjects = 100
	// idPrefix and a number of six digits make a valid key id.
	idPrefix = models.KeyIDPrefix + "01JD8Q6Z3V8M2T5K7N9R"
	// pgbenchReaders is the number of connections at which pgbench reads fastest here.
	pgbenchReaders = 16
)

// BenchmarkGetPostgres: a Get over HTTP, of pgbench running the same joined statement.
func BenchmarkGetPostgres(b *testing.B) {
	database, projects := postgres(b, keyCount)
	server := startAikeysd(b, database)
	script := `\set k random(0, 49)
\set n :k * ` + strconv.Itoa(projectCount) + "\n" + statement("get", projects[0].token, map[string]string{
		"6": "'" + idPrefix + "' || lpad((:n)::text, 6, '0')",
	})
	compare(b, "of-pgbench",
		func(d time.Duration) float64 { return pgbench(b, database, script, pgbenchReaders, d) },
		func(d time.Duration) float64 { return wrk(b, server.url, getScript(projects), d) })
}

// BenchmarkListPostgres: a List of 50 over HTTP, of pgbench running the same statement.
func BenchmarkListPostgres(b *testing.B) {
	database, projects := postgres(b, keyCount)
	server := startAikeysd(b, database)
	script := statement("list", projects[0].token, nil)
	compare(b, "of-pgbench",
		func(d time.Duration) float64 { return pgbench(b, database, script, pgbenchReaders, d) },
		func(d time.Duration) float64 { return wrk(b, server.url, listScript(projects), d) })
}

// BenchmarkRegisterPostgres: a register over HTTP, of pgbench making the same two inserts in a transaction, with as many
// clients.
func BenchmarkRegisterPostgres(b *testing.B) {
	database, projects := postgres(b, keyCount)
	server := startAikeysd(b, database)
	compare(b, "of-pgbench",
		func(d time.Duration) float64 { return pgbench(b, database, insertScript(), clients, d) },
		func(d time.Duration) float64 { return wrk(b, server.url, registerScript(projects), d) })
}

// BenchmarkGetSQLite: a Get over HTTP, of a bare Echo handler that answers a constant.
func BenchmarkGetSQLite(b *testing.B) {
	database, projects := sqlite(b)
	server, bare := startAikeysd(b, database), startBareEcho(b)
	wrk(b, server.url, registerScript(projects), time.Second)
	compare(b, "of-bare-echo",
		func(d time.Duration) float64 { return wrk(b, bare.url, getOne(projects[0], "x"), d) },
		func(d time.Duration) float64 {
			return wrk(b, server.url, getOne(projects[0], firstKey(b, server, projects[0])), d)
		})
}

// BenchmarkRegisterSQLite: a register over HTTP with synchronous=FULL, of the disk's fdatasync rate.
func BenchmarkRegisterSQLite(b *testing.B) {
	database, projects := sqlite(b)
	server := startAikeysd(b, database)
	dir := strings.TrimSuffix(strings.TrimPrefix(database, "sqlite:"), "/aikeys.db")
	compare(b, "of-fdatasync",
		func(d time.Duration) float64 { return fdatasync(b, dir, d) },
		func(d time.Duration) float64 { return wrk(b, server.url, registerScript(projects), d) })
}

// BenchmarkFetchPostgres: a fetch by a data plane, for a caller by their credential, of a Get. Every fetch is recorded, and
// opens an envelope.
func BenchmarkFetchPostgres(b *testing.B) {
	database, projects := postgres(b, keyCount)
	server := startAikeysd(b, database)
	for _, p := range projects {
		operator{client: http.DefaultClient, project: p}.register(b, server)
	}
	token := dataPlaneToken(b, database)
	compare(b, "of-get",
		func(d time.Duration) float64 { return wrk(b, server.url, getScript(projects), d) },
		func(d time.Duration) float64 { return wrk(b, server.dataPlane, fetchScript(projects, token), d) })
}

// BenchmarkMillionKeys: Get and List with a million keys in the table, of the same with a thousand.
func BenchmarkMillionKeys(b *testing.B) {
	few, fewProjects := postgres(b, projectCount)
	many, manyProjects := postgres(b, 1_000_000)
	small, large := startAikeysd(b, few), startAikeysd(b, many)
	// Pages of one key: a project has one key in the small table, and a thousand in the large one.
	for name, script := range map[string]func([]project) string{
		"get": getFirstScript, "list": func(p []project) string { return pageScript(p, 1) },
	} {
		b.Run(name, func(b *testing.B) {
			compare(b, "of-a-thousand",
				func(d time.Duration) float64 { return wrk(b, small.url, script(fewProjects), d) },
				func(d time.Duration) float64 { return wrk(b, large.url, script(manyProjects), d) })
		})
	}
}

// BenchmarkStart: from the start of the process until it is ready, on a fresh SQLite database, and its memory when idle.
func BenchmarkStart(b *testing.B) {
	var took, memory []float64
	for range 5 {
		database, _ := sqlite(b)
		server := startAikeysd(b, database)
		time.Sleep(2 * time.Second)
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", server.cmd.Process.Pid))
		require.NoError(b, err)
		took = append(took, float64(server.ready.Milliseconds()))
		memory = append(memory, number(b, string(status), `VmRSS:\s+(\d+) kB`)/1024)
	}
	b.ReportMetric(median(took), "ms-to-ready")
	b.ReportMetric(median(memory), "MiB-idle")
	b.ReportMetric(0, "ns/op")
}

// postgres returns a database of its own on a server of its own, with count keys spread over the projects.
func postgres(b *testing.B, count int) (database string, projects []project) {
	b.Helper()
	cluster := modelstest.StartCluster(b, modelstest.WithSetting("shared_buffers", "512MB"))
	database = cluster.URL("postgres")
	projects = seed(b, database, projectCount)[:usedProjects]
	db, err := pgx.Connect(context.Background(), database)
	require.NoError(b, err)
	defer func() { require.NoError(b, db.Close(context.Background())) }()
	_, err = db.Exec(context.Background(), fmt.Sprintf(`INSERT INTO ai_keys (id, customer_id, project_id, user_id, provider,
name, display_suffix, version, envelope, kek_id, created_at, created_by)
SELECT '%s' || lpad(i::text, 6, '0'), 'acme', 'p' || i %% %d, '', 'openai', 'key-' || i, 'abcd', 1,
decode(repeat('ab', 200), 'hex'), 'local:00000000', 1763892000000000 + i, 'alice' FROM generate_series(0, %d) i`,
		idPrefix, projectCount, count-1))
	require.NoError(b, err)
	for _, maintenance := range []string{"VACUUM ANALYZE", "CHECKPOINT"} {
		_, err = db.Exec(context.Background(), maintenance)
		require.NoError(b, err)
	}
	return database, projects
}

func sqlite(b *testing.B) (database string, projects []project) {
	b.Helper()
	database = "sqlite:" + b.TempDir() + "/aikeys.db"
	return database, seed(b, database, usedProjects)
}

// statement fills in a hot statement for pgbench, as project p0's owner.
func statement(name, token string, more map[string]string) string {
	values := map[string]string{
		"1": "'" + strings.Split(token, "_")[1] + "'", "2": "1763892000000000", "3": "'acme'", "4": "'p0'", "5": "'alice'",
	}
	for k, v := range more {
		values[k] = v
	}
	return fill(pg.Statements()[name], values)
}

func fill(sql string, values map[string]string) string {
	filled := regexp.MustCompile(`\$\d+`).ReplaceAllStringFunc(sql, func(p string) string { return "(" + values[p[1:]] + ")" })
	return strings.ReplaceAll(filled, "\n", " ") + ";\n"
}

func insertScript() string {
	key, event := map[string]string{}, map[string]string{}
	id := "'" + models.KeyIDPrefix + "' || :client_id || '-' || :r"
	for i, v := range []string{
		id, "'acme'", "'p' || :p", "''", "'openai'", "'k' || :r", "'abcd'", "1", `'\x` + strings.Repeat("ab", 200) + "'",
		"'local:00000000'", "1763892000000000", "'alice'",
	} {
		key[strconv.Itoa(i+1)] = v
	}
	for i, v := range []string{
		"'acme'", "'p' || :p", "''", "'evt_' || :client_id || '-' || :r", "'key.registered'", "'allowed'", "1763892000000000",
		"'alice'", "'api_key'", "'01JD8Q6Z3V8M2T5K7N9R4W1100'", id, "''", "'openai'", "''", "''", "'127.0.0.1'", "'01JD8Q6Z3V8M2T5K7N9R4W1100'",
	} {
		event[strconv.Itoa(i+1)] = v
	}
	return "\\set r random(1, 1000000000000)\n\\set p random(0, " + strconv.Itoa(usedProjects-1) + ")\nBEGIN;\n" +
		fill(pg.Statements()["insert-key"], key) + fill(pg.Statements()["insert-event"], event) + "END;\n"
}

// tokensLua is the sessions as a Lua table.
func tokensLua(projects []project) string {
	tokens := make([]string, len(projects))
	for i, p := range projects {
		tokens[i] = strconv.Quote(p.token)
	}
	return "local tokens = {" + strings.Join(tokens, ", ") + "}\n"
}

// preparedLua asks for count requests, each made once by the Lua expression, which may use i.
func preparedLua(projects []project, count int, path string) string {
	return tokensLua(projects) + fmt.Sprintf(`local requests = {}
function init(args)
  math.randomseed(1)
  for i = 0, %d do
    requests[i] = wrk.format("GET", %s, {["Authorization"] = "Bearer " .. tokens[i %% #tokens + 1]})
  end
end
function request() return requests[math.random(0, %d)] end
`, count-1, path, count-1)
}

// getScript asks for 5,000 keys of the used projects.
func getScript(projects []project) string {
	return preparedLua(projects, 50*usedProjects, fmt.Sprintf(
		`"/v1/customers/acme/projects/p" .. (i %% %d) .. "/aikeys/%s" .. string.format("%%06d", math.floor(i / %d) * %d + i %% %d)`,
		usedProjects, idPrefix, usedProjects, projectCount, usedProjects))
}

// getFirstScript asks for the first key of each used project.
func getFirstScript(projects []project) string {
	return preparedLua(projects, usedProjects,
		`"/v1/customers/acme/projects/p" .. i .. "/aikeys/`+idPrefix+`" .. string.format("%06d", i)`)
}

func listScript(projects []project) string { return pageScript(projects, 50) }

func pageScript(projects []project, size int) string {
	return preparedLua(projects, usedProjects,
		`"/v1/customers/acme/projects/p" .. i .. "/aikeys?page_size=`+strconv.Itoa(size)+`"`)
}

func getOne(p project, id string) string {
	return fmt.Sprintf(`local r
function init(args) r = wrk.format("GET", "/v1/aikeys/%s", {["Authorization"] = "Bearer %s"}) end
function request() return r end
`, id, p.token)
}

// fetchScript fetches the key of each used project for its owner.
func fetchScript(projects []project, token string) string {
	return tokensLua(projects) + fmt.Sprintf(`local requests = {}
function init(args)
  math.randomseed(1)
  for i = 1, #tokens do
    requests[i] = wrk.format("POST", "/v1/fetch", {["Authorization"] = "Bearer %s", ["Content-Type"] = "application/json"},
      '{"provider":"openai","credential":"' .. tokens[i] .. '"}')
  end
end
function request() return requests[math.random(1, #tokens)] end
`, token)
}

// registerScript registers keys of names never used before.
func registerScript(projects []project) string {
	return tokensLua(projects) + `local n = 0
local run = "` + strconv.FormatInt(time.Now().UnixNano(), 36) + `"
function request()
  n = n + 1
  local i = n % #tokens
  return wrk.format("POST", "/v1/customers/acme/projects/p" .. i .. "/aikeys",
    {["Authorization"] = "Bearer " .. tokens[i + 1], ["Content-Type"] = "application/json"},
    '{"provider":"openai","name":"' .. run .. n .. '","secret":"sk-EXAMPLE-EXAMPLE-EXAMPLE-' .. n .. '"}')
end
`
}

// firstKey returns the id of a project's newest key.
func firstKey(b *testing.B, server *process, p project) string {
	b.Helper()
	out := output(b, "curl", "-sS", "-H", "Authorization: Bearer "+p.token, server.url+"/v1/aikeys?page_size=1")
	found := regexp.MustCompile(`"id":"([^"]+)"`).FindStringSubmatch(out)
	require.NotNil(b, found, out)
	return found[1]
}

func freeAddr(b *testing.B) string {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b, err)
	defer func() { require.NoError(b, l.Close()) }()
	return l.Addr().String()
}
