package main

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
)

func everyCommand(cmd *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{cmd}
	for _, child := range cmd.Commands() {
		all = append(all, everyCommand(child)...)
	}
	return all
}

func TestExamplesExist(t *testing.T) {
	root := newProgram(nil, nil, nil, nil).rootCommand()
	var examples []string
	for _, cmd := range everyCommand(root) {
		for line := range strings.Lines(cmd.Example) {
			if _, after, found := strings.Cut(line, "tare "); found {
				examples = append(examples, after)
			}
		}
	}
	require.Greater(t, len(examples), 40)
	page, err := os.ReadFile("../../docs/tare.md")
	require.NoError(t, err)
	for _, block := range regexp.MustCompile("(?s)```bash.*?\n```").FindAllString(string(page), -1) {
		// A command ends at a pipe, redirection or comment.
		for _, m := range regexp.MustCompile(`(?m)(?:^|[ (|])tare ([a-z][^#>|)\n]*)`).FindAllStringSubmatch(block, -1) {
			examples = append(examples, m[1])
		}
	}
	require.Greater(t, len(examples), 65)
	for _, example := range examples {
		cmd, rest, err := root.Find(strings.Fields(example))
		require.NoError(t, err, example)
		require.False(t, cmd.HasSubCommands() && len(rest) > 0 && !strings.HasPrefix(rest[0], "-"), "no such command: tare %s", example)
		for _, word := range rest {
			if word == "--" {
				break // the rest is the command line of a program
			}
			if name, isFlag := strings.CutPrefix(word, "--"); isFlag {
				name, _, _ = strings.Cut(name, "=")
				isKnown := name == "help" || cmd.Flags().Lookup(name) != nil || cmd.InheritedFlags().Lookup(name) != nil
				require.True(t, isKnown, "tare %s: --%s", example, name)
			}
		}
	}
}

func TestHelpAndVersionNeedNoSession(t *testing.T) {
	u := newUser(t)
	require.Contains(t, u.runOK(), "tare login")
	require.Contains(t, u.runOK("api"), "byok")
	require.Contains(t, u.runOK("api byok add --help"), "--secret-file")
	require.Regexp(t, `^tare version \S+.* go1\.`, u.runOK("--version"))
}

func TestWrongCommandLines(t *testing.T) {
	u := alice(t)
	for line, says := range map[string]string{
		"api byok lst":                             "Did you mean list?",
		"lgin":                                     "Did you mean login?",
		"api frobnicate":                           "tare api has no such command; it has byok, members, projects, tokens, policy, providers",
		"api byok list --provder openai":           "unknown flag: --provder; see tare api byok list --help",
		"api byok list -o xml":                     "--output must be one of table, json, yaml",
		"api byok list --state gone":               "--state must be one of active, revoked",
		"api byok list --timeout 0":                "--timeout must be a duration",
		"api byok list --timeout soon":             "--timeout must be a duration",
		"api byok list extra":                      "tare api byok list takes no arguments",
		"api byok get":                             "takes one argument, the key's id",
		"api byok get one two":                     "takes one argument, the key's id",
		"api byok add --name x":                    "--provider is required",
		"api byok add --provider openai":           "--name is required",
		"api byok resolve":                         "--provider is required",
		"api members set bob":                      "--role is required",
		"api members set bob --role king":          "--role must be one of member, owner",
		"api byok list --customer a/b":             "customer_id must be 1 to 64 characters",
		"api members remove --yes ..":              "user_id must not be . or ..",
		"api byok get " + sampleID + " --grace 1s": "unknown flag: --grace",
	} {
		got := u.run(line)
		require.Equal(t, exitUsage, got.Code, line+"\n"+got.Output())
		require.Contains(t, got.Stderr, says, line)
		require.Empty(t, got.Stdout, line)
	}
}

func TestNoFlagTakesAnAPIKey(t *testing.T) {
	for _, cmd := range everyCommand(newProgram(nil, nil, nil, nil).rootCommand()) {
		require.Nil(t, cmd.Flags().Lookup("api-key"), cmd.CommandPath())
		require.Nil(t, cmd.Flags().Lookup("token"), cmd.CommandPath())
	}
}

func TestFlagErrorsDoNotRepeatSecrets(t *testing.T) {
	u := alice(t)
	for _, line := range []string{
		"api byok events --limit " + testSecret, "api byok remove --yes=" + testSecret, "api byok add --user-scope=" + testSecret,
		"--no-color=" + testSecret + " whoami", "api byok add --secret" + testSecret, "login --ak_hunter2",
	} {
		got := u.run(line)
		require.Equal(t, exitUsage, got.Code, line)
		require.NotContains(t, got.Output(), "hunter2", line)
	}
	require.Contains(t, u.run("api byok events --limit many").Stderr, "--limit must be a whole number")
	require.Contains(t, u.run("api byok list --provder x").Stderr, "unknown flag: --provder")
}

func TestArgumentErrorsDoNotRepeatSecrets(t *testing.T) {
	u := alice(t)
	for _, line := range []string{
		"api byok add " + testSecret, "api byok " + testSecret, testSecret, "--jq " + testSecret + "( whoami", "run",
		"api byok list " + testSecret, "api byok add -secret=" + testSecret, "api byok add -" + testSecret, "api byok add --=" + testSecret,
		"api byok list -o" + testSecret, "api byok list --state " + testSecret, "api byok remove --wait " + testSecret, "whoami " + testSecret,
		"api byok add --provider openai --name x --secret-file " + testSecret, "api members set " + testSecret + " " + testSecret,
		"api byok get " + sampleID + " " + testSecret, "api policy set --user-keys-for " + testSecret, "completion " + testSecret,
		"api byok add --secrt=" + testSecret,
	} {
		got := u.run(line)
		require.Equal(t, exitUsage, got.Code, line)
		require.NotContains(t, got.Output(), "hunter2", line)
		require.True(t, strings.HasPrefix(got.Stderr, "tare: "), got.Stderr)
	}
	for _, line := range []string{"api byok get " + testSecret, "keys rm --yes " + testSecret, "keys disable " + testSecret} {
		got := u.run(line)
		require.Equal(t, exitNotFound, got.Code, line)
		require.NotContains(t, got.Output(), "hunter2", line)
	}
}
