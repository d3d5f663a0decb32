package main

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEventsInPages(t *testing.T) {
	u := alice(t)
	u.addKey("one")
	u.addKey("two")
	firstPage := u.run("api byok events --limit 1")
	require.Len(t, strings.Split(strings.TrimSpace(firstPage.Stdout), "\n"), 2, "the head, and one event")
	_, token, found := strings.Cut(strings.TrimSpace(firstPage.Stderr), "--page-token ")
	require.True(t, found, firstPage.Stderr)
	next := u.run("api", "byok", "events", "--limit", "1", "-o", "json", "--page-token", token)
	require.JSONEq(t, u.callAPI(http.MethodGet, "/events?page_size=1&page_token="+token), next.Stdout)
	require.Equal(t, exitUsage, u.run("api byok events --limit 0").Code)
}

func TestEventsByFilter(t *testing.T) {
	u := alice(t)
	id := u.addKey("filtered")
	u.runOK("api byok remove --yes " + id)
	rows := func(flags string) int { return strings.Count(u.runOK("api byok events "+flags), "\n") - 1 }
	require.Equal(t, 2, rows("--key "+id))
	require.Equal(t, 1, rows("--key "+id+" --type key.revoked --outcome allowed --actor alice --provider openai --from 2020-01-01"))
	require.NotContains(t, u.run("api byok events --to 2020-01-01").Stdout, id)
	more := u.run("api byok events --limit 1 --key " + id)
	require.Contains(t, more.Stderr, "tare api byok events --key "+id+" --limit 1 --page-token ")
	require.Equal(t, exitUsage, u.run("api byok events --key nonsense").Code)
	require.Equal(t, exitUsage, u.run("api byok events --from yesterday").Code)
}

func TestEventsOfAnUnknownTypeAreRefused(t *testing.T) {
	u := alice(t)
	got := u.run("api byok events --type key.revokd")
	require.Equal(t, exitUsage, got.Code)
	require.Contains(t, got.Stderr, "--type must be one of "+strings.Join(texts(eventTypes()), ", "), "and these are all")
	require.Contains(t, got.Stderr, "Did you mean key.revoked?")
	help := u.runOK("api byok events --help")
	for _, each := range eventTypes() {
		require.Contains(t, help, each)
		require.Equal(t, exitOK, u.run("api", "byok", "events", "--type", string(each)).Code)
	}
	require.Equal(t, texts(eventTypes()), u.completions("api", "byok", "events", "--type", ""))
}

func TestEventsSayWhatAChangeChanged(t *testing.T) {
	u := alice(t)
	t.Cleanup(func() { u.runOK("api policy set --reset") })
	last := func(eventType string) string { return u.run("api byok events --limit 1 --type " + eventType).Stdout }
	u.runOK("api policy set --reset")
	u.runOK("api policy set --user-keys forbid --user-keys-for openai=allow --on-limited next_key --operations all --removal-grace-days 0")
	require.Regexp(t, `user-keys: allow → forbid .*\n +user-keys-for openai: default → allow\n +on-limited: fail → next_key\n +operations: inference → all\n +removal-grace-days: default → 0\n$`, last("policy.set"))
	u.runOK("api policy set --on-bad-key next_key --user-keys-for openai=default")
	require.Regexp(t, `user-keys-for openai: allow → default .*\n +on-bad-key: fail → next_key\n$`, last("policy.set"))
	u.runOK("api policy set --on-bad-key next_key")
	require.Regexp(t, `allowed  unchanged`, last("policy.set"))
	u.runOK("api members set dora --role member")
	require.Contains(t, last("member.set"), "dora: no member → member")
	u.runOK("api members set dora --role owner")
	require.Contains(t, last("member.set"), "dora: member → owner")
	u.runOK("api members set dora --role owner")
	require.Contains(t, last("member.set"), "dora: owner")
	u.runOK("api members remove --yes dora")
	require.Contains(t, last("member.removed"), "dora: owner → no member")
}

func TestAListGoesOnWithTheFlagsItHad(t *testing.T) {
	u := newFakeService(t, func(_ string, w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]any{"next_page_token": "NDE", "usage": []any{usageEntry("ann")},
			"events":  []any{map[string]any{"id": "evt_1", "type": "x.y", "outcome": "allowed", "at": "2026-11-23T09:30:00Z", "actor": map[string]any{"user_id": "a", "method": "oidc"}}},
			"fetches": []any{map[string]any{"at": "2026-11-23T09:30:00Z", "decision": "denied", "reason": "no_key"}}})
	}).user(t)
	for _, command := range []string{
		"api byok events --actor 'it'\\''s $HOME' --from 2026-11-23 --limit 1 --no-color=true --outcome denied --project web",
		"api byok usage --from 2026-11-23T09:00:00+02:00 --key " + sampleID + " --limit 1 --provider openai --to 2026-11-24 --user bob",
		"api byok fetches --data-plane edge-1 --decision denied --limit 1 --timeout 5s --user bob",
	} {
		args := strings.Fields(command)
		if at := slices.Index(args, "--actor"); at > 0 {
			args = slices.Replace(args, at+1, at+3, "it's $HOME")
		}
		got := u.run(args...)
		require.Equal(t, exitOK, got.Code, got.Output())
		require.Contains(t, got.Stderr, "There are more: tare "+command+" --page-token NDE\n")
	}
}

func TestListsRefuseAPeriodThatEndsBeforeItBegins(t *testing.T) {
	u := alice(t)
	for _, list := range []string{"events", "usage", "fetches"} {
		got := u.run("api byok " + list + " --from 2026-11-24 --to 2026-11-23")
		require.Equal(t, exitUsage, got.Code)
		require.Contains(t, got.Stderr, "--from must not be after --to")
		require.Equal(t, exitUsage, u.run("api byok "+list+" --limit 0").Code)
		got = u.run("api byok " + list + " --provider opnai")
		require.Contains(t, got.Stderr, `the service knows no provider "opnai"`)
		require.Contains(t, got.Stderr, "Did you mean openai?")
		require.Regexp(t, "(match|matches)\\.", u.run("api byok "+list+" --to 2020-01-01").Stderr)
	}
}

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
	require.Contains(t, u.run("api byok usage").Stderr, "No use of a key has been reported yet. Data planes report every 10 seconds.")
	for _, arguments := range []string{"--from yesterday", "--to 2026-11-23T09:00", "--key " + testSecret} {
		got := u.run("api byok usage " + arguments)
		require.Equal(t, exitUsage, got.Code)
		require.NotContains(t, got.Output(), testSecret)
	}
}
