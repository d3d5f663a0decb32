package main

import (
	"context"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

func (p *program) providersCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "providers",
		Short: "List the providers whose keys can be registered",
		Long:  "Lists the providers whose keys can be registered, how their keys begin, and where to create them.",
		Example: `  tare api providers
  tare api providers -o yaml`,
		Args: cli.NoArguments(),
		RunE: runCall(p, func(ctx context.Context, s *session, _ []string) (*aikeysv1.ListProvidersResponse, error) {
			return s.Providers().List(ctx)
		}, p.printProviders),
	}
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

// fieldsOf lists the fields that a provider's credential document must have.
func fieldsOf(p aikeysv1.ProviderInfo) string {
	groups := make([]string, len(p.AlternativeFields))
	for i, group := range p.AlternativeFields {
		groups[i] = strings.Join(group, " with ")
	}
	both := slices.DeleteFunc([]string{strings.Join(p.RequiredFields, ", "), strings.Join(groups, " or ")}, func(part string) bool { return part == "" })
	return strings.Join(both, ", and ")
}
