package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

func (p *program) policyCommand() *cobra.Command {
	return p.group(&cobra.Command{
		Use:   "policy",
		Short: "Whose keys serve whom in the project",
		Long:  "The project's written policy: whether members' own keys serve them, and what happens when a provider refuses a key.",
		Example: `  tare api policy get
  tare api policy set --user-keys forbid --user-keys-for openai=allow`,
	}, p.policyGetCommand(), p.policySetCommand())
}

func (p *program) policyGetCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "get",
		Short:   "Show the policy",
		Long:    "Shows the policy in force: the default one where none was written.",
		Example: "  tare api policy get",
		Args:    cli.NoArguments(),
	}
	cmd.RunE = p.online(func(ctx context.Context, s *session, _ []string) error {
		ctx, cancel := p.within(ctx)
		defer cancel()
		reply, err := s.Policy().Get(ctx, s.customer, s.project)
		if err != nil {
			return err
		}
		return p.show(s, func() error { return p.printPolicy(&reply.Policy) })
	})
	return cmd
}

// policyChange is what "set" was given; what is empty stays.
type policyChange struct {
	userKeys aikeysv1.UserKeys
	onBadKey aikeysv1.OnBadKey
	of       []string // PROVIDER=WORD
	reset    bool
}

// byDefault takes an exception away.
const byDefault = "default"

func userKeysWords() []string {
	return []string{string(aikeysv1.UserKeysAllow), string(aikeysv1.UserKeysRequire), string(aikeysv1.UserKeysForbid)}
}

func onBadKeyWords() []string {
	return []string{string(aikeysv1.OnBadKeyFail), string(aikeysv1.OnBadKeyNextKey)}
}

func (p *program) policySetCommand() *cobra.Command {
	var change policyChange
	cmd := &cobra.Command{
		Use:   "set",
		Short: "Change the policy",
		Long: `Changes what the flags name, and leaves the rest of the policy as it is; --reset begins with the default one. Needs the
project's owner.

  --user-keys      allow: a member's own key serves them where there is one. require: the project's never does.
                   forbid: only the project's does.
  --user-keys-for  the same for one provider, such as openai=forbid; openai=default takes the exception away
  --on-bad-key     fail: callers get the provider's refusal. next_key: the next key in order is tried.`,
		Example: `  tare api policy set --user-keys require --on-bad-key fail
  tare api policy set --user-keys-for openai=forbid --user-keys-for groq=default
  tare api policy set --reset`,
		Args: cli.NoArguments("--user-keys", "--on-bad-key"),
	}
	flags := cmd.Flags()
	flags.Var(&choice[aikeysv1.UserKeys]{&change.userKeys, userKeysWords()}, "user-keys", "whether members' own keys serve them")
	flags.Var(&choice[aikeysv1.OnBadKey]{&change.onBadKey, onBadKeyWords()}, "on-bad-key", "what happens when the provider refuses a key")
	flags.StringArrayVar(&change.of, "user-keys-for", nil, "an exception, `provider=word`; may be given several times")
	flags.BoolVar(&change.reset, "reset", false, "begin with the default policy")
	p.completesTo(cmd, "user-keys", words(userKeysWords()...))
	p.completesTo(cmd, "on-bad-key", words(onBadKeyWords()...))
	p.completesTo(cmd, "user-keys-for", p.live(offeredExceptions))
	cmd.RunE = p.online(func(ctx context.Context, s *session, _ []string) error { return p.setPolicy(ctx, s, change) })
	return cmd
}

func offeredExceptions(ctx context.Context, s *session) ([]string, error) {
	slugs, err := offeredProviders(ctx, s)
	var found []string
	for _, each := range slugs {
		slug, _, _ := strings.Cut(each, "\t")
		for _, word := range append(userKeysWords(), byDefault) {
			found = append(found, slug+"="+word)
		}
	}
	return found, err
}

func (p *program) setPolicy(ctx context.Context, s *session, change policyChange) error {
	if change.userKeys == "" && change.onBadKey == "" && len(change.of) == 0 && !change.reset {
		return cli.Usagef("nothing to set; see tare api policy set --help")
	}
	ctx, cancel := p.within(ctx)
	defer cancel()
	policy := aikeysv1.Policy{UserKeysByProvider: aikeysv1.UserKeysByProvider{}}
	if !change.reset {
		now, err := s.Policy().Get(ctx, s.customer, s.project)
		if err != nil {
			return err
		}
		policy = now.Policy
	}
	if err := change.apply(&policy); err != nil {
		return err
	}
	reply, err := s.Policy().Set(ctx, s.customer, s.project, policy.UserKeys, policy.UserKeysByProvider, policy.OnBadKey)
	if err != nil {
		return err
	}
	return p.show(s, func() error { return p.printPolicy(&reply.Policy) })
}

// apply changes a policy.
func (c policyChange) apply(policy *aikeysv1.Policy) error {
	if c.userKeys != "" {
		policy.UserKeys = c.userKeys
	}
	if c.onBadKey != "" {
		policy.OnBadKey = c.onBadKey
	}
	if policy.UserKeysByProvider == nil {
		policy.UserKeysByProvider = aikeysv1.UserKeysByProvider{}
	}
	for _, each := range c.of {
		provider, word, _ := strings.Cut(each, "=")
		switch {
		case provider != "" && word == byDefault:
			delete(policy.UserKeysByProvider, provider)
		case provider != "" && slices.Contains(userKeysWords(), word):
			policy.UserKeysByProvider[provider] = aikeysv1.UserKeys(word)
		default:
			return cli.Usagef("--user-keys-for must be a provider, = and one of %s, %s, such as openai=forbid",
				strings.Join(userKeysWords(), ", "), byDefault)
		}
	}
	return nil
}

func (p *program) printPolicy(policy *aikeysv1.Policy) error {
	details := []detail{{"Own keys", cell{string(policy.UserKeys), plain}}}
	providers := make([]string, 0, len(policy.UserKeysByProvider))
	for provider := range policy.UserKeysByProvider {
		providers = append(providers, provider)
	}
	slices.Sort(providers)
	for _, provider := range providers {
		details = append(details, detail{"  of " + p.clean(provider), cell{string(policy.UserKeysByProvider[provider]), plain}})
	}
	written := "never; this is the default"
	if !policy.UpdatedAt.IsZero() {
		written = stamp(policy.UpdatedAt, time.Now()) + " by " + policy.UpdatedBy
	}
	return p.printDetails(append(details,
		detail{"On a bad key", cell{string(policy.OnBadKey), plain}}, detail{"Written", cell{written, plain}}))
}
