package main

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	agentrouter "github.com/tetrateio/agentrouter-go"
	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/internal/secret"
)

// keyFromInput is where the API key comes from during a log-in.
const keyFromInput = "key that you gave"

func (p *program) whoAmICommand() *cobra.Command {
	return &cobra.Command{
		Use:   "whoami",
		Short: "Show who you are to the service",
		Long:  "Shows the user, project and role of your API key, and where tare found the key.",
		Example: `  tare whoami
  tare whoami --profile staging -o json`,
		Args: cli.NoArguments(),
		RunE: runCall(p, func(ctx context.Context, s *session, _ []string) (*aikeysv1.WhoAmIResponse, error) {
			return s.WhoAmI(ctx)
		}, p.printSession),
	}
}

func (p *program) signInOptionsCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "sign-in",
		Short:   "Show how people sign in to the service",
		Long:    "Shows which credentials the service accepts, and at which OpenID Connect issuer people sign in, with which client.",
		Example: "  tare api sign-in",
		Args:    cli.NoArguments(),
		RunE: runCall(p, func(ctx context.Context, s *session, _ []string) (*aikeysv1.SignInOptionsResponse, error) {
			return s.SignInOptions(ctx)
		}, p.printSignInOptions),
	}
}

func (p *program) printSignInOptions(reply *aikeysv1.SignInOptionsResponse) error {
	return p.printDetails([]detail{
		{"Credentials", cell{strings.Join(texts(reply.Methods), ", "), bold}},
		{"Issuer", cell{reply.OIDC.Issuer, plain}},
		{"Client", cell{reply.OIDC.ClientID, plain}},
		{"Scopes", cell{strings.Join(reply.OIDC.Scopes, " "), plain}},
		{"Token", cell{string(reply.OIDC.SessionToken), plain}},
	})
}

func (p *program) printSession(me *aikeysv1.WhoAmIResponse) error {
	return p.printDetails([]detail{
		{"User", cell{me.UserID, bold}},
		{"Role", cell{formatRole(me), plain}},
		{"Project", cell{me.CustomerID + "/" + me.ProjectID, plain}},
		{"Logged in", cell{string(me.Method) + " " + me.TokenID, plain}},
		{"Expires", cell{formatTime(me.ExpiresAt, time.Now()), yellow}},
		{"Server", cell{p.session.baseURL, plain}},
		{"Key from", cell{p.session.keyFrom, plain}},
	})
}

func formatRole(me *aikeysv1.WhoAmIResponse) string {
	return cmp.Or(string(me.Role), "none: not a member of the project")
}

func (p *program) loginCommand() *cobra.Command {
	keyFile, gateway := "", ""
	cmd := &cobra.Command{
		Use:   "login",
		Short: "Log in to a service and remember it",
		Long: `Logs in with an API key or a session token: checks that the service accepts it, and stores it in a profile, in a
file that only you can read. An operator creates API keys with "aikeysd admin token create".

On a terminal tare asks for what is missing and does not show the key. Otherwise it reads the key from standard input.
The profile is named "default" unless --profile names it, and becomes the current one. It also stores --customer,
--project and --gateway, if given.`,
		Example: `  tare login
  tare login --base-url https://aikeys.example.com --profile prod
  tare login --base-url https://aikeys.example.com --api-key-file /run/secrets/aikeys < /dev/null`,
		Args: cli.NoArguments("--base-url", "--api-key-file"),
		RunE: func(cmd *cobra.Command, _ []string) error { return p.login(cmd.Context(), keyFile, gateway) },
	}
	cmd.Flags().StringVar(&keyFile, "api-key-file", "", "the `file` with the API key; - is standard input")
	cmd.Flags().StringVar(&gateway, "gateway", "", "the `URL` of the gateway, for \"tare run\"")
	completeNothingFor(cmd, "gateway")
	return cmd
}

