package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models/modelstest"
	"github.com/agentrouter/aikeys/sealer/local"
)

func TestCheckSucceeds(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		t.Parallel()
		environ := with(newEnviron(t), "AIKEYS_DATABASE_URL="+e.MigratedURL(t))
		token := newOwner(t, environ)
		s := startReady(t, environ)
		s.register(token, "a")
		s.register(token, "b")
		got := aikeysd(t, environ, "check")
		require.Equal(t, exitOK, got.Code, got.Stdout)
		require.Empty(t, got.Stderr)
		require.Regexp(t, `^CHECK +RESULT +DETAIL
settings +ok .*
database +ok .*
schema +ok .*
keyset +ok .*
keys +ok +2 sealed with the current key-encryption key \(local:[0-9a-f]{8}\), 0 with others
issuer +ok +none is configured.*

KEK +STATE +CURRENT +OLD_KEK +UNREADABLE
local:[0-9a-f]{8} +primary +2 +0 +0
$`, got.Stdout)
		require.Equal(t, exitOK, s.Stop())
	})
}

func TestCheckFindsProblems(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a.db"), []byte(strings.Repeat("not a database ", 100)), 0o600))
	_, err := local.AddKEK(filepath.Join(dir, "other.json"))
	require.NoError(t, err)
	sound := newEnviron(t)
	require.Equal(t, exitOK, startReady(t, sound).Stop())
	for name, tc := range map[string]struct {
		changes []string
		says    string
	}{
		"a file that is no database": {[]string{"AIKEYS_DATABASE_URL=sqlite:" + dir + "/a.db"}, `database +FAILED .*file is not a database`},
		"a database that is down":    {[]string{"AIKEYS_DATABASE_URL=postgres://aikeys:hunter2@127.0.0.1:1/keys"}, `database +FAILED .*can be reached`},
		"an old schema": {
			[]string{"AIKEYS_DATABASE_URL=" + modelstest.EnginePostgres.URL(t)}, `schema +FAILED .*run: aikeysd migrate up`},
		"no keyset file": {[]string{"AIKEYS_SEALER=local:" + dir + "/none.json"}, `keyset +FAILED +there is no keyset at`},
		"another keyset": {[]string{"AIKEYS_SEALER=local:" + dir + "/other.json"}, `keyset +FAILED .*does not open this database`},
		"an issuer that is not there": {
			[]string{"AIKEYS_OIDC_ISSUER=http://127.0.0.1:1", "AIKEYS_OIDC_AUDIENCE=aikeys"},
			`issuer +FAILED +OIDC issuer unavailable: discovery document: `},
		"a collector that is no URL": {[]string{"OTEL_EXPORTER_OTLP_ENDPOINT=collector"}, `settings +FAILED +OTEL_EXPORTER_OTLP_ENDPOINT`},
	} {
		got := aikeysd(t, with(sound, tc.changes...), "check")
		require.Equal(t, exitFailure, got.Code, name)
		require.Regexp(t, tc.says, got.Stdout, name)
		require.Contains(t, got.Stderr, "a check failed", name)
		require.NotContains(t, got.Stdout+got.Stderr, "hunter2", name)
		checks, _, _ := strings.Cut(got.Stdout, "\n\n")
		require.Equal(t, 6, strings.Count(strings.TrimSpace(checks), "\n"), "%s: a line for each check:\n%s", name, got.Stdout)
	}
}

func TestCheckCreatesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	environ := []string{"AIKEYS_DATABASE_URL=sqlite:" + filepath.Join(dir, "a.db"), "AIKEYS_SEALER=local:" + filepath.Join(dir, "k.json")}
	require.Regexp(t, `\ndatabase +not yet +sqlite:`+dir+`/a.db is not there yet: serve will make it
schema +- .*
keyset +not yet +`+dir+`/k.json is not there yet: serve will make it
keys +- `, mustAikeysd(t, environ, "check"), "no failure before the first start")
	require.NoFileExists(t, filepath.Join(dir, "a.db"))
	mustAikeysd(t, environ, "migrate", "up")
	require.Regexp(t, `\nschema +ok .*\nkeyset +not yet `, mustAikeysd(t, environ, "check"))
	require.NoFileExists(t, filepath.Join(dir, "k.json"))

	// A check does not bind the database to the keyset either.
	_, err := local.AddKEK(filepath.Join(dir, "k.json"))
	require.NoError(t, err)
	require.Contains(t, mustAikeysd(t, environ, "check"), "bound to no keyset yet")
	require.Empty(t, query(t, "sqlite:"+filepath.Join(dir, "a.db"), "SELECT * FROM canaries"))
}
