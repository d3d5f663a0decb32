package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	agentrouter "github.com/tetrateio/agentrouter-go"
	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

func (p *program) policyCommand() *cobra.Command {
	return p.group(&cobra.Command{
		Use:   "policy",
		Short: "Show or change whose keys serve whom",
		Long: "The project's policy: whether members' own keys serve them, what happens when a provider refuses a key or a key\n" +
			"is at a limit, which operations of providers the keys serve, and for how long the removal of a member can be\n" +
			"undone.",
		Example: `  tare api policy get
  tare api policy set --user-keys forbid --user-keys-for openai=allow`,
	}, p.policyGetCommand(), p.policySetCommand())
}

func (p *program) policyGetCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "get",
		Short:   "Show the policy",
		Long:    "Shows the policy in force: the default policy, until an owner changes it.",
		Example: "  tare api policy get",
		Args:    cli.NoArguments(),
		RunE: runCall(p, func(ctx context.Context, s *session, _ []string) (*aikeysv1.PolicyResponse, error) {
			return s.Policy().Get(ctx, s.customer, s.project)
		}, p.printPolicy),
	}
}

// policyChange is what the flags of "set" change; empty fields change nothing.
type policyChange struct {
	userKeys   aikeysv1.UserKeys
	onBadKey   aikeysv1.OnBadKey
	onLimited  aikeysv1.OnLimited
	operations aikeysv1.Operations
	graceDays  *int
	exceptions []string // PROVIDER=WORD
	reset      bool
}

// removeException is the word that removes an exception.
const removeException = "default"

func userKeysWords() []aikeysv1.UserKeys {
	return []aikeysv1.UserKeys{aikeysv1.UserKeysAllow, aikeysv1.UserKeysRequire, aikeysv1.UserKeysForbid}
}

func (p *program) policySetCommand() *cobra.Command {
	var change policyChange
	cmd := &cobra.Command{
		Use:   "set",
		Short: "Change the policy",
		Long: `Changes what the flags name and leaves the rest of the policy as it is; --reset starts from the default policy. Owners
only.

  --user-keys      allow: a member's own key serves them, if they have one. require: only their own keys serve members.
                   forbid: only the project's keys serve.
  --user-keys-for  the same for one provider, such as openai=forbid; openai=default removes the exception
  --on-bad-key     fail: callers get the provider's refusal. next_key: the next key in order is tried.
  --on-limited     fail: callers get status 429 when a key is at its own or its provider's limit. next_key: data planes
                   set the key aside for a while, and the next key in order serves.
  --operations     inference: requests that administer the provider's account or create credentials are refused.
                   all: they are served, too.
  --removal-grace-days
                   for how many days a removal can be undone; with 0 it can't`,
		Example: `  tare api policy set --user-keys require --on-bad-key fail
  tare api policy set --user-keys-for openai=forbid --user-keys-for groq=default
  tare api policy set --operations all
  tare api policy set --reset`,
		Args: cli.NoArguments("--user-keys", "--user-keys-for", "--on-bad-key", "--on-limited", "--operations", "--removal-grace-days", "--reset"),
	}
	graceDays := 0
	flags := cmd.Flags()
	addChoice(flags, cmd, &change.userKeys, "user-keys", "", "whether members' own keys serve them", userKeysWords()...)
	addChoice(flags, cmd, &change.onBadKey, "on-bad-key", "", "what happens when the provider refuses a key",
		aikeysv1.OnBadKeyFail, aikeysv1.OnBadKeyNextKey)
	addChoice(flags, cmd, &change.onLimited, "on-limited", "", "what happens when a key is at a limit",
		aikeysv1.OnLimitedFail, aikeysv1.OnLimitedNextKey)
	addChoice(flags, cmd, &change.operations, "operations", "", "which operations of providers are served",
		aikeysv1.OperationsInference, aikeysv1.OperationsAll)
	flags.IntVar(&graceDays, "removal-grace-days", 0, "for how many `days`, at most 365, the removal of a member can be undone")
	completeNothingFor(cmd, "removal-grace-days")
	flags.StringArrayVar(&change.exceptions, "user-keys-for", nil, "an exception for one provider, `provider=word`; can be repeated")
	flags.BoolVar(&change.reset, "reset", false, "start from the default policy")
	setCompletion(cmd, "user-keys-for", p.completeOnline(completeExceptions))
	cmd.RunE = runCall(p, func(ctx context.Context, s *session, _ []string) (*aikeysv1.PolicyResponse, error) {
		if flags.Changed("removal-grace-days") {
			change.graceDays = &graceDays
		}
		return p.setPolicy(ctx, s, change)
	}, p.printPolicy)
	return cmd
}

