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

// Where the API key or session token comes from during a log-in.
const (
	keyFromInput  = "key that you gave"
	keyFromIssuer = "issuer"
)

func (p *program) whoAmICommand() *cobra.Command {
	return &cobra.Command{
		Use:   "whoami",
		Short: "Show who you are to the service",
		Long:  "Shows the user, project and role of your API key or session token, and where tare found it.",
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
		Long:    "Shows which credentials the service accepts, and the OpenID Connect issuer and client with which people sign in.",
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
		{"Stored in", cell{p.session.storedIn, plain}},
	})
}

func formatRole(me *aikeysv1.WhoAmIResponse) string {
	return cmp.Or(string(me.Role), "none: not a member of the project")
}

func (p *program) loginCommand() *cobra.Command {
	var (
		from    loginSource
		gateway string
	)
	cmd := &cobra.Command{
		Use:   "login",
		Short: "Log in to a service and store the credential",
		Long: `Logs in to a service and stores the credential in a profile: an API key, or a session token of your organization's
OpenID Connect issuer, if the service has one ("tare api sign-in" shows it). tare stores the credential in the system's
keyring or, if there is none or with TARE_KEYRING=off, in a file that only you can read.

With --web you sign in on the issuer's page in the browser; with --device, on any other device, with a code. tare renews
the session token by itself. Without either flag, tare asks for an API key and does not show it; without a terminal, it
reads the API key from standard input. Members create API keys with "tare api tokens create", and operators with "aikeysd
admin token create".

The profile is named "default" unless --profile names another, and becomes the current one. It also stores --customer,
--project and --gateway, if given.`,
		Example: `  tare login
  tare login --web --base-url https://aikeys.example.com --profile prod
  tare login --device
  tare login --base-url https://aikeys.example.com --api-key-file /run/secrets/aikeys < /dev/null`,
		Args: cli.NoArguments("--base-url", "--api-key-file"),
		RunE: func(cmd *cobra.Command, _ []string) error { return p.login(cmd.Context(), from, gateway) },
	}
	cmd.Flags().StringVar(&from.keyFile, "api-key-file", "", "the `file` with the API key; - means standard input")
	cmd.Flags().BoolVar(&from.web, signInWeb, false, "sign in on the issuer's page in the browser")
	cmd.Flags().BoolVar(&from.device, signInDevice, false, "sign in on another device, with a code")
	cmd.Flags().StringVar(&gateway, "gateway", "", "the `URL` of the gateway, for \"tare run\"")
	completeNothingFor(cmd, "gateway")
	return cmd
}

// loginSource says where a log-in gets the credential from. The zero value means the prompt, or standard input without a terminal.
type loginSource struct {
	keyFile     string
	web, device bool
}

// way returns the flag that chooses how to sign in at the issuer, or "".
func (l loginSource) way() (string, error) {
	switch {
	case l.web && l.device, (l.web || l.device) && l.keyFile != "":
		return "", cli.Usagef("give one of --web, --device and --api-key-file")
	case l.web:
		return signInWeb, nil
	case l.device:
		return signInDevice, nil
	}
	return "", nil
}

// credential returns the API key or session token of a log-in, and for a session token the session at the issuer.
func (p *program) credential(ctx context.Context, a access, from loginSource) (secret.Text, *signIn, error) {
	way, err := from.way()
	if err != nil {
		return secret.Text{}, nil, err
	}
	if way == "" {
		return p.keyOrSignIn(ctx, a, from)
	}
	s, err := readSignInOptions(ctx, a)
	switch {
	case err != nil:
		return secret.Text{}, nil, err
	case s == nil:
		return secret.Text{}, nil, cli.Usagef("%s names no issuer to sign in at: log in with an API key", a.baseURL)
	}
	token, err := p.signInAt(ctx, s, way, a.insecure)
	return token, s, err
}

// keyOrSignIn reads the API key. At the prompt, an empty answer signs in at the issuer, if there is one.
func (p *program) keyOrSignIn(ctx context.Context, a access, from loginSource) (secret.Text, *signIn, error) {
	source := secretSource{file: from.keyFile, flag: "--api-key-file", what: "API key", question: "API key (not shown):"}
	var s *signIn
	if from.keyFile == "" && p.newPrompter() != nil {
		if s, _ = readSignInOptions(ctx, a); s != nil { // logging in with the key reports what is wrong with the service
			source.question, source.optional = "API key (not shown), or Enter to sign in at "+s.Issuer+":", true
		}
	}
	key, err := p.readSecret(ctx, source)
	if err != nil || key.Reveal() != "" {
		return key, nil, err
	}
	token, err := p.signInAt(ctx, s, signInWeb, a.insecure)
	return token, s, err
}

