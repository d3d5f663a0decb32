package main

import (
	"cmp"
	"context"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	agentrouter "github.com/tetrateio/agentrouter-go"
	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

func (p *program) resolveCommand() *cobra.Command {
	var (
		provider, user, limited string
		explain                 bool
	)
	cmd := &cobra.Command{
		Use:   "resolve",
		Short: "Show which key would serve you now, and why",
		Long: `Shows which key would serve your request to a provider now, and why. This does not count as a use.

--explain lists every key that could serve, in order, and why each does or does not. With --user, an owner sees which
key would serve another member, but nothing about that member's own keys. Only data planes know which keys are at a
limit; --limited shows which key would serve while a given key is at a limit.`,
		Example: `  tare api byok resolve --provider openai
  tare api byok resolve --provider openai --explain
  tare api byok resolve --provider openai --explain --user bob
  tare api byok resolve --provider openai --limited byok_01M83VVAHV8M2T5K7N9R4W1XYZ
  tare api byok resolve --provider openai -o json`,
		Args: cli.NoArguments("--provider", "--user", "--limited"),
	}
	flags := cmd.Flags()
	flags.StringVar(&provider, "provider", "", "the provider's `slug` (required)")
	flags.BoolVar(&explain, "explain", false, "list every key that could serve, and why it does or does not")
	flags.StringVar(&user, "user", "", "show which key would serve this `member`; owners only")
	flags.StringVar(&limited, "limited", "", "assume that the key with this `id` is at a limit")
	setCompletion(cmd, "provider", p.completeOnline(completeProviders))
	setCompletion(cmd, "limited", p.completeOnline(completeKeys(aikeysv1.KeyStateActive)))
	setCompletion(cmd, "user", p.completeOnline(completeMembers))
	cmd.RunE = runCall(p, func(ctx context.Context, s *session, _ []string) (*aikeysv1.ResolveResponse, error) {
		if provider == "" {
			return nil, cli.Usagef("--provider is required; tare api providers lists them")
		}
		p.providers = []string{provider}
		return s.AIKeys().With(
			when(explain, agentrouter.Explained()), when(user != "", agentrouter.OfUser(user)), when(limited != "", agentrouter.WhileLimited(limited)),
		).Resolve(ctx, s.customer, s.project, aikeysv1.Provider(provider))
	}, p.printResolved)
	return cmd
}

func (p *program) printResolved(r *aikeysv1.ResolveResponse) error {
	served := cell{"no key", red}
	details := []detail{{"Provider", cell{string(r.Provider), plain}}}
	switch k := r.Key; {
	case k != nil:
		served = cell{k.Name + " " + formatSuffix(k), green}
		details = append(details, detail{"Served by", served}, detail{"ID", cell{k.ID, plain}}, detail{"Scope", cell{formatScope(k), plain}})
	case r.Scope == aikeysv1.ScopeUser: // another member's
		details = append(details, detail{"Served by", cell{"a key of their own", green}})
	default:
		details = append(details, detail{"Served by", served})
	}
	why := explain(reasons, r.Reason)
	if k := cmp.Or(r.StoppedKey, r.RevokedKey); k != nil {
		why = explainStop(k)
	}
	err := p.printDetails(append(details,
		detail{"Why", cell{why, plain}},
		detail{"Policy", cell{"own keys: " + string(r.UserKeys) + "; a key that the provider refuses: " + string(r.OnBadKey) +
			"; a key at a limit: " + string(cmp.Or(r.OnLimited, aikeysv1.OnLimitedFail)), plain}},
	))
	if err != nil || len(r.Candidates) == 0 {
		return err
	}
	return p.printCandidates(r.Candidates)
}

// printCandidates prints the keys that could serve, in order.
func (p *program) printCandidates(candidates []aikeysv1.Candidate) error {
	t := &table{columns: []column{
		{head: "SERVES"}, {head: "KEY", canShrink: true}, {head: "SCOPE", dropRank: 2}, {head: "ORDER", dropRank: 1}, {head: "WEIGHT", dropRank: 1},
		{head: "WHY", canShrink: true}, {head: "ID", dropRank: 3},
	}}
	for _, c := range candidates {
		serves := cell{"no", dim}
		if c.Serves {
			serves = cell{"yes", green}
		}
		name, scope, order, weight, id := "a key of their own", "own", "", "", ""
		if k := c.Key; k != nil {
			name, scope, order, weight, id = k.Name+" "+formatSuffix(k), formatScope(k), strconv.Itoa(k.Order), formatNonZero("%d", k.Weight), k.ID
		}
		why := cmp.Or(candidateReasons[c.Reason], explain(reasons, aikeysv1.Reason(c.Reason)))
		t.addRow(serves, cell{name, plain}, cell{scope, plain}, cell{order, plain}, cell{weight, plain}, cell{why, plain}, cell{id, dim})
	}
	if err := p.Say("%s", ""); err != nil {
		return err
	}
	return p.printTable(t)
}

// explainStop says why a key stopped serving: it was revoked or disabled, or has expired.
func explainStop(k *aikeysv1.Key) string {
	whose := "the project's key "
	if k.UserScope {
		whose = "your own key "
	}
	name, at := whose+k.Name+" "+formatSuffix(k), func(t time.Time) string { return t.UTC().Format(time.RFC3339) }
	switch {
	case !k.RevokedAt.IsZero():
		return name + " was revoked at " + at(k.RevokedAt) + " by " + k.RevokedBy
	case !k.DisabledAt.IsZero():
		return name + " was disabled at " + at(k.DisabledAt) + " by " + k.DisabledBy
	}
	return name + " expired at " + at(k.ExpiresAt)
}

// reasons explains why a key serves, or why none does.
var reasons = map[aikeysv1.Reason]string{
	aikeysv1.ReasonUserKey:           "it is your own newest key",
	aikeysv1.ReasonProjectKey:        "it is the project's newest key, and you have none of your own",
	aikeysv1.ReasonUserKeysForbidden: "it is the project's newest key; the policy forbids members' own",
	aikeysv1.ReasonUserKeyRequired:   "the policy requires a key of your own: tare api byok add --user-scope",
	aikeysv1.ReasonNoKey:             "there is no active key that the policy lets serve you",
	aikeysv1.ReasonOrder:             "it has the lowest order of its scope",
	aikeysv1.ReasonWeight:            "it shares the callers with other keys by weight, and serves this caller",
	aikeysv1.ReasonKeyRestricted:     "the keys that could serve are restricted to other users",
	aikeysv1.ReasonNotAMember:        "the user is not a member of the project",
	aikeysv1.ReasonNextKey:           "the provider has just refused the first key, and the policy is to try the next",
	aikeysv1.ReasonNextKeyLimited:    "the first key is at a limit, and the policy is to use the next",
}

// candidateReasons explains why a key that could serve does not. The reasons of the key that serves are in reasons.
var candidateReasons = map[aikeysv1.CandidateReason]string{
	aikeysv1.CandidateReasonNotFirst:          "another key comes before it",
	aikeysv1.CandidateReasonOtherCallers:      "it serves other callers, by weight",
	aikeysv1.CandidateReasonRefusedByProvider: "the provider has just refused it",
	aikeysv1.CandidateReasonLimited:           "it is at a limit",
	aikeysv1.CandidateReasonOtherUsers:        "it is restricted to other users",
	aikeysv1.CandidateReasonKeyDisabled:       "it is disabled",
	aikeysv1.CandidateReasonKeyExpired:        "it has expired",
	aikeysv1.CandidateReasonUserKeyRequired:   "the policy requires members' own keys",
	aikeysv1.CandidateReasonUserKeysForbidden: "the policy forbids members' own keys",
}
