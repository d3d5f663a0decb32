package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPolicySetKeepsTheRest(t *testing.T) {
	u := alice(t)
	t.Cleanup(func() { u.runOK("api policy set --reset") })
	u.runOK("api policy set --user-keys forbid --on-bad-key next_key --on-limited next_key --operations all --removal-grace-days 0 --user-keys-for openai=allow --user-keys-for groq=require")
	text := u.runOK("api byok policy set --user-keys-for groq=default")
	require.Regexp(t, `Own keys +forbid`, text)
	require.Regexp(t, `of openai +allow`, text)
	require.Regexp(t, `On a bad key +next_key`, text)
	require.Regexp(t, `On a limited key +next_key`, text)
	require.Regexp(t, `Operations +all`, text)
	require.Regexp(t, `Removal grace +0 days`, text)
	require.NotContains(t, text, "groq")
	text = u.runOK("api policy set --reset")
	require.Regexp(t, `Own keys +allow`, text)
	require.Regexp(t, `Operations +inference`, text)
	require.Regexp(t, `Removal grace +30 days`, text)
	require.Equal(t, exitUsage, u.run("api policy set").Code)
	require.Equal(t, exitUsage, u.run("api policy set --user-keys-for openai=never").Code)
	for _, word := range []string{"allow", "default"} {
		got := u.run("api policy set --user-keys-for groq=default --user-keys-for opnai=" + word)
		require.Equal(t, exitUsage, got.Code)
		require.Contains(t, got.Stderr, `tare: the service knows no provider "opnai"`)
		require.Contains(t, got.Stderr, "Did you mean openai?")
	}
}
