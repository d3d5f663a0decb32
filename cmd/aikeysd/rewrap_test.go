package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/rewrap"
	"github.com/agentrouter/aikeys/models/modelstest"
	"github.com/agentrouter/aikeys/sealer/local"
)

// installation is an environment with registered keys, and its running service.
type installation struct {
	*server
	t            *testing.T
	environ      []string
	token, plane string
	keyset       string
	ids          []string
}

// newInstallation starts a service with a keyset file, and registers keys.
func newInstallation(t *testing.T, environ []string, keys int) *installation {
	t.Helper()
	_, keyset, _ := strings.Cut(environ[3], "local:")
	v := &installation{server: startReady(t, environ), t: t, environ: environ, keyset: keyset}
	v.token = newOwner(t, environ)
	v.plane = strings.TrimSpace(mustAikeysd(t, environ, "admin", "dataplane", "create", "--name", "edge", "--customer", "acme"))
	for i := range keys {
		v.register(fmt.Sprintf("key-%d", i))
	}
	return v
}

func (v *installation) register(name string) {
	v.t.Helper()
	got := call(v.t, newClient(), http.MethodPost, v.api+"/v1/aikeys", v.token, registerBody(name, fakeSecret))
	require.Equal(v.t, http.StatusCreated, got.status, got.body)
	_, rest, _ := strings.Cut(got.body, `"id":"`)
	id, _, _ := strings.Cut(rest, `"`)
	v.ids = append(v.ids, id)
}

// rotate gives the keyset a new primary KEK, which the running service rereads.
func (v *installation) rotate() (id string) {
	v.t.Helper()
	id, err := local.AddKEK(v.keyset)
	require.NoError(v.t, err)
	require.NoError(v.t, local.SetPrimary(v.keyset, id))
	return id
}

// requireServes checks that the running service gives all keys out.
func (v *installation) requireServes() {
	v.t.Helper()
	for _, id := range v.ids {
		got := call(v.t, newClient(), http.MethodPost, v.dataplane+"/v1/fetch", v.plane, `{"key_id":"`+id+`"}`)
		require.Equal(v.t, http.StatusOK, got.status, got.body)
		require.Contains(v.t, got.body, fakeSecret)
	}
}

// corruptFirstKey makes the first key unreadable.
func (v *installation) corruptFirstKey() {
	v.t.Helper()
	tamper(v.t, strings.TrimPrefix(v.environ[2], "AIKEYS_DATABASE_URL="),
		`UPDATE ai_keys SET envelope = (SELECT envelope FROM ai_keys WHERE name = 'key-1') WHERE name = 'key-0'`)
}

func TestRewrapWhileServiceRuns(t *testing.T) {
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		v := newInstallation(t, with(newLocalEnviron(t), "AIKEYS_DATABASE_URL="+e.URL(t)), 3)
		kek := v.rotate()
		require.Regexp(t, `3 keys and the canary would go under `+kek+`\n(.*\n)+`+kek+` +primary +0 +left as they are +0 +0\nlocal:\w+ +enabled +3 +re-wrapped +3 +0\n`,
			mustAikeysd(t, v.environ, "rewrap", "--dry-run"))
		require.Regexp(t, `local:\w+ +enabled +0 +3 +0\n`, mustAikeysd(t, v.environ, "check"), "a dry run writes nothing")

		got := aikeysd(t, v.environ, "rewrap")
		require.Equal(t, exitOK, got.code, got.stderr)
		require.Contains(t, got.stdout, "re-wrapped 3 keys; all keys are, and the canary is, under "+kek+" now\n")
		require.Empty(t, got.stderr, "no bar where there is no terminal")
		v.requireServes()
		v.register("later")
		require.Regexp(t, kek+` +primary +4 +0 +0\nlocal:\w+ +enabled +0 +0 +0\n`, mustAikeysd(t, v.environ, "check", "--deep"))
		require.Contains(t, mustAikeysd(t, v.environ, "rewrap", "--rate", "0"), "re-wrapped 0 keys; all keys are")
		require.Contains(t, mustAikeysd(t, v.environ, "rewrap", "--dry-run"), "; 0 keys would go under")
		require.Equal(t, exitOK, v.wait())
	})
}

func TestRewrapWaitsForServicesToSeeNewKEK(t *testing.T) {
	v := newInstallation(t, newLocalEnviron(t), 1)
	kek := v.rotate()
	require.Eventually(t, func() bool { // then it has just looked at the keyset, and does so again in half a second
		v.register(fmt.Sprintf("meanwhile-%d", len(v.ids)))
		return !strings.Contains(mustAikeysd(t, v.environ, "check"), kek+"  primary  0 ")
	}, patience, 10*time.Millisecond)
	kek = v.rotate()
	mustAikeysd(t, v.environ, "rewrap", "--rate", "0")
	v.register("afterwards")
	require.Regexp(t, fmt.Sprintf(`%s +primary +%d +0 +0\n`, kek, len(v.ids)), mustAikeysd(t, v.environ, "check"))
	require.Equal(t, exitOK, v.wait())
}

