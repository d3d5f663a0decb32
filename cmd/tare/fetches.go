package main

import (
	"cmp"
	"context"
	"time"

	"github.com/spf13/cobra"
	agentrouter "github.com/tetrateio/agentrouter-go"
	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

func (p *program) fetchesCommand() *cobra.Command {
	var list listFlags
	var dataPlane string
	var decision aikeysv1.FetchDecision
	cmd := &cobra.Command{
		Use:   "fetches",
		Short: "Show which data planes fetched which keys",
		Long: `Shows the records of fetches, newest first: which data plane asked for which key, for whom, and what it got. The data
plane then serves from its cache: "usage" counts the requests. Takes an owner of the project. If there are more records
than --limit, tare prints the command that continues the list.`,
		Example: `  tare api byok fetches --limit 20
  tare api byok fetches --data-plane edge-1 --decision denied --from 2026-11-23
  tare api byok fetches --key byok_01M83VVAHV8M2T5K7N9R4W1XYZ --user bob -o json`,
		Args: cli.NoArguments("--limit", "--key", "--user", "--data-plane", "--provider", "--decision", "--from", "--to"),
	}
	list.addPaging(cmd, 50, "show at most this many records")
	list.addFilters(p, cmd, "fetches")
	list.addUser(p, cmd, "only fetches on behalf of this `user`")
	cmd.Flags().StringVar(&dataPlane, "data-plane", "", "only fetches by this data plane, by its `name` or id")
	addChoice(cmd.Flags(), cmd, &decision, "decision", "", "only fetches with this decision", aikeysv1.FetchDecisionAllowed, aikeysv1.FetchDecisionDenied)
	completeNothingFor(cmd, "data-plane")
	cmd.RunE = p.withSession(func(ctx context.Context, s *session, _ []string) error {
		options, err := list.options(p)
		if err != nil {
			return err
		}
		if dataPlane != "" {
			options = append(options, agentrouter.OfDataPlane(dataPlane))
		}
		if decision != "" {
			options = append(options, agentrouter.WithDecision(decision))
		}
		fetches, next, err := readPages(ctx, p, list, maxPageSize, options,
			func(ctx context.Context, options []agentrouter.CallOption) ([]aikeysv1.Fetch, string, error) {
				page, err := s.Fetches().With(options...).List(ctx, s.customer, s.project)
				if err != nil {
					return nil, "", err
				}
				return page.Fetches, page.NextPageToken, nil
			})
		if err != nil {
			return err
		}
		return p.printResponse(s, func() error { return p.printFetches(fetches, next) })
	})
	return cmd
}

func (p *program) printFetches(fetches []aikeysv1.Fetch, next string) error {
	if len(fetches) == 0 {
		p.printNoItems("No data plane has fetched a key.", "No fetches match.")
		return nil
	}
	t := &table{columns: []column{
		{head: "WHEN"}, {head: "DATA PLANE", canShrink: true}, {head: "KEY"}, {head: "PROVIDER", dropRank: 1}, {head: "FOR", dropRank: 2},
		{head: "DECISION"}, {head: "REASON", dropRank: 3}, {head: "REQUEST", dropRank: 4},
	}}
	now := time.Now()
	for i := range fetches {
		f := &fetches[i]
		look := green
		if f.Decision != aikeysv1.FetchDecisionAllowed {
			look = red
		}
		t.addRow(cell{relativeTime(f.At, now), plain}, cell{cmp.Or(f.DataPlane, f.DataPlaneID), plain}, cell{f.KeyID, plain}, cell{f.Provider, plain},
			cell{f.UserID, plain}, cell{string(f.Decision), look}, cell{string(f.Reason), plain}, cell{f.RequestID, dim})
	}
	if err := p.printTable(t); err != nil {
		return err
	}
	p.printMore(next)
	return nil
}
