package main

import (
	"encoding/json"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/cmd/internal/programtest"
)

// rotationDocument returns an answer that has the members of all answers about the versions of a rotated key. In its
// receipt, acknowledged of three data planes have confirmed.
func rotationDocument(acknowledged int) map[string]any {
	receipt, _ := receiptDocument(acknowledged)["receipt"].(map[string]any)
	receipt["version"], receipt["replaced_version"], receipt["old_version_safe_to_delete"] = 2, 1, acknowledged == 3
	version := map[string]any{
		"version": 2, "state": "active", "display_suffix": "4b1e", "created_at": "2026-11-23T09:45:12Z", "created_by": "alice",
	}
	return map[string]any{"key": keyDocument("main"), "version": version, "versions": []any{version}, "receipt": receipt}
}

func TestRotateWaitsUntilTheOldSecretMayGo(t *testing.T) {
	t.Parallel()
	var acknowledged atomic.Int64
	acknowledged.Store(1)
	s := newFakeService(t, func(_ string, w http.ResponseWriter, r *http.Request) {
		holdResponse(r)
		document := rotationDocument(int(acknowledged.Load()))
		if r.Method == http.MethodPost {
			delete(document, "versions")
		}
		writeJSON(w, http.StatusOK, document)
	})
	rotate := func(more ...string) programtest.Outcome {
		return s.user(t).runWithInput("sk-EXAMPLE-EXAMPLE-EXAMPLE-4b1e\n", append([]string{"api", "byok", "rotate", sampleID, "--wait", "150ms"}, more...)...)
	}
	got := rotate()
	require.Equal(t, exitPending, got.Code, got.Stderr)
	require.Contains(t, got.Stdout, "version 1 may still be in use")
	require.Contains(t, got.Stderr, "tare api byok versions "+sampleID)
	acknowledged.Store(3)
	got = rotate("--activate", "now", "--overlap", "0s", "--expires", "never")
	require.Equal(t, exitOK, got.Code, got.Stderr)
	require.Contains(t, got.Stdout, "version 1 may be deleted at the provider")
	require.NotContains(t, got.Output(), "EXAMPLE-4b1e")
	var sent map[string]any
	require.NoError(t, json.Unmarshal([]byte(s.lastBody()), &sent))
	require.Equal(t, map[string]any{"secret": "sk-EXAMPLE-EXAMPLE-EXAMPLE-4b1e", "activate": "now", "overlap": "0s", "expires_at": nil}, sent)
	for _, bad := range []string{"--activate=soon", "--overlap=1500ms", "--expires=tomorrow"} {
		require.Equal(t, exitUsage, rotate(bad).Code, bad)
	}
}

func TestVersionsAreActivatedRolledBackAndDestroyed(t *testing.T) {
	sent := make(chan string, 1) // the conditions, and how long to wait
	s := newFakeService(t, func(_ string, w http.ResponseWriter, r *http.Request) {
		sent <- r.Header.Get("If-Match") + r.URL.Query().Get("wait")
		writeJSON(w, http.StatusOK, rotationDocument(3))
	})
	u := s.user(t)
	for command, want := range map[string]string{
		"versions " + sampleID: "4b1e", "activate " + sampleID + " 2": "may be deleted", "rollback " + sampleID: "may be deleted",
		"destroy " + sampleID + " 2 --yes": "active",
	} {
		got := u.run("api byok " + command)
		require.Equal(t, exitOK, got.Code, got.Stderr)
		require.Contains(t, got.Stdout, want)
		require.Empty(t, <-sent)
	}
	for _, command := range []string{"activate " + sampleID + " 2", "rollback " + sampleID, "destroy " + sampleID + " 2 --yes"} {
		u.runOK("api byok " + command + ` --if-match "7"`)
		require.Equal(t, `"7"`, <-sent, command)
	}
	u.runOK("api byok versions " + sampleID + " --wait 40s")
	require.Equal(t, "30s", <-sent, "as long as the service allows")
	for _, command := range []string{"activate " + sampleID, "activate " + sampleID + " two", "destroy " + sampleID + " 0", "destroy " + sampleID + " 2", "rollback"} {
		require.Equal(t, exitUsage, u.run("api byok "+command).Code, command)
	}
	require.Len(t, s.requestsSoFar(), 8, strings.Join(s.requestsSoFar(), ", "))
}