func completeExceptions(ctx context.Context, s *session) ([]string, error) {
	slugs, err := completeProviders(ctx, s)
	var found []string
	for _, each := range slugs {
		slug, _, _ := strings.Cut(each, "\t")
		for _, word := range append(userKeysWords(), removeException) {
			found = append(found, slug+"="+string(word))
		}
	}
	return found, err
}

func (p *program) setPolicy(ctx context.Context, s *session, change policyChange) (*aikeysv1.PolicyResponse, error) {
	if change.isEmpty() {
		return nil, cli.Usagef("nothing to set; see tare api policy set --help")
	}
	policy := aikeysv1.Policy{}
	if !change.reset {
		now, err := s.Policy().Get(ctx, s.customer, s.project)
		if err != nil {
			return nil, err
		}
		policy = now.Policy
	}
	removed, err := change.apply(&policy)
	if err != nil {
		return nil, err
	}
	for _, each := range change.exceptions {
		provider, _, _ := strings.Cut(each, "=")
		p.providers = append(p.providers, provider)
	}
	if len(removed) > 0 { // they are not sent to the service, so it can't refuse a misspelt one
		if unknown, hint := p.findUnknownProvider(ctx); slices.Contains(removed, unknown) {
			return nil, hintedError{errUnknownProvider(unknown), hint}
		}
	}
	calls := s.Policy().With(agentrouter.OnLimited(policy.OnLimited))
	if policy.RemovalGraceDays != nil {
		calls = calls.With(agentrouter.RemovalGraceDays(*policy.RemovalGraceDays))
	}
	return calls.Set(ctx, s.customer, s.project, policy.UserKeys, policy.UserKeysByProvider, policy.OnBadKey, policy.Operations)
}

// isEmpty reports whether there is nothing to change.
func (c *policyChange) isEmpty() bool {
	return c.userKeys == "" && c.onBadKey == "" && c.onLimited == "" && c.operations == "" && c.graceDays == nil && len(c.exceptions) == 0 && !c.reset
}

// apply changes a policy. It returns the providers that have no exception to remove.
func (c policyChange) apply(policy *aikeysv1.Policy) (removed []string, err error) {
	policy.UserKeys = cmp.Or(c.userKeys, policy.UserKeys)
	policy.OnBadKey = cmp.Or(c.onBadKey, policy.OnBadKey)
	policy.OnLimited = cmp.Or(c.onLimited, policy.OnLimited)
	policy.Operations = cmp.Or(c.operations, policy.Operations)
	policy.RemovalGraceDays = cmp.Or(c.graceDays, policy.RemovalGraceDays)
	if policy.UserKeysByProvider == nil {
		policy.UserKeysByProvider = aikeysv1.UserKeysByProvider{}
	}
	for _, each := range c.exceptions {
		provider, word, _ := strings.Cut(each, "=")
		switch {
		case provider != "" && word == removeException:
			if _, has := policy.UserKeysByProvider[provider]; !has {
				removed = append(removed, provider)
			}
			delete(policy.UserKeysByProvider, provider)
		case provider != "" && slices.Contains(userKeysWords(), aikeysv1.UserKeys(word)):
			policy.UserKeysByProvider[provider] = aikeysv1.UserKeys(word)
		default:
			return nil, cli.Usagef("--user-keys-for must be a provider, = and one of %s, %s, such as openai=forbid",
				strings.Join(texts(userKeysWords()), ", "), removeException)
		}
	}
	return removed, nil
}

// defaultGraceDays is for how many days a removal can be undone by default.
const defaultGraceDays = 30

func (p *program) printPolicy(reply *aikeysv1.PolicyResponse) error {
	policy := &reply.Policy
	details := []detail{{"Own keys", cell{string(policy.UserKeys), plain}}}
	for _, provider := range slices.Sorted(maps.Keys(policy.UserKeysByProvider)) {
		details = append(details, detail{"  of " + p.sanitize(provider), cell{string(policy.UserKeysByProvider[provider]), plain}})
	}
	grace := defaultGraceDays
	if policy.RemovalGraceDays != nil {
		grace = *policy.RemovalGraceDays
	}
	written := cmp.Or(formatTimeBy(policy.UpdatedAt, policy.UpdatedBy, time.Now()), "never; this is the default")
	return p.printDetails(append(details,
		detail{"On a bad key", cell{string(policy.OnBadKey), plain}},
		detail{"On a limited key", cell{string(cmp.Or(policy.OnLimited, aikeysv1.OnLimitedFail)), plain}},
		detail{"Operations", cell{string(cmp.Or(policy.Operations, aikeysv1.OperationsInference)), plain}},
		detail{"Removal grace", cell{fmt.Sprintf("%d days", grace), plain}}, detail{"Written", cell{written, plain}}))
}
