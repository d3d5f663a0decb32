package main

import (
	"context"

	"github.com/spf13/cobra"
	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

func (p *program) resolveCommand() *cobra.Command {
	var provider string
	cmd := &cobra.Command{
		Use:   "resolve",
		Short: "Show which key would serve you now, and why",
		Long:  "Shows which key would serve a request of yours to a provider now, and why. It uses nothing up.",
		Example: `  tare api byok resolve --provider openai
  tare api byok resolve --provider openai -o json`,
		Args: cli.NoArguments("--provider"),
	}
	cmd.Flags().StringVar(&provider, "provider", "", "the provider's `slug` (required)")
	p.completesTo(cmd, "provider", p.live(offeredProviders))
	cmd.RunE = p.online(func(ctx context.Context, s *session, _ []string) error {
		if provider == "" {
			return cli.Usagef("--provider is required; tare api providers lists them")
		}
		p.meant = provider
		ctx, cancel := p.within(ctx)
		defer cancel()
		reply, err := s.AIKeys().Resolve(ctx, s.customer, s.project, aikeysv1.Provider(provider))
		if err != nil {
			return err
		}
		return p.show(s, func() error { return p.printResolved(reply) })
	})
	return cmd
}

func (p *program) printResolved(r *aikeysv1.ResolveResponse) error {
	served := cell{"no key", red}
	details := []detail{{"Provider", cell{string(r.Provider), plain}}}
	if k := r.Key; k != nil {
		served = cell{k.Name + " " + suffix(k), green}
		details = append(details, detail{"Served by", served}, detail{"ID", cell{k.ID, plain}}, detail{"Scope", cell{scope(k), plain}})
	} else {
		details = append(details, detail{"Served by", served})
	}
	return p.printDetails(append(details,
		detail{"Why", cell{why(r.Reason), plain}},
		detail{"Policy", cell{"own keys: " + string(r.UserKeys) + "; a key that the provider refuses: " + string(r.OnBadKey), plain}},
	))
}

// why puts a reason into words; one that is new stays as it is.
func why(reason aikeysv1.Reason) string {
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
	case aikeysv1.ReasonNextKey:
		return "the provider has just refused the newer key, and the policy says to take the next"
	default:
		return string(reason)
	}
}