func TestRewrapAndCheckListUnreadableKeys(t *testing.T) {
	v := newInstallation(t, newLocalEnviron(t), 3)
	v.rotate()
	v.corruptFirstKey()
	require.Equal(t, exitOK, aikeysd(t, v.environ, "check").code, "rows alone don't tell")
	line := v.ids[0] + ` +acme +chat +local:\w+ +it was changed, or belongs to another row\n`
	for name, tc := range map[string]struct {
		args []string
		code int
	}{
		"dry run": {[]string{"rewrap", "--dry-run"}, exitUnreadable},
		"re-wrap": {[]string{"rewrap"}, exitUnreadable},
		"check":   {[]string{"check", "--deep"}, exitFailure},
	} {
		t.Run(name, func(t *testing.T) {
			got := aikeysd(t, v.environ, tc.args...)
			require.Equal(t, tc.code, got.code)
			require.Regexp(t, line, got.stdout)
			require.Equal(t, 1, strings.Count(got.stdout, v.ids[0]))
			require.Equal(t, 1, strings.Count(got.stderr, "\n"))
		})
	}
	require.Regexp(t, `primary +2 +0 +0\nlocal:\w+ +enabled +0 +0 +1\n`, aikeysd(t, v.environ, "check", "--deep").stdout)
	v.ids = v.ids[1:]
	v.requireServes()
	reply := call(t, newClient(), http.MethodGet, v.api+"/v1/aikeys", v.token, "")
	require.Equal(t, http.StatusOK, reply.status, "a list never fails on an unreadable key")
	require.Equal(t, 3, strings.Count(reply.body, `"id":"byok_`))

	t.Run("and by the state of their key-encryption key without an attempt", func(t *testing.T) {
		keks, err := local.List(v.keyset)
		require.NoError(t, err)
		require.NoError(t, local.Retire(v.keyset, keks[1].ID))
		got := aikeysd(t, v.environ, "check")
		require.Equal(t, exitFailure, got.code)
		require.Regexp(t, `keys +FAILED +1 key of 3 can't be read, by what their rows say; aikeysd check --deep lists them\n`, got.stdout)
		require.Regexp(t, keks[1].ID+` +retired +0 +0 +1\n`, got.stdout)
	})
}

func TestCheckKeysShowsSealStates(t *testing.T) {
	v := newInstallation(t, newLocalEnviron(t), 2)
	v.rotate()
	args := []string{"check", "--keys", "--customer", "acme", "--project", "chat"}
	v.eventually("a key under the new KEK", func() bool { // which the service learns of within a second
		v.register(fmt.Sprintf("later-%d", len(v.ids)))
		return strings.Contains(mustAikeysd(t, v.environ, args...), " active  current ")
	})
	v.corruptFirstKey()
	var report checkReport
	got := aikeysd(t, v.environ, append(args, "--deep", "-o", "json")...)
	require.Equal(t, exitFailure, got.code)
	require.NoError(t, json.Unmarshal([]byte(got.stdout), &report))
	require.Len(t, report.Checks, 6)
	require.Len(t, report.KEKs, 2)
	require.Len(t, report.Unreadable, 1)
	require.Len(t, report.Keys, len(v.ids))
	states := map[string]string{}
	for _, k := range report.Keys {
		require.Equal(t, []string{"openai", "active"}, []string{k.Provider, k.State})
		states[k.Name] = k.SealState
	}
	require.Equal(t, "unreadable", states["key-0"])
	require.Equal(t, "old_kek", states["key-1"])
	require.Equal(t, "current", states[report.Keys[len(report.Keys)-1].Name])
	require.NotContains(t, got.stdout+got.stderr, fakeSecret)

	none := mustAikeysd(t, v.environ, "check", "--keys", "--customer", "acme", "--project", "none")
	require.True(t, strings.HasSuffix(none, "WHY\n"), none)
}

func TestRewrapMovesSecretsToAnotherKeyset(t *testing.T) {
	v := newInstallation(t, newLocalEnviron(t), 3)
	require.Equal(t, exitOK, v.wait())
	next := filepath.Join(t.TempDir(), "next.json")
	_, err := local.AddKEK(next)
	require.NoError(t, err)
	_, old, _ := strings.Cut(v.environ[3], "=")
	v.environ = with(v.environ, "AIKEYS_SEALER=local:"+next, "AIKEYS_SEALER_OLD="+old)
	v.server = startReady(t, v.environ)
	got := aikeysd(t, v.environ, "rewrap")
	require.Equal(t, exitOK, got.code, got.stderr)
	require.Contains(t, got.stderr, "every aikeysd must run with it and with AIKEYS_SEALER_OLD already")
	v.requireServes()
	require.Equal(t, exitOK, v.wait())
	v.environ = with(v.environ, "AIKEYS_SEALER_OLD=")
	v.server = startReady(t, v.environ)
	v.requireServes()
}

