package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/cmd/internal/programtest"
	"github.com/agentrouter/aikeys/impl/rewrap"
	"github.com/agentrouter/aikeys/models/modelstest"
	"github.com/agentrouter/aikeys/sealer/local"
)

// installation is a running service with a keyset file, an owner, a data plane, and registered keys.
type installation struct {
	*server
	environ      []string
	owner, plane string
	keyset       string
	ids          []string
}

func install(t *testing.T, environ []string, keys int) *installation {
	t.Helper()
	i := &installation{environ: environ, owner: newOwner(t, environ), plane: newDataPlane(t, environ)}
	i.keyset = strings.TrimPrefix(environ[4], "AIKEYS_SEALER=local:")
	i.server = startReady(t, environ)
	for n := range keys {
		i.ids = append(i.ids, i.register(i.owner, fmt.Sprintf("key-%d", n)))
	}
	return i
}

// rotate gives the keyset a new primary KEK, which the running service rereads.
func (i *installation) rotate() (id string) {
	i.t.Helper()
	id, err := local.AddKEK(i.keyset)
	require.NoError(i.t, err)
	require.NoError(i.t, local.SetPrimary(i.keyset, id))
	return id
}

// requireServes checks that the running service gives all keys out.
func (i *installation) requireServes() {
	i.t.Helper()
	for _, id := range i.ids {
		got := i.fetch(i.plane, id)
		require.Equal(i.t, http.StatusOK, got.Status, got.Body)
		require.Contains(i.t, got.Body, fakeSecret)
	}
}

// corruptFirstKey makes the first key unreadable.
const corruptFirstKey = `UPDATE ai_keys SET envelope = (SELECT envelope FROM ai_keys WHERE name = 'key-1') WHERE name = 'key-0'`

func TestRewrapWhileServiceRuns(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		t.Parallel()
		i := install(t, with(newEnviron(t), "AIKEYS_DATABASE_URL="+e.MigratedURL(t)), 3)
		inUse := func(kek string, code int, count string) {
			got := aikeysd(t, i.environ, "keys", "in-use", "--kek", kek)
			require.Equal(t, code, got.Code, got.Stderr)
			require.Equal(t, count+" envelopes need "+kek+"\n", got.Stdout)
			if code != exitOK {
				require.Contains(t, got.Stderr, kek+" is in use in "+databaseName(databaseOf(i.environ))+"; before you retire it, run: aikeysd rewrap")
			}
		}
		revoked := programtest.Send(http.MethodDelete, i.api+"/v1/aikeys/"+i.ids[2], i.owner, "")
		require.Equal(t, http.StatusOK, revoked.Status, revoked.Body)
		i.ids = i.ids[:2]
		keks, err := local.List(i.keyset)
		require.NoError(t, err)
		old, kek := keks[0].ID, i.rotate()
		inUse(old, exitFailure, "4") // two active keys, a revoked one, and the canary
		inUse(kek, exitOK, "0")
		require.Regexp(t, `3 keys and the canary would go under `+kek+`\n(.*\n)+`+kek+` +primary +0 +left as they are +0 +0\nlocal:\w+ +enabled +3 +re-wrapped +3 +0\n`,
			mustAikeysd(t, i.environ, "rewrap", "--dry-run"))
		require.Regexp(t, `local:\w+ +enabled +0 +3 +0\n`, mustAikeysd(t, i.environ, "check"), "a dry run writes nothing")

		got := aikeysd(t, i.environ, "rewrap")
		require.Equal(t, exitOK, got.Code, got.Stderr)
		require.Contains(t, got.Stdout, "re-wrapped 3 keys; all keys are, and the canary is, under "+kek+" now\n")
		require.Empty(t, got.Stderr, "no bar where there is no terminal")
		inUse(old, exitOK, "0")
		inUse(kek, exitFailure, "4")
		i.requireServes()
		i.ids = append(i.ids, i.register(i.owner, "later"))
		require.Regexp(t, kek+` +primary +4 +0 +0\nlocal:\w+ +enabled +0 +0 +0\n`, mustAikeysd(t, i.environ, "check", "--deep"))
		require.Contains(t, mustAikeysd(t, i.environ, "rewrap", "--rate", "0"), "re-wrapped 0 keys; all keys are")
		require.Contains(t, mustAikeysd(t, i.environ, "rewrap", "--dry-run"), "; 0 keys would go under")
		require.Equal(t, exitOK, i.Stop())
	})
}

