package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/models"
	modelsdb "github.com/agentrouter/aikeys/models/database"
	"github.com/agentrouter/aikeys/models/modelstest"
	"github.com/agentrouter/aikeys/sealer/awskms/awskmstest"
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
	code := modelstest.Main(m)
	_ = os.RemoveAll(dir)
	os.Exit(code)
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

// The data: as many keys, projects and sessions as a middling installation has.
const (
	keyCount     = 60_000
	projectCount = 1_000
	// usedProjects are what wrk and pgbench ask for, in the first usedProjects.
	usedProjects = 100
	// idPrefix and a number of six digits make a valid key id.
	idPrefix = models.KeyIDPrefix + "01JD8Q6Z3V8M2T5K7N9R"
)

// postgres returns a database of its own on a server of its own, with count keys spread over the projects.
func postgres(b *testing.B, count int) (database string, tokens []string) {
	b.Helper()
	database = modelstest.StartCluster(b, modelstest.WithSetting("shared_buffers", "512MB")).URL("postgres")
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

// find returns what the group of a pattern matches.
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

// preparedLua asks for the requests that the Lua expression makes of i, from 0 to count-1, in random order.
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

// getLua is a Lua expression for a GET of the path that another one makes.
func getLua(path string) string {
	return `wrk.format("GET", ` + path + `, {["Authorization"] = "Bearer " .. token})`
}

// getScript asks for 5,000 keys of the used projects.
func getScript(tokens []string) string {
	return preparedLua(tokens, 50*usedProjects, getLua(fmt.Sprintf(
		`"/v1/customers/acme/projects/p" .. (i %% %d) .. "/aikeys/%s" .. string.format("%%06d", math.floor(i / %d) * %d + i %% %d)`,
		usedProjects, idPrefix, usedProjects, projectCount, usedProjects)))
}

// registerScript registers keys with names and secrets that were never used before.
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
	if found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/pgbench"); len(found) > 0 { // Debian keeps it out of the PATH
		tool = found[len(found)-1]
	}
	out, err := exec.Command(tool, "-n", "-M", "prepared", fmt.Sprintf("-c%d", connections), "-j1",
		fmt.Sprintf("-T%d", int(d.Seconds())), "-f", path, database).CombinedOutput()
	require.NoError(b, err, "%s", out)
	return findNumber(b, string(out), `tps = ([\d.]+)`)
}

// fill fills in the values of a statement for pgbench.
func fill(sql string, values ...string) string {
	filled := regexp.MustCompile(`\$\d+`).ReplaceAllStringFunc(sql, func(p string) string {
		n, _ := strconv.Atoi(p[1:]) // the pattern matches digits only
		return "(" + values[n-1] + ")"
	})
	return strings.ReplaceAll(filled, "\n", " ") + ";\n"
}

// literals returns the values of a row as SQL. Expressions, by column, take the place of values.
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

// compare runs limit and ours in turns and reports the median of the rounds' ratios.
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

// stolenTime returns a function that returns the share of processor time that the host took since.
func stolenTime(b *testing.B) func() float64 {
	b.Helper()
	read := func() (steal, all float64) {
		text, err := os.ReadFile("/proc/stat")
		require.NoError(b, err)
		line, _, _ := strings.Cut(string(text), "\n")
		for i, field := range strings.Fields(line)[1:] {
			n, err := strconv.ParseFloat(field, 64)
			require.NoError(b, err)
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
