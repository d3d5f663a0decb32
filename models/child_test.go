package models_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/database"
)

// The tasks of a child process, and the variable that tells it the database.
const (
	taskLoad    = "load"
	taskMigrate = "migrate"
	envURL      = "MODELS_TEST_URL"
)

// runChild does one task and returns the exit code. It ends with its parent, when standard input closes.
func runChild(task string) int {
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(3)
	}()
	store, err := database.Open(os.Getenv(envURL), models.Options{})
	if err == nil && task == taskMigrate {
		_, err = store.Migrate(context.Background())
	}
	if err == nil && task == taskLoad {
		err = load(store)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// load registers keys, and revokes every other one, until it fails or is killed. What was acknowledged it prints: the id,
// and "revoked" when it was.
func load(store *models.Store) error {
	f := &fixture{Store: store}
	ctx := context.Background()
	var out sync.Mutex
	printed := func(text string) {
		out.Lock()
		defer out.Unlock()
		fmt.Println(text)
	}
	failed := make(chan error)
	for range 8 {
		go func() {
			for i := 0; ; i++ {
				key, err := store.RegisterKey(ctx, olga, models.RoleOwner, f.shared(olga), now())
				if err != nil {
					failed <- err
					return
				}
				printed(key.ID)
				if i%2 == 0 {
					continue
				}
				if err := f.tryRevokeNoted(ctx, &key); err != nil {
					failed <- err
					return
				}
				printed(key.ID + " revoked")
			}
		}()
	}
	return <-failed
}

// startChild runs the test binary as a process of its own.
func startChild(t *testing.T, task, url string) (cmd *exec.Cmd, stdout io.Reader) {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	cmd = exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), envChild+"="+task, envURL+"="+url)
	cmd.Stderr = t.Output()
	_, err = cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err = cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	return cmd, stdout
}

// requireAcknowledged checks that each printed line came true: "id" is there, "id revoked" is revoked, with their events.
func requireAcknowledged(t *testing.T, f *fixture, lines []string) {
	t.Helper()
	state := map[string]bool{}
	for _, k := range f.list(olga, models.KeyFilter{}) {
		state[k.ID] = k.RevokedAt != 0
	}
	for _, line := range lines {
		id, rest, _ := strings.Cut(line, " ")
		revoked, there := state[id]
		require.True(t, there, "%s was acknowledged and is gone", id)
		if rest == "revoked" {
			require.True(t, revoked, "the revocation of %s was acknowledged and is gone", id)
		}
	}
	// A server process of the killed client may commit one more write, and may do so between these two reads.
	require.Eventually(t, func() bool {
		revocations := 0
		for _, k := range f.list(olga, models.KeyFilter{}) {
			if k.RevokedAt != 0 {
				revocations++
			}
		}
		got := f.size()
		return got.keys+revocations == got.events
	}, 10*time.Second, 20*time.Millisecond, "each register and each revocation has its event, and there are no others")
}

func TestAcknowledgedWritesSurviveTheKillOfTheProcess(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		child, stdout := startChild(t, taskLoad, f.url)
		var lines []string
		kill := time.AfterFunc(time.Minute, func() { _ = child.Process.Kill() }) // should the child hang
		defer kill.Stop()
		scanner := bufio.NewScanner(stdout)
		for scanner.Scan() {
			if lines = append(lines, scanner.Text()); len(lines) == 200 {
				require.NoError(t, child.Process.Kill()) // what it printed before is still read
			}
		}
		require.Error(t, child.Wait(), "it was killed")
		require.GreaterOrEqual(t, len(lines), 200)
		requireAcknowledged(t, f, lines)
		f.register(f.shared(olga))
	})
}