func (p *program) login(ctx context.Context, from loginSource, gateway string) error {
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
	var signedIn *signIn
	if a.apiKey, signedIn, err = p.credential(ctx, a, from); err != nil {
		return err
	}
	a.profile, a.keyFrom = name, keyFromInput
	if signedIn != nil {
		a.keyFrom = keyFromIssuer
	}
	s, err := p.openSession(ctx, a, agentrouter.WithMaxRetries(1))
	if err != nil {
		return err
	}
	callCtx, cancel := p.withTimeout(ctx)
	defer cancel()
	me, err := s.WhoAmI(callCtx)
	if err != nil {
		p.endSignIn(ctx, signedIn, a.insecure) // nothing will use it: the log-in has failed
		return err
	}
	stored := profile{
		BaseURL: a.baseURL, APIKey: a.apiKey, Insecure: a.insecure, Customer: p.flags.customer, Project: p.flags.project,
		Gateway: gateway, SignIn: signedIn,
		CustomerID: me.CustomerID, ProjectID: me.ProjectID, UserID: me.UserID, TokenID: me.TokenID,
	}
	var notInKeyring error
	err = p.changeProfiles(ctx, func(all *profiles) error {
		stored.Keyring = all.Profiles[name].Keyring
		notInKeyring = p.moveToKeyring(name, &stored)
		all.Current, all.Profiles[name] = name, stored
		return nil
	})
	if err != nil {
		return err
	}
	return p.printWelcome(s, me, p.describeStorage(&stored, notInKeyring))
}

// loginAddress returns the address from the flag, the environment, the prompt or the profile's last log-in, in this order.
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

// describeStorage says where a profile's credential is stored, and why it is not in the keyring.
func (p *program) describeStorage(stored *profile, notInKeyring error) string {
	file, err := p.profilesPath()
	if err != nil {
		file = "profiles.json"
	}
	credential := "The API key"
	if stored.SignIn != nil {
		credential = "The session"
	}
	switch stored.storedIn() {
	case storedInKeyring:
		return credential + " is stored in the system's keyring."
	case storedInBoth:
		return credential + " is stored in the system's keyring, except its session token, which is too long for it and is in " + file + "."
	}
	return fmt.Sprintf("%s is stored in %s, which only you can read, and not in the system's keyring: %s.", credential, file, cli.OneLine(notInKeyring.Error()))
}

func (p *program) printWelcome(s *session, me *aikeysv1.WhoAmIResponse, storage string) error {
	role := formatRole(me)
	switch me.Role {
	case aikeysv1.RoleOwner:
		role = "an owner"
	case aikeysv1.RoleMember:
		role = "a member"
	}
	err := p.printResponse(s, func() error {
		return p.printLine(fmt.Sprintf("Logged in to %s as %s, %s of %s/%s. Profile: %s. %s",
			s.baseURL, me.UserID, role, me.CustomerID, me.ProjectID, s.profile, storage))
	})
	if p.Getenv(apiKeyVariable) != "" {
		p.printNote("tare: note: " + apiKeyVariable + " is set here and wins over the profile; unset it, or use --profile " + s.profile)
	}
	return err
}

func (p *program) logoutCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "logout",
		Short: "Remove the API key or session from a profile",
		Long: `Removes the credential from the current profile, or from the one that --profile names. The profile keeps its address
for the next "tare login". An API key stays valid: "tare api tokens revoke" revokes it. tare ends a session at its issuer,
if the issuer supports that; the last session token stays valid until it expires. If the system's keyring has the
credential and can't be reached, logging out fails; try again when the keyring is unlocked.`,
		Example: `  tare logout
  tare logout --profile staging`,
		Args: cli.NoArguments("--profile"),
		RunE: func(cmd *cobra.Command, _ []string) error { return p.logout(cmd.Context()) },
	}
}

func (p *program) logout(ctx context.Context) error {
	var (
		name, tokenID string
		was           profile
		left          error
	)
	err := p.changeProfiles(ctx, func(all *profiles) error {
		name = cmp.Or(p.flags.profile, all.Current)
		known, err := all.find(name)
		if err != nil {
			return err
		}
		tokenID, was = known.TokenID, known
		known.APIKey = secret.Text{}
		if left = p.forgetCredential(&was); left == nil {
			known.TokenID, known.SignIn, known.Keyring = "", nil, ""
		}
		all.Profiles[name] = known
		return nil
	})
	if err := cmp.Or(err, left); err != nil {
		return err
	}
	if tokenID != "" {
		p.printNote("The API key is still valid. Revoke it with: tare api tokens revoke " + tokenID)
	}
	p.endSignIn(ctx, was.SignIn, was.Insecure)
	return p.printDone(fmt.Sprintf("Logged out of the profile %s.", name), map[string]any{"profile": name, "logged_in": false})
}
