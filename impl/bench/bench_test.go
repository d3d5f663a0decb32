package bench

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/jackc/pgx/v5"
	"github.com/labstack/echo/v4"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/internal/tlsfiles/tlsfilestest"
	"github.com/agentrouter/aikeys/models"
	modelsdb "github.com/agentrouter/aikeys/models/database"
	"github.com/agentrouter/aikeys/models/modelstest"
	pg "github.com/agentrouter/aikeys/models/postgres"
	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/awskms/awskmstest"
	"github.com/agentrouter/aikeys/sealer/gcpkms/gcpkmstest"
	"github.com/agentrouter/aikeys/sealer/local"
	"github.com/agentrouter/aikeys/sealer/remote"
	"github.com/agentrouter/aikeys/sealer/vault/vaulttest"
)

const (
	// rounds is how many rounds must count, and maxRounds how many are tried.
	rounds, maxRounds = 3, 6
	// maxSteal is the share of processor time above which a round doesn't count.
	maxSteal = 0.08
	// roundTime is how long each side of a round runs.
	roundTime = 5 * time.Second
	clients   = 32
)

// binary is aikeysd, built once; secrets-svc is beside it.
var binary string

func TestMain(m *testing.M) {
	if os.Getenv(envBareSealer) != "" {
		os.Exit(m.Run())
	}
	dir, err := os.MkdirTemp("", "aikeys-bench")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "aikeysd")
	build := exec.Command("go", "build", "-o", dir+"/", "../../cmd/aikeysd", "../../cmd/secrets-svc")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		panic(fmt.Sprintf("build the programs: %v\n%s", err, out))
	}
	modelstest.Main(m, func() { _ = os.RemoveAll(dir) })
}

// process is an aikeysd; it ends with the benchmark.
type process struct {
	pid            int
	url, dataPlane string
	// ready is how long the process took from its start until it answered ready.
	ready time.Duration
}

