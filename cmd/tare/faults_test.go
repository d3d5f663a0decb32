package main

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestAReceiptThatStaysPendingHasAnExitCodeOfItsOwn(t *testing.T) {
	s := newStandIn(t, func(_ string, w http.ResponseWriter, r *http.Request) {
		held(r)
		writeJSON(w, http.StatusOK, receipt(1))
	})
	got := s.user(t).run("api", "byok", "remove", sampleID, "--wait", "150ms")
	require.Equal(t, exitPending, got.code)
	require.Contains(t, got.stdout, "pending: 1 of 3 data planes confirmed, slowest 10 ms, the rest in ")
	require.Contains(t, got.stderr, "the key is revoked, and its receipt is pending: 1 of 3")
	require.Contains(t, got.stderr, "tare api byok get "+sampleID)

	got = s.user(t).run("api", "byok", "remove", sampleID, "--wait", "150ms", "-o", "json")
	require.Equal(t, exitPending, got.code)
	pending, _ := decoded(t, got.stdout)["receipt"].(map[string]any)
	require.Equal(t, "pending", pending["state"])

	before := len(s.asked())
	got = s.user(t).run("api", "byok", "remove", sampleID, "--wait", "0")
	require.Equal(t, exitOK, got.code, "who does not wait is not told off")
	require.Len(t, s.asked(), before+1)
}

func TestProgressIsShownOnATerminalWhileDataPlanesConfirm(t *testing.T) {
	var calls atomic.Int32
	s := newStandIn(t, func(_ string, w http.ResponseWriter, r *http.Request) {
		n := int(calls.Add(1))
		if n <= 3 {
			held(r)
		}
		writeJSON(w, http.StatusOK, receipt(min(n-1, 3)))
	})
	code, shown := s.user(t).at(100, "api byok remove --yes --wait 10s "+sampleID).ends()
	require.Equal(t, exitOK, code, shown)
	for _, text := range []string{"0 of 3", "1 of 3", "2 of 3 data planes confirmed, slowest 20 ms"} {
		require.Contains(t, shown, text)
	}
	last := shown[strings.LastIndex(shown, "\r\x1b[K"):]
	require.Contains(t, last, "complete: 3 of 3 data planes confirmed, slowest 30 ms", "the result takes the line's place")
	require.NotContains(t, last, "waiting")

	calls.Store(3)
	got := s.user(t).run("api", "byok", "remove", "--wait", "10s", sampleID)
	require.Equal(t, exitOK, got.code)
	require.Empty(t, got.stderr, "elsewhere there is none")
}

func TestARevocationWhoseReceiptCannotBeFollowedIsPending(t *testing.T) {
	var calls atomic.Int32
	s := newStandIn(t, func(_ string, w http.ResponseWriter, _ *http.Request) {
		if calls.Add(1) == 1 {
			writeJSON(w, http.StatusOK, receipt(2))
			return
		}
		refuse(w, http.StatusInternalServerError, "internal", "x")
	})
	got := s.user(t).run("api", "byok", "remove", sampleID)
	require.Equal(t, exitPending, got.code)
	require.Contains(t, got.stderr, "2 of 3 data planes confirmed, slowest 20 ms; then the service stopped answering")
}

func TestAServiceThatDoesNotHoldItsAnswerIsNotAskedWithoutEnd(t *testing.T) {
	s := newStandIn(t, func(_ string, w http.ResponseWriter, _ *http.Request) { writeJSON(w, http.StatusOK, receipt(1)) })
	require.Equal(t, exitPending, s.user(t).run("api", "byok", "remove", sampleID, "--wait", "350ms").code)
	require.LessOrEqual(t, len(s.asked()), 6)
}

func TestCtrlCWhileItWaitsForTheReceiptSaysThatTheKeyIsRevoked(t *testing.T) {
	s := newStandIn(t, func(_ string, w http.ResponseWriter, r *http.Request) {
		held(r)
		writeJSON(w, http.StatusOK, receipt(1))
	})
	code, shown := s.user(t).at(120, "api byok remove --yes --wait 30s "+sampleID).expect("waiting: 1 of 3").types("\x03").ends()
	require.Equal(t, exitStopped, code)
	require.Contains(t, shown, "the key is revoked, and its receipt is pending: 1 of 3 data planes confirmed")
}

