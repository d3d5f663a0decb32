package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"
	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

func (p *program) providersCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "providers",
		Short: "List the providers whose keys can be registered",
		Long:  "Lists the providers whose keys can be registered, how their keys begin, and where to create them.",
		Example: `  tare api providers
  tare api providers -o yaml`,
		Args: cli.NoArguments(),
	}
	cmd.RunE = p.withSession(func(ctx context.Context, s *session, _ []string) error {
		ctx, cancel := p.withTimeout(ctx)
		defer cancel()
		reply, err := s.Providers().List(ctx)
		if err != nil {
			return err
		}
		return p.printResponse(s, func() error { return p.printProviders(reply.Providers) })
	})
	return cmd
}

func (p *program) printProviders(providers []aikeysv1.ProviderInfo) error {
	t := &table{columns: []column{
		{head: "PROVIDER"}, {head: "NAME", dropRank: 1, canShrink: true}, {head: "SECRET"}, {head: "BEGINS WITH", dropRank: 4},
		{head: "MADE AT", dropRank: 2}, {head: "SENT TO", dropRank: 3},
	}}
	for i := range providers {
		each := &providers[i]
		begins := strings.Join(each.Prefixes, " ")
		if each.SecretFormat == aikeysv1.SecretFormatJSON {
			begins = "{" + strings.Join(each.RequiredFields, ", ") + "}"
		}
		t.addRow(cell{string(each.Slug), bold}, cell{each.DisplayName, plain}, cell{string(each.SecretFormat), plain},
			cell{begins, plain}, cell{each.KeyPageURL, plain}, cell{each.BaseURL, plain})
	}
	return p.printTable(t)
}
