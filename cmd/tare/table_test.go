package main

import (
	"strings"
	"testing"
	"time"

	"github.com/clipperhouse/displaywidth"
	"github.com/stretchr/testify/require"
)

func TestTablesFitTheTerminal(t *testing.T) {
	u := alice(t)
	u.addKey("short")
	u.addKey("a very long name 名前 that somebody gave to their key, as names may have up to 128 characters")
	u.addKey("own", "--user-scope")
	for _, command := range []string{"api byok list", "api byok events", "api members list", "api providers", "profiles list"} {
		for _, columns := range []uint16{20, 40, 60, 80, 100, 120, 200} {
			code, shown := u.runInTerminal(columns, command).wait()
			require.Equal(t, exitOK, code)
			lines := strings.Split(strings.TrimRight(controlCodes.ReplaceAllString(shown, ""), "\n"), "\n")
			if !strings.Contains(lines[0], "  ") {
				continue // too narrow for a table: blocks, or a sentence
			}
			for _, line := range lines {
				if strings.HasPrefix(line, "There are more") || strings.HasPrefix(line, "The terminal is too narrow") {
					continue
				}
				require.LessOrEqual(t, displaywidth.String(line), int(columns), "%s:\n%s", command, shown)
				require.False(t, strings.HasSuffix(line, " "), "%q", line)
				require.NotRegexp(t, `byok_\w+…`, line, "ids are to be copied")
			}
		}
	}
	_, shown := u.runInTerminal(80, "api byok list").wait()
	require.Contains(t, shown, "…")
	require.Contains(t, shown, "The terminal is too narrow for SECRET, SCOPE, CREATED, BY; -o json shows everything.")
	_, shown = u.runInTerminal(200, "api byok list").wait()
	require.NotContains(t, shown, "too narrow")
	_, shown = u.runInTerminal(80, "api byok list").wait()
	require.Len(t, keyIDPattern.FindAllString(shown, 3), 3, "ids are never cut: they are to be copied")
	_, shown = u.runInTerminal(20, "api byok list").wait()
	require.Contains(t, controlCodes.ReplaceAllString(shown, ""), "NAME short\n")
}

func TestColoursOnTerminalsOnly(t *testing.T) {
	u := alice(t)
	u.addKey("coloured")
	require.NotContains(t, u.runOK("api byok list"), "\x1b")
	_, shown := u.runInTerminal(100, "api byok list").wait()
	require.Contains(t, shown, "\x1b[32mactive\x1b[0m")
	_, shown = u.runInTerminal(100, "api byok list --no-color").wait()
	require.NotContains(t, shown, "\x1b")
	_, shown = u.runInTerminal(100, "api byok list -o json").wait()
	require.NotContains(t, shown, "\x1b")
	for _, variable := range []string{"NO_COLOR=1", "TERM=dumb"} {
		other := alice(t)
		other.env = append(other.env, variable)
		_, shown = other.runInTerminal(100, "api byok list").wait()
		require.NotContains(t, shown, "\x1b", variable)
	}
}

func TestRelativeTime(t *testing.T) {
	now := time.Date(2026, 11, 23, 9, 30, 0, 0, time.UTC)
	for ago, want := range map[time.Duration]string{
		0: "just now", 400 * time.Millisecond: "just now", -500 * time.Millisecond: "just now", 42 * time.Second: "42s ago",
		-90 * time.Second: "in 1m", 5 * time.Hour: "5h ago", 59 * 24 * time.Hour: "59d ago", 61 * 24 * time.Hour: "2mo ago",
		800 * 24 * time.Hour: "2y ago", -48 * time.Hour: "in 2d",
	} {
		require.Equal(t, want, relativeTime(now.Add(-ago), now))
	}
	require.Empty(t, relativeTime(time.Time{}, now))
	require.Empty(t, formatTime(time.Time{}, now))
	require.Equal(t, "2026-11-23 09:29:30 UTC (30s ago)", formatTime(now.Add(-30*time.Second).In(time.FixedZone("x", 3600)), now))
}
