package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

// globalFlags are the flags of every command.
type globalFlags struct {
	profile, customer, project, baseURL string
	output                              outputFormat
	jq                                  jqFlag
	noColor, insecure                   bool
	timeout                             time.Duration
}

func (p *program) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "tare",
		Short: "Register provider keys once, share them safely, revoke them everywhere",
		Long: `tare is the command line of AgentRouter AI Keys. You register a provider's key once under a project, and it serves
the project's inference from then on. Nobody can read it back. When you revoke it, every data plane stops using it
within a second.

Log in once with "tare login", or set AGENTROUTER_BASE_URL and AGENTROUTER_API_KEY. Flags win over the environment,
and the environment wins over the profile that you logged in to.

Results go to standard output, everything else to standard error. -o json and -o yaml print the API's response.`,
		Example: `  tare login
  tare keys add --provider openai --name openai-prod
  tare keys list
  tare keys remove openai-prod`,
		Args: cobra.ArbitraryArgs, // group reports unknown commands
	}
	p.addGlobalFlags(root)
	api := p.group(&cobra.Command{
		Use:   "api",
		Short: "Keys, members, projects, API keys, the policy and providers",
		Long:  "The methods of the API, one command each: provider keys, members, projects, API keys, the policy, the providers.",
		Example: `  tare api byok list
  tare api members list
  tare api providers`,
	}, p.keysCommand("byok"), p.membersCommand(), p.projectsCommand(), p.tokensCommand(), p.policyCommand(), p.providersCommand(), p.signInOptionsCommand(), hiddenCommand(p.whoAmICommand()))
	p.group(root, p.keysCommand("keys"), api, p.leaksCommand(), p.runCommand(), p.whoAmICommand(), p.loginCommand(), p.logoutCommand(), p.profilesCommand(),
		p.completionCommand(), p.versionCommand(),
		exitCodesTopic(), environmentTopic())
	return root
}

func (p *program) addGlobalFlags(root *cobra.Command) {
	flags := root.PersistentFlags()
	p.flags.output, p.flags.timeout = formatTable, 30*time.Second
	addChoice(flags, root, &p.flags.output, "output", "o", "how to print results", formatTable, formatJSON, formatYAML)
	flags.Var(&p.flags.jq, "jq", "filter the JSON result with this jq `expression`, such as '.keys[].id'")
	flags.StringVar(&p.flags.profile, "profile", "", "the `name` of the profile to use; wins over the environment")
	flags.StringVar(&p.flags.baseURL, "base-url", "", "the `URL` of the service, such as https://aikeys.example.com [AGENTROUTER_BASE_URL]")
	flags.StringVar(&p.flags.customer, "customer", "", "the customer's `id` (default: your session's)")
	flags.StringVar(&p.flags.project, "project", "", "the project's `id` (default: your session's)")
	flags.Var(&durationFlag{&p.flags.timeout, time.Millisecond}, "timeout", "how long to wait for a response")
	flags.BoolVar(&p.flags.noColor, "no-color", false, "print no colours [NO_COLOR]")
	flags.BoolVar(&p.flags.insecure, "insecure", false, "allow http:// to another machine; others on the network can then read your keys")
	setCompletion(root, "profile", p.completeProfiles)
	completeNothingFor(root, "base-url", "customer", "project", "timeout", "jq")
	root.SetFlagErrorFunc(flagError)
}

// aliases are names that people know from other programs.
var aliases = map[string][]string{"list": {"ls"}, "remove": {"rm", "delete"}, "get": {"show"}}

// group adds commands to cmd. If the user misspells a command, cmd suggests a similar one. Unlike cli.Group, cmd does
// not repeat the misspelt word, because the word may be a secret.
func (p *program) group(cmd *cobra.Command, children ...*cobra.Command) *cobra.Command {
	for _, child := range children {
		child.Aliases = append(child.Aliases, aliases[child.Name()]...)
	}
	cmd.AddCommand(children...)
	cmd.SuggestionsMinimumDistance = 2
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		if suggestions := cmd.SuggestionsFor(args[0]); len(suggestions) > 0 {
			return hintedError{cli.Usagef("%s has no such command", cmd.CommandPath()), "Did you mean " + suggestions[0] + "?"}
		}
		var names []string
		for _, child := range children {
			if child.IsAvailableCommand() {
				names = append(names, child.Name())
			}
		}
		return cli.Usagef("%s has no such command; it has %s", cmd.CommandPath(), strings.Join(names, ", "))
	}
	return cmd
}

// hiddenCommand leaves a command out of lists of commands.
func hiddenCommand(cmd *cobra.Command) *cobra.Command {
	cmd.Hidden = true
	return cmd
}

// oneArgument takes one argument.
func oneArgument(what string) cobra.PositionalArgs { return exactArguments(1, "one argument, "+what) }

// exactArguments takes that many arguments. The error does not repeat the arguments: one may be a secret.
func exactArguments(count int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == count {
			return nil
		}
		return cli.Usagef("%s takes %s", cmd.CommandPath(), what)
	}
}