// testRewrapToService moves secrets to a secrets service, and re-wraps there with a client that may never open.
func testRewrapToService(t *testing.T, binary string) {
	service := newSecretsService(t, binary, everything).start()
	v := newInstallation(t, newLocalEnviron(t), 3)
	require.Equal(t, exitOK, v.wait())
	_, old, _ := strings.Cut(v.environ[3], "=")
	v.environ = with(v.environ, "AIKEYS_SEALER=secrets+unix:"+service.socket(), "AIKEYS_SEALER_OLD="+old)
	v.server = startReady(t, v.environ)
	require.Contains(t, mustAikeysd(t, v.environ, "rewrap"), "re-wrapped 3 keys; all keys are")
	v.requireServes()
	v.environ = with(v.environ, "AIKEYS_SEALER_OLD=")

	keyset := filepath.Join(service.dir, "main.json")
	id, err := local.AddKEK(keyset)
	require.NoError(t, err)
	require.NoError(t, local.SetPrimary(keyset, id))
	service.allow("rewrap, status")
	require.Eventually(t, func() bool { // the service notices the new list of clients
		return strings.Contains(aikeysd(t, v.environ, "check").stderr+aikeysd(t, v.environ, "check").stdout, "does not allow this client")
	}, patience, 20*time.Millisecond)
	got := aikeysd(t, v.environ, "rewrap")
	require.Equal(t, exitOK, got.code, got.stderr)
	require.Contains(t, got.stdout, "re-wrapped 3 keys; all keys are, and the canary is, under "+id)
	service.allow(everything)
	v.eventually("the service opens again", func() bool {
		return call(t, newClient(), http.MethodPost, v.dataplane+"/v1/fetch", v.plane, `{"key_id":"`+v.ids[0]+`"}`).status == http.StatusOK
	})
	v.requireServes()
}

func TestRewrapProgressBar(t *testing.T) {
	v := newInstallation(t, newLocalEnviron(t), 6)
	v.rotate()
	master, terminal, err := pty.Open()
	require.NoError(t, err)
	require.NoError(t, pty.Setsize(terminal, &pty.Winsize{Rows: 24, Cols: 120}))
	shown := make(chan string)
	go func() {
		text, _ := io.ReadAll(master) // ends with an error when the terminal is closed
		shown <- string(text)
	}()
	var stdout strings.Builder
	require.Equal(t, exitOK, run(t.Context(), []string{"rewrap", "--rate", "20"}, v.environ, &stdout, terminal), stdout.String())
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
	v := newInstallation(t, newLocalEnviron(t), 5)
	v.rotate()
	ctx, cancel := context.WithCancel(t.Context())
	var stderr buffer
	code := make(chan int)
	go func() { code <- run(ctx, []string{"rewrap", "--rate", "1"}, v.environ, io.Discard, &stderr) }()
	v.eventually("a key has been re-wrapped", func() bool {
		return !strings.Contains(mustAikeysd(t, v.environ, "check"), "enabled  0        5 ")
	})
	cancel()
	require.Equal(t, exitFailure, <-code)
	require.Regexp(t, `aikeysd: stopped after \d keys? of 5; run it again to go on\n`, stderr.String())
	require.Contains(t, mustAikeysd(t, v.environ, "rewrap"), "; all keys are, and the canary is, under")
	v.requireServes()
}

func TestRewrapAndCheckFailures(t *testing.T) {
	sound := newLocalEnviron(t)
	newInstallation(t, sound, 0)
	dir := t.TempDir()
	other := filepath.Join(dir, "other.json")
	_, err := local.AddKEK(other)
	require.NoError(t, err)
	cases := map[string]struct {
		environ []string
		args    string
		code    int
		says    string
	}{
		"a rate below zero":         {sound, "rewrap --rate -1", exitUsage, "--rate: must be a whole number of keys a second"},
		"no database":               {with(sound, "AIKEYS_DATABASE_URL=sqlite:"+dir+"/none.db"), "rewrap", exitFailure, "there is no database at"},
		"no keyset":                 {with(sound, "AIKEYS_SEALER=local:"+dir+"/none.json"), "rewrap", exitFailure, "there is no keyset at"},
		"another keyset":            {with(sound, "AIKEYS_SEALER=local:"+other), "rewrap", exitFailure, "nothing was changed"},
		"keys of no project":        {sound, "check --keys", exitUsage, "--customer: is required"},
		"a project, and not --keys": {sound, "check --customer acme", exitUsage, "are for --keys"},
		"another form":              {sound, "check -o yaml", exitUsage, "--output: must be table or json"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got := aikeysd(t, tc.environ, strings.Fields(tc.args)...)
			require.Equal(t, tc.code, got.code, got.stderr)
			require.Contains(t, got.stderr, tc.says)
		})
	}
	require.NoFileExists(t, filepath.Join(dir, "none.db"))
	_, err = os.Stat(filepath.Join(dir, "none.json"))
	require.ErrorIs(t, err, os.ErrNotExist)
}
