package main

import (
	"maps"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/clipperhouse/displaywidth"
	"github.com/stretchr/testify/require"
)

func TestPendingReceipt(t *testing.T) {
	t.Parallel()
	s := newFakeService(t, func(_ string, w http.ResponseWriter, r *http.Request) {
		holdResponse(r)
		writeJSON(w, http.StatusOK, receiptDocument(1))
	})
	got := s.user(t).run("api", "byok", "remove", "--yes", sampleID, "--wait", "150ms")
	require.Equal(t, exitPending, got.Code)
	require.Contains(t, got.Stdout, "pending: 1 of 3 data planes confirmed, slowest 10 ms, the rest in ")
	require.Contains(t, got.Stderr, "the key is revoked, and its receipt is pending: 1 of 3")
	require.Contains(t, got.Stderr, "tare api byok get "+sampleID)

	got = s.user(t).run("api", "byok", "remove", "--yes", sampleID, "--wait", "150ms", "-o", "json")
	require.Equal(t, exitPending, got.Code)
	pending, _ := decodeJSON(t, got.Stdout)["receipt"].(map[string]any)
	require.Equal(t, "pending", pending["state"])

	before := len(s.requestsSoFar())
	got = s.user(t).run("api", "byok", "remove", "--yes", sampleID, "--wait", "0")
	require.Equal(t, exitOK, got.Code, "who does not wait is not told off")
	require.Len(t, s.requestsSoFar(), before+1)
}

func TestReceiptShowsTheRequestsInFlight(t *testing.T) {
	for want, fields := range map[string]map[string]any{
		"In flight  unknown: no data plane said how many": nil,
		"In flight  0 requests when the key was dropped (edge-1: 0)": {"in_flight": 0, "in_flight_from": 3, "acknowledgements": []any{
			map[string]any{"data_plane": "edge-1", "acknowledged": 3, "in_flight": 0, "in_flight_from": 3},
		}},
		"In flight  1 request when the key was dropped, and an unknown number at 2 data planes (edge-1: 1, edge-2: unknown)": {
			"in_flight": 1, "in_flight_from": 1, "acknowledgements": []any{
				map[string]any{"data_plane": "edge-1", "acknowledged": 1, "in_flight": 1, "in_flight_from": 1},
				map[string]any{"data_plane": "edge-2", "acknowledged": 2},
			},
		},
	} {
		document := receiptDocument(3)
		receipt, _ := document["receipt"].(map[string]any)
		maps.Copy(receipt, fields)
		s := newFakeService(t, func(_ string, w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodDelete {
				writeJSON(w, http.StatusOK, document)
				return
			}
			key := keyDocument("main")
			key["state"], key["receipt"] = "revoked", receipt
			writeJSON(w, http.StatusOK, map[string]any{"key": key})
		})
		require.Contains(t, strings.Join(strings.Fields(s.user(t).run("api", "byok", "remove", "--yes", sampleID).Stdout), " "),
			strings.Join(strings.Fields(want), " "))
		require.Contains(t, strings.Join(strings.Fields(s.user(t).run("api", "byok", "get", sampleID).Stdout), " "),
			strings.Join(strings.Fields(want), " "))
	}
}

func TestReceiptShowsEachDataPlane(t *testing.T) {
	document := receiptDocument(1)
	receipt, _ := document["receipt"].(map[string]any)
	planes := []any{map[string]any{"name": "edge-9", "state": "lease_expired"}, map[string]any{"name": "edge-8", "state": "waiting"}}
	for i := range 8 {
		planes = append(planes, map[string]any{"name": "edge-" + strconv.Itoa(i), "state": "acknowledged", "ms": i})
	}
	receipt["planes"] = planes
	s := newFakeService(t, func(_ string, w http.ResponseWriter, r *http.Request) {
		key := keyDocument("main")
		key["state"], key["receipt"] = "revoked", receipt
		if r.URL.Query().Get("wait") == "3s" {
			receipt["state"] = "complete"
		}
		writeJSON(w, http.StatusOK, map[string]any{"key": key})
	})
	require.Contains(t, s.user(t).run("api", "byok", "get", sampleID).Stdout, "pending")
	shown := s.user(t).run("api", "byok", "get", sampleID, "--wait", "3s").Stdout
	for _, text := range []string{
		"Receipt      complete: 1 of 3 data planes", "Data planes  edge-9: did not confirm, its lease has expired\n", "\n             edge-8: waiting\n",
		"edge-0: confirmed after 0 ms\n", "edge-5: confirmed after 5 ms\n", "and 2 more: -o json shows them",
	} {
		require.Contains(t, shown, text)
	}
	require.NotContains(t, shown, "edge-6")
}

func TestRemovingAMemberWaitsForTheReceipt(t *testing.T) {
	s := newFakeService(t, func(_ string, w http.ResponseWriter, r *http.Request) {
		acknowledged := 1
		if r.URL.Query().Get("wait") == "30s" {
			acknowledged = 3
		}
		document := receiptDocument(acknowledged)
		maps.Copy(document, map[string]any{"suspended_keys": 1, "suspended_tokens": 2, "restore_until": "2026-12-23T09:30:00Z"})
		writeJSON(w, http.StatusOK, document)
	})
	got := s.user(t).run("api", "members", "remove", "--yes", "bob", "--wait", "1h")
	require.Equal(t, exitOK, got.Code, got.Stderr)
	require.Contains(t, got.Stdout, "complete: 3 of 3")
	got = s.user(t).run("api", "members", "remove", "--yes", "bob")
	require.Equal(t, exitPending, got.Code)
	require.Contains(t, got.Stderr, "bob is removed, and its receipt is pending: 1 of 3 data planes confirmed")
	require.Equal(t, exitOK, s.user(t).run("api", "members", "remove", "--yes", "bob", "--wait", "0").Code)
}