// startAikeysd starts an aikeysd with a new keyset, unless the flags say otherwise.
func startAikeysd(b *testing.B, database string, flags ...string) *process {
	b.Helper()
	public, dataPlane, ops := freeAddr(b), freeAddr(b), freeAddr(b)
	cmd := exec.Command(binary, append([]string{"serve", "--verify", "off", "--listen", public, "--dataplane-listen", dataPlane, "--ops-listen", ops,
		"--rate-limit", "1000000", "--sealer", "local:" + filepath.Join(b.TempDir(), "keyset.json"), "--log-level", "warn"}, flags...)...)
	cmd.Env = append([]string{"AIKEYS_DATABASE_URL=" + database, "HOME=" + os.Getenv("HOME")}, awskmstest.Environ()...)
	began := time.Now()
	log := launch(b, cmd)
	for time.Since(began) < 20*time.Second {
		if reply, err := http.Get("http://" + ops + "/readyz"); err == nil {
			_ = reply.Body.Close()
			if reply.StatusCode == http.StatusOK {
				return &process{pid: cmd.Process.Pid, url: "http://" + public, dataPlane: "http://" + dataPlane, ready: time.Since(began)}
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	b.Fatalf("aikeysd did not become ready:\n%s", log.String())
	return nil
}

// launch starts a process that ends with the benchmark, and returns its output.
func launch(b *testing.B, cmd *exec.Cmd) *bytes.Buffer {
	b.Helper()
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	require.NoError(b, cmd.Start())
	b.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	return &log
}

func freeAddr(b *testing.B) string {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b, err)
	defer func() { require.NoError(b, l.Close()) }()
	return l.Addr().String()
}

// dataPlaneToken makes a credential that serves all customers.
func dataPlaneToken(b *testing.B, database string) string {
	b.Helper()
	cmd := exec.Command(binary, "admin", "dataplane", "create", "--name", "bench")
	cmd.Env = []string{"AIKEYS_DATABASE_URL=" + database}
	token, err := cmd.Output()
	require.NoError(b, err)
	return strings.TrimSpace(string(token))
}

// The data: as many keys, projects and sessions as an installation of medium size has.
const (
	keyCount     = 60_000
	projectCount = 1_000
	// usedProjects is how many projects wrk and pgbench use: the first ones.
	usedProjects = 100
	// idPrefix and a number of six digits make a valid key id.
	idPrefix = models.KeyIDPrefix + "01JD8Q6Z3V8M2T5K7N9R"
)

// postgres returns a database of its own on a server of its own, with count keys spread over the projects.
func postgres(b *testing.B, count int) (database string, tokens []string) {
	b.Helper()
	database = modelstest.StartCluster(b, "fsync=on", "shared_buffers=512MB").URL("postgres")
	tokens = seed(b, database, projectCount)[:usedProjects]
	db, err := pgx.Connect(context.Background(), database)
	require.NoError(b, err)
	defer func() { require.NoError(b, db.Close(context.Background())) }()
	for _, sql := range []string{fmt.Sprintf(`INSERT INTO ai_keys (id, customer_id, project_id, user_id, provider,
name, display_suffix, version, envelope, kek_id, created_at, created_by)
SELECT '%s' || lpad(i::text, 6, '0'), 'acme', 'p' || i %% %d, '', 'openai', 'key-' || i, 'abcd', 1,
decode(repeat('ab', 200), 'hex'), 'local:00000000', 1763892000000000 + i, 'alice' FROM generate_series(0, %d) i`,
		idPrefix, projectCount, count-1), "VACUUM ANALYZE", "CHECKPOINT"} {
		_, err = db.Exec(context.Background(), sql)
		require.NoError(b, err)
	}
	return database, tokens
}

// seed makes n projects, p0 and so on, and returns an API key of the owner of each.
func seed(b *testing.B, database string, n int) []string {
	b.Helper()
	store, err := modelsdb.Open(database, models.Options{Timeout: time.Minute})
	require.NoError(b, err)
	defer func() { require.NoError(b, store.Close()) }()
	_, err = store.Migrate(context.Background())
	require.NoError(b, err)
	tokens := make([]string, n)
	require.NoError(b, store.Transact(context.Background(), func(tx *models.Tx) error {
		for i := range tokens {
			project := fmt.Sprintf("p%d", i)
			text, id, hash, err := auth.MintAPIKey(time.Now())
			tokens[i] = text
			row := models.Token{ID: id, Hash: hash, CustomerID: "acme", ProjectID: project, UserID: "alice"}
			_, member := error(nil), tx.EnsureProject("acme", project)
			if member == nil {
				_, member = tx.SetMember("acme", project, "alice", models.RoleOwner)
			}
			if err := errors.Join(err, member, tx.CreateToken(row)); err != nil {
				return err
			}
		}
		return nil
	}))
	return tokens
}

// register registers a key and returns its id.
func register(b *testing.B, client *http.Client, server *process, token string) string {
	b.Helper()
	body := fmt.Sprintf(`{"provider":"openai","name":"%d","secret":"sk-EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE"}`, time.Now().UnixNano())
	return find(b, call(b, client, token, http.MethodPost, server.url+"/v1/aikeys", body), `"id":"([^"]+)"`)
}

func call(b *testing.B, client *http.Client, token, method, url, body string) string {
	b.Helper()
	req, err := http.NewRequestWithContext(b.Context(), method, url, strings.NewReader(body))
	require.NoError(b, err)
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	reply, err := client.Do(req)
	require.NoError(b, err)
	defer func() { _ = reply.Body.Close() }()
	text, err := io.ReadAll(reply.Body)
	require.NoError(b, err)
	require.Less(b, reply.StatusCode, 300, string(text))
	return string(text)
}

// find returns the text that the group of a pattern matches.
func find(b *testing.B, text, pattern string) string {
	b.Helper()
	found := regexp.MustCompile(pattern).FindStringSubmatch(text)
	require.NotNil(b, found, text)
	return found[1]
}

func findNumber(b *testing.B, text, pattern string) float64 {
	b.Helper()
	n, err := strconv.ParseFloat(find(b, text, pattern), 64)
	require.NoError(b, err)
	return n
}

// wrk drives url for d and returns the requests per second. Any answer that is not a success fails the benchmark.
func wrk(b *testing.B, url, script string, d time.Duration) float64 {
	b.Helper()
	path := filepath.Join(b.TempDir(), "wrk.lua")
	require.NoError(b, os.WriteFile(path, []byte(script), 0o600))
	out, err := exec.Command("wrk", "-t1", fmt.Sprintf("-c%d", clients), fmt.Sprintf("-d%ds", int(d.Seconds())), "-s", path, url).CombinedOutput()
	require.NoError(b, err, "%s", out)
	require.NotContains(b, string(out), "Non-2xx")
	return findNumber(b, string(out), `Requests/sec:\s+([\d.]+)`)
}

// preparedLua returns a script that sends count prepared requests in random order. The Lua expression makes a request
// from i, which counts from 0.
func preparedLua(tokens []string, count int, expression string) string {
	return tokensLua(tokens) + fmt.Sprintf(`local requests = {}
function init(args)
  math.randomseed(1)
  for i = 0, %d do
    local token = tokens[i %% #tokens + 1]
    requests[i] = %s
  end
end
function request() return requests[math.random(0, %d)] end
`, count-1, expression, count-1)
}

func tokensLua(tokens []string) string {
	return `local tokens = {"` + strings.Join(tokens, `", "`) + "\"}\n"
}

// getLua returns a Lua expression for a GET; path is a Lua expression for its path.
func getLua(path string) string {
	return `wrk.format("GET", ` + path + `, {["Authorization"] = "Bearer " .. token})`
}

// getScript returns a script that gets 5,000 keys of the used projects.
func getScript(tokens []string) string {
	return preparedLua(tokens, 50*usedProjects, getLua(fmt.Sprintf(
		`"/v1/customers/acme/projects/p" .. (i %% %d) .. "/aikeys/%s" .. string.format("%%06d", math.floor(i / %d) * %d + i %% %d)`,
		usedProjects, idPrefix, usedProjects, projectCount, usedProjects)))
}

// registerScript returns a script that registers keys with names and secrets that were never used before.
func registerScript(tokens []string) string {
	return tokensLua(tokens) + fmt.Sprintf(`local n = 0
function request()
  n = n + 1
  local i = n %% #tokens
  return wrk.format("POST", "/v1/customers/acme/projects/p" .. i .. "/aikeys",
    {["Authorization"] = "Bearer " .. tokens[i + 1], ["Content-Type"] = "application/json"},
    '{"provider":"openai","name":"%[1]x-' .. n .. '","secret":"sk-EXAMPLE-EXAMPLE-EXAMPLE-%[1]x-' .. n .. '"}')
end
`, time.Now().UnixNano())
}

// pgbench runs a script with prepared statements and returns the transactions per second.
func pgbench(b *testing.B, database, script string, connections int, d time.Duration) float64 {
	b.Helper()
	path := filepath.Join(b.TempDir(), "script.sql")
	require.NoError(b, os.WriteFile(path, []byte(script), 0o600))
	tool := "pgbench"
	if found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/pgbench"); len(found) > 0 { // not in Debian's PATH
		tool = found[len(found)-1]
	}
	out, err := exec.Command(tool, "-n", "-M", "prepared", fmt.Sprintf("-c%d", connections), "-j1",
		fmt.Sprintf("-T%d", int(d.Seconds())), "-f", path, database).CombinedOutput()
	require.NoError(b, err, "%s", out)
	return findNumber(b, string(out), `tps = ([\d.]+)`)
}

// fill replaces the parameters of a statement by values, for pgbench.
func fill(sql string, values ...string) string {
	filled := regexp.MustCompile(`\$\d+`).ReplaceAllStringFunc(sql, func(p string) string {
		n, _ := strconv.Atoi(p[1:]) // the pattern matches digits only
		return "(" + values[n-1] + ")"
	})
	return strings.ReplaceAll(filled, "\n", " ") + ";\n"
}

// literals returns the values of a row as SQL. An expression replaces the value of its column.
func literals(row *models.Insert, expressions map[string]string) []string {
	values := make([]string, len(row.Values))
	for i, column := range row.Columns {
		switch value := row.Values[i].(type) {
		case []byte:
			values[i] = fmt.Sprintf(`'\x%x'`, value)
		case string:
			values[i] = "'" + value + "'"
		default:
			values[i] = fmt.Sprintf("'%v'", value)
		}
		if expression, ok := expressions[column]; ok {
			values[i] = expression
		}
	}
	return values
}

// compare runs limit and ours in turn, and reports the median of the rounds' ratios.
func compare(b *testing.B, unit string, limit, ours func(time.Duration) float64) {
	b.Helper()
	limit(time.Second)
	ours(time.Second)
	var ratios, limits, rates []float64
	for try := 0; try < maxRounds && len(ratios) < rounds; try++ {
		stolen := stolenTime(b)
		l, o := limit(roundTime), ours(roundTime)
		if share := stolen(); share > maxSteal {
			b.Logf("round left out: the host took %.0f%% of the processor", 100*share)
			continue
		}
		ratios, limits, rates = append(ratios, o/l), append(limits, l), append(rates, o)
	}
	require.NotEmpty(b, ratios, "no round counted: the host is too busy")
	b.ReportMetric(median(limits), "limit/s")
	b.ReportMetric(median(rates), "ours/s")
	b.ReportMetric(median(ratios), unit)
	b.ReportMetric(0, "ns/op")
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

// stolenTime returns a function that returns the share of processor time that the host has taken since this call.
func stolenTime(b *testing.B) func() float64 {
	b.Helper()
	read := func() (steal, all float64) {
		text, err := os.ReadFile("/proc/stat")
		require.NoError(b, err)
		line, _, _ := strings.Cut(string(text), "\n")
		for i, field := range strings.Fields(line)[1:] {
			n, _ := strconv.ParseFloat(field, 64) // the kernel writes numbers
			if all += n; i == 7 {
				steal = n
			}
		}
		return steal, all
	}
	steal, all := read()
	return func() float64 {
		s, a := read()
		return (s - steal) / (a - all)
	}
}

// pgbenchReaders is the number of connections at which pgbench reads fastest here.
const pgbenchReaders = 16

// BenchmarkGetPostgres compares a Get over HTTP with pgbench running the same joined statement.
func BenchmarkGetPostgres(b *testing.B) {
	database, tokens := postgres(b, keyCount)
	server := startAikeysd(b, database)
	script := fmt.Sprintf("\\set k random(0, 49)\n\\set n :k * %d\n", projectCount) + fill(pg.Statements()["get"],
		"'"+strings.Split(tokens[0], "_")[1]+"'", "1763892000000000", "'acme'", "'p0'", "'alice'", "'"+idPrefix+"' || lpad((:n)::text, 6, '0')")
	compare(b, "of-pgbench",
		func(d time.Duration) float64 { return pgbench(b, database, script, pgbenchReaders, d) },
		func(d time.Duration) float64 { return wrk(b, server.url, getScript(tokens), d) })
}

// BenchmarkListPostgres compares a List of 50 over HTTP with pgbench running the same statement.
func BenchmarkListPostgres(b *testing.B) {
	database, tokens := postgres(b, keyCount)
	server := startAikeysd(b, database)
	script := fill(pg.Statements()["list"], "'"+strings.Split(tokens[0], "_")[1]+"'", "1763892000000000", "'acme'", "'p0'", "'alice'")
	list := preparedLua(tokens, usedProjects, getLua(`"/v1/customers/acme/projects/p" .. i .. "/aikeys?page_size=50"`))
	compare(b, "of-pgbench",
		func(d time.Duration) float64 { return pgbench(b, database, script, pgbenchReaders, d) },
		func(d time.Duration) float64 { return wrk(b, server.url, list, d) })
}

// BenchmarkRegisterPostgres compares registering keys over HTTP with pgbench. With as many clients, pgbench makes the
// same three inserts in a transaction.
func BenchmarkRegisterPostgres(b *testing.B) {
	database, tokens := postgres(b, keyCount)
	server := startAikeysd(b, database)
	const request, at = "01JD8Q6Z3V8M2T5K7N9R4W1100", 1763892000000000
	row := map[string]string{"project_id": "'p' || :p", "name": "'k' || :r"}
	row["id"] = "'" + models.KeyIDPrefix + "' || :client_id || '-' || :r"
	key := fill(pg.Statements()["insert-key"], literals(models.KeyRow(models.Key{
		CustomerID: "acme", Provider: "openai", DisplaySuffix: "abcd", Version: 1, Envelope: bytes.Repeat([]byte{0xab}, 200),
		KEKID: "local:00000000", CreatedAt: at, CreatedBy: "alice",
	}), row)...)
	row["id"], row["key_id"] = "'evt_' || :client_id || '-' || :r", row["id"]
	event := fill(pg.Statements()["insert-event"], literals(models.EventRow(models.Event{
		CustomerID: "acme", Type: models.EventKeyRegistered, Outcome: models.OutcomeAllowed, At: at, ActorUserID: "alice",
		ActorMethod: string(auth.MethodAPIKey), ActorTokenID: request, Provider: "openai", SourceIP: "127.0.0.1", RequestID: request,
	}), row)...)
	row["fingerprint"] = "sha256((:client_id || '-' || :r)::bytea)"
	fingerprint := fill(pg.Statements()["insert-fingerprint"], literals(models.FingerprintRow(models.KeyFingerprint{CustomerID: "acme", Version: 1}), row)...)
	script := fmt.Sprintf("\\set r random(1, 1000000000000)\n\\set p random(0, %d)\nBEGIN;\n", usedProjects-1) + key + event + fingerprint + "END;\n"
	compare(b, "of-pgbench",
		func(d time.Duration) float64 { return pgbench(b, database, script, clients, d) },
		func(d time.Duration) float64 { return wrk(b, server.url, registerScript(tokens), d) })
}

// BenchmarkGetSQLite compares a Get over HTTP with a bare Echo handler that answers with a constant.
func BenchmarkGetSQLite(b *testing.B) {
	database := "sqlite:" + b.TempDir() + "/aikeys.db"
	tokens := seed(b, database, usedProjects)
	server := startAikeysd(b, database)

	bare := echo.New() // this process does nothing else
	bare.HideBanner, bare.HidePort = true, true
	bare.GET("/*", func(c echo.Context) error { return c.JSON(http.StatusOK, map[string]string{"hello": "world"}) })
	var err error
	bare.Listener, err = net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b, err)
	go func() { _ = bare.Start("") }()
	b.Cleanup(func() { require.NoError(b, bare.Close()) })
	defer debug.SetGCPercent(debug.SetGCPercent(400))

	wrk(b, server.url, registerScript(tokens), time.Second)
	script := preparedLua(tokens[:1], 1, getLua(`"/v1/aikeys/`+register(b, http.DefaultClient, server, tokens[0])+`"`))
	compare(b, "of-bare-echo",
		func(d time.Duration) float64 { return wrk(b, "http://"+bare.Listener.Addr().String(), script, d) },
		func(d time.Duration) float64 { return wrk(b, server.url, script, d) })
}

// BenchmarkRegisterSQLite compares a register over HTTP, with synchronous=FULL, with durable writes of 8 KiB to the disk (fdatasync).
func BenchmarkRegisterSQLite(b *testing.B) {
	dir := b.TempDir()
	database := "sqlite:" + dir + "/aikeys.db"
	tokens := seed(b, database, usedProjects)
	server := startAikeysd(b, database)
	file, err := os.Create(filepath.Join(dir, "fdatasync"))
	require.NoError(b, err)
	defer func() { require.NoError(b, file.Close()) }()
	_, err = file.Write(make([]byte, 1<<20))
	require.NoError(b, err)
	compare(b, "of-fdatasync",
		func(d time.Duration) float64 {
			block := make([]byte, 8<<10)
			n, began := 0, time.Now()
			for ; time.Since(began) < d; n++ {
				_, err := file.WriteAt(block, 0)
				require.NoError(b, err)
				require.NoError(b, syscall.Fdatasync(int(file.Fd())))
			}
			return float64(n) / time.Since(began).Seconds()
		},
		func(d time.Duration) float64 { return wrk(b, server.url, registerScript(tokens), d) })
}

// BenchmarkFetchPostgres compares a Get with a data plane's fetch for a caller's credential. Every fetch is recorded,
// and opens an envelope.
func BenchmarkFetchPostgres(b *testing.B) {
	database, tokens := postgres(b, keyCount)
	server := startAikeysd(b, database)
	for _, token := range tokens {
		register(b, http.DefaultClient, server, token)
	}
	script := preparedLua(tokens, usedProjects, fmt.Sprintf(
		`wrk.format("POST", "/v1/fetch", {["Authorization"] = "Bearer %s", ["Content-Type"] = "application/json"},
      '{"provider":"openai","credential":"' .. token .. '"}')`, dataPlaneToken(b, database)))
	compare(b, "of-get",
		func(d time.Duration) float64 { return wrk(b, server.url, getScript(tokens), d) },
		func(d time.Duration) float64 { return wrk(b, server.dataPlane, script, d) })
}

// BenchmarkMillionKeys compares Get and List on a table of a million keys with Get and List on a table of a thousand.
// The lists have pages of one key: a project has one key in the small table, and a thousand in the large one.
func BenchmarkMillionKeys(b *testing.B) {
	few, fewTokens := postgres(b, projectCount)
	many, manyTokens := postgres(b, 1_000_000)
	small, large := startAikeysd(b, few), startAikeysd(b, many)
	for name, path := range map[string]string{
		"get":  `"/v1/customers/acme/projects/p" .. i .. "/aikeys/` + idPrefix + `" .. string.format("%06d", i)`,
		"list": `"/v1/customers/acme/projects/p" .. i .. "/aikeys?page_size=1"`,
	} {
		b.Run(name, func(b *testing.B) {
			compare(b, "of-a-thousand",
				func(d time.Duration) float64 {
					return wrk(b, small.url, preparedLua(fewTokens, usedProjects, getLua(path)), d)
				},
				func(d time.Duration) float64 {
					return wrk(b, large.url, preparedLua(manyTokens, usedProjects, getLua(path)), d)
				})
		})
	}
}

// BenchmarkStart measures the time from the start of the process until it is ready, on a fresh SQLite database, and its memory when
// idle.
func BenchmarkStart(b *testing.B) {
	var took, memory []float64
	for range 5 {
		database := "sqlite:" + b.TempDir() + "/aikeys.db"
		seed(b, database, usedProjects)
		server := startAikeysd(b, database)
		time.Sleep(2 * time.Second) // until it is idle
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", server.pid))
		require.NoError(b, err)
		took = append(took, float64(server.ready.Milliseconds()))
		memory = append(memory, findNumber(b, string(status), `VmRSS:\s+(\d+) kB`)/1024)
	}
	b.ReportMetric(median(took), "ms-to-ready")
	b.ReportMetric(median(memory), "MiB-idle")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkRewrapPostgres measures how long "aikeysd rewrap" of 100,000 keys takes with the local backend, at its default rate, while
// wrk reads. It compares the rate of Get while the job runs with the rate while the job is paused. Then it runs the job again, without
// a rate limit and without reads.
func BenchmarkRewrapPostgres(b *testing.B) {
	const keys, page = 100_000, 5_000
	const round = 3 * time.Second // rounds go on until the job ends
	database, tokens := postgres(b, keys)
	keyset := filepath.Join(b.TempDir(), "keyset.json")
	server := startAikeysd(b, database, "--sealer", "local:"+keyset) // makes the keyset

	// Replace the envelopes of all keys with real ones.
	store, err := modelsdb.Open(database, models.Options{Timeout: time.Minute})
	require.NoError(b, err)
	backend, err := local.Open(keyset)
	require.NoError(b, err)
	for after, read := "", page; read == page; {
		rows, err := store.SealedKeys(context.Background(), after, page)
		require.NoError(b, err)
		batch := make([]models.Rewrapping, len(rows))
		for i, k := range rows {
			envelope, err := backend.Seal(context.Background(), sealer.Binding{CustomerID: k.CustomerID, ProjectID: k.ProjectID,
				KeyID: k.ID, Provider: k.Provider, Version: k.Version}, sealer.NewSecret(fmt.Appendf(nil, "sk-EXAMPLE-EXAMPLE-EXAMPLE-%d", i)))
			require.NoError(b, err)
			batch[i] = models.Rewrapping{KeyID: k.ID, Version: k.Version, Old: k.Envelope, New: envelope.Bytes, KEKID: envelope.KEKID}
			after = k.ID
		}
		stored, err := store.Rewrap(context.Background(), batch)
		require.NoError(b, err)
		require.Len(b, stored, len(rows))
		read = len(rows)
	}
	require.NoError(b, store.Close())

	// start makes a new KEK primary and starts a job. wait returns how long the job ran; it must have re-wrapped all keys.
	start := func(flags ...string) (cmd *exec.Cmd, done chan struct{}, wait func() time.Duration) {
		id, err := local.AddKEK(keyset)
		require.NoError(b, err)
		require.NoError(b, local.SetPrimary(keyset, id))
		cmd, done = exec.Command(binary, append([]string{"rewrap", "--sealer", "local:" + keyset}, flags...)...), make(chan struct{})
		cmd.Env = []string{"AIKEYS_DATABASE_URL=" + database}
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		began := time.Now()
		require.NoError(b, cmd.Start())
		var ended time.Time
		go func() {
			defer close(done)
			err, ended = cmd.Wait(), time.Now()
		}()
		return cmd, done, func() time.Duration {
			<-done
			require.NoError(b, err, "%s", &out)
			require.Contains(b, out.String(), fmt.Sprintf("re-wrapped %d keys; all keys are", keys))
			return ended.Sub(began)
		}
	}
	cmd, done, wait := start()
	running := func() bool {
		select {
		case <-done:
			return false
		default:
			return true
		}
	}
	signal := func(signal syscall.Signal) { // the database finishes a stopped job's statements
		if err := cmd.Process.Signal(signal); !errors.Is(err, os.ErrProcessDone) {
			require.NoError(b, err)
		}
	}
	script := getScript(tokens)
	wrk(b, server.url, script, time.Second)
	var ratios, alone, beside []float64
	var stopped time.Duration
	for running() {
		stolen, since := stolenTime(b), time.Now()
		signal(syscall.SIGSTOP)
		a := wrk(b, server.url, script, round)
		signal(syscall.SIGCONT)
		stopped += time.Since(since)
		r := wrk(b, server.url, script, round)
		if running() && stolen() <= maxSteal { // a round that outlasts the job does not count
			ratios, alone, beside = append(ratios, r/a), append(alone, a), append(beside, r)
		}
	}
	took := wait() - stopped
	_, _, wait = start("--rate", "0")
	unlimited := wait()
	require.NotEmpty(b, ratios, "no round counted: the host is too busy")
	b.ReportMetric(took.Seconds(), "s-for-100k")
	b.ReportMetric(median(alone), "limit/s")
	b.ReportMetric(median(beside), "ours/s")
	b.ReportMetric(median(ratios), "of-get")
	b.ReportMetric(keys/unlimited.Seconds(), "unlimited-keys/s")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkSecretsSeal compares sealing by secrets-svc with sealing by a bare Echo handler in a process of its own.
// Both serve the same client, with 16 callers, over a unix socket. secrets-svc also authenticates the client, validates
// the request, and zeroes memory.
func BenchmarkSecretsSeal(b *testing.B) {
	if dir := os.Getenv(envBareSealer); dir != "" {
		// This process is the baseline. It does the least that an Echo server must do to seal and open: no validation,
		// no authentication, no audit, no limits, no zeroed memory. It speaks the protocol of sealer/remote.
		backend, err := local.Open(filepath.Join(dir, "keyset.json"))
		require.NoError(b, err)
		type body struct {
			Binding struct {
				CustomerID string `json:"customer_id"`
				ProjectID  string `json:"project_id"`
				KeyID      string `json:"key_id"`
				Provider   string `json:"provider"`
				Version    uint32 `json:"version"`
			} `json:"binding"`
			Secret   []byte `json:"secret"`
			Envelope []byte `json:"envelope"`
		}
		e := echo.New()
		e.HideBanner, e.HidePort = true, true
		e.POST("/v1/seal", func(c echo.Context) error {
			var request body
			if err := c.Bind(&request); err != nil {
				return err
			}
			envelope, err := backend.Seal(c.Request().Context(), sealer.Binding(request.Binding), sealer.NewSecret(request.Secret))
			if err != nil {
				return err
			}
			return c.JSON(http.StatusOK, map[string]any{"kek_id": envelope.KEKID, "envelope": envelope.Bytes})
		})
		e.POST("/v1/open", func(c echo.Context) error {
			var request body
			if err := c.Bind(&request); err != nil {
				return err
			}
			secret, err := backend.Open(c.Request().Context(), sealer.Binding(request.Binding), request.Envelope)
			if err != nil {
				return err
			}
			return c.JSON(http.StatusOK, map[string][]byte{"secret": secret.Reveal()})
		})
		e.Listener, err = net.Listen("unix", filepath.Join(dir, "api.sock"))
		require.NoError(b, err)
		require.NoError(b, e.Start("")) // until the process is ended
	}
	compareSealers(b, func(s *remote.Sealer, _ []byte) error {
		_, err := s.Seal(context.Background(), keyBinding(), sealer.NewSecret([]byte(keySecret)))
		return err
	})
}

// BenchmarkSecretsOpen is BenchmarkSecretsSeal for an open. secrets-svc writes each open to its audit log before it answers.
func BenchmarkSecretsOpen(b *testing.B) {
	compareSealers(b, func(s *remote.Sealer, envelope []byte) error {
		secret, err := s.Open(context.Background(), keyBinding(), envelope)
		secret.Wipe()
		return err
	})
}

// BenchmarkSecretsRegister compares two aikeysd processes that register keys over HTTP: one seals with secrets-svc, the
// other seals in its own process. Both have the same PostgreSQL database.
func BenchmarkSecretsRegister(b *testing.B) {
	database, tokens := postgres(b, keyCount)
	keyset := filepath.Join(b.TempDir(), "keyset.json")
	inProcess := startAikeysd(b, database, "--sealer", "local:"+keyset)
	split := startAikeysd(b, database, "--sealer", "secrets+unix:"+startSecrets(b), "--sealer-old", "local:"+keyset) // local opens the canary
	compare(b, "of-in-process",
		func(d time.Duration) float64 { return wrk(b, inProcess.url, registerScript(tokens), d) },
		func(d time.Duration) float64 { return wrk(b, split.url, registerScript(tokens), d) })
}

// envBareSealer is the variable with the folder of a bare sealer.
const envBareSealer = "AIKEYS_BENCH_BARE_SEALER"

const keySecret = "sk-EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE"

func keyBinding() sealer.Binding {
	return sealer.Binding{CustomerID: "acme", ProjectID: "chat", KeyID: idPrefix + "000001", Provider: "openai", Version: 1}
}

// compareSealers compares secrets-svc with a bare sealer by the rate at which 16 callers make calls. Each sealer gets
// an envelope that it has sealed.
func compareSealers(b *testing.B, call func(s *remote.Sealer, envelope []byte) error) {
	b.Helper()
	const callers = 16
	dir := socketDir(b)
	cmd := exec.Command(os.Args[0], "-test.run=^$", "-test.bench=^BenchmarkSecretsSeal$")
	cmd.Env = []string{envBareSealer + "=" + dir, "GOGC=400"}
	launch(b, cmd)
	rate := func(s *remote.Sealer) func(time.Duration) float64 {
		envelope, err := s.Seal(context.Background(), keyBinding(), sealer.NewSecret([]byte(keySecret)))
		require.NoError(b, err)
		return func(d time.Duration) float64 {
			began, counts, errs := time.Now(), make([]int, callers), make([]error, callers)
			var group sync.WaitGroup
			for i := range callers {
				group.Go(func() {
					for time.Since(began) < d && errs[i] == nil {
						errs[i] = call(s, envelope.Bytes)
						counts[i]++
					}
				})
			}
			group.Wait()
			took, total := time.Since(began).Seconds(), 0
			for i := range callers {
				require.NoError(b, errs[i])
				total += counts[i]
			}
			return float64(total) / took
		}
	}
	compare(b, "of-in-process", rate(awaitSealer(b, filepath.Join(dir, "api.sock"))), rate(awaitSealer(b, startSecrets(b))))
}

// startSecrets starts secrets-svc, and returns the path of its socket.
func startSecrets(b *testing.B) (socket string) {
	b.Helper()
	dir := socketDir(b)
	socket = filepath.Join(dir, "api.sock")
	_, err := local.AddKEK(filepath.Join(dir, "bench.json"))
	require.NoError(b, err)
	clients := fmt.Appendf(nil, "clients: [{name: bench, uids: [%d], namespace: bench, may: [seal, open, rewrap, status]}]\n", os.Geteuid())
	require.NoError(b, os.WriteFile(filepath.Join(dir, "clients.yaml"), clients, 0o600))
	cmd := exec.Command(filepath.Join(filepath.Dir(binary), "secrets-svc"), "serve", "--listen", "unix:"+socket,
		"--ops-listen", "127.0.0.1:0", "--keys", dir, "--clients", filepath.Join(dir, "clients.yaml"),
		"--audit-log", filepath.Join(dir, "audit.log"), "--log-level", "warn")
	cmd.Env = []string{"HOME=" + os.Getenv("HOME")}
	launch(b, cmd)
	awaitSealer(b, socket)
	return socket
}

// socketDir is a folder for sockets, whose paths have at most 108 bytes.
func socketDir(b *testing.B) string {
	b.Helper()
	dir, err := os.MkdirTemp("", "svc") //nolint:usetesting // see above
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, os.RemoveAll(dir)) })
	return dir
}

