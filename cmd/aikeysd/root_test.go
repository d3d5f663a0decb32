package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRootHelp(t *testing.T) {
	help := mustAikeysd(t, nil)
	require.Equal(t, help, mustAikeysd(t, nil, "--help"))
	for _, text := range []string{"Start here:\n  dev ", "Serve:\n  serve ", "Operate:\n  admin ", `Run "aikeys-demo"`, `"aikeysd dev" to try it`, "Exit codes: 0"} {
		require.Contains(t, help, text)
	}
}

func TestHelpShowsRequiredFlagsFirst(t *testing.T) {
	for command, flags := range map[string][]string{
		"member set":       {"customer", "project", "user", "role", "database-url"},
		"token create":     {"customer", "project", "user", "expires", "database-url"},
		"token revoke":     {"customer", "project", "id", "database-url"},
		"dataplane create": {"name", "customer", "expires", "database-url"},
		"dataplane revoke": {"name", "database-url"},
		"fetches":          {"customer", "project", "limit", "database-url"},
	} {
		help, last := mustAikeysd(t, nil, append(append([]string{"admin"}, strings.Fields(command)...), "--help")...), 0
		_, help, _ = strings.Cut(help, "\nFlags:\n")
		for _, flag := range flags {
			at := strings.Index(help, " --"+flag+" ")
			require.Greater(t, at, last, "%s: --%s", command, flag)
			last = at
		}
	}
}
