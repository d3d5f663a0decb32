package main

import (
	"bytes"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

// eventLine is a line of the report: milliseconds, and what happened then.
var eventLine = regexp.MustCompile(`(?m)^ +(-?\d+\.\d\d)  (.*)$`)

func TestDemo(t *testing.T) {
	programs := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-o", programs+"/", "../aikeysd", "../aikeys-gateway")
	build.Env = append(build.Environ(), "CGO_ENABLED=0")
	output, err := build.CombinedOutput()
	require.NoError(t, err, "%s", output)
	t.Setenv("PATH", programs)
	t.Setenv("TMPDIR", t.TempDir())

	var stdout, stderr bytes.Buffer
	environ := []string{"AIKEYS_DATABASE_URL=postgres://u:hunter2@db/x", "AIKEYS_NONSENSE=1"} // it takes no settings
	require.Equal(t, cli.ExitOK, run(t.Context(), nil, environ, &stdout, &stderr), "%s\n%s", &stderr, &stdout)
	require.Empty(t, stderr.String())
	require.NotContains(t, stdout.String(), providerSecret)
	require.NotContains(t, stdout.String(), nextSecret)
	require.Contains(t, stdout.String(), "old_version_safe_to_delete: true")
	require.Regexp(t, `[1-9]\d* requests were served, and none failed\.`, stdout.String())
	require.Equal(t, gateways, strings.Count(stdout.String(), answer))
	at, last := map[string]float64{}, -1e9
	for _, m := range eventLine.FindAllStringSubmatch(stdout.String(), -1) {
		ms, err := strconv.ParseFloat(m[1], 64)
		require.NoError(t, err)
		require.GreaterOrEqual(t, ms, last, "events are in the order of time")
		at[m[2]], last = ms, ms
	}
	require.Len(t, at, 3+2*gateways, stdout.String())
	require.Zero(t, at["alice sends the revoke"])
	require.Positive(t, at["the database has the revocation"])
	require.Greater(t, at["alice gets the receipt: complete, confirmed by 3 of 3 gateways"], at["the database has the revocation"])
	for _, name := range []string{"gateway-1", "gateway-2", "gateway-3"} {
		require.Greater(t, at[name+" refuses its first request (403)"], at[name+" serves its last request"])
	}
	require.Regexp(t, `Of the [1-9]\d* that were sent after the receipt was complete, .* none was served\.\n$`, stdout.String())
	left, err := os.ReadDir(os.Getenv("TMPDIR"))
	require.NoError(t, err)
	require.Empty(t, left, "it leaves nothing behind")
}

func TestDemoWithoutPrograms(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	var stdout, stderr bytes.Buffer
	require.Equal(t, cli.ExitFailure, run(t.Context(), nil, nil, &stdout, &stderr))
	require.Contains(t, stderr.String(), "there is no aikeysd, neither in the folder of this program nor in PATH")
}

func TestJudge(t *testing.T) {
	r := revocation{sent: time.Now()}
	r.answered = r.sent.Add(10 * time.Millisecond)
	r.receipt.Acknowledged, r.receipt.DataPlanes = 1, 1
	request := func(ms, status int) attempt {
		sent := r.sent.Add(time.Duration(ms) * time.Millisecond)
		return attempt{sent: sent, answered: sent.Add(time.Millisecond), status: status}
	}
	const ok, forbidden = http.StatusOK, http.StatusForbidden
	for name, tc := range map[string]struct {
		state    aikeysv1.ReceiptState
		attempts []attempt
		problem  string
	}{
		"none served after it":  {"complete", []attempt{request(-5, ok), request(5, ok), request(9, ok), request(11, forbidden)}, ""},
		"one served after it":   {"complete", []attempt{request(-5, ok), request(5, forbidden), request(11, ok)}, "1 requests were served after the receipt was complete"},
		"one refused before it": {"complete", []attempt{request(-5, 503), request(11, forbidden)}, "1 requests were refused before the key was revoked"},
		"none sent after it":    {"complete", []attempt{request(-5, ok), request(5, forbidden)}, "shows nothing"},
		"an incomplete receipt": {"pending", []attempt{request(11, forbidden)}, "the receipt is pending"},
	} {
		t.Run(name, func(t *testing.T) {
			r.receipt.State = tc.state
			_, err := judge(r, []*caller{{attempts: tc.attempts}})
			if tc.problem == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, tc.problem)
		})
	}
}
