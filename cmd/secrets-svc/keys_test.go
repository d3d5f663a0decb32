package main

import (
	"context"
	"database/sql"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	_ "modernc.org/sqlite" // the driver by which a test writes rows

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/models"
	modelsdb "github.com/agentrouter/aikeys/models/database"
	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/local"
)

func (i *installation) states() map[string]string {
	i.t.Helper()
	found := map[string]string{}
	for _, line := range strings.Split(i.must("keys", "list"), "\n")[1:] {
		fields := strings.Fields(line)
		require.Equal(i.t, "main", fields[0])
		found[fields[1]] = fields[2]
	}
	return found
}

func TestTheLifeOfAKeyByCommands(t *testing.T) {
	i := install(t)
	first, second := i.create(), i.create()
	require.Equal(t, map[string]string{first: "primary", second: "enabled"}, i.states())
	third := i.must("keys", "create", "--namespace", "main", "--primary")
	require.Equal(t, map[string]string{first: "enabled", second: "enabled", third: "primary"}, i.states())
	i.must("keys", "primary", "--namespace", "main", "--id", second)
	i.must("keys", "retire", "--namespace", "main", "--id", first, "--i-have-checked")
	require.Equal(t, map[string]string{first: "retired", second: "primary", third: "enabled"}, i.states())
	i.must("keys", "enable", "--namespace", "main", "--id", first)
	require.Equal(t, "enabled", i.states()[first])
}

func TestCommandsOnKeysThatAreRefused(t *testing.T) {
	i := install(t)
	first := i.create()
	for line, want := range map[string]struct {
		code int
		says string
	}{
		"keys create":                                      {cli.ExitUsage, "--namespace: is required"},
		"keys create --namespace ../main":                  {cli.ExitUsage, "--namespace: must be"},
		"keys create main":                                 {cli.ExitUsage, "takes no arguments; use --namespace, --id"},
		"keys primary --namespace main":                    {cli.ExitUsage, "--id: is required"},
		"keys primary --namespace main --id local:0":       {cli.ExitFailure, "is not in the keyset"},
		"keys primary --namespace other --id " + first:     {cli.ExitFailure, "keys create --namespace other"},
		"keys retire --namespace main --id " + first:       {cli.ExitFailure, "the primary key-encryption key can't be retired"},
		"keys retire --namespace main --id local:00000000": {cli.ExitFailure, "is not in the keyset"},
		"keys delete":                                      {cli.ExitUsage, "it has create, list, primary, enable, retire"},
	} {
		got := i.run(nil, strings.Fields(line)...)
		require.Equal(t, want.code, got.code, line)
		require.Contains(t, got.stderr, want.says, line)
		require.Empty(t, got.stdout, line)
	}
	require.Equal(t, map[string]string{first: "primary"}, i.states())
}

func TestCommandsAtOnceLoseNothing(t *testing.T) {
	i := install(t)
	const commands = 12
	ids := make([]string, commands)
	var wg sync.WaitGroup
	for n := range commands {
		wg.Go(func() {
			got := i.run(nil, "keys", "create", "--namespace", "main")
			ids[n] = strings.TrimSpace(got.stdout)
			got = i.run(nil, "keys", "primary", "--namespace", "main", "--id", ids[n])
			if got.code != cli.ExitOK {
				t.Error(got.stderr)
			}
		})
	}
	wg.Wait()
	states := i.states()
	primaries := 0
	for _, id := range ids {
		require.Contains(t, states, id)
		if states[id] == "primary" {
			primaries++
		}
	}
	require.Equal(t, 1, primaries)
}

// database makes a database of aikeysd's with a canary under one key and a row under another.
func database(t *testing.T, canary, key string) (url string) {
	t.Helper()
	path := t.TempDir() + "/aikeys.db"
	store, err := modelsdb.Open("sqlite:"+path, models.Options{})
	require.NoError(t, err)
	_, err = store.Migrate(t.Context())
	require.NoError(t, err)
	require.NoError(t, store.Transact(t.Context(), func(tx *models.Tx) error {
		_, err := tx.KeepCanary(models.Canary{Envelope: []byte("x"), KEKID: canary})
		return err
	}))
	require.NoError(t, store.Close())
	statement(t, path, `INSERT INTO ai_keys (id, seq, customer_id, project_id, user_id, provider, name, display_suffix, version, envelope, kek_id,
created_at, created_by) VALUES ('byok_1', 1, 'acme', 'chat', '', 'openai', 'a', '', 1, x'00', ?, 1, 'olga')`, key)
	return "sqlite:" + path
}

func statement(t *testing.T, path, sqlText string, args ...any) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(5000)")
	require.NoError(t, err)
	_, err = db.ExecContext(t.Context(), sqlText, args...)
	require.NoError(t, err)
	require.NoError(t, db.Close())
}