func TestRewrapWaitsForServicesToSeeNewKEK(t *testing.T) {
	t.Parallel()
	i := install(t, newEnviron(t), 1)
	kek := i.rotate()
	i.Await("a key under the new KEK", func() bool { // it has just read the keyset, and reads it again in 0.5 s
		i.ids = append(i.ids, i.register(i.owner, fmt.Sprintf("meanwhile-%d", len(i.ids))))
		return !strings.Contains(mustAikeysd(t, i.environ, "check"), kek+"  primary  0 ")
	})
	kek = i.rotate()
	mustAikeysd(t, i.environ, "rewrap", "--rate", "0")
	i.ids = append(i.ids, i.register(i.owner, "afterwards"))
	require.Regexp(t, fmt.Sprintf(`%s +primary +%d +0 +0\n`, kek, len(i.ids)), mustAikeysd(t, i.environ, "check"))
	require.Equal(t, exitOK, i.Stop())
}

func TestRewrapAndCheckListUnreadableKeys(t *testing.T) {
	t.Parallel()
	i := install(t, newEnviron(t), 3)
	i.rotate()
	query(t, databaseOf(i.environ), corruptFirstKey)
	require.Equal(t, exitOK, aikeysd(t, i.environ, "check").Code, "the rows alone don't show it")
	line := i.ids[0] + ` +acme +chat +local:\w+ +it was changed, or belongs to another row\n`
	for args, code := range map[string]int{"rewrap --dry-run": exitUnreadable, "rewrap": exitUnreadable, "check --deep": exitFailure} {
		got := aikeysd(t, i.environ, strings.Fields(args)...)
		require.Equal(t, code, got.Code, args)
		require.Regexp(t, line, got.Stdout, args)
		require.Equal(t, 1, strings.Count(got.Stdout, i.ids[0]), args)
		require.Equal(t, 1, strings.Count(got.Stderr, "\n"), args)
	}
	require.Regexp(t, `primary +2 +0 +0\nlocal:\w+ +enabled +0 +0 +1\n`, aikeysd(t, i.environ, "check", "--deep").Stdout)
	i.ids = i.ids[1:]
	i.requireServes()
	reply := i.get(i.api+"/v1/aikeys", i.owner)
	require.Equal(t, http.StatusOK, reply.Status, "a list never fails on an unreadable key")
	require.Equal(t, 3, strings.Count(reply.Body, `"id":"byok_`))

	t.Run("and by the state of their key-encryption key without an attempt", func(t *testing.T) {
		keks, err := local.List(i.keyset)
		require.NoError(t, err)
		require.NoError(t, local.Retire(i.keyset, keks[1].ID))
		got := aikeysd(t, i.environ, "check")
		require.Equal(t, exitFailure, got.Code)
		require.Regexp(t, `keys +FAILED +1 key of 3 can't be read, according to their rows; aikeysd check --deep lists them\n`, got.Stdout)
		require.Regexp(t, keks[1].ID+` +retired +0 +0 +1\n`, got.Stdout)
	})
}

