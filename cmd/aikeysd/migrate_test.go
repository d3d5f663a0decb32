package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMigrateGrantsPrintsWhatOneUserGets(t *testing.T) {
	environ := newEnviron(t)
	printed := mustAikeysd(t, environ, "migrate", "grants", "--user", `app"; DROP TABLE events; --`)
	require.Contains(t, printed, `GRANT USAGE ON SCHEMA "public" TO "app""; DROP TABLE events; --";`)
	require.Contains(t, printed, `REVOKE UPDATE, DELETE ON "public".events, "public".system_events, "public".fetches FROM`)
	require.Contains(t, mustAikeysd(t, environ, "migrate", "grants", "--user", "app", "--schema", "keys"), `ON "keys".goose_db_version FROM "app";`)
	refused := aikeysd(t, environ, "migrate", "grants")
	require.Equal(t, 2, refused.code)
	require.Contains(t, refused.stderr, "--user: is required")
}
