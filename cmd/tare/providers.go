package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	agentrouter "github.com/tetrateio/agentrouter-go"
	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

func (p *program) providersCommand() *cobra.Command {
	list := p.providersListCommand()
	cmd := p.group(&cobra.Command{
		Use:   "providers",
		Short: "List the providers whose keys can be registered, and add servers of your own",
		Long: `Without a command, lists the providers whose keys can be registered, how their keys begin, and where to create them.

Servers of your own, such as vLLM, Ollama or LiteLLM, can be providers of the project, too. Owners add and remove them, if
the service's operator allows it.`,
		Example: `  tare api providers
  tare api providers -o yaml
  tare api providers add x-vllm --base-url https://llm.acme.example/v1`,
	}, list, p.providersAddCommand(), p.providersRemoveCommand())
	refuse := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return refuse(cmd, args)
		}
		return list.RunE(cmd, args)
	}
	return cmd
}

func (p *program) providersListCommand() *cobra.Command {
	custom := false
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the catalogue, or the project's own servers",
		Long: `Lists the providers whose keys can be registered, how their keys begin, and where to create them. With --custom it lists
the servers of your own that the project can use.`,
		Example: `  tare api providers list
  tare api providers list --custom`,
		Args: cli.NoArguments("--custom"),
	}
	cmd.Flags().BoolVar(&custom, "custom", false, "list the project's own servers")
	listCatalogue := runCall(p, func(ctx context.Context, s *session, _ []string) (*aikeysv1.ListProvidersResponse, error) {
		return s.Providers().List(ctx)
	}, p.printProviders)
	listCustom := runCall(p, func(ctx context.Context, s *session, _ []string) (*aikeysv1.ListCustomProvidersResponse, error) {
		return s.Providers().ListCustom(ctx, s.customer, s.project)
	}, p.printServers)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if custom {
			return listCustom(cmd, args)
		}
		return listCatalogue(cmd, args)
	}
	return cmd
}

func (p *program) providersAddCommand() *cobra.Command {
	var (
		baseURL, name, header string
		dialect               aikeysv1.Dialect
		auth                  aikeysv1.CustomAuthStyle
	)
	cmd := &cobra.Command{
		Use:   "add <slug>",
		Short: "Add a server of your own",
		Long: `Adds a server of your own to the project's providers. Then register its keys with --provider <slug>. It can't be changed,
because keys are sealed for its base URL: to move a server, add it under another slug. Owners only, if the service's
operator allows it. A gateway connects to private networks only if its own operator lists them.

With --auth none the server takes no key. Register a key for it all the same, with the word none as its secret: the key
says who may use the server, and can be revoked.`,
		Example: `  tare api providers add x-vllm --base-url https://llm.acme.example/v1
  tare api providers add x-ollama --base-url http://10.20.0.7:11434/v1 --auth none
  tare api providers add x-llm --base-url https://llm.acme.example --dialect anthropic --header X-Llm-Key`,
		Args:              oneArgument("the slug, x- and a name"),
		ValidArgsFunction: completeNothing,
	}
	flags := cmd.Flags()
	flags.StringVar(&baseURL, "base-url", "", "the http or https `URL` to which gateways append the rest of the path (required)")
	flags.StringVar(&name, "name", "", "the `name` that people see, instead of the slug")
	flags.StringVar(&header, "header", "", "the `header` that takes the key, instead of a bearer token")
	addChoice(flags, cmd, &dialect, "dialect", "", "whose API it speaks, if not OpenAI's", aikeysv1.DialectOpenai, aikeysv1.DialectAnthropic)
	addChoice(flags, cmd, &auth, "auth", "", "how it takes its key, if not as a bearer token", aikeysv1.CustomAuthStyleBearer, aikeysv1.CustomAuthStyleNone)
	completeNothingFor(cmd, "base-url", "name", "header")
	cmd.RunE = runCall(p, func(ctx context.Context, s *session, args []string) (*aikeysv1.CustomProviderResponse, error) {
		var options []agentrouter.ProviderOption
		switch {
		case baseURL == "":
			return nil, cli.Usagef("--base-url is required, such as https://llm.acme.example/v1")
		case header != "" && auth != "":
			return nil, cli.Usagef("--auth and --header exclude each other")
		case header != "":
			options = append(options, agentrouter.KeyInHeader(header))
		case auth == aikeysv1.CustomAuthStyleNone:
			options = append(options, agentrouter.WithoutKey())
		}
		if name != "" {
			options = append(options, agentrouter.DisplayName(name))
		}
		if dialect != "" {
			options = append(options, agentrouter.Speaks(dialect))
		}
		return s.Providers().AddCustom(ctx, s.customer, s.project, aikeysv1.Provider(args[0]), baseURL, options...)
	}, func(reply *aikeysv1.CustomProviderResponse) error {
		return p.printServers(&aikeysv1.ListCustomProvidersResponse{Providers: []aikeysv1.CustomProvider{reply.Provider}})
	})
	return cmd
}

