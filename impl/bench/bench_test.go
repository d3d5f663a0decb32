package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/models"
	modelsdb "github.com/agentrouter/aikeys/models/database"
	pg "github.com/agentrouter/aikeys/models/postgres"
	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/local"
)

// pgbenchReaders is the number of connections at which pgbench reads fastest here.
const pgbenchReaders = 16

// BenchmarkGetPostgres: a Get over HTTP, of pgbench running the same joined statement.
func BenchmarkGetPostgres(b *testing.B) {
	database, tokens := postgres(b, keyCount)
	server := startAikeysd(b, database)
	script := fmt.Sprintf("\\set k random(0, 49)\n\\set n :k * %d\n", projectCount) + fill(pg.Statements()["get"],
		"'"+strings.Split(tokens[0], "_")[1]+"'", "1763892000000000", "'acme'", "'p0'", "'alice'", "'"+idPrefix+"' || lpad((:n)::text, 6, '0')")
	compare(b, "of-pgbench",
		func(d time.Duration) float64 { return pgbench(b, database, script, pgbenchReaders, d) },
		func(d time.Duration) float64 { return wrk(b, server.url, getScript(tokens), d) })
}

// BenchmarkListPostgres: a List of 50 over HTTP, of pgbench running the same statement.
func BenchmarkListPostgres(b *testing.B) {
	database, tokens := postgres(b, keyCount)
	server := startAikeysd(b, database)
	script := fill(pg.Statements()["list"], "'"+strings.Split(tokens[0], "_")[1]+"'", "1763892000000000", "'acme'", "'p0'", "'alice'")
	list := preparedLua(tokens, usedProjects, getLua(`"/v1/customers/acme/projects/p" .. i .. "/aikeys?page_size=50"`))
	compare(b, "of-pgbench",
		func(d time.Duration) float64 { return pgbench(b, database, script, pgbenchReaders, d) },
		func(d time.Duration) float64 { return wrk(b, server.url, list, d) })
}

// BenchmarkRegisterPostgres: a register over HTTP, of pgbench making the same three inserts in a transaction, with as many
// clients.
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

// BenchmarkGetSQLite: a Get over HTTP, of a bare Echo handler that answers a constant.
func BenchmarkGetSQLite(b *testing.B) {
	database := "sqlite:" + b.TempDir() + "/aikeys.db"
	tokens := seed(b, database, usedProjects)
	server := startAikeysd(b, database)

	bare := echo.New() // in this process, which does nothing else
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

// BenchmarkRegisterSQLite: a register over HTTP with synchronous=FULL, of the disk's fdatasync rate: durable writes of 8 KiB
// per second.
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

// BenchmarkFetchPostgres: a fetch by a data plane, for a caller by their credential, of a Get. Every fetch is recorded, and
// opens an envelope.
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

// BenchmarkMillionKeys: Get and List with a million keys in the table, of the same with a thousand. The lists have pages of one
// key: a project has one key in the small table, and a thousand in the large one.
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

// BenchmarkStart: from the start of the process until it is ready, on a fresh SQLite database, and its memory when idle.
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

// BenchmarkRewrapPostgres: "aikeysd rewrap" of 100,000 keys with the local backend, at its default rate, while wrk
// reads: how long the job takes, and the rate of Get while it runs as a share of the rate while it is paused. Then the job again,
// without a rate limit and without reads.
func BenchmarkRewrapPostgres(b *testing.B) {
	const keys, page = 100_000, 5_000
	const round = 3 * time.Second // of which there are as many as the job takes
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
	signal := func(signal syscall.Signal) { // the database still finishes the statements that a stopped job has begun
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