func TestWhatMayHaveBeenCarriedOutIsSaid(t *testing.T) {
	s := newStandIn(t, func(_ string, _ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	got := s.user(t).run("api", "byok", "remove", sampleID, "--timeout", "100ms", "--wait", "0")
	require.Equal(t, exitUnavailable, got.code)
	require.Contains(t, got.stderr, "The key may have been revoked anyway.")
	got = s.user(t).pipe(aSecret, "api byok add --provider openai --name x --timeout 100ms")
	require.Equal(t, exitUnavailable, got.code)
	require.Contains(t, got.stderr, "The key may have been registered anyway")
	got = of(t, "http://127.0.0.1:1", "ak_x").run("api", "byok", "remove", sampleID)
	require.NotContains(t, got.stderr, "anyway", "nothing was sent")
}

func TestFaultsHaveTheirExitCodesAndSayWhatToDo(t *testing.T) {
	problem := func(status int, code string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { refuse(w, status, code, "Something happened.") }
	}
	for name, tc := range map[string]struct {
		answer http.HandlerFunc
		code   int
		says   string
	}{
		"unavailable, for longer than a command should last": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "60")
			refuse(w, http.StatusServiceUnavailable, "unavailable", "The database is away.")
		}, exitUnavailable, "Try again in 1m0s."},
		"too many requests": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "31")
			refuse(w, http.StatusTooManyRequests, "resource_exhausted", "Too many.")
		}, exitUnavailable, "Try again in 31s."},
		"a fault of the service": {problem(500, "internal"), exitFailure, "quote the request 01M83VVAHQQW2E4R6T8Y0A1S3D"},
		"unauthenticated":        {problem(401, "unauthenticated"), exitUnauthenticated, "tare login"},
		"denied":                 {problem(403, "permission_denied"), exitDenied, "Something happened."},
		"not found":              {problem(404, "not_found"), exitNotFound, "tare api byok list"},
		"taken":                  {problem(409, "already_exists"), exitConflict, "Something happened."},
		"the last owner":         {problem(409, "failed_precondition"), exitConflict, "Something happened."},
		"a value":                {problem(400, "invalid_argument"), exitUsage, "Something happened."},
		"a used-up idempotency":  {problem(422, "failed_precondition"), exitUsage, "Something happened."},
		"not our service": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte("<html>hello</html>"))
		}, exitFailure, "the address of AgentRouter AI Keys?"},
		"a redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://elsewhere.example", http.StatusFound)
		}, exitFailure, "the address of AgentRouter AI Keys?"},
		"an answer cut short": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = w.Write([]byte(`{"keys":`))
		}, exitUnavailable, "no connection to http://127.0.0.1:"},
		"silence": {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, exitUnavailable, "--timeout"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStandIn(t, func(_ string, w http.ResponseWriter, r *http.Request) { tc.answer(w, r) })
			timeout := "10s"
			if name == "silence" {
				timeout = "300ms"
			}
			got := s.user(t).run("api", "byok", "list", "--timeout", timeout)
			require.Equal(t, tc.code, got.code, got.stderr)
			require.Contains(t, got.stderr, tc.says)
			require.Empty(t, got.stdout)
			require.NotContains(t, got.all(), "ak_EXAMPLE")
		})
	}
	got := of(t, "http://127.0.0.1:1", "ak_EXAMPLE").run("api byok list")
	require.Equal(t, exitUnavailable, got.code)
	require.Contains(t, got.stderr, "no connection to http://127.0.0.1:1: ")
	require.Contains(t, got.stderr, "is the service up?")
}

func TestAServiceThatComesBackIsWaitedFor(t *testing.T) {
	var calls atomic.Int32
	s := newStandIn(t, func(_ string, w http.ResponseWriter, _ *http.Request) {
		if calls.Add(1) == 1 {
			w.Header().Set("Retry-After", "0")
			refuse(w, http.StatusServiceUnavailable, "unavailable", "starting")
			return
		}
		writeJSON(w, http.StatusOK, map[string]any{"keys": []any{aKey("back")}})
	})
	require.Contains(t, s.user(t).ok("api byok list"), "back")
}

func TestARefusalSaysWhoOneIsAndWhoCould(t *testing.T) {
	got := bob(t).pipe(aSecret, "api byok add --provider openai --name x")
	require.Equal(t, exitDenied, got.code)
	require.Contains(t, got.stderr, "You are bob, a member of acme/chat. Its owners: alice.")
	got = bob(t).run("api byok list --project other")
	require.Equal(t, exitDenied, got.code)
	require.Contains(t, got.stderr, "You are bob, not a member of that project. Your session's project is acme/chat.")
}

func TestAProviderThatWasMisspeltIsNamed(t *testing.T) {
	u := alice(t)
	for _, command := range []string{
		"api byok list --provider opnai", "api byok resolve --provider opnai", "api byok add --provider opnai --name x",
	} {
		got := u.pipe(aSecret, command)
		require.Equal(t, exitUsage, got.code)
		require.Contains(t, got.stderr, `the service knows no provider "opnai"`)
		require.Contains(t, got.stderr, "Did you mean openai? There are openai, anthropic, ")
	}
	got := u.run("api", "byok", "list", "--provider", aSecret)
	require.NotContains(t, got.all(), "hunter2", "a secret in a provider's place is not repeated")
}

func TestASecretOfAnotherProviderIsToldInWords(t *testing.T) {
	got := alice(t).pipe("sk-ant-EXAMPLE-hunter2-EXAMPLE", "api byok add --provider openai --name x")
	require.Equal(t, exitUsage, got.code)
	require.Contains(t, got.stderr, "tare: The secret looks like a key of Anthropic, not of OpenAI.")
	require.NotContains(t, got.stderr, "hunter2")
}

func TestTheTimeoutHoldsForTheWholeCall(t *testing.T) {
	s := newStandIn(t, func(_ string, _ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	begun := time.Now()
	got := s.user(t).run("whoami --timeout 300ms")
	require.Equal(t, exitUnavailable, got.code)
	require.Contains(t, got.stderr, "within 300ms")
	require.Less(t, time.Since(begun), patience/2, "retries do not add to it")
}