func TestProgress(t *testing.T) {
	var calls atomic.Int32
	s := newFakeService(t, func(_ string, w http.ResponseWriter, r *http.Request) {
		n := int(calls.Add(1))
		if n <= 3 {
			holdResponse(r)
		}
		writeJSON(w, http.StatusOK, receiptDocument(min(n-1, 3)))
	})
	code, shown := s.user(t).runInTerminal(100, "api byok remove --yes --wait 10s "+sampleID).wait()
	require.Equal(t, exitOK, code, shown)
	for _, text := range []string{"0 of 3", "1 of 3", "2 of 3 data planes confirmed, slowest 20 ms"} {
		require.Contains(t, shown, text)
	}
	last := shown[strings.LastIndex(shown, "\r\x1b[K"):]
	require.Contains(t, last, "complete: 3 of 3 data planes confirmed, slowest 30 ms", "the result takes the line's place")
	require.NotContains(t, last, "waiting")

	calls.Store(3)
	got := s.user(t).run("api", "byok", "remove", "--yes", "--wait", "10s", sampleID)
	require.Equal(t, exitOK, got.Code)
	require.Empty(t, got.Stderr, "no progress without a terminal")
}

func TestReceiptIsPendingIfTheServiceFails(t *testing.T) {
	var calls atomic.Int32
	s := newFakeService(t, func(_ string, w http.ResponseWriter, _ *http.Request) {
		if calls.Add(1) == 1 {
			writeJSON(w, http.StatusOK, receiptDocument(2))
			return
		}
		writeProblem(w, http.StatusInternalServerError, "internal", "x")
	})
	got := s.user(t).run("api", "byok", "remove", "--yes", sampleID)
	require.Equal(t, exitPending, got.Code)
	require.Contains(t, got.Stderr, "2 of 3 data planes confirmed, slowest 20 ms; then the service stopped answering")
}

func TestWaitIsPacedIfTheServiceDoesNotHold(t *testing.T) {
	t.Parallel()
	s := newFakeService(t, func(_ string, w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, receiptDocument(1))
	})
	require.Equal(t, exitPending, s.user(t).run("api", "byok", "remove", "--yes", sampleID, "--wait", "350ms").Code)
	require.LessOrEqual(t, len(s.requestsSoFar()), 6)
}

func TestCtrlCWhileWaitingForTheReceipt(t *testing.T) {
	s := newFakeService(t, func(_ string, w http.ResponseWriter, r *http.Request) {
		holdResponse(r)
		writeJSON(w, http.StatusOK, receiptDocument(1))
	})
	code, shown := s.user(t).runInTerminal(120, "api byok remove --yes --wait 30s "+sampleID).expect("waiting: 1 of 3").typeKeys("\x03").wait()
	require.Equal(t, exitStopped, code)
	require.Contains(t, shown, "the key is revoked, and its receipt is pending: 1 of 3 data planes confirmed")
}

func TestProgressFitsANarrowTerminal(t *testing.T) {
	s := newFakeService(t, func(_ string, w http.ResponseWriter, r *http.Request) {
		holdResponse(r)
		writeJSON(w, http.StatusOK, receiptDocument(1))
	})
	code, shown := s.user(t).runInTerminal(40, "api byok remove --yes --wait 350ms "+sampleID).wait()
	require.Equal(t, exitPending, code)
	before, _, _ := strings.Cut(controlCodes.ReplaceAllString(shown, ""), "\n")
	lines := strings.Split(before, "\r")
	require.Contains(t, strings.Join(lines, ""), "waiting: 1 of 3")
	for _, line := range lines[:len(lines)-1] {
		require.Less(t, displaywidth.String(line), 40, "a line that goes on below can't be taken back")
	}
}

func TestRevokingAsksOnATerminal(t *testing.T) {
	u := alice(t)
	id := u.addKey("confirmed")
	for _, answer := range []string{"\n", "n\n", "what\n", "\x04"} {
		s := u.runInTerminal(120, "api byok remove "+id).expect(`Revoke the project's openai key "confirmed" (…ter2, not used yet)?`)
		code, shown := s.expect("[y/N] ").typeKeys(answer).wait()
		require.Equal(t, exitDeclined, code, shown)
	}
	require.Contains(t, u.runOK("api byok get "+id), "active")
	code, shown := u.runInTerminal(120, "api byok remove "+id).expect("[y/N] ").typeKeys("y\n").wait()
	require.Equal(t, exitOK, code, shown)
	require.Contains(t, shown, "complete")
	code, shown = u.runInTerminal(120, "api byok remove "+id).wait()
	require.Equal(t, exitOK, code, "what is revoked is not asked about")
	require.Contains(t, shown, "complete")
	code, _ = u.runInTerminal(120, "api byok remove --yes "+u.addKey("unasked")).wait()
	require.Equal(t, exitOK, code)
}
