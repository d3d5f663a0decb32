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
		Short: "Print scripts that complete words in your shell",
		Long: `Prints scripts that complete words in your shell: commands and flags, and the providers, key ids and members that
the service has now. If the service does not answer at once, those are left out.`,
		Example: shells[0].install,
	}, children...)
}

// setCompletion sets what completes a flag's value.
func setCompletion(cmd *cobra.Command, flag string, complete cobra.CompletionFunc) {
	_ = cmd.RegisterFlagCompletionFunc(flag, complete) // fails only for unknown flags, and tests complete each
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

// completeFirst completes the first argument only, for commands that take one.
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

// completeOnline completes from what the service has now. If that fails it completes nothing, silently.
func (p *program) completeOnline(fetch func(ctx context.Context, s *session) ([]string, error)) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(cmd.Context(), completionTimeout)
		defer cancel()
		p.quiet = true
		var found []string
		a, err := p.resolveAccess()
		if err == nil {
			var s *session
			if s, err = p.openSession(ctx, a, agentrouter.WithMaxRetries(0)); err == nil {
				found, err = fetch(ctx, s)
			}
		}
		if err != nil {
			found = nil
		}
		return found, cobra.ShellCompDirectiveNoFileComp
	}
}

// completionItem returns a word with its description, or nothing for a word that a shell could run or take for a flag.
func completionItem(word, description string) []string {
	if !isID(word) || word[0] == '-' {
		return nil
	}
	return []string{cobra.CompletionWithDesc(word, shellSafe(description))}
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
	var found []string
	for _, each := range reply.Providers {
		found = append(found, completionItem(string(each.Slug), each.DisplayName)...)
	}
	custom, err := completeServers(ctx, s)
	return append(found, custom...), err
}

func completeServers(ctx context.Context, s *session) ([]string, error) {
	reply, err := s.Providers().ListCustom(ctx, s.customer, s.project)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, each := range reply.Providers {
		found = append(found, completionItem(string(each.Slug), each.DisplayName)...)
	}
	return found, nil
}

func completeMembers(ctx context.Context, s *session) ([]string, error) {
	reply, err := s.Members().List(ctx, s.customer, s.project)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, each := range reply.Members {
		found = append(found, completionItem(each.UserID, string(each.Role))...)
	}
	return found, nil
}

// maxCompletedKeys is how many keys are offered, the newest first. They fit one page.
const maxCompletedKeys = 200

// completeKeys completes the ids of keys in a state, or of all keys if it is empty.
func completeKeys(state aikeysv1.KeyState) func(ctx context.Context, s *session) ([]string, error) {
	return func(ctx context.Context, s *session) ([]string, error) {
		options := []agentrouter.CallOption{agentrouter.PageSize(maxCompletedKeys)}
		if state != "" {
			options = append(options, agentrouter.InState(state))
		}
		page, err := s.AIKeys().With(options...).List(ctx, s.customer, s.project)
		if err != nil {
			return nil, err
		}
		var found []string
		for i := range page.Keys {
			k := &page.Keys[i]
			found = append(found, completionItem(k.ID, string(k.Provider)+" "+k.Name+" "+string(k.State))...)
		}
		return found, nil
	}
}

func (p *program) completeProfiles(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	p.quiet = true
	all, err := p.loadProfiles()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var found []string
	for _, name := range all.names() {
		found = append(found, completionItem(name, all.Profiles[name].BaseURL)...)
	}
	return found, cobra.ShellCompDirectiveNoFileComp
}
