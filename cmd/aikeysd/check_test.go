package main

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models/modelstest"
)

func TestCheckSucceeds(t *testing.T) {
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		environ := with(newEnviron(t), "AIKEYS_DATABASE_URL="+e.URL(t))
		s := startReady(t, environ)
		token := newOwner(t, environ)
		for _, name := range []string{"a", "b"} {
			require.Equal(t, http.StatusCreated, call(t, newClient(), http.MethodPost, s.api+"/v1/aikeys", token, registerBody(name, fakeSecret)).status)
		}
		got := aikeysd(t, environ, "check")
		require.Equal(t, exitOK, got.code, got.stdout)
		require.Empty(t, got.stderr)
		require.Regexp(t, `^CHECK +RESULT +DETAIL
settings +ok .*
database +ok .*
schema +ok .*
keyset +ok .*
keys +ok +2 sealed with the current key-encryption key \(local:[0-9a-f]{8}\), 0 with others
issuer +ok +none is configured.*

KEK +STATE +CURRENT +OLD_KEK +UNREADABLE
local:[0-9a-f]{8} +primary +2 +0 +0
$`, got.stdout)
		require.Equal(t, exitOK, s.wait())
	})
}

func TestCheckFindsProblems(t *testing.T) {
	cases := map[string]struct {
		spoil func(t *testing.T, environ []string) []string
		says  string
	}{
		"a file that is no database": {func(t *testing.T, environ []string) []string {
			path := filepath.Join(t.TempDir(), "a.db")
			require.NoError(t, os.WriteFile(path, []byte(strings.Repeat("not a database ", 100)), 0o600))
			return with(environ, "AIKEYS_DATABASE_URL=sqlite:"+path)
		}, `database +FAILED .*file is not a database`},
		"a database that is down": {func(_ *testing.T, environ []string) []string {
			return with(environ, "AIKEYS_DATABASE_URL=postgres://aikeys:hunter2@127.0.0.1:1/keys")
		}, `database +FAILED .*can be reached`},
		"an old schema": {func(t *testing.T, environ []string) []string {
			return with(environ, "AIKEYS_DATABASE_URL="+modelstest.Postgres(t))
		}, `schema +FAILED .*run: aikeysd migrate up`},
		"no keyset file": {func(t *testing.T, environ []string) []string {
			return with(environ, "AIKEYS_SEALER=local:"+filepath.Join(t.TempDir(), "none.json"))
		}, `keyset +FAILED +there is no keyset at`},
		"another keyset": {func(t *testing.T, environ []string) []string {
			other := newEnviron(t)
			require.Equal(t, exitOK, startReady(t, other).wait())
			return with(environ, other[3])
		}, `keyset +FAILED .*does not open this database`},
		"an issuer that is not there": {func(_ *testing.T, environ []string) []string {
			return with(environ, "AIKEYS_OIDC_ISSUER=http://127.0.0.1:1", "AIKEYS_OIDC_AUDIENCE=aikeys")
		}, `issuer +FAILED +OIDC issuer unavailable: discovery document: `},
		"a collector that is no URL": {func(_ *testing.T, environ []string) []string {
			return with(environ, "OTEL_EXPORTER_OTLP_ENDPOINT=collector")
		}, `settings +FAILED +OTEL_EXPORTER_OTLP_ENDPOINT`},
	}
	sound := newEnviron(t)
	require.Equal(t, exitOK, startReady(t, sound).wait())
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			environ := tc.spoil(t, sound)
			got := aikeysd(t, environ, "check")
			require.Equal(t, exitFailure, got.code)
			require.Regexp(t, tc.says, got.stdout)
			require.Contains(t, got.stderr, "a check failed")
			require.NotContains(t, got.stdout+got.stderr, "hunter2")
			checks, _, _ := strings.Cut(got.stdout, "\n\n")
			require.Equal(t, 6, strings.Count(strings.TrimSpace(checks), "\n"), "a line for each check:\n%s", got.stdout)
		})
	}
}

func TestCheckCreatesNothing(t *testing.T) {
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

	t.Run("nor binds one to the other", func(t *testing.T) {
		other := newLocalEnviron(t)
		require.Equal(t, exitOK, startReady(t, other).wait())
		_, keyset, _ := strings.Cut(other[3], "local:")
		content, err := os.ReadFile(keyset)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, "k.json"), content, 0o600))
		require.Contains(t, mustAikeysd(t, environ, "check"), "bound to no keyset yet")
		require.Empty(t, rows(t, open(t, "sqlite:"+filepath.Join(dir, "a.db")), "SELECT * FROM canaries"))
	})
}
