package main

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

func usageEntry(user string) map[string]any {
	return map[string]any{"day": "2026-11-23", "key_id": sampleID, "provider": "openai", "user_id": user, "requests": 7, "refusals": 2,
		"last_used_at": "2026-11-23T09:30:00Z", "new": user}
}

func TestListsPrintAllPagesInEveryFormat(t *testing.T) {
	failures := 1
	u := newFakeService(t, func(_ string, w http.ResponseWriter, r *http.Request) {
		switch r.URL.Query().Get("page_token") {
		case "":
			writeJSON(w, http.StatusOK, map[string]any{"usage": []any{usageEntry("ann")}, "next_page_token": "two", "note": "x"})
		case "two":
			if failures--; failures >= 0 {
				writeProblem(w, http.StatusServiceUnavailable, "unavailable", "try again")
				return
			}
			writeJSON(w, http.StatusOK, map[string]any{"usage": []any{usageEntry("bob")}, "next_page_token": "three"})
		default:
			writeJSON(w, http.StatusOK, map[string]any{"usage": []any{usageEntry("carl")}})
		}
	}).user(t)
	got := decodeJSON(t, u.runOK("api byok usage -o json"))
	require.Equal(t, "x", got["note"])
	require.NotContains(t, got, "next_page_token")
	entries, _ := got["usage"].([]any)
	require.Len(t, entries, 3)
	for i, user := range []string{"ann", "bob", "carl"} {
		entry, _ := entries[i].(map[string]any)
		require.Equal(t, user, entry["new"], "also what this version does not know")
	}
	table := u.runOK("api byok usage")
	require.Regexp(t, `(?s)ann +7 +2 .*bob.*carl`, table)
}

func TestUsageOfNothing(t *testing.T) {
	u := alice(t)
	require.Contains(t, u.run("api byok usage").stderr, "No use of a key has been reported yet. Data planes report every 10 seconds.")
	for _, arguments := range []string{"--from yesterday", "--to 2026-11-23T09:00", "--key " + testSecret} {
		got := u.run("api byok usage " + arguments)
		require.Equal(t, exitUsage, got.code)
		require.NotContains(t, got.all(), testSecret)
	}
}
