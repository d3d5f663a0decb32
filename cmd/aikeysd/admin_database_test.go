package main

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models/modelstest"
)

func TestOnlyAFirstOwnerMakesADatabase(t *testing.T) {
	t.Chdir(t.TempDir())
	environ := []string{"AIKEYS_DATABASE_URL=sqlite:data/aikeys.db"}
	path, err := filepath.Abs("data/aikeys.db")
	require.NoError(t, err)
	for _, args := range [][]string{
		{"member", "list"},
		{"member", "remove", "--user", "alice"},
		{"member", "set", "--user", "alice", "--role", "member"},
		{"token", "list"},
		{"token", "create", "--user", "alice"},
		{"token", "revoke", "--id", "01JD8Q6Z3V8M2T5K7N9R4W1XYZ"},
	} {
		got := runAdmin(t, environ, args...)
		require.Equal(t, exitFailure, got.code, args)
		require.Contains(t, got.stderr, "there is no database at "+path, args)
		require.NoDirExists(t, "data", args)
	}
	got := runAdmin(t, environ, "member", "set", "--user", "alice", "--role", "owner")
	require.Equal(t, exitOK, got.code, got.stderr)
	require.Equal(t, "made a new database at "+path+"\nalice is owner of acme/chat in sqlite:"+path+"\n", got.stderr)
	got = runAdmin(t, environ, "member", "set", "--user", "bob", "--role", "member")
	require.Equal(t, "bob is member of acme/chat in sqlite:"+path+"\n", got.stderr, "told once")
}

func TestNotesOfChangesNameTheDatabase(t *testing.T) {
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		url := e.URL(t)
		environ := with(newEnviron(t), "AIKEYS_DATABASE_URL="+url)
		mustAikeysd(t, environ, "migrate", "up")
		notes := []string{runAdmin(t, environ, "member", "set", "--user", "alice", "--role", "owner").stderr}
		notes = append(notes, runAdmin(t, environ, "member", "set", "--user", "bob", "--role", "member").stderr)
		created := runAdmin(t, environ, "token", "create", "--user", "bob")
		notes = append(notes, created.stderr)
		notes = append(notes, runAdmin(t, environ, "token", "revoke", "--id", strings.Split(created.stdout, "_")[1]).stderr)
		notes = append(notes, runAdmin(t, environ, "member", "remove", "--user", "bob").stderr)
		for _, note := range notes {
			require.Contains(t, note, "acme/chat in "+databaseName(url))
		}
	})
}

func TestHintsNameTheDatabaseOfTheCommandLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "it's here", "a.db")
	got := runAdmin(t, nil, "member", "set", "--user", "alice", "--role", "owner", "--database-url", "sqlite:"+path)
	require.Equal(t, exitOK, got.code, got.stderr)
	got = runAdmin(t, nil, "member", "remove", "--user", "eve", "--database-url", "sqlite:"+path)
	require.Equal(t, exitFailure, got.code)
	require.Contains(t, got.stderr, `aikeysd admin member list --customer acme --project chat --database-url 'sqlite:`+strings.ReplaceAll(path, "'", `'\''`)+"'")
}

func TestLifetimes(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0": 0, "720h": 720 * time.Hour, "1h30m": 90 * time.Minute, "30d": 720 * time.Hour, "0d": 0,
	} {
		got, err := lifetime(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	for _, text := range []string{"", "d", "-1d", "-1h", "1.5d", "30", "1d12h", "65536d", "1y"} {
		_, err := lifetime(text)
		require.Error(t, err, text)
	}
}