func TestCheckKeysShowsSealStates(t *testing.T) {
	t.Parallel()
	i := install(t, newEnviron(t), 2)
	i.rotate()
	args := []string{"check", "--keys", "--customer", "acme", "--project", "chat"}
	i.Await("a key under the new KEK", func() bool { // the service notices the new KEK within a second
		i.ids = append(i.ids, i.register(i.owner, fmt.Sprintf("later-%d", len(i.ids))))
		return strings.Contains(mustAikeysd(t, i.environ, args...), " active  current ")
	})
	query(t, databaseOf(i.environ), corruptFirstKey)
	var report checkReport
	got := aikeysd(t, i.environ, append(args, "--deep", "-o", "json")...)
	require.Equal(t, exitFailure, got.Code)
	require.NoError(t, json.Unmarshal([]byte(got.Stdout), &report))
	require.Len(t, report.Checks, 6)
	require.Len(t, report.KEKs, 2)
	require.Len(t, report.Unreadable, 1)
	require.Len(t, report.Keys, len(i.ids))
	states := map[string]string{}
	for _, k := range report.Keys {
		require.Equal(t, []string{"openai", "active"}, []string{k.Provider, k.State})
		states[k.Name] = k.SealState
	}
	require.Equal(t, "unreadable", states["key-0"])
	require.Equal(t, "old_kek", states["key-1"])
	require.Equal(t, "current", states[report.Keys[len(report.Keys)-1].Name])
	require.NotContains(t, got.Stdout+got.Stderr, fakeSecret)

	none := mustAikeysd(t, i.environ, "check", "--keys", "--customer", "acme", "--project", "none")
	require.True(t, strings.HasSuffix(none, "WHY\n"), none)
}

func TestRewrapMovesSecretsToAnotherKeyset(t *testing.T) {
	t.Parallel()
	i := install(t, newEnviron(t), 3)
	require.Equal(t, exitOK, i.Stop())
	next := filepath.Join(t.TempDir(), "next.json")
	_, err := local.AddKEK(next)
	require.NoError(t, err)
	i.environ = with(i.environ, "AIKEYS_SEALER=local:"+next, "AIKEYS_SEALER_OLD=local:"+i.keyset)
	i.server = startReady(t, i.environ)
	got := aikeysd(t, i.environ, "rewrap")
	require.Equal(t, exitOK, got.Code, got.Stderr)
	require.Contains(t, got.Stderr, "every aikeysd must already run with it and with AIKEYS_SEALER_OLD")
	i.requireServes()
	require.Equal(t, exitOK, i.Stop())
	i.environ = with(i.environ, "AIKEYS_SEALER_OLD=")
	i.server = startReady(t, i.environ)
	i.requireServes()
}

func TestRewrapProgressBar(t *testing.T) {
	t.Parallel()
	i := install(t, newEnviron(t), 6)
	i.rotate()
	master, terminal, err := pty.Open()
	require.NoError(t, err)
	require.NoError(t, pty.Setsize(terminal, &pty.Winsize{Rows: 24, Cols: 120}))
	shown := make(chan string)
	go func() {
		text, _ := io.ReadAll(master) // ends with an error when the terminal is closed
		shown <- string(text)
	}()
	var stdout strings.Builder
	require.Equal(t, exitOK, run(t.Context(), []string{"rewrap", "--rate", "20"}, i.environ, &stdout, terminal), stdout.String())
	require.NoError(t, terminal.Close())
	text := <-shown
	require.NoError(t, master.Close())
	require.Contains(t, text, "re-wrapping")
	require.Contains(t, text, "6/6")
	require.Contains(t, text, "keys/s")
}

func TestProgressLine(t *testing.T) {
	require.Equal(t, "re-wrapped 25 of 100 keys, 5 of them unreadable; about 30s left",
		progressLine(rewrap.Progress{Total: 100, Rewrapped: 20, Unreadable: 5}, 10*time.Second))
	require.Equal(t, "re-wrapped 1 of 1 key", progressLine(rewrap.Progress{Total: 1, Rewrapped: 1}, time.Second))
}

