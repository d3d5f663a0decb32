package main

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

func everyCommand(cmd *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{cmd}
	for _, child := range cmd.Commands() {
		all = append(all, everyCommand(child)...)
	}
	return all
}

func TestEveryCommandTeaches(t *testing.T) {
	root := newProgram(nil, nil, nil, nil).rootCommand()
	for _, cmd := range everyCommand(root) {
		require.NotEmpty(t, cmd.Short, cmd.CommandPath())
		require.Greater(t, len(cmd.Long), len(cmd.Short), cmd.CommandPath())
		if cmd.Runnable() && !cmd.Hidden {
			require.Contains(t, cmd.Example, "tare", cmd.CommandPath())
		}
		for line := range strings.Lines(cmd.Long + "\n" + cmd.Example) {
			require.LessOrEqual(t, len(strings.TrimSpace(line)), cli.HelpWidth, line)
		}
	}
}

func TestExamplesInHelpNameCommandsAndFlagsThatExist(t *testing.T) {
	root := newProgram(nil, nil, nil, nil).rootCommand()
	checked := 0
	for _, cmd := range everyCommand(root) {
		for line := range strings.Lines(cmd.Example) {
			_, after, found := strings.Cut(line, "tare ")
			if !found {
				continue
			}
			requireCommandLine(t, strings.Fields(after))
			checked++
		}
	}
	require.Greater(t, checked, 40)
}

// requireCommandLine fails on words that name no command, or flags that it does not have.
func requireCommandLine(t *testing.T, words []string) {
	t.Helper()
	root := newProgram(nil, nil, nil, nil).rootCommand()
	cmd, rest, err := root.Find(words)
	require.NoError(t, err, words)
	require.False(t, cmd.HasSubCommands() && len(rest) > 0 && !strings.HasPrefix(rest[0], "-"), "no such command: tare %v", words)
	for _, word := range rest {
		if name, isFlag := strings.CutPrefix(word, "--"); isFlag {
			name, _, _ = strings.Cut(name, "=")
			require.NotNil(t, flagOf(cmd, name), "tare %v: --%s", words, name)
		}
	}
}

func flagOf(cmd *cobra.Command, name string) *pflag.Flag {
	cmd.InitDefaultHelpFlag()
	if found := cmd.Flags().Lookup(name); found != nil {
		return found
	}
	return cmd.InheritedFlags().Lookup(name)
}

func TestTheExitCodesAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/tare.md")
	require.NoError(t, err)
	help := newPerson(t).ok("help exit-codes")
	for _, row := range exitCodes() {
		require.Contains(t, help, fmt.Sprintf("%3d  %s\n", row.code, row.meaning))
		require.Contains(t, string(page), fmt.Sprintf("| %d | %s |\n", row.code, row.meaning))
	}
	require.Contains(t, newPerson(t).ok("help environment"), "AGENTROUTER_API_KEY")
}

// tareCommand is a command line of tare's within a line of a page, up to what the shell does with it.
var tareCommand = regexp.MustCompile(`(?:^|[ (|])tare ([a-z-][^#>|)]*)`)

func TestThePagesCommandLinesExist(t *testing.T) {
	page, err := os.ReadFile("../../docs/tare.md")
	require.NoError(t, err)
	checked := 0
	inside := false
	for line := range strings.Lines(string(page)) {
		if strings.HasPrefix(line, "```") {
			inside = !inside && strings.HasPrefix(line, "```bash")
			continue
		}
		for _, m := range tareCommand.FindAllStringSubmatch(line, -1) {
			if inside && m[1] != "--version\n" {
				requireCommandLine(t, strings.Fields(m[1]))
				checked++
			}
		}
	}
	require.Greater(t, checked, 25)
}

func TestHelpAndVersionNeedNoSession(t *testing.T) {
	u := newPerson(t)
	require.Contains(t, u.ok(), "tare login")
	require.Contains(t, u.ok("api"), "byok")
	require.Contains(t, u.ok("api byok add --help"), "--secret-file")
	require.Regexp(t, `^tare version \S+.* go1\.`, u.ok("--version"))
}

func TestWrongCommandLinesAreToldApart(t *testing.T) {
	u := alice(t)
	for line, says := range map[string]string{
		"api byok lst":                            "Did you mean list?",
		"lgin":                                    "Did you mean login?",
		"api frobnicate":                          "tare api has no such command; it has byok, members, policy, providers",
		"api byok list --provder openai":          "unknown flag: --provder; see tare api byok list --help",
		"api byok list -o xml":                    "--output must be one of table, json, yaml",
		"api byok list --state gone":              "--state must be one of active, revoked",
		"api byok list --timeout 0":               "--timeout must be a duration",
		"api byok list --timeout soon":            "--timeout must be a duration",
		"api byok list extra":                     "tare api byok list takes no arguments",
		"api byok get":                            "takes one argument, the key's id",
		"api byok get one two":                    "takes one argument, the key's id",
		"api byok get openai-prod":                "tare api byok list shows the ids",
		"api byok add --name x":                   "--provider is required",
		"api byok add --provider openai":          "--name is required",
		"api byok resolve":                        "--provider is required",
		"api members set bob":                     "--role is required",
		"api members set bob --role king":         "--role must be one of member, owner",
		"api byok list --customer a/b":            "customer_id must be 1 to 64 characters",
		"api members remove ..":                   "user_id must not be . or ..",
		"api byok get " + sampleID + " --wait 1s": "unknown flag: --wait",
	} {
		got := u.run(line)
		require.Equal(t, exitUsage, got.code, line+"\n"+got.all())
		require.Contains(t, got.stderr, says, line)
		require.Empty(t, got.stdout, line)
	}
}
