package main

import (
	"fmt"
	"testing"
	"time"

	"github.com/agentrouter/aikeys/internal/secret"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestTimesAreToldAsPeopleDo(t *testing.T) {
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

func TestTheNearestWordIsTheOneMeant(t *testing.T) {
	words := []string{"openai", "anthropic", "azure_openai", "groq", "vertex", "vertexanthropic"}
	for meant, want := range map[string]string{
		"opnai": "openai", "OpenAI": "openai", "antropic": "anthropic", "azure": "azure_openai", "grok": "groq", "anth": "anthropic",
		"zzz": "", "": "", "x": "",
	} {
		require.Equal(t, want, nearestWord(meant, words), meant)
	}
}

func TestASecretPrintsAsNothingElse(t *testing.T) {
	s := secret.New("hunter2")
	for _, verb := range []string{"%v", "%s", "%q", "%x", "%d", "%+v", "%#v"} {
		require.Equal(t, redacted, fmt.Sprintf(verb, s))
		require.NotContains(t, fmt.Sprintf(verb, profile{APIKey: s}), "hunter2")
		require.NotContains(t, fmt.Sprintf(verb, access{apiKey: s}), "hunter2")
		require.NotContains(t, fmt.Sprintf(verb, session{access: access{apiKey: s}}), "hunter2")
	}
}

func TestWhatIsVisibleIsHarmless(t *testing.T) {
	for _, text := range []string{hostileName, "\xff\xfe", "a\u009bb\U0001f468\u200d\U0001f4bb"} {
		requireHarmless(t, escapeControl(text))
	}
	require.Equal(t, "plain 名前 é", escapeControl("plain 名前 é"))
	rapid.Check(t, func(r *rapid.T) {
		text := rapid.OneOf(rapid.String(), rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) }))
		requireHarmless(t, escapeControl(text.Draw(r, "text")))
	})
}
