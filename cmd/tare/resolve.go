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

--explain lists every key that could serve, in the order in which they come, and why each does or does not. With --user,
an owner sees what would serve another member; which keys of their own these are is not shown. --limited
shows what would serve while a key is at a limit: data planes know that, and the service does not.`,
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
	flags.StringVar(&user, "user", "", "show what serves this `member`; takes an owner")
	flags.StringVar(&limited, "limited", "", "take the key with this `id` as one that is at a limit")
	setCompletion(cmd, "provider", p.completeOnline(completeProviders))
	setCompletion(cmd, "limited", p.completeOnline(completeKeys(aikeysv1.KeyStateActive)))
	setCompletion(cmd, "user", p.completeOnline(completeMembers))
	cmd.RunE = runCall(p, func(ctx context.Context, s *session, _ []string) (*aikeysv1.ResolveResponse, error) {
		if provider == "" {
			return nil, cli.Usagef("--provider is required; tare api providers lists them")
		}
		p.providers = []string{provider}
		calls := s.AIKeys()
		if explain {
			calls = calls.With(agentrouter.Explained())
		}
		if user != "" {
			calls = calls.With(agentrouter.OfUser(user))
		}
		if limited != "" {
			calls = calls.With(agentrouter.WhileLimited(limited))
		}
		return calls.Resolve(ctx, s.customer, s.project, aikeysv1.Provider(provider))
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
	why := explainReason(r.Reason)
	if k := r.RevokedKey; k != nil {
		why = explainStop(k)
	}
	if k := r.StoppedKey; k != nil {
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

// printCandidates prints the keys that could serve, in the order in which they come.
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
			name, scope, order, id = k.Name+" "+formatSuffix(k), formatScope(k), strconv.Itoa(k.Order), k.ID
			if k.Weight != 0 {
				weight = strconv.Itoa(k.Weight)
			}
		}
		t.addRow(serves, cell{name, plain}, cell{scope, plain}, cell{order, plain}, cell{weight, plain}, cell{explainCandidate(c.Reason), plain}, cell{id, dim})
	}
	if err := p.Say("%s", ""); err != nil {
		return err
	}
	return p.printTable(t)
}

// explainCandidate returns a reason that this version does not know as it is.
func explainCandidate(reason aikeysv1.CandidateReason) string {
	switch reason {
	case aikeysv1.CandidateReasonNotFirst:
		return "another key comes before it"
	case aikeysv1.CandidateReasonOtherCallers:
		return "it serves other callers, by weight"
	case aikeysv1.CandidateReasonRefusedByProvider:
		return "the provider has just refused it"
	case aikeysv1.CandidateReasonLimited:
		return "it is at a limit"
	case aikeysv1.CandidateReasonOtherUsers:
		return "it is restricted to other users"
	case aikeysv1.CandidateReasonKeyDisabled:
		return "it is disabled"
	case aikeysv1.CandidateReasonKeyExpired:
		return "it has expired"
	case aikeysv1.CandidateReasonUserKeyRequired:
		return "the policy has members served by keys of their own alone"
	case aikeysv1.CandidateReasonUserKeysForbidden:
		return "the policy forbids members' own keys"
	case aikeysv1.CandidateReasonUserKey, aikeysv1.CandidateReasonProjectKey, aikeysv1.CandidateReasonOrder, aikeysv1.CandidateReasonWeight,
		aikeysv1.CandidateReasonNextKey, aikeysv1.CandidateReasonNextKeyLimited:
		return explainReason(aikeysv1.Reason(reason))
	default:
		return string(reason)
	}
}

// explainStop says which key was revoked or disabled or has expired, so that none serves.
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

// explainReason returns a reason that this version does not know as it is.
func explainReason(reason aikeysv1.Reason) string {
	switch reason {
	case aikeysv1.ReasonUserKey:
		return "it is your own newest key"
	case aikeysv1.ReasonProjectKey:
		return "it is the project's newest key, and you have none of your own"
	case aikeysv1.ReasonUserKeysForbidden:
		return "it is the project's newest key; the policy forbids members' own"
	case aikeysv1.ReasonUserKeyRequired:
		return "the policy requires a key of your own: tare api byok add --user-scope"
	case aikeysv1.ReasonNoKey:
		return "there is no active key that the policy lets serve you"
	case aikeysv1.ReasonOrder:
		return "it has the lowest order of its scope"
	case aikeysv1.ReasonWeight:
		return "it shares the callers with other keys by weight, and serves this one"
	case aikeysv1.ReasonKeyRestricted:
		return "the keys that could serve are restricted to other users"
	case aikeysv1.ReasonNotAMember:
		return "the user is no member of the project"
	case aikeysv1.ReasonNextKey:
		return "the provider has just refused the first key, and the policy is to try the next"
	case aikeysv1.ReasonNextKeyLimited:
		return "the first key is at a limit, and the policy is to use the next"
	default:
		return string(reason)
	}
}