// awaitSealer returns a client once the service answers.
func awaitSealer(b *testing.B, socket string) *remote.Sealer {
	b.Helper()
	client, err := remote.New(remote.Config{Socket: socket})
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, client.Close()) })
	require.Eventually(b, func() bool {
		_, err := client.Seal(context.Background(), keyBinding(), sealer.NewSecret([]byte("x")))
		return err == nil
	}, 20*time.Second, 5*time.Millisecond)
	return client
}

// coldFetches is how many fetches are measured, one after the other.
const coldFetches = 1_000

// BenchmarkColdFetchKMS measures how many milliseconds, and how many calls of the key management service, a thousand
// cold fetches take. aikeysd has no cache of its own, so every fetch of a data plane is a cold one.
func BenchmarkColdFetchKMS(b *testing.B) {
	for _, backend := range []struct {
		name string
		// start starts a service that counts its calls, and returns the URL of a key.
		start func(b *testing.B, calls *atomic.Int64) string
		flags []string
	}{
		{"file", func(b *testing.B, _ *atomic.Int64) string {
			return "local:" + filepath.Join(b.TempDir(), "keyset.json")
		}, nil},
		{"OpenBao", startOpenBao, nil},
		{"OpenBao,cache=1m", startOpenBao, []string{"--sealer-cache", "1m"}},
		{"AWS-moto", awsEmulator("moto"), nil},
		{"AWS-local-kms", awsEmulator("local-kms"), nil},
		{"GCP-double", func(b *testing.B, calls *atomic.Int64) string {
			server := gcpkmstest.Start(b)
			server.NewKey(b, "bench", kmspb.CryptoKey_ENCRYPT_DECRYPT)
			server.Before = func(context.Context, string) error { calls.Add(1); return nil }
			return server.URL("bench")
		}, nil},
	} {
		b.Run(backend.name, func(b *testing.B) {
			var calls atomic.Int64
			url := backend.start(b, &calls)
			database := "sqlite:" + filepath.Join(b.TempDir(), "aikeys.db")
			owner := seed(b, database, 1)[0]
			server := startAikeysd(b, database, append([]string{"--sealer", url}, backend.flags...)...)
			key, plane := register(b, http.DefaultClient, server, owner), dataPlaneToken(b, database)
			fetch := func() {
				call(b, http.DefaultClient, plane, http.MethodPost, server.dataPlane+"/v1/fetch", `{"key_id":"`+key+`"}`)
			}
			fetch()
			calls.Store(0)
			began := time.Now()
			for range coldFetches {
				fetch()
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(time.Since(began).Milliseconds()), fmt.Sprintf("ms/%d", coldFetches))
			b.ReportMetric(float64(calls.Load()), fmt.Sprintf("calls/%d", coldFetches))
		})
	}
}

