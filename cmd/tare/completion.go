package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"
	agentrouter "github.com/tetrateio/agentrouter-go"
	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

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
			RunE:    func(cmd *cobra.Command, _ []string) error { return shell.generate(cmd.Root()) },
		}
	}
	return p.group(&cobra.Command{
		Use:   "completion",
		Short: "Print completion scripts for your shell",
		Long: `Prints scripts that complete commands and flags in your shell, and the service's current providers, key ids and
members. If the service does not answer at once, those are left out.`,
		Example: shells[0].install,
	}, children...)
}

// setCompletion has the shell complete a flag's value.
func setCompletion(cmd *cobra.Command, flag string, complete cobra.CompletionFunc) {
	_ = cmd.RegisterFlagCompletionFunc(flag, complete) // fails only for an unknown flag
}

// completeNothing keeps the shell from offering files.
func completeNothing(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveNoFileComp
}

// completeNothingFor keeps the shell from offering files as the values of flags.
func completeNothingFor(cmd *cobra.Command, flags ...string) {
	for _, flag := range flags {
		setCompletion(cmd, flag, completeNothing)
	}
}

// completeFirst completes only the first argument.
func completeFirst(complete cobra.CompletionFunc) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return completeNothing(cmd, args, word)
		}
		return complete(cmd, args, word)
	}
}

// completionTimeout is how long the shell waits for the service.
const completionTimeout = 800 * time.Millisecond

// completeOnline completes from the service's current data. It leaves out what it can't get, silently.
func (p *program) completeOnline(fetch func(ctx context.Context, s *session) ([]string, error)) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(cmd.Context(), completionTimeout)
		defer cancel()
		p.quiet = true
		a, err := p.resolveAccess()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		s, err := p.openSession(ctx, a, agentrouter.WithMaxRetries(0))
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		found, _ := fetch(ctx, s)
		return found, cobra.ShellCompDirectiveNoFileComp
	}
}

// completionItems returns words and their descriptions. It leaves out words that a shell could run or take for a flag.
func completionItems[T any](values []T, describe func(T) (word, description string)) (items []string) {
	for _, value := range values {
		if word, description := describe(value); isID(word) && word[0] != '-' {
			items = append(items, cobra.CompletionWithDesc(word, shellSafe(description)))
		}
	}
	return items
}

// shellSafe replaces the characters that mean something to a shell.
func shellSafe(description string) string {
	return strings.Map(func(r rune) rune {
		if isUnsafe(r) || strings.ContainsRune("`$\\\"'!;&|<>(){}[]*?~#%", r) {
			return '_'
		}
		return r
	}, description)
}

func completeProviders(ctx context.Context, s *session) ([]string, error) {
	reply, err := s.Providers().List(ctx)
	if err != nil {
		return nil, err
	}
	found := completionItems(reply.Providers, func(p aikeysv1.ProviderInfo) (word, description string) { return string(p.Slug), p.DisplayName })
	custom, err := completeServers(ctx, s)
	return append(found, custom...), err
}

func completeServers(ctx context.Context, s *session) ([]string, error) {
	reply, err := s.Providers().ListCustom(ctx, s.customer, s.project)
	if err != nil {
		return nil, err
	}
	return completionItems(reply.Providers, func(p aikeysv1.CustomProvider) (word, description string) { return string(p.Slug), p.DisplayName }), nil
}

func completeMembers(ctx context.Context, s *session) ([]string, error) {
	reply, err := s.Members().List(ctx, s.customer, s.project)
	if err != nil {
		return nil, err
	}
	return completionItems(reply.Members, func(m aikeysv1.Member) (word, description string) { return m.UserID, string(m.Role) }), nil
}

// maxCompletedKeys is how many keys are offered at most, the newest first. They fit one page.
const maxCompletedKeys = 200

// completeKeys completes the ids of keys in a state, or of all keys if state is empty.
func completeKeys(state aikeysv1.KeyState) func(ctx context.Context, s *session) ([]string, error) {
	return func(ctx context.Context, s *session) ([]string, error) {
		calls := s.AIKeys().With(agentrouter.PageSize(maxCompletedKeys), when(state != "", agentrouter.InState(state)))
		page, err := calls.List(ctx, s.customer, s.project)
		if err != nil {
			return nil, err
		}
		return completionItems(page.Keys, func(k aikeysv1.Key) (word, description string) {
			return k.ID, string(k.Provider) + " " + k.Name + " " + string(k.State)
		}), nil
	}
}

func (p *program) completeProfiles(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	p.quiet = true
	all, err := p.loadProfiles()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return completionItems(all.names(), func(name string) (word, description string) { return name, all.Profiles[name].BaseURL }),
		cobra.ShellCompDirectiveNoFileComp
}
