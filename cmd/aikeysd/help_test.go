package main

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

func TestHelpShowsSettingsAndDefaults(t *testing.T) {
	help := strings.Join(strings.Fields(mustAikeysd(t, nil, "serve", "--help")), " ")
	for _, d := range newConfig().All() {
		require.Contains(t, help, "--"+d.Name+" ")
		_, rest, found := strings.Cut(help, "["+d.Variable()+"]")
		require.True(t, found, d.Variable())
		if d.Default != "" && d.Default != "false" {
			require.True(t, strings.HasPrefix(rest, " (default "+d.Default+")"), "%s has no default in help", d.Name)
		}
	}
}

func TestHelpOfEveryCommand(t *testing.T) {
	var visit func(cmd *cobra.Command)
	visit = func(cmd *cobra.Command) {
		t.Run(cmd.CommandPath(), func(t *testing.T) {
			require.NotEmpty(t, cmd.Short)
			require.Greater(t, len(cmd.Long), len(cmd.Short))
			require.Contains(t, cmd.Example, cmd.CommandPath())
			for line := range strings.Lines(cmd.Long + "\n" + cmd.Example) {
				require.LessOrEqual(t, len(strings.TrimSpace(line)), cli.HelpWidth)
			}
		})
		for _, child := range cmd.Commands() {
			visit(child)
		}
	}
	visit(newProgram(nil, nil, nil).root())
}

func TestRootHelp(t *testing.T) {
	help := mustAikeysd(t, nil)
	require.Equal(t, help, mustAikeysd(t, nil, "--help"))
	for _, text := range []string{"Start here:\n  dev ", "Serve:\n  serve ", "Operate:\n  admin ", `Run "aikeys-demo"`, `"aikeysd dev" to try it`, "Exit codes: 0"} {
		require.Contains(t, help, text)
	}
}

func TestHelpShowsRequiredFlagsFirst(t *testing.T) {
	for command, flags := range map[string][]string{
		"member set":   {"customer", "project", "user", "role", "database-url"},
		"token create": {"customer", "project", "user", "expires", "database-url"},
		"token revoke": {"customer", "project", "id", "database-url"},

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

func TestVersionNamesTheToolchain(t *testing.T) {
	require.Regexp(t, `^aikeysd version \S+.* go1\.`, mustAikeysd(t, nil, "--version"))
}

func TestUsageErrors(t *testing.T) {
	cases := map[string]struct {
		args []string
		says string
	}{
		"no such command":            {[]string{"srve"}, "serve"},
		"no such command of another": {[]string{"migrate", "down"}, "it has up, status"},
		"no such flag":               {[]string{"serve", "--lisen", "x"}, "--lisen"},
		"an argument too many":       {[]string{"check", "ak_secret"}, "aikeysd check takes no arguments; see aikeysd check --help"},
		"an argument for a flag": {[]string{"admin", "token", "list", "ak_secret"},
			"aikeysd admin token list takes no arguments; use --customer, --project, --user; see aikeysd admin token list --help"},
		"no such flag of a command's command": {[]string{"admin", "member", "set", "--rolle", "owner"}, "see aikeysd admin member set --help"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got := aikeysd(t, nil, tc.args...)
			require.Equal(t, exitUsage, got.code)
			require.Empty(t, got.stdout)
			require.Contains(t, got.stderr, tc.says)
			require.Equal(t, 1, strings.Count(got.stderr, "\n"), "an error is one line")
			require.NotContains(t, got.stderr, "ak_secret")
		})
	}
}
