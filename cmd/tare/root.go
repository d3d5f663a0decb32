package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

// globalFlags are the flags of every command.
type globalFlags struct {
	profile, customer, project, baseURL string
	output                              format
	noColor, insecure                   bool
	timeout                             time.Duration
}

func (p *program) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "tare",
		Short: "Register provider keys once, share them safely, revoke them for good",
		Long: `tare is the command line of AgentRouter AI Keys. A provider's key is registered once under a project and serves the
project's inference from then on. Nobody can read it back. Revoke it, and every data plane stops using it within a
second.

Log in once with "tare login", or set AGENTROUTER_BASE_URL and AGENTROUTER_API_KEY. Flags win over the environment, and
that over the profile that you logged in to.

Results are on standard output, everything else on standard error. -o json and -o yaml print what the API answers.`,
		Example: `  tare login
  tare api byok add --provider openai --name openai-prod
  tare api byok list
  tare api byok remove byok_01M83VVAHV8M2T5K7N9R4W1XYZ`,
		Args: cobra.ArbitraryArgs, // group tells what is wrong with them
	}
	p.addGlobalFlags(root)
	api := p.group(&cobra.Command{
		Use:   "api",
		Short: "Keys, members and providers: what the service keeps",
		Long:  "The methods of the API, one command each: provider keys, members, the policy, the catalogue of providers.",
		Example: `  tare api byok list
  tare api members list
  tare api providers`,
	}, p.byokCommand(), p.membersCommand(), p.policyCommand(), p.providersCommand(), concealed(p.whoAmICommand()))
	p.group(root, api, p.whoAmICommand(), p.loginCommand(), p.logoutCommand(), p.profilesCommand(), p.completionCommand(),
		exitCodesTopic(), environmentTopic())
	return root
}

func (p *program) addGlobalFlags(root *cobra.Command) {
	flags := root.PersistentFlags()
	p.flags.output, p.flags.timeout = asTable, 30*time.Second
	flags.VarP(&choice[format]{&p.flags.output, formats()}, "output", "o", "how to print results")
	flags.StringVar(&p.flags.profile, "profile", "", "the `name` of the profile to use; wins over the environment")
	flags.StringVar(&p.flags.baseURL, "base-url", "", "the `URL` of the service, such as https://aikeys.example.com [AGENTROUTER_BASE_URL]")
	flags.StringVar(&p.flags.customer, "customer", "", "the customer's `id`; your session's unless given")
	flags.StringVar(&p.flags.project, "project", "", "the project's `id`; your session's unless given")
	flags.Var(&period{&p.flags.timeout, time.Millisecond}, "timeout", "how long to wait for an answer")
	flags.BoolVar(&p.flags.noColor, "no-color", false, "no colours, on a terminal either [NO_COLOR]")
	flags.BoolVar(&p.flags.insecure, "insecure", false, "allow http:// to another machine, where others can read keys on the way")
	p.completesTo(root, "output", words(formats()...))
	p.completesTo(root, "profile", p.profileNames)
	p.completesTo(root, "base-url", nothing)
	p.completesTo(root, "customer", nothing)
	p.completesTo(root, "project", nothing)
	p.completesTo(root, "timeout", nothing)
	root.SetFlagErrorFunc(withoutValue)
}

// group is a command that only holds others, as cli.Group is, with a hint at what was meant. A word that is no command may
// be a secret, and is not repeated.
func (p *program) group(cmd *cobra.Command, children ...*cobra.Command) *cobra.Command {
	cmd.AddCommand(children...)
	cmd.RunE = p.doing(func(_ context.Context, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		var names []string
		for _, child := range children {
			if child.IsAvailableCommand() {
				names = append(names, child.Name())
			}
		}
		if near := nearest(args[0], names); near != "" {
			return withHint{cli.Usagef("%s has no such command", cmd.CommandPath()), "Did you mean " + near + "?"}
		}
		return cli.Usagef("%s has no such command; it has %s", cmd.CommandPath(), strings.Join(names, ", "))
	})
	return cmd
}

// concealed leaves a command out of lists: it is another name of one that is there.
func concealed(cmd *cobra.Command) *cobra.Command {
	cmd.Hidden = true
	return cmd
}
