package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	agentrouter "github.com/tetrateio/agentrouter-go"
	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

// givenKey is where the API key comes from while one logs in.
const givenKey = "key that you gave"

func (p *program) loginCommand() *cobra.Command {
	keyFile := ""
	cmd := &cobra.Command{
		Use:   "login",
		Short: "Log in to a service, and remember it",
		Long: `Logs in with an API key or a session token, sees that the service takes it, and keeps it in a profile, in a file that
only you can read. An operator makes API keys with aikeysd admin token create.

On a terminal tare asks for what is missing and does not show the key. Elsewhere it reads the key from standard input.
The profile is "default" unless --profile names another, and is the one in use from then on. --customer and --project,
if given, are kept in it.`,
		Example: `  tare login
  tare login --base-url https://aikeys.example.com --profile prod
  tare login --base-url https://aikeys.example.com --api-key-file /run/secrets/aikeys < /dev/null`,
		Args: cli.NoArguments("--base-url", "--api-key-file"),
	}
	cmd.Flags().StringVar(&keyFile, "api-key-file", "", "the `file` with the API key; - is standard input")
	cmd.RunE = p.doing(func(ctx context.Context, _ []string) error { return p.login(ctx, keyFile) })
	return cmd
}

func (p *program) login(ctx context.Context, keyFile string) error {
	known, err := p.loadProfiles()
	if err != nil {
		return err
	}
	name := p.flags.profile
	if name == "" {
		name = known.Current
	}
	if err := checkProfileName(name); err != nil {
		return err
	}
	a, err := p.whereToLogIn(ctx, known.Profiles[name])
	if err != nil {
		return err
	}
	a.apiKey, err = p.readSecret(ctx, secretFrom{
		file: keyFile, flag: "--api-key-file", what: "API key", question: "API key (not shown):",
	})
	if err != nil {
		return err
	}
	a.profile, a.keyFrom = name, givenKey
	s, err := p.open(ctx, a, agentrouter.WithMaxRetries(1))
	if err != nil {
		return err
	}
	within, cancel := p.within(ctx)
	defer cancel()
	me, err := s.WhoAmI(within)
	if err != nil {
		return err
	}
	err = p.changeProfiles(ctx, func(all *profiles) error {
		all.Current = name
		all.Profiles[name] = profile{
			BaseURL: a.baseURL, APIKey: a.apiKey, Insecure: a.insecure, Customer: p.flags.customer, Project: p.flags.project,
			CustomerID: me.CustomerID, ProjectID: me.ProjectID, UserID: me.UserID, TokenID: me.TokenID,
		}
		return nil
	})
	if err != nil {
		return err
	}
	return p.welcome(s, me)
}

// whereToLogIn finds the address: given, in the environment, typed in, or the profile's of before.
func (p *program) whereToLogIn(ctx context.Context, before profile) (access, error) {
	a := access{baseURL: p.flags.baseURL, insecure: p.flags.insecure}
	if a.baseURL == "" && p.flags.profile == "" {
		a.baseURL = p.Getenv(baseURLVariable)
	}
	if asking := p.prompts(); a.baseURL == "" && asking != nil {
		question := "Base URL, such as https://aikeys.example.com:"
		if before.BaseURL != "" {
			question = fmt.Sprintf("Base URL [%s]:", before.BaseURL)
		}
		var err error
		if a.baseURL, err = asking.ask(ctx, question); err != nil {
			return access{}, err
		}
	}
	if a.baseURL == "" {
		a.baseURL, a.insecure = before.BaseURL, a.insecure || before.Insecure
	}
	if a.baseURL == "" {
		return access{}, cli.Usagef("where to? Give --base-url, or set %s", baseURLVariable)
	}
	var err error
	a.baseURL, err = checkBaseURL(a.baseURL, a.insecure)
	return a, err
}

// welcome says who one is now.
func (p *program) welcome(s *session, me *aikeysv1.WhoAmIResponse) error {
	err := p.show(s, func() error {
		return p.line(fmt.Sprintf("Logged in to %s as %s, %s of %s/%s. Profile: %s.",
			s.baseURL, me.UserID, aOrAn(roleOf(me)), me.CustomerID, me.ProjectID, s.profile))
	})
	if p.Getenv(apiKeyVariable) != "" {
		p.tell("tare: note: " + apiKeyVariable + " is set here and wins over the profile; unset it, or use --profile " + s.profile)
	}
	return err
}

func aOrAn(role string) string {
	switch role {
	case string(aikeysv1.RoleOwner):
		return "an owner"
	case string(aikeysv1.RoleMember):
		return "a member"
	default:
		return role
	}
}

func (p *program) logoutCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "logout",
		Short: "Forget the API key of a profile",
		Long: `Takes the API key out of the profile in use, or of --profile. The profile stays, so that the next tare login knows
where to. The API key itself goes on working for whoever has it: an operator ends it with aikeysd admin token revoke.`,
		Example: `  tare logout
  tare logout --profile staging`,
		Args: cli.NoArguments("--profile"),
	}
	cmd.RunE = p.doing(func(ctx context.Context, _ []string) error { return p.logout(ctx) })
	return cmd
}

func (p *program) logout(ctx context.Context) error {
	var name, tokenID string
	err := p.changeProfiles(ctx, func(all *profiles) error {
		name = p.flags.profile
		if name == "" {
			name = all.Current
		}
		known, err := all.named(name)
		if err != nil {
			return err
		}
		tokenID = known.TokenID
		known.APIKey, known.TokenID = secret{}, ""
		all.Profiles[name] = known
		return nil
	})
	if err != nil {
		return err
	}
	if tokenID != "" {
		p.tell("The API key is valid still. An operator ends it by its id, " + tokenID + ".")
	}
	return p.done(fmt.Sprintf("Logged out of the profile %s.", name), map[string]any{"profile": name, "logged_in": false})
}
