package main

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEventsInPages(t *testing.T) {
	u := alice(t)
	u.addKey("one")
	u.addKey("two")
	firstPage := u.run("api byok events --limit 1")
	require.Len(t, strings.Split(strings.TrimSpace(firstPage.stdout), "\n"), 2, "the head, and one event")
	_, token, found := strings.Cut(strings.TrimSpace(firstPage.stderr), "--page-token ")
	require.True(t, found, firstPage.stderr)
	next := u.run("api", "byok", "events", "--limit", "1", "-o", "json", "--page-token", token)
	require.JSONEq(t, u.callAPI(http.MethodGet, "/events?page_size=1&page_token="+token), next.stdout)
	require.Equal(t, exitUsage, u.run("api byok events --limit 0").code)
}

func TestEventsByFilter(t *testing.T) {
	u := alice(t)
	id := u.addKey("filtered")
	u.runOK("api byok remove " + id)
	rows := func(flags string) int { return strings.Count(u.runOK("api byok events "+flags), "\n") - 1 }
	require.Equal(t, 2, rows("--key "+id))
	require.Equal(t, 1, rows("--key "+id+" --type key.revoked --outcome allowed --actor alice --provider openai --from 2020-01-01"))
	require.NotContains(t, u.run("api byok events --to 2020-01-01").stdout, id)
	more := u.run("api byok events --limit 1 --key " + id)
	require.Contains(t, more.stderr, "tare api byok events --key "+id+" --page-token ")
	require.Equal(t, exitUsage, u.run("api byok events --key nonsense").code)
	require.Equal(t, exitUsage, u.run("api byok events --from yesterday").code)
}