func TestAKeyIsNotRetiredWhileAnEnvelopeNeedsIt(t *testing.T) {
	t.Parallel()
	i := install(t)
	canary, used, unused := i.create(), i.create(), i.create()
	i.must("keys", "primary", "--namespace", "main", "--id", i.create())
	url := database(t, canary, used)
	retire := func(id string, environ []string, args ...string) outcome {
		return i.run(environ, append([]string{"keys", "retire", "--namespace", "main", "--id", id}, args...)...)
	}
	got := retire(unused, nil)
	require.Equal(t, cli.ExitFailure, got.code)
	require.Contains(t, got.stderr, "--i-have-checked")

	got = retire(used, nil, "--database-url", url)
	require.Equal(t, cli.ExitFailure, got.code)
	require.Contains(t, got.stderr, "1 of the database's keys are sealed with "+used)
	got = retire(canary, []string{databaseVariable + "=" + url})
	require.Contains(t, got.stderr, "the database's canary is sealed with "+canary)
	file := i.path("url")
	require.NoError(t, os.WriteFile(file, []byte(url+"\n"), 0o600))
	got = retire(used, []string{databaseFileVariable + "=" + file})
	require.Contains(t, got.stderr, "are sealed with "+used)

	got = retire(unused, nil, "--database-url", "sqlite:"+i.path("none.db"))
	require.Equal(t, cli.ExitFailure, got.code)
	require.NoFileExists(t, i.path("none.db"))
	got = retire(unused, nil, "--database-url", "postgres://u:hunter2@127.0.0.1/x")
	require.Equal(t, cli.ExitUsage, got.code)
	require.Contains(t, got.stderr, "it may hold no password")
	require.NotContains(t, got.stderr, "hunter2")
	require.NotContains(t, i.states(), "retired")

	got = retire(unused, nil, "--database-url", url)
	require.Equal(t, cli.ExitOK, got.code, got.stderr)
	require.Equal(t, "retired", i.states()[unused])
	require.Equal(t, "enabled", i.states()[used])
}

// A service that has not read the keyset again may still seal with the key that is being retired.
func TestAKeyThatIsSealedWithWhileItIsRetiredComesBack(t *testing.T) {
	t.Parallel()
	i := install(t)
	old, next := i.create(), i.create()
	i.must("keys", "primary", "--namespace", "main", "--id", next)
	url := database(t, next, next)
	var wg sync.WaitGroup
	wg.Go(func() {
		for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
			keks, err := local.List(keysetPath(i.path("keys"), "main"))
			if err == nil && slices.Contains(keks, sealer.KEK{ID: old, State: sealer.KEKRetired}) {
				statement(t, strings.TrimPrefix(url, "sqlite:"), `UPDATE ai_keys SET kek_id = ?`, old)
				return
			}
		}
	})
	got := i.run(nil, "keys", "retire", "--namespace", "main", "--id", old, "--database-url", url)
	wg.Wait()
	require.Equal(t, cli.ExitFailure, got.code)
	require.Contains(t, got.stderr, "it is enabled again")
	require.Equal(t, "enabled", i.states()[old])
}

// A whole rotation by its runbook, while sixteen callers seal and open what they and others have sealed: no one notices.
func TestARotationIsNoticedByNoCaller(t *testing.T) {
	t.Parallel()
	const callers = 16
	i := install(t)
	first := i.create()
	i.launch()
	client := i.client()
	old := mustSeal(t, client)
	require.Equal(t, first, old.KEKID)
	var stop atomic.Bool
	var wg sync.WaitGroup
	var operations atomic.Int64
	ctx := context.Background()
	for range callers {
		wg.Go(func() {
			for !stop.Load() {
				envelope, err := client.Seal(ctx, binding(), sealer.NewSecret([]byte(plain)))
				if err != nil {
					t.Error(err)
					return
				}
				secret, err := client.Open(ctx, binding(), envelope.Bytes)
				if err != nil || string(secret.Reveal()) != plain {
					t.Error(err)
					return
				}
				operations.Add(1)
			}
		})
	}
	second := i.create()
	i.must("keys", "primary", "--namespace", "main", "--id", second)
	require.Eventually(t, func() bool { return mustSeal(t, client).KEKID == second }, patience, often)
	rewrapped, err := client.Rewrap(ctx, binding(), old.Bytes)
	require.NoError(t, err)
	require.Equal(t, second, rewrapped.KEKID)
	before := operations.Load()
	require.Eventually(t, func() bool { return operations.Load() > before+100 }, patience, often)
	i.must("keys", "retire", "--namespace", "main", "--id", first, "--database-url", database(t, second, second))
	stop.Store(true)
	wg.Wait()
	requireOpens(t, client, rewrapped.Bytes)
	require.Eventually(t, func() bool {
		_, err := client.Open(ctx, binding(), old.Bytes)
		return err != nil
	}, patience, often)
	i.must("keys", "enable", "--namespace", "main", "--id", first)
	requireOpens(t, client, old.Bytes)
}
