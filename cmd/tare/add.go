package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	agentrouter "github.com/tetrateio/agentrouter-go"
	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

// addition is what "add" was given.
type addition struct {
	provider, name     string
	secret, secretFile string
	idempotencyKey     string
	userScope          bool
	secretGiven        bool
}

const secretFileFlag = "--secret-file"

func (p *program) addCommand() *cobra.Command {
	var a addition
	cmd := &cobra.Command{
		Use:   "add",
		Short: "Register a provider's key",
		Long: `Registers a provider's key. It is sealed at once, serves from then on, and is never shown again.

On a terminal tare asks for the secret and does not show it; elsewhere it reads standard input. --secret works, but
whoever is on this machine can see it in process lists.

A key is the project's, which needs its owner, or with --user-scope your own. Of several active keys of a provider the
newest serves, so registering a second one replaces the first without a gap.`,
		Example: `  tare api byok add --provider openai --name openai-prod
  printf %s "$OPENAI_API_KEY" | tare api byok add --provider openai --name openai-prod
  tare api byok add --provider vertex --name gcp --secret-file service-account.json
  tare api byok add --provider anthropic --name mine --user-scope`,
		Args: cli.NoArguments("--provider", "--name", secretFileFlag),
	}
	flags := cmd.Flags()
	flags.StringVar(&a.provider, "provider", "", "the provider's `slug`, as tare api providers lists it (required)")
	flags.StringVar(&a.name, "name", "", "a `label` of yours, one of its kind among the provider's active keys (required)")
	flags.StringVar(&a.secretFile, "secret-file", "", "the `file` with the secret; - is standard input")
	flags.StringVar(&a.secret, "secret", "", "the `secret` itself; shows in process lists, so better leave it out")
	flags.BoolVar(&a.userScope, "user-scope", false, "make it your own key, not the project's")
	flags.StringVar(&a.idempotencyKey, "idempotency-key", "", "a `value` of yours that makes it safe to run this again within 24 hours")
	p.completesTo(cmd, "provider", p.live(offeredProviders))
	p.completesTo(cmd, "name", nothing)
	p.completesTo(cmd, "secret", nothing)
	p.completesTo(cmd, "idempotency-key", nothing)
	cmd.RunE = p.online(func(ctx context.Context, s *session, _ []string) error {
		a.secretGiven = flags.Changed("secret")
		return p.add(ctx, s, a)
	})
	return cmd
}

func (p *program) add(ctx context.Context, s *session, a addition) error {
	switch {
	case a.provider == "":
		return cli.Usagef("--provider is required; tare api providers lists them")
	case a.name == "":
		return cli.Usagef("--name is required: a label that you will know the key by")
	case a.secretGiven && a.secretFile != "":
		return cli.Usagef("--secret and --secret-file are two secrets; give one")
	}
	p.meant = a.provider
	text, err := p.secretToAdd(ctx, s, a)
	if err != nil {
		return err
	}
	calls := s.AIKeys()
	if a.idempotencyKey != "" {
		calls = calls.With(agentrouter.IdempotencyKey(a.idempotencyKey))
	}
	within, cancel := p.within(ctx)
	defer cancel()
	reply, err := calls.Register(within, s.customer, s.project, aikeysv1.Provider(a.provider), a.name, text.reveal(), a.userScope)
	if err != nil {
		return uncertain(ctx, err, "It may have been registered all the same. tare api byok list shows it then.")
	}
	return p.show(s, func() error { return p.printKey(&reply.Key) })
}

func (p *program) secretToAdd(ctx context.Context, s *session, a addition) (secret, error) {
	if a.secretGiven {
		given := newSecret(a.secret)
		p.hide(given)
		p.warnOfArgument()
		if given.IsZero() {
			return secret{}, cli.Usagef("--secret is empty")
		}
		return given, nil
	}
	from := secretFrom{file: a.secretFile, flag: secretFileFlag, what: "secret"}
	if from.file == "" && p.prompts() != nil {
		var err error
		if from.question, err = p.questionFor(ctx, s, a.provider); err != nil {
			return secret{}, err
		}
	}
	return p.readSecret(ctx, from)
}

// questionFor looks the provider up before somebody types a secret for it.
func (p *program) questionFor(ctx context.Context, s *session, slug string) (string, error) {
	ctx, cancel := p.within(ctx)
	defer cancel()
	all, err := s.Providers().List(ctx)
	if err != nil {
		return "", err
	}
	for _, each := range all.Providers {
		if string(each.Slug) != slug {
			continue
		}
		if each.SecretFormat == aikeysv1.SecretFormatJSON {
			return "", cli.Usagef("%s takes a JSON document with %s, not a line to type: put it in a file and name it with %s",
				p.clean(each.DisplayName), p.clean(strings.Join(each.RequiredFields, ", ")), secretFileFlag)
		}
		p.tell("Make one at " + each.KeyPageURL)
		return fmt.Sprintf("Key of %s (not shown):", each.DisplayName), nil
	}
	return "", withHint{errNoProvider(slug), hintOnSlug(slug, slugsOf(all.Providers))}
}