func TestRewrapStopped(t *testing.T) {
	t.Parallel()
	i := install(t, newEnviron(t), 5)
	i.rotate()
	job := begin(t, i.environ, "rewrap", "--rate", "1")
	i.Await("a key has been re-wrapped", func() bool {
		return !strings.Contains(mustAikeysd(t, i.environ, "check"), "enabled  0        5 ")
	})
	require.Equal(t, exitFailure, job.Stop())
	require.Regexp(t, `aikeysd: stopped after \d keys? of 5; run it again to go on\n`, job.Stderr.String())
	require.Contains(t, mustAikeysd(t, i.environ, "rewrap"), "; all keys are, and the canary is, under")
	i.requireServes()
}

func TestRewrapAndCheckFailures(t *testing.T) {
	t.Parallel()
	sound := newEnviron(t)
	install(t, sound, 0)
	dir := t.TempDir()
	_, err := local.AddKEK(filepath.Join(dir, "other.json"))
	require.NoError(t, err)
	for name, tc := range map[string]struct {
		change, args string
		code         int
		says         string
	}{
		"a rate below zero":         {"", "rewrap --rate -1", exitUsage, "--rate: must be a whole number of keys a second"},
		"no database":               {"AIKEYS_DATABASE_URL=sqlite:" + dir + "/none.db", "rewrap", exitFailure, "there is no database at"},
		"no keyset":                 {"AIKEYS_SEALER=local:" + dir + "/none.json", "rewrap", exitFailure, "there is no keyset at"},
		"another keyset":            {"AIKEYS_SEALER=local:" + dir + "/other.json", "rewrap", exitFailure, "nothing was changed"},
		"keys of no project":        {"", "check --keys", exitUsage, "--customer: is required"},
		"a project, and not --keys": {"", "check --customer acme", exitUsage, "are for --keys"},
		"another form":              {"", "check -o yaml", exitUsage, "--output: must be table or json"},
		"no key to count":           {"", "keys in-use", exitUsage, "--kek: is required"},
		"no database to count in":   {"AIKEYS_DATABASE_URL=sqlite:" + dir + "/none.db", "keys in-use --kek local:5f0c1a2b", exitFailure, "there is no database at"},
	} {
		got := aikeysd(t, with(sound, tc.change), strings.Fields(tc.args)...)
		require.Equal(t, tc.code, got.Code, "%s: %s", name, got.Stderr)
		require.Contains(t, got.Stderr, tc.says, name)
	}
	require.NoFileExists(t, filepath.Join(dir, "none.db"))
	require.NoFileExists(t, filepath.Join(dir, "none.json"))
}

func TestFingerprintsAreMadeOfOlderKeys(t *testing.T) {
	t.Parallel()
	i := install(t, newEnviron(t), 2)
	found := func() int {
		got := programtest.Send(http.MethodPost, i.api+"/v1/customers/-/projects/-/leaks", i.owner, `{"values":["OPENAI_API_KEY=`+fakeSecret+`"],"revoke":false}`)
		require.Equal(t, http.StatusOK, got.Status, got.Body)
		require.NotContains(t, got.Body, fakeSecret)
		return strings.Count(got.Body, `"key_id"`)
	}
	require.Equal(t, 2, found())
	query(t, databaseOf(i.environ), `DELETE FROM key_fingerprints`)
	require.Zero(t, found())
	require.Equal(t, "made the fingerprints of 2 versions of keys\n", mustAikeysd(t, i.environ, "keys", "fingerprint"))
	require.Equal(t, 2, found())
	require.Equal(t, "made the fingerprints of 0 versions of keys\n", mustAikeysd(t, i.environ, "keys", "fingerprint"))
	require.Contains(t, mustAikeysd(t, i.environ, "admin", "events", "--type", "fingerprints.made"), "aikeysd keys fingerprint")

	query(t, databaseOf(i.environ), `DELETE FROM key_fingerprints`)
	query(t, databaseOf(i.environ), corruptFirstKey)
	got := aikeysd(t, i.environ, "keys", "fingerprint")
	require.Equal(t, exitUnreadable, got.Code, got.Stderr)
	require.Equal(t, 1, found())
	require.Equal(t, exitOK, i.Stop())
}
