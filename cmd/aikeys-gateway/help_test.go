package main

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

func TestHelpShowsEverySettingWithItsVariableAndDefault(t *testing.T) {
	help := strings.Join(strings.Fields(runGateway(t, nil, "serve", "--help").stdout), " ")
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
	root := newProgram(nil, nil, nil).root()
	for _, cmd := range append([]*cobra.Command{root}, root.Commands()...) {
		require.NotEmpty(t, cmd.Short)
		require.Greater(t, len(cmd.Long), len(cmd.Short))
		require.Contains(t, cmd.Example, cmd.CommandPath())
		for line := range strings.Lines(cmd.Long + "\n" + cmd.Example) {
			require.LessOrEqual(t, len(strings.TrimSpace(line)), cli.HelpWidth)
		}
	}
}

func TestNoArgumentsPrintsHelp(t *testing.T) {
	got := runGateway(t, nil)
	require.Equal(t, exitOK, got.code)
	for _, text := range []string{"aikeysd admin dataplane create", "aikeys-gateway serve --token-file", "Exit codes: 0"} {
		require.Contains(t, got.stdout, text)
	}
	require.Regexp(t, `^aikeys-gateway version \S+.* go1\.`, runGateway(t, nil, "--version").stdout)
}

func TestRefusedCommandLines(t *testing.T) {
	for line, says := range map[string]string{
		"srve":             "serve",
		"serve --lisen x":  "unknown flag: --lisen; see aikeys-gateway serve --help",
		"serve dp_hunter2": "aikeys-gateway serve takes no arguments",
	} {
		got := runGateway(t, nil, strings.Fields(line)...)
		require.Equal(t, exitUsage, got.code, line)
		require.Empty(t, got.stdout)
		require.Contains(t, got.stderr, says)
		require.NotContains(t, got.stderr, "hunter2")
	}
}