// counting returns a handler that counts requests.
func counting(calls *atomic.Int64) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			calls.Add(1)
			next.ServeHTTP(w, r)
		})
	}
}

func startOpenBao(b *testing.B, calls *atomic.Int64) string {
	server := vaulttest.Start(b)
	url, _ := server.Sealer(b)
	server.Intercept(b, counting(calls))
	return url
}

func awsEmulator(name string) func(*testing.B, *atomic.Int64) string {
	return func(b *testing.B, calls *atomic.Int64) string {
		server := awskmstest.Start(b, name)
		key := server.NewKey(b, &kms.CreateKeyInput{})
		server.Intercept(b, counting(calls))
		return server.Sealer(key)
	}
}

// BenchmarkRevocation measures how soon data planes have read a revocation, in milliseconds from just before the revoke is sent.
// Three replicas share one PostgreSQL server; data planes are connected to all of them over TLS, and acknowledge what they read.
func BenchmarkRevocation(b *testing.B) {
	const (
		replicas = 3
		// revocations is how many revocations are measured. One more, the first, is not.
		revocations = 30
		// pause lets the acknowledgements of one revocation end before the next.
		pause = 700 * time.Millisecond
		// connectors is how many data planes connect at once: all must have connected before the first stream counts as
		// silent.
		connectors = 16
	)
	for _, count := range []int{1, 1_000, 5_000} {
		b.Run(fmt.Sprint(count), func(b *testing.B) {
			database, tokens := postgres(b, projectCount)
			keyset, files := b.TempDir()+"/keyset.json", tlsfilestest.WriteCertificate(b, b.TempDir(), 1)
			servers := make([]*process, replicas)
			for i := range servers {
				servers[i] = startAikeysd(b, database, "--sealer", "local:"+keyset, "--tls-cert", files.CertFile, "--tls-key", files.KeyFile)
				servers[i].url = strings.Replace(servers[i].url, "http:", "https:", 1)
				servers[i].dataPlane = strings.Replace(servers[i].dataPlane, "http:", "https:", 1)
			}
			trust := &tls.Config{RootCAs: files.Pool(b)}
			newClient := func() *http.Client {
				return &http.Client{Transport: &http.Transport{TLSClientConfig: trust.Clone(), MaxIdleConnsPerHost: 64, MaxConnsPerHost: 64}}
			}
			user, dataPlanes, token := newClient(), newClient(), dataPlaneToken(b, database)
			keys := make([]string, revocations+1)
			for i := range keys { // before data planes connect, so that they get no events for it
				keys[i] = register(b, user, servers[0], tokens[0])
			}

			var (
				mu       sync.Mutex  // guards the following
				wanted   []byte      // in the event that is waited for
				read     []time.Time // when each of the data planes has read it
				complete chan struct{}
			)
			isWanted := func(data []byte) bool {
				now := time.Now()
				if !bytes.Contains(data, []byte(`"type":"key.revoked"`)) {
					return false
				}
				mu.Lock()
				defer mu.Unlock()
				if wanted == nil || !bytes.Contains(data, wanted) {
					return false
				}
				if read = append(read, now); len(read) == count {
					close(complete)
				}
				return true
			}
			acknowledge := func(server, session, position string) {
				req, err := http.NewRequest(http.MethodPost, server+"/v1/acknowledgements",
					strings.NewReader(fmt.Sprintf(`{"session_id":%q,"position":%q}`, session, position)))
				if err != nil {
					return
				}
				req.Header.Set("Authorization", "Bearer "+token)
				req.Header.Set("Content-Type", "application/json")
				if reply, err := dataPlanes.Do(req); err == nil {
					_, _ = io.Copy(io.Discard, reply.Body)
					_ = reply.Body.Close()
				}
			}
			// follow is one data plane: it reads a stream to its end, and acknowledges the events that are waited for.
			follow := func(server string, lines *bufio.Reader) {
				var session, position string
				var owes bool
				for {
					line, err := lines.ReadSlice('\n')
					if err != nil {
						return
					}
					if id, found := bytes.CutPrefix(line, []byte("id: ")); found {
						position = string(bytes.TrimSpace(id))
						continue
					}
					data, found := bytes.CutPrefix(line, []byte("data: "))
					if !found {
						continue
					}
					if isWanted(data) {
						owes = true
						continue
					}
					if session != "" && !owes {
						continue
					}
					var message struct {
						Session string `json:"session_id"`
						Within  int    `json:"acknowledge_within_ms"`
					}
					if json.Unmarshal(data, &message) != nil {
						continue
					}
					if session == "" {
						session = message.Session
						continue
					}
					owes = false
					at := position
					wait := message.Within/2 + rand.IntN(message.Within/2+1)
					time.AfterFunc(time.Duration(wait)*time.Millisecond, func() { acknowledge(server, session, at) })
				}
			}
			// connect opens a stream on a connection of its own. net/http's client would add two goroutines to each.
			connect := func(server string) (*tls.Conn, *bufio.Reader, error) {
				address := strings.TrimPrefix(server, "https://")
				conn, err := tls.Dial("tcp", address, trust)
				if err != nil {
					return nil, nil, err
				}
				if _, err := fmt.Fprintf(conn, "GET /v1/events HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n\r\n", address, token); err != nil {
					return nil, nil, err
				}
				response, err := http.ReadResponse(bufio.NewReader(conn), nil) //nolint:bodyclose // the connection is closed
				if err != nil {
					return nil, nil, err
				}
				if response.StatusCode != http.StatusOK {
					return nil, nil, fmt.Errorf("no stream: %s", response.Status)
				}
				return conn, bufio.NewReader(response.Body), nil
			}
			var connecting errgroup.Group
			var reading sync.WaitGroup
			connecting.SetLimit(connectors)
			conns := make([]*tls.Conn, count)
			for i := range count {
				connecting.Go(func() error {
					server := servers[i%replicas].dataPlane
					conn, lines, err := connect(server)
					if err == nil {
						conns[i] = conn
						reading.Go(func() { follow(server, lines) })
					}
					return err
				})
			}
			require.NoError(b, connecting.Wait())

			var times, last, receipts []float64
			stolen := stolenTime(b)
			for i, key := range keys {
				mu.Lock()
				wanted, read, complete = []byte(`"key_id":"`+key+`"`), nil, make(chan struct{})
				mu.Unlock()
				sent := time.Now()
				receipt := call(b, user, tokens[0], http.MethodDelete, servers[i%replicas].url+"/v1/aikeys/"+key+"?wait=3s", "")
				require.Contains(b, receipt, `"state":"complete"`)
				select {
				case <-complete:
				case <-time.After(5 * time.Second):
					b.Fatalf("not all of %d data planes have read the revocation", count)
				}
				took := make([]float64, count)
				for n, at := range read[:count] {
					took[n] = float64(at.Sub(sent).Microseconds()) / 1000
				}
				if i > 0 {
					times = append(times, took...)
					last = append(last, slices.Max(took))
					receipts = append(receipts, findNumber(b, receipt, `"slowest_ms":(\d+)`))
				}
				time.Sleep(pause)
			}
			for _, conn := range conns {
				_ = conn.NetConn().Close()
			}
			reading.Wait()
			slices.Sort(times)
			b.ReportMetric(times[len(times)/2], "p50-ms")
			b.ReportMetric(times[len(times)*99/100], "p99-ms")
			b.ReportMetric(slices.Max(last), "max-ms")
			b.ReportMetric(median(receipts), "receipt-ms")
			b.ReportMetric(100*stolen(), "steal-%")
			b.ReportMetric(0, "ns/op")
		})
	}
}
