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
	limit, token := 50, ""
	cmd := &cobra.Command{
		Use:   "fetches",
		Short: "Show which data planes fetched which keys",
		Long: `Shows the records of fetches, newest first: which data plane asked for which key, for whom, and what it got. The data
plane then serves from its cache: "usage" counts the requests. Takes an owner of the project. If there are more records
than --limit, tare prints the --page-token that continues the list.`,
		Example: `  tare api byok fetches --limit 20
  tare api byok fetches -o json`,
		Args: cli.NoArguments("--limit"),
	}
	cmd.Flags().IntVar(&limit, "limit", limit, "show at most this many records, 500 at most")
	cmd.Flags().StringVar(&token, "page-token", "", "continue a list with the `token` that it ended with")
	completeNothingFor(cmd, "limit", "page-token")
	cmd.RunE = runCall(p, func(ctx context.Context, s *session, _ []string) (*aikeysv1.ListFetchesResponse, error) {
		if limit < 1 || limit > maxPageSize {
			return nil, cli.Usagef("--limit must be from 1 to 500")
		}
		options := []agentrouter.CallOption{agentrouter.PageSize(limit)}
		if token != "" {
			options = append(options, agentrouter.PageToken(token))
		}
		return s.Fetches().With(options...).List(ctx, s.customer, s.project)
	}, p.printFetches)
	return cmd
}

func (p *program) printFetches(reply *aikeysv1.ListFetchesResponse) error {
	if len(reply.Fetches) == 0 {
		p.printNote("No data plane has fetched a key.")
		return nil
	}
	t := &table{columns: []column{
		{head: "WHEN"}, {head: "DATA PLANE", canShrink: true}, {head: "KEY"}, {head: "PROVIDER", dropRank: 1}, {head: "FOR", dropRank: 2},
		{head: "GOT IT"}, {head: "REASON", dropRank: 3}, {head: "REQUEST", dropRank: 4},
	}}
	now := time.Now()
	for i := range reply.Fetches {
		f := &reply.Fetches[i]
		look := green
		if f.Decision != "allowed" {
			look = red
		}
		t.addRow(cell{relativeTime(f.At, now), plain}, cell{cmp.Or(f.DataPlane, f.DataPlaneID), plain}, cell{f.KeyID, plain}, cell{f.Provider, plain},
			cell{f.UserID, plain}, cell{string(f.Decision), look}, cell{string(f.Reason), plain}, cell{f.RequestID, dim})
	}
	if err := p.printTable(t); err != nil {
		return err
	}
	if reply.NextPageToken != "" {
		p.printNote("There are more: tare api byok fetches --page-token " + reply.NextPageToken)
	}
	return nil
}
