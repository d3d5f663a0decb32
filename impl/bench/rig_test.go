package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
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

	"github.com/labstack/echo/v4"
	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/models"
	modelsdb "github.com/agentrouter/aikeys/models/database"
	"github.com/agentrouter/aikeys/models/modelstest"
)

const (
	// rounds is how many rounds must count, and maxRounds how many are tried.
	rounds, maxRounds = 3, 6
	// maxSteal is the share of processor time above which a round doesn't count.
	maxSteal = 0.08
	// roundTime is how long each side of a round runs.
	roundTime = 5 * time.Second
	clients   = 32

	bareEcho = "AIKEYS_BENCH_BARE_ECHO"
)

// binary is aikeysd, built once; secrets-svc is beside it.
var binary string

func TestMain(m *testing.M) {
	if addr := os.Getenv(bareEcho); addr != "" {
		serveBare(addr)
		return
	}
	if dir := os.Getenv(bareSealer); dir != "" {
		panic(serveBareSealer(dir))
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "aikeys-bench")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	binary = filepath.Join(dir, "aikeysd")
	build := exec.Command("go", "build", "-o", dir+"/", "../../cmd/aikeysd", "../../cmd/secrets-svc")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		panic(fmt.Sprintf("build the programs: %v\n%s", err, out))
	}
	return modelstest.Main(m)
}

// serveBare is the least that an Echo server can do for a JSON reply.
func serveBare(addr string) {
	e := echo.New()
	e.HideBanner, e.HidePort = true, true
	e.GET("/*", func(c echo.Context) error { return c.JSON(http.StatusOK, map[string]string{"hello": "world"}) })
	_ = e.Start(addr)
}

