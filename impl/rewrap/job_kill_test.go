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
	"github.com/agentrouter/aikeys/models/database"
	"github.com/agentrouter/aikeys/models/modelstest"
	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/local"
)

// The variables of a child process: a mark that it is one, the database, the keysets (the new one first), and the step at
// which it kills itself (0 for none).
const (
	envChild   = "REWRAP_TEST_CHILD"
	envURL     = "REWRAP_TEST_URL"
	envKeysets = "REWRAP_TEST_KEYSETS"
	envStep    = "REWRAP_TEST_STEP"
)

// killedKeys and killedBatch together make two batches.
const killedKeys, killedBatch = 5, 3

// runChild runs a job, prints its steps, and returns the exit code, unless it is killed. It exits when its parent does, since
// that closes its standard input.
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
	store, err := database.Open(os.Getenv(envURL), models.Options{})
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
			select {} // it never gets past this step
		}
	}).Run(context.Background())
	return err
}

// child starts a job in a process of its own.
func (env *env) child(step int, keysets ...string) (*exec.Cmd, io.Reader) {
	env.t.Helper()
	self, err := os.Executable()
	require.NoError(env.t, err)
	cmd := exec.CommandContext(env.t.Context(), self)
	cmd.Env = append(os.Environ(), envChild+"=1", envURL+"="+env.url, envKeysets+"="+strings.Join(keysets, ","),
		envStep+"="+strconv.Itoa(step))
	cmd.Stderr = env.t.Output()
	_, err = cmd.StdinPipe()
	require.NoError(env.t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(env.t, err)
	require.NoError(env.t, cmd.Start())
	return cmd, stdout
}

// killedAt runs a job in a process that is killed at a step, and returns the steps that it reached. If the job ended before
// that step, killed is false.
func (env *env) killedAt(step int, keysets ...string) (steps []string, killed bool) {
	env.t.Helper()
	cmd, stdout := env.child(step, keysets...)
	for scanner := bufio.NewScanner(stdout); scanner.Scan(); {
		steps = append(steps, scanner.Text())
	}
	if err := cmd.Wait(); err == nil {
		return steps, false
	}
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	require.True(env.t, ok && status.Signaled() && status.Signal() == syscall.SIGKILL, "the job failed, and was not killed")
	return steps, true
}

// A job is killed at its first step, the next one at its second, and so on until a job ends; before each of them the keyset
// gets a new primary KEK. After each kill all keys open, and another job does the rest.
func TestKillAtEveryStep(t *testing.T) {
	each(t, killedKeys, func(t *testing.T, env *env) {
		env.revoke(env.rows()[1].ID)
		seen := map[string]bool{}
		for step := 1; ; step++ {
			env.rotate()
			steps, killed := env.killedAt(step, env.keyset)
			env.requireAllOpen(env.sealer)
			if !killed {
				env.requireDone(env.sealer)
				break
			}
			require.Len(t, steps, step)
			seen[steps[step-1]] = true
			env.run(env.sealer)
			env.requireDone(env.sealer)
			env.requireAllOpen(env.sealer)
		}
		for _, step := range rewrap.Steps() {
			require.True(t, seen[step], "killed at: %s", step)
		}
	})
}

// The same for a move from one sealer to another. Until the job is done, services have both.
func TestKillAtEveryStepOfAMove(t *testing.T) {
	env := newEnv(t, modelstest.EngineSQLite, killedKeys)
	for step := 1; ; step++ {
		previous, next := env.keyset, filepath.Join(t.TempDir(), fmt.Sprintf("keyset-%d.json", step))
		both := sealer.Migrating(open(t, next), open(t, previous))
		_, killed := env.killedAt(step, next, previous)
		env.requireAllOpen(both)
		env.run(both)
		env.keyset, env.sealer = next, open(t, next)
		env.requireDone(env.sealer)
		env.requireAllOpen(env.sealer)
		if !killed {
			return
		}
	}
}

// Kills between the steps as well, for example within a transaction.
func TestKillAtRandomTimes(t *testing.T) {
	each(t, 60, func(t *testing.T, env *env) {
		for range 6 {
			env.rotate()
			cmd, stdout := env.child(0, env.keyset)
			scanner := bufio.NewScanner(stdout)
			for range 1 + rand.IntN(30) {
				scanner.Scan()
			}
			pause := time.NewTimer(time.Duration(rand.IntN(3000)) * time.Microsecond)
			<-pause.C
			_ = cmd.Process.Kill() // unless it has ended
			_ = cmd.Wait()
			env.requireAllOpen(env.sealer)
			env.run(env.sealer)
			env.requireDone(env.sealer)
			env.requireAllOpen(env.sealer)
		}
	})
}
