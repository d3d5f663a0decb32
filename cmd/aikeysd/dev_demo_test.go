package main

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// timelineRow is a line of the timeline: milliseconds, who, what.
var timelineRow = regexp.MustCompile(`(?m)^ +(-?\d+\.\d\d)  (\S+) +(\S.*?) +[█▏▎▍▌▋▊▉]*$`)

func TestTheDemonstrationTellsWhatHappenedInOrder(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	began := time.Now()
	got := aikeysd(t, []string{"AIKEYS_DATABASE_URL=postgres://u:hunter2@db/x", "AIKEYS_NONSENSE=1"}, "demo")
	require.Equal(t, exitOK, got.code, "%s\n%s", got.stderr, got.stdout)
	require.Less(t, time.Since(began), 15*time.Second)
	require.Empty(t, got.stderr)
	require.NotContains(t, got.stdout, "\x1b", "it is no terminal")
	require.NotContains(t, got.stdout, demoSecret)
	require.Equal(t, demoGateways, strings.Count(got.stdout, "I answer with a key that nobody here can read."))

	at := map[string]float64{}
	last := -1e9
	for _, m := range timelineRow.FindAllStringSubmatch(got.stdout, -1) {
		ms, err := strconv.ParseFloat(m[1], 64)
		require.NoError(t, err)
		require.GreaterOrEqual(t, ms, last, "in the order of time")
		last = ms
		at[m[2]+" "+m[3]] = ms
	}
	require.Len(t, at, 3+3*demoGateways, got.stdout)
	receipt := at["alice gets the receipt: complete, 3 of 3"]
	require.Zero(t, at["alice sends the revoke"])
	require.Greater(t, at["database has the revocation"], 0.0)
	require.Greater(t, receipt, at["database has the revocation"])
	for _, name := range []string{"gateway-1", "gateway-2", "gateway-3"} {
		acknowledges, served, refuses := name+" acknowledges: it has forgotten", name+" serves its last request", name+" refuses its first request (403)"
		for _, what := range []string{acknowledges, served, refuses} {
			require.Contains(t, at, what)
		}
		require.Greater(t, at[acknowledges], at["database has the revocation"])
		require.Less(t, at[acknowledges], receipt)
		require.Less(t, at[served], receipt)
		require.Greater(t, at[refuses], at[served])
	}
	require.Regexp(t, `Of the [1-9]\d* that were sent after the receipt was complete, .* none was served\.\n$`, got.stdout)
	left, err := os.ReadDir(os.Getenv("TMPDIR"))
	require.NoError(t, err)
	require.Empty(t, left, "it leaves nothing behind")
}

func TestTheVerdictIsByWhatWasServedAfterTheReceipt(t *testing.T) {
	sent := time.Now()
	r := receipt{sent: sent, answered: sent.Add(10 * time.Millisecond)}
	r.State, r.Acknowledged, r.DataPlanes = "complete", 1, 1
	after := func(ms int, status int) attempt {
		at := sent.Add(time.Duration(ms) * time.Millisecond)
		return attempt{sent: at, answered: at.Add(time.Millisecond), status: status}
	}
	cases := map[string]struct {
		attempts []attempt
		says     string
	}{
		"nothing served after it":    {[]attempt{after(-5, 200), after(5, 200), after(9, 200), after(11, 403)}, ""},
		"one served after it":        {[]attempt{after(-5, 200), after(5, 403), after(11, 200)}, "1 requests were served after the receipt was complete"},
		"one refused before all":     {[]attempt{after(-5, 503), after(11, 403)}, "1 requests were refused before the key was revoked"},
		"nothing sent that would do": {[]attempt{after(-5, 200), after(5, 403)}, "shows nothing"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			st := &stage{program: newProgram(nil, &buffer{}, nil), gateways: []*demoGateway{{attempts: tc.attempts}}}
			err := st.verdict(r)
			if tc.says == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, tc.says)
		})
	}
	r.State = "pending"
	st := &stage{gateways: []*demoGateway{{attempts: []attempt{after(11, 403)}}}}
	require.ErrorContains(t, st.verdict(r), "the receipt is pending")
}

func TestBarsAreAsLongAsTimes(t *testing.T) {
	const longest = maxBar * time.Millisecond
	require.Empty(t, bar(-time.Millisecond, longest))
	require.Equal(t, "▏", bar(0, longest))
	require.Equal(t, "█", bar(time.Millisecond, longest))
	require.Equal(t, "█▌", bar(1500*time.Microsecond, longest))
	require.Equal(t, strings.Repeat("█", maxBar), bar(longest, longest))
}