func (p *program) providersRemoveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "remove <slug>",
		Short: "Remove a server of your own",
		Long: `Removes a server that an owner added. Revoke its keys first, or the service refuses. Owners only, if the service's operator
allows it.

tare asks for confirmation. Without a terminal, it needs --yes.`,
		Example:           "  tare api providers remove x-vllm",
		Args:              oneArgument("the server's slug"),
		ValidArgsFunction: completeFirst(p.completeOnline(completeServers)),
	}
	p.addYes(cmd)
	cmd.RunE = p.withSession(func(ctx context.Context, s *session, args []string) error {
		slug := args[0]
		if err := p.confirm(ctx, fmt.Sprintf("Remove %q from the project's providers?", slug)); err != nil {
			return err
		}
		ctx, cancel := p.withTimeout(ctx)
		defer cancel()
		reply, err := s.Providers().RemoveCustom(ctx, s.customer, s.project, aikeysv1.Provider(slug))
		if err != nil {
			return err
		}
		return p.printResponse(s, func() error {
			return p.printLine("Removed " + string(reply.Provider.Slug) + " from the project's providers.")
		})
	})
	return cmd
}

func (p *program) printServers(reply *aikeysv1.ListCustomProvidersResponse) error {
	if len(reply.Providers) == 0 {
		note := "The project has no servers of its own; an owner can add one: tare api providers add"
		if !reply.OwnersMayAdd {
			note = "The project has no servers of its own; the operator of the service can add one."
		}
		p.printNote(note)
		return nil
	}
	t := &table{columns: []column{
		{head: "PROVIDER"}, {head: "NAME", dropRank: 1, canShrink: true}, {head: "SPEAKS", dropRank: 3}, {head: "KEY IN", dropRank: 2},
		{head: "SENT TO", canShrink: true}, {head: "ADDED BY", dropRank: 4},
	}}
	for i := range reply.Providers {
		each := &reply.Providers[i]
		t.addRow(cell{string(each.Slug), bold}, cell{each.DisplayName, plain}, cell{string(each.Dialect), plain},
			cell{cmp.Or(each.Header, string(each.AuthStyle)), plain}, cell{each.BaseURL, plain}, cell{each.CreatedBy, plain})
	}
	return p.printTable(t)
}

func (p *program) printProviders(reply *aikeysv1.ListProvidersResponse) error {
	t := &table{columns: []column{
		{head: "PROVIDER"}, {head: "NAME", dropRank: 1, canShrink: true}, {head: "SECRET"}, {head: "BEGINS WITH", dropRank: 4},
		{head: "MADE AT", dropRank: 2}, {head: "SENT TO", dropRank: 3},
	}}
	for i := range reply.Providers {
		each := &reply.Providers[i]
		begins := strings.Join(each.Prefixes, " ")
		if each.SecretFormat == aikeysv1.SecretFormatJSON {
			begins = "{" + fieldsOf(*each) + "}"
		}
		t.addRow(cell{string(each.Slug), bold}, cell{each.DisplayName, plain}, cell{string(each.SecretFormat), plain},
			cell{begins, plain}, cell{each.KeyPageURL, plain}, cell{each.BaseURL, plain})
	}
	return p.printTable(t)
}

// fieldsOf lists the fields that the JSON document of a provider's secret must have.
func fieldsOf(p aikeysv1.ProviderInfo) string {
	groups := make([]string, len(p.AlternativeFields))
	for i, group := range p.AlternativeFields {
		groups[i] = strings.Join(group, " with ")
	}
	both := slices.DeleteFunc([]string{strings.Join(p.RequiredFields, ", "), strings.Join(groups, " or ")}, func(part string) bool { return part == "" })
	return strings.Join(both, ", and ")
}