func (p *program) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Long:    "Prints the version, the commit and the version of Go that tare was built with.",
		Example: "  tare version",
		Args:    cli.NoArguments(),
		RunE: func(*cobra.Command, []string) error {
			return p.printDone("tare version "+cli.Version(), map[string]string{"version": cli.Version()})
		},
	}
}

// Topics are commands that do nothing: "tare help NAME" shows them.

func exitCodesTopic() *cobra.Command {
	var list strings.Builder
	list.WriteString("The exit codes:\n\n")
	for _, row := range exitCodes() {
		fmt.Fprintf(&list, "  %3d  %s\n", row.code, row.meaning)
	}
	return &cobra.Command{Use: "exit-codes", Short: "The exit codes and their meanings", Long: strings.TrimSpace(list.String())}
}

func environmentTopic() *cobra.Command {
	return &cobra.Command{
		Use:   "environment",
		Short: "The environment variables that tare reads",
		Long: `The environment variables that tare reads:

  AGENTROUTER_BASE_URL   where the service is; wins over the profile, and --base-url wins over it
  AGENTROUTER_GATEWAY_URL
                         where the gateway is, for "tare run"
  AGENTROUTER_API_KEY    the API key or session token; wins over the profile, and --profile wins over it. There is no
                         flag for the key
  TARE_CONFIG_DIR        the folder of profiles.json, instead of the system's
  TARE_KEYRING           off: store what you log in with in profiles.json, not in the system's keyring
  NO_COLOR               any value turns colours off
  HTTPS_PROXY, NO_PROXY  the proxy to go through; never used for this machine
  SSL_CERT_FILE          on Linux, the trusted certificate authorities, PEM`,
	}
}

// flagError returns the error for a wrong flag. It leaves out text that may be a secret.
func flagError(cmd *cobra.Command, err error) error {
	var (
		unknown *pflag.NotExistError
		invalid *pflag.InvalidValueError
		syntax  *pflag.InvalidSyntaxError
	)
	switch {
	case errors.As(err, &unknown) && isFlagName(unknown.GetSpecifiedName()):
		if cmd.HasSubCommands() {
			return fmt.Errorf("%s has no flag --%s, or its command is misspelt", cmd.CommandPath(), unknown.GetSpecifiedName())
		}
		return errors.New("unknown flag: --" + unknown.GetSpecifiedName())
	case errors.As(err, &unknown), errors.As(err, &syntax):
		return fmt.Errorf("%s has no such flag; long flags begin with two dashes", cmd.CommandPath())
	case errors.As(err, &invalid):
		return fmt.Errorf("--%s %s", invalid.GetFlag().Name, flagComplaint(invalid))
	}
	return err
}

// maxFlagName is longer than the name of any flag.
const maxFlagName = 20

// isFlagName reports whether a text can be a misspelt flag: it must not show a secret that is attached to a flag.
func isFlagName(name string) bool {
	isForeign := func(r rune) bool { return r != '-' && (r < 'a' || r > 'z') }
	return name != "" && len(name) <= maxFlagName && !strings.ContainsFunc(name, isForeign)
}

// flagComplaint says what is wrong with a flag's value. It replaces the errors of pflag's own flags, which repeat the value.
func flagComplaint(invalid *pflag.InvalidValueError) string {
	switch invalid.GetFlag().Value.Type() {
	case "bool":
		return "takes no value, or true or false"
	case "int":
		return "must be a whole number"
	default:
		return errors.Unwrap(invalid).Error()
	}
}

// choiceFlag is a flag whose value is one of a few words.
type choiceFlag[T ~string] struct {
	target *T
	words  []T
}

// addChoice adds a flag whose value is one of the words, which the shell completes.
func addChoice[T ~string](flags *pflag.FlagSet, cmd *cobra.Command, target *T, name, short, usage string, words ...T) {
	flags.VarP(&choiceFlag[T]{target, words}, name, short, usage)
	setCompletion(cmd, name, func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return texts(words), cobra.ShellCompDirectiveNoFileComp
	})
}

func (c choiceFlag[T]) String() string {
	if c.target == nil {
		return ""
	}
	return string(*c.target)
}

// Set implements pflag.Value.
func (c choiceFlag[T]) Set(text string) error {
	if !slices.Contains(c.words, T(text)) {
		return errors.New("must be one of " + strings.Join(texts(c.words), ", "))
	}
	*c.target = T(text)
	return nil
}

// Type implements pflag.Value. Help shows it as the flag's argument.
func (c choiceFlag[T]) Type() string { return strings.Join(texts(c.words), "|") }

func texts[T ~string](words []T) []string {
	converted := make([]string, len(words))
	for i, word := range words {
		converted[i] = string(word)
	}
	return converted
}

// durationFlag is a flag whose value is a duration of at least min.
type durationFlag struct {
	target *time.Duration
	min    time.Duration
}

func (d durationFlag) String() string {
	if d.target == nil {
		return ""
	}
	return d.target.String()
}

// Set implements pflag.Value.
func (d durationFlag) Set(text string) error {
	duration, err := time.ParseDuration(text)
	if err != nil || duration < d.min {
		return errors.New("must be a duration, such as 500ms or 5s")
	}
	*d.target = duration
	return nil
}

// Type implements pflag.Value.
func (d durationFlag) Type() string { return "duration" }
