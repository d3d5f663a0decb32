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