func (p *program) login(ctx context.Context, keyFile, gateway string) error {
	known, err := p.loadProfiles()
	if err != nil {
		return err
	}
	name := cmp.Or(p.flags.profile, known.Current)
	if err := validateProfileName(name); err != nil {
		return err
	}
	a, err := p.loginAddress(ctx, known.Profiles[name])
	if err != nil {
		return err
	}
	switch before := known.Profiles[name]; {
	case gateway != "":
		gateway, err = normalizeURL("the gateway's URL", gateway, a.insecure)
	case isSameAddress(before.BaseURL, a.baseURL): // another service's key must not go to this gateway
		gateway = before.Gateway
	}
	if err != nil {
		return err
	}
	a.apiKey, err = p.readSecret(ctx, secretSource{
		file: keyFile, flag: "--api-key-file", what: "API key", question: "API key (not shown):",
	})
	if err != nil {
		return err
	}
	a.profile, a.keyFrom = name, keyFromInput
	s, err := p.openSession(ctx, a, agentrouter.WithMaxRetries(1))
	if err != nil {
		return err
	}
	callCtx, cancel := p.withTimeout(ctx)
	defer cancel()
	me, err := s.WhoAmI(callCtx)
	if err != nil {
		return err
	}
	err = p.changeProfiles(ctx, func(all *profiles) error {
		all.Current = name
		all.Profiles[name] = profile{
			BaseURL: a.baseURL, APIKey: a.apiKey, Insecure: a.insecure, Customer: p.flags.customer, Project: p.flags.project,
			Gateway:    gateway,
			CustomerID: me.CustomerID, ProjectID: me.ProjectID, UserID: me.UserID, TokenID: me.TokenID,
		}
		return nil
	})
	if err != nil {
		return err
	}
	return p.printWelcome(s, me)
}

// loginAddress finds the address: from the flag, the environment, the prompt, or the profile's last log-in, in this order.
func (p *program) loginAddress(ctx context.Context, before profile) (access, error) {
	a := access{baseURL: p.flags.baseURL, insecure: p.flags.insecure}
	if a.baseURL == "" && p.flags.profile == "" {
		a.baseURL = p.Getenv(baseURLVariable)
	}
	if prompt := p.newPrompter(); a.baseURL == "" && prompt != nil {
		question := "Base URL, such as https://aikeys.example.com:"
		if before.BaseURL != "" {
			question = fmt.Sprintf("Base URL [%s]:", before.BaseURL)
		}
		var err error
		if a.baseURL, err = prompt.ask(ctx, question); err != nil {
			return access{}, err
		}
	}
	if a.baseURL == "" {
		a.baseURL, a.insecure = before.BaseURL, a.insecure || before.Insecure
	}
	if a.baseURL == "" {
		return access{}, cli.Usagef("no base URL: give --base-url, or set %s", baseURLVariable)
	}
	var err error
	a.baseURL, err = normalizeBaseURL(a.baseURL, a.insecure)
	return a, err
}

func (p *program) printWelcome(s *session, me *aikeysv1.WhoAmIResponse) error {
	role := formatRole(me)
	switch me.Role {
	case aikeysv1.RoleOwner:
		role = "an owner"
	case aikeysv1.RoleMember:
		role = "a member"
	}
	err := p.printResponse(s, func() error {
		return p.printLine(fmt.Sprintf("Logged in to %s as %s, %s of %s/%s. Profile: %s.",
			s.baseURL, me.UserID, role, me.CustomerID, me.ProjectID, s.profile))
	})
	if p.Getenv(apiKeyVariable) != "" {
		p.printNote("tare: note: " + apiKeyVariable + " is set here and wins over the profile; unset it, or use --profile " + s.profile)
	}
	return err
}

func (p *program) logoutCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "logout",
		Short: "Forget the API key of a profile",
		Long: `Removes the API key from the current profile, or from the one that --profile names. The profile keeps its address
for the next "tare login". Logging out does not revoke the API key: "tare api tokens revoke" does.`,
		Example: `  tare logout
  tare logout --profile staging`,
		Args: cli.NoArguments("--profile"),
		RunE: func(cmd *cobra.Command, _ []string) error { return p.logout(cmd.Context()) },
	}
}

func (p *program) logout(ctx context.Context) error {
	var name, tokenID string
	err := p.changeProfiles(ctx, func(all *profiles) error {
		name = cmp.Or(p.flags.profile, all.Current)
		known, err := all.find(name)
		if err != nil {
			return err
		}
		tokenID = known.TokenID
		known.APIKey, known.TokenID = secret.Text{}, ""
		all.Profiles[name] = known
		return nil
	})
	if err != nil {
		return err
	}
	if tokenID != "" {
		p.printNote("The API key is still valid. Revoke it with: tare api tokens revoke " + tokenID)
	}
	return p.printDone(fmt.Sprintf("Logged out of the profile %s.", name), map[string]any{"profile": name, "logged_in": false})
}
