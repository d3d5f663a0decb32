package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models"
	modelsdb "github.com/agentrouter/aikeys/models/database"
	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/local"
)

// rewrapKeys is how many keys are re-wrapped.
const rewrapKeys = 100_000

// rewrapRound is how long each side of a round runs, of which there are as many as the job takes.
const rewrapRound = 3 * time.Second

// BenchmarkRewrapPostgres: "aikeysd rewrap" of 100,000 keys with the local backend, at its default rate, while wrk
// reads: how long the job takes, and the rate of Get while it runs as a share of the rate while it is paused. Then the job again,
// without a rate limit and without reads.
func BenchmarkRewrapPostgres(b *testing.B) {
	database, projects := postgres(b, rewrapKeys)
	keyset := filepath.Join(b.TempDir(), "keyset.json")
	server := startReplica(b, database, keyset) // makes the keyset
	sealAll(b, database, keyset)
	script := getScript(projects)
	wrk(b, server.url, script, time.Second)
	var ratios, alone, beside []float64
	job := startRewrap(b, database, keyset)
	for job.running() {
		stolen := stolenTime(b)
		job.hold(b)
		a := wrk(b, server.url, script, rewrapRound)
		job.release(b)
		r := wrk(b, server.url, script, rewrapRound)
		if job.running() && stolen() <= maxSteal { // a round that outlasts the job does not count
			ratios, alone, beside = append(ratios, r/a), append(alone, a), append(beside, r)
		}
	}
	took := job.wait(b)
	unlimited := startRewrap(b, database, keyset, "--rate", "0").wait(b)
	require.NotEmpty(b, ratios, "no round counted: the host is too busy")
	b.ReportMetric(took.Seconds(), "s-for-100k")
	b.ReportMetric(median(alone), "limit/s")
	b.ReportMetric(median(beside), "ours/s")
	b.ReportMetric(median(ratios), "of-get")
	b.ReportMetric(rewrapKeys/unlimited.Seconds(), "unlimited-keys/s")
	b.ReportMetric(0, "ns/op")
}

// sealAll replaces the envelopes of all keys with real ones.
func sealAll(b *testing.B, database, keyset string) {
	b.Helper()
	store, err := modelsdb.Open(database, models.Options{Timeout: time.Minute})
	require.NoError(b, err)
	defer func() { require.NoError(b, store.Close()) }()
	backend, err := local.Open(keyset)
	require.NoError(b, err)
	const page = 5_000
	for after := ""; ; {
		keys, err := store.SealedKeys(context.Background(), after, page)
		require.NoError(b, err)
		batch := make([]models.Rewrapping, len(keys))
		for i, k := range keys {
			envelope, err := backend.Seal(context.Background(), sealer.Binding{CustomerID: k.CustomerID, ProjectID: k.ProjectID,
				KeyID: k.ID, Provider: k.Provider, Version: k.Version}, sealer.NewSecret(fmt.Appendf(nil, "sk-EXAMPLE-EXAMPLE-EXAMPLE-%d", i)))
			require.NoError(b, err)
			batch[i] = models.Rewrapping{KeyID: k.ID, Version: k.Version, Old: k.Envelope, New: envelope.Bytes, KEKID: envelope.KEKID}
		}
		stored, err := store.Rewrap(context.Background(), batch)
		require.NoError(b, err)
		require.Len(b, stored, len(keys))
		if len(keys) < page {
			return
		}
		after = keys[len(keys)-1].ID
	}
}

// rewrapJob is a running "aikeysd rewrap".
type rewrapJob struct {
	cmd  *exec.Cmd
	out  bytes.Buffer
	done chan struct{} // closed when it has ended
	// err and ended are set by then.
	err   error
	ended time.Time
	began time.Time
	// stopped is how long the job has been paused in all; since is when the latest pause began.
	stopped time.Duration
	since   time.Time
}

// startRewrap makes a new KEK primary, and starts to re-wrap.
func startRewrap(b *testing.B, database, keyset string, flags ...string) *rewrapJob {
	b.Helper()
	id, err := local.AddKEK(keyset)
	require.NoError(b, err)
	require.NoError(b, local.SetPrimary(keyset, id))
	cmd := exec.Command(binary, append([]string{"rewrap", "--sealer", "local:" + keyset}, flags...)...)
	cmd.Env = []string{"AIKEYS_DATABASE_URL=" + database}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	job := &rewrapJob{cmd: cmd, began: time.Now(), done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &job.out, &job.out
	require.NoError(b, cmd.Start())
	go func() {
		defer close(job.done)
		job.err, job.ended = cmd.Wait(), time.Now()
	}()
	return job
}

func (j *rewrapJob) running() bool {
	select {
	case <-j.done:
		return false
	default:
		return true
	}
}

// hold pauses the process. The database still finishes the statements that it has begun.
func (j *rewrapJob) hold(b *testing.B) {
	b.Helper()
	j.since = time.Now()
	j.signal(b, syscall.SIGSTOP)
}

func (j *rewrapJob) release(b *testing.B) {
	b.Helper()
	j.signal(b, syscall.SIGCONT)
	j.stopped += time.Since(j.since)
}

func (j *rewrapJob) signal(b *testing.B, signal syscall.Signal) {
	b.Helper()
	if err := j.cmd.Process.Signal(signal); !errors.Is(err, os.ErrProcessDone) {
		require.NoError(b, err)
	}
}

// wait returns how long it ran. It must have re-wrapped all keys.
func (j *rewrapJob) wait(b *testing.B) time.Duration {
	b.Helper()
	<-j.done
	require.NoError(b, j.err, "%s", &j.out)
	require.Contains(b, j.out.String(), fmt.Sprintf("re-wrapped %d keys; all keys are", rewrapKeys))
	return j.ended.Sub(j.began) - j.stopped
}
