package main

import (
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// disabledDocument returns a disabled key. Its receipt has this number of acknowledgements, out of three.
func disabledDocument(acknowledged int) map[string]any {
	key := keyDocument("main")
	receipt, _ := receiptDocument(acknowledged)["receipt"].(map[string]any)
	key["disabled"], key["disabled_at"], key["disabled_by"] = true, receipt["disabled_at"], receipt["disabled_by"]
	key["serves"], key["not_serving_reason"], key["disable_receipt"] = false, "disabled", receipt
	return map[string]any{"key": key}
}

func TestDisableWaitsForItsReceipt(t *testing.T) {
	t.Parallel()
	var acknowledged atomic.Int64
	acknowledged.Store(1)
	s := newFakeService(t, func(_ string, w http.ResponseWriter, r *http.Request) {
		holdResponse(r)
		writeJSON(w, http.StatusOK, disabledDocument(int(acknowledged.Load())))
	})
	got := s.user(t).run("api", "byok", "disable", sampleID, "--wait", "150ms")
	require.Equal(t, exitPending, got.Code)
	require.Contains(t, got.Stdout, "pending: 1 of 3 data planes confirmed")
	require.Contains(t, got.Stderr, "the key is disabled, and its receipt is pending: 1 of 3")
	acknowledged.Store(3)
	got = s.user(t).run("api", "byok", "disable", sampleID, "--wait", "150ms")
	require.Equal(t, exitOK, got.Code, got.Stderr)
	require.Contains(t, got.Stdout, "complete: 3 of 3")
	require.Regexp(t, `State +disabled`, got.Stdout)
	require.Equal(t, []string{"PATCH key", `{"disabled":true}`}, []string{s.requestsSoFar()[0], s.lastBody()})
}

// The first request changes the key, so the requests that ask for its receipt again must not have the condition.
func TestDisableSendsItsConditionOnce(t *testing.T) {
	sent := make(chan string, 2)
	s := newFakeService(t, func(_ string, w http.ResponseWriter, r *http.Request) {
		sent <- r.Header.Get("If-Match")
		writeJSON(w, http.StatusOK, disabledDocument(2*len(sent)-1))
	})
	require.Contains(t, s.user(t).runOK("api", "byok", "disable", sampleID, "--if-match", `"7"`), "complete: 3 of 3")
	require.Equal(t, []string{`"7"`, ""}, []string{<-sent, <-sent})
}

func TestUpdateChangesWhatItsFlagsName(t *testing.T) {
	s := newFakeService(t, func(_ string, w http.ResponseWriter, _ *http.Request) {
		key := keyDocument("main")
		key["expires_at"] = "2099-06-30T00:00:00Z"
		writeJSON(w, http.StatusOK, map[string]any{"key": key})
	})
	u := s.user(t)
	for command, want := range map[string]string{
		"api byok enable " + sampleID:                                                                    `{"disabled":false}`,
		"api byok update " + sampleID + " --order -1 --weight 3":                                         `{"order":-1,"weight":3}`,
		"api byok update " + sampleID + " --restrict-models a,b-* --restrict-models c --restrict-users=": `{"restrict":{"models":["a","b-*","c"],"users":null}}`,
		"api byok update " + sampleID + " --limit-rpm 60 --limit-concurrent 0":                           `{"limit":{"concurrent":null,"requests_per_minute":60}}`,
		"api byok update " + sampleID + " --weight 0":                                                    `{"weight":null}`,
		"api byok update " + sampleID + " --expires never":                                               `{"expires_at":null}`,
		"api byok update " + sampleID + " --expires 2099-06-30 --name n":                                 `{"expires_at":"2099-06-30T00:00:00Z","name":"n"}`,
		"api byok update " + sampleID + ` --expires 2099-06-30T02:00:00+02:00 --if-match '"1"'`:          `{"expires_at":"2099-06-30T00:00:00Z"}`,
	} {
		got := u.run(command)
		require.Equal(t, exitOK, got.Code, got.Stderr)
		require.Contains(t, got.Stdout, "2099-06-30 00:00:00 UTC")
		require.JSONEq(t, want, s.lastBody(), command)
	}
	changed := newFakeService(t, func(_ string, w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusPreconditionFailed, map[string]any{
			"type": "/problems/precondition-failed", "title": "Precondition failed", "status": 412, "detail": "It has been changed.",
			"code": "failed_precondition", "request_id": "01M83VVAHQQW2E4R6T8Y0A1S3D",
		})
	})
	got := changed.user(t).run("api byok update " + sampleID + ` --name n --if-match '"1"'`)
	require.Equal(t, exitConflict, got.Code, got.Stderr)
	before := len(s.requestsSoFar())
	for _, command := range []string{"api byok update " + sampleID, "api byok update " + sampleID + " --expires tomorrow", "api byok update"} {
		require.Equal(t, exitUsage, u.run(command).Code, command)
	}
	require.Len(t, s.requestsSoFar(), before)
}