// process is a server under test; it ends with the benchmark.
type process struct {
	cmd *exec.Cmd
	url string
	// dataPlane is the URL of its data-plane API.
	dataPlane string
	// ready is how long the process took from its start until it answered ready.
	ready time.Duration
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

func start(b *testing.B, cmd *exec.Cmd, url, readyURL string) *process {
	b.Helper()
	began := time.Now()
	log := launch(b, cmd)
	for time.Since(began) < 20*time.Second {
		if reply, err := http.Get(readyURL); err == nil {
			_ = reply.Body.Close()
			if reply.StatusCode == http.StatusOK {
				return &process{cmd: cmd, url: url, ready: time.Since(began)}
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	b.Fatalf("server did not become ready:\n%s", log.String())
	return nil
}

func startAikeysd(b *testing.B, database string) *process {
	b.Helper()
	return startReplica(b, database, filepath.Join(b.TempDir(), "keyset.json"))
}

// startReplica starts an aikeysd that shares a keyset with others.
func startReplica(b *testing.B, database, keyset string) *process {
	b.Helper()
	return startSealing(b, database, "local:"+keyset)
}

// startSealing starts an aikeysd with a sealer, and more flags.
func startSealing(b *testing.B, database, sealer string, flags ...string) *process {
	b.Helper()
	public, dataPlane, ops := freeAddr(b), freeAddr(b), freeAddr(b)
	cmd := exec.Command(binary, append([]string{"serve", "--listen", public, "--dataplane-listen", dataPlane, "--ops-listen", ops,
		"--rate-limit", "1000000", "--sealer", sealer, "--log-level", "warn"}, flags...)...)
	cmd.Env = []string{"AIKEYS_DATABASE_URL=" + database, "HOME=" + os.Getenv("HOME")}
	server := start(b, cmd, "http://"+public, "http://"+ops+"/readyz")
	server.dataPlane = "http://" + dataPlane
	return server
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

func startBareEcho(b *testing.B) *process {
	b.Helper()
	addr := freeAddr(b)
	cmd := exec.Command(os.Args[0])
	cmd.Env = []string{bareEcho + "=" + addr, "GOGC=400"}
	return start(b, cmd, "http://"+addr, "http://"+addr+"/")
}

// project is a project that wrk uses, with a session of its owner.
type project struct{ id, token string }

// seed makes n projects, each with an owner who has an API key.
func seed(b *testing.B, database string, n int) []project {
	b.Helper()
	store, err := modelsdb.Open(database, models.Options{Timeout: time.Minute})
	require.NoError(b, err)
	defer func() { require.NoError(b, store.Close()) }()
	_, err = store.Migrate(context.Background())
	require.NoError(b, err)
	projects := make([]project, n)
	require.NoError(b, store.Transact(context.Background(), func(tx *models.Tx) error {
		for i := range projects {
			text, id, hash, err := auth.MintAPIKey(time.Now())
			projects[i] = project{id: fmt.Sprintf("p%d", i), token: text}
			_, member := error(nil), tx.EnsureProject("acme", projects[i].id)
			if member == nil {
				_, member = tx.SetMember("acme", projects[i].id, "alice", models.RoleOwner)
			}
			row := models.Token{ID: id, Hash: hash, CustomerID: "acme", ProjectID: projects[i].id, UserID: "alice"}
			if err := errors.Join(err, member, tx.CreateToken(row)); err != nil {
				return err
			}
		}
		return nil
	}))
	return projects
}

// wrk drives url for d and returns the requests per second. Any answer that is not a success fails the benchmark.
func wrk(b *testing.B, url, script string, d time.Duration) float64 {
	b.Helper()
	path := filepath.Join(b.TempDir(), "wrk.lua")
	require.NoError(b, os.WriteFile(path, []byte(script), 0o600))
	out := output(b, "wrk", "-t1", "-c"+strconv.Itoa(clients), fmt.Sprintf("-d%ds", int(d.Seconds())), "-s", path, url)
	require.NotContains(b, out, "Non-2xx", out)
	return number(b, out, `Requests/sec:\s+([\d.]+)`)
}

// pgbench runs a script with prepared statements and returns the transactions per second.
func pgbench(b *testing.B, database, script string, connections int, d time.Duration) float64 {
	b.Helper()
	path := filepath.Join(b.TempDir(), "script.sql")
	require.NoError(b, os.WriteFile(path, []byte(script), 0o600))
	out := output(b, tool("pgbench"), "-n", "-M", "prepared", "-c"+strconv.Itoa(connections), "-j1",
		fmt.Sprintf("-T%d", int(d.Seconds())), "-f", path, database)
	return number(b, out, `tps = ([\d.]+)`)
}

// tool finds a PostgreSQL program, which Debian keeps out of the PATH.
func tool(name string) string {
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	return strings.Join(found[max(0, len(found)-1):], "")
}

func output(b *testing.B, name string, args ...string) string {
	b.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	require.NoError(b, err, "%s: %s", name, out)
	return string(out)
}

func number(b *testing.B, text, pattern string) float64 {
	b.Helper()
	found := regexp.MustCompile(pattern).FindStringSubmatch(text)
	require.NotNil(b, found, text)
	n, err := strconv.ParseFloat(found[1], 64)
	require.NoError(b, err)
	return n
}

// fdatasync returns how many durable writes of 8 KiB per second the disk below dir achieves.
func fdatasync(b *testing.B, dir string, d time.Duration) float64 {
	b.Helper()
	f, err := os.Create(filepath.Join(dir, "fdatasync"))
	require.NoError(b, err)
	defer func() { require.NoError(b, f.Close()) }()
	block := make([]byte, 8<<10)
	_, err = f.Write(make([]byte, 1<<20))
	require.NoError(b, err)
	n, began := 0, time.Now()
	for ; time.Since(began) < d; n++ {
		_, err := f.WriteAt(block, 0)
		require.NoError(b, err)
		require.NoError(b, syscall.Fdatasync(int(f.Fd())))
	}
	return float64(n) / time.Since(began).Seconds()
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

// stolenTime returns a function that tells which share of processor time the host took since.
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
