package rewrap_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/rewrap"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/local"
)

// What a child process is told: that it is one, the database, the keysets (the new one first, old ones after it), and
// the step at which it kills itself, 0 for none.
const (
	envChild   = "REWRAP_TEST_CHILD"
	envURL     = "REWRAP_TEST_URL"
	envKeysets = "REWRAP_TEST_KEYSETS"
	envStep    = "REWRAP_TEST_STEP"
)

// killedKeys and killedBatch make two batches.
const killedKeys, killedBatch = 5, 3

// runChild runs a job, prints its steps, and returns the exit code, unless it is killed. It ends with its parent, when
// standard input closes.
func runChild() int {
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(3)
	}()
	if err := runChildJob(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func runChildJob() error {
	store, err := models.Open(os.Getenv(envURL), models.Options{})
	if err != nil {
		return err
	}
	var sealers []sealer.Sealer
	for path := range strings.SplitSeq(os.Getenv(envKeysets), ",") {
		s, err := local.Open(path)
		if err != nil {
			return err
		}
		sealers = append(sealers, s)
	}
	last, err := strconv.Atoi(os.Getenv(envStep))
	if err != nil {
		return err
	}
	count := 0
	job := rewrap.New(rewrap.Config{Store: store, Sealer: sealer.Migrating(sealers[0], sealers[1:]...)})
	_, err = rewrap.AtEachStep(job, killedBatch, func(step string) {
		count++
		fmt.Println(step)
		if count == last {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // never past this step
		}
	}).Run(context.Background())
	return err
}

// child starts a job as a process of its own.
func (w *world) child(step int, keysets ...string) (*exec.Cmd, io.Reader) {
	w.t.Helper()
	self, err := os.Executable()
	require.NoError(w.t, err)
	cmd := exec.CommandContext(w.t.Context(), self)
	cmd.Env = append(os.Environ(), envChild+"=1", envURL+"="+w.url, envKeysets+"="+strings.Join(keysets, ","),
		envStep+"="+strconv.Itoa(step))
	cmd.Stderr = w.t.Output()
	_, err = cmd.StdinPipe()
	require.NoError(w.t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(w.t, err)
	require.NoError(w.t, cmd.Start())
	return cmd, stdout
}

// killedAt runs a job in a process that is killed at a step, and returns the steps that it came to; killed is false
// when there is no such step, since the job was done before.
func (w *world) killedAt(step int, keysets ...string) (steps []string, killed bool) {
	w.t.Helper()
	cmd, stdout := w.child(step, keysets...)
	for scanner := bufio.NewScanner(stdout); scanner.Scan(); {
		steps = append(steps, scanner.Text())
	}
	if err := cmd.Wait(); err == nil {
		return steps, false
	}
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	require.True(w.t, ok && status.Signaled() && status.Signal() == syscall.SIGKILL, "the job failed, and was not killed")
	return steps, true
}

// A job is killed at its first step, the next one at its second, and so on until one ends; before each of them the
// keyset has a new primary KEK. After each kill all keys open, and a job that follows does the rest.
func TestAKillAtAnyStepMakesNothingUnreadable(t *testing.T) {
	each(t, killedKeys, func(t *testing.T, w *world) {
		w.revoke(w.rows()[1].ID)
		seen := map[string]bool{}
		for step := 1; ; step++ {
			w.rotate()
			steps, killed := w.killedAt(step, w.keyset)
			w.requireAllOpen(w.sealer)
			if !killed {
				w.requireDone(w.sealer)
				break
			}
			require.Len(t, steps, step)
			seen[steps[step-1]] = true
			w.run(w.sealer)
			w.requireDone(w.sealer)
			w.requireAllOpen(w.sealer)
		}
		for _, step := range rewrap.Steps() {
			require.True(t, seen[step], "killed at: %s", step)
		}
	})
}

// The same on the way from one sealer to another. Until the job is done, services have both.
func TestAKillAtAnyStepOfAMoveMakesNothingUnreadable(t *testing.T) {
	w := newWorld(t, modelstest.EngineSQLite, killedKeys)
	for step := 1; ; step++ {
		previous, next := w.keyset, filepath.Join(t.TempDir(), fmt.Sprintf("keyset-%d.json", step))
		both := sealer.Migrating(open(t, next), open(t, previous))
		_, killed := w.killedAt(step, next, previous)
		w.requireAllOpen(both)
		w.run(both)
		w.keyset, w.sealer = next, open(t, next)
		w.requireDone(w.sealer)
		w.requireAllOpen(w.sealer)
		if !killed {
			return
		}
	}
}

// Between the steps as well, within a transaction say.
func TestAKillAtAnyMomentMakesNothingUnreadable(t *testing.T) {
	each(t, 60, func(t *testing.T, w *world) {
		for range 6 {
			w.rotate()
			cmd, stdout := w.child(0, w.keyset)
			scanner := bufio.NewScanner(stdout)
			for range 1 + rand.IntN(30) {
				scanner.Scan()
			}
			pause := time.NewTimer(time.Duration(rand.IntN(3000)) * time.Microsecond)
			<-pause.C
			_ = cmd.Process.Kill() // unless it has ended
			_ = cmd.Wait()
			w.requireAllOpen(w.sealer)
			w.run(w.sealer)
			w.requireDone(w.sealer)
			w.requireAllOpen(w.sealer)
		}
	})
}
