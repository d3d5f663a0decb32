package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"
	agentrouter "github.com/tetrateio/agentrouter-go"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

// completing bounds what the shell waits for while it completes a word.
const completing = 800 * time.Millisecond

func (p *program) completionCommand() *cobra.Command {
	shells := []struct {
		name, install string
		generate      func(root *cobra.Command) error
	}{
		{"bash", "  tare completion bash > ~/.local/share/bash-completion/completions/tare",
			func(root *cobra.Command) error { return root.GenBashCompletionV2(p.Stdout, true) }},
		{"zsh", `  tare completion zsh > "${fpath[1]}/_tare"`,
			func(root *cobra.Command) error { return root.GenZshCompletion(p.Stdout) }},
		{"fish", "  tare completion fish > ~/.config/fish/completions/tare.fish",
			func(root *cobra.Command) error { return root.GenFishCompletion(p.Stdout, true) }},
		{"powershell", "  tare completion powershell | Out-String | Invoke-Expression",
			func(root *cobra.Command) error { return root.GenPowerShellCompletionWithDesc(p.Stdout) }},
	}
	children := make([]*cobra.Command, len(shells))
	for i, shell := range shells {
		children[i] = &cobra.Command{
			Use:     shell.name,
			Short:   "Print the script for " + shell.name,
			Long:    "Prints the script that completes commands, flags, providers and key ids in " + shell.name + ". Install it:",
			Example: shell.install,
			Args:    cli.NoArguments(),
		}
		cmd := children[i]
		cmd.RunE = p.doing(func(context.Context, []string) error { return shell.generate(cmd.Root()) })
	}
	return p.group(&cobra.Command{
		Use:   "completion",
		Short: "Scripts that complete words in your shell",
		Long: `Scripts that complete words in your shell: commands and flags, and providers, key ids and members as the service
has them now. When it does not answer at once, nothing is offered.`,
		Example: shells[0].install,
	}, children...)
}

// words completes to a fixed list.
func words(list ...string) cobra.CompletionFunc {
	return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return list, cobra.ShellCompDirectiveNoFileComp
	}
}

// nothing completes to nothing, instead of to files.
func nothing(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveNoFileComp
}

// live completes to what the service has now. Any failure is no words: a shell is no place for errors.
func (p *program) live(fetch func(ctx context.Context, s *session) ([]string, error)) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(cmd.Context(), completing)
		defer cancel()
		p.quiet = true
		a, err := p.access()
		if err != nil {
			return nothing(cmd, args, "")
		}
		s, err := p.open(ctx, a, agentrouter.WithMaxRetries(0))
		if err != nil {
			return nothing(cmd, args, "")
		}
		found, err := fetch(ctx, s)
		if err != nil {
			return nothing(cmd, args, "")
		}
		return found, cobra.ShellCompDirectiveNoFileComp
	}
}

// first completes the first argument alone: these commands take one.
func first(complete cobra.CompletionFunc) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nothing(cmd, args, word)
		}
		return complete(cmd, args, word)
	}
}

// completesTo says what completes a flag's value.
func (p *program) completesTo(cmd *cobra.Command, flag string, complete cobra.CompletionFunc) {
	_ = cmd.RegisterFlagCompletionFunc(flag, complete) // fails for a flag that there is not; a test asks for each
}
