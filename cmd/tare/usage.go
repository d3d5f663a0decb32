package main

import (
	"context"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	agentrouter "github.com/tetrateio/agentrouter-go"
	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

// maxUsagePage is the API's largest page of usage.
const maxUsagePage = 1000

func (p *program) usageCommand() *cobra.Command {
	var list listFlags
	cmd := &cobra.Command{
		Use:   "usage",
		Short: "Show how often which key served whom",
		Long: `Shows how often which key served whom: the requests of each day (UTC), key and user, newest day first. An owner sees
the whole project; other members see what was served to them.

REFUSED counts those of the requests that the provider refused with 401, 403 or 429, and those that the gateway refused
itself, such as for an operation that the policy does not allow.

Data planes report every 10 seconds, so the last requests may still be missing. --from and --to are days or times; usage
is counted by the hour.`,
		Example: `  tare api byok usage --from 2026-11-23
  tare api byok usage --key byok_01M83VVAHV8M2T5K7N9R4W1XYZ --from 2026-11-23T09:00:00Z --to 2026-11-23T10:00:00Z
  tare api byok usage --user bob -o json`,
		Args: cli.NoArguments("--limit", "--key", "--user", "--provider", "--from", "--to"),
	}
	list.addPaging(cmd, 0, "show at most this many entries (default: all)")
	list.addFilters(p, cmd, "the usage")
	list.addUser(p, cmd, "only what was served to this `user`")
	cmd.RunE = p.withSession(func(ctx context.Context, s *session, _ []string) error {
		options, err := list.options(p)
		if err != nil {
			return err
		}
		usage, next, err := readPages(ctx, p, list, maxUsagePage, options,
			func(ctx context.Context, options []agentrouter.CallOption) ([]aikeysv1.Usage, string, error) {
				page, err := s.Usage().With(options...).List(ctx, s.customer, s.project)
				if err != nil {
					return nil, "", err
				}
				return page.Usage, page.NextPageToken, nil
			})
		if err != nil {
			return err
		}
		return p.printResponse(s, func() error { return p.printUsage(usage, next) })
	})
	return cmd
}

func (p *program) printUsage(usage []aikeysv1.Usage, next string) error {
	if len(usage) == 0 {
		const late = " Data planes report every 10 seconds."
		p.printNoItems("No use of a key has been reported yet."+late, "No reported usage matches."+late)
		return nil
	}
	t := &table{columns: []column{
		{head: "DAY"}, {head: "KEY"}, {head: "PROVIDER", dropRank: 2}, {head: "USER", canShrink: true}, {head: "REQUESTS"},
		{head: "REFUSED"}, {head: "LAST USED", dropRank: 1},
	}}
	now := time.Now()
	for i := range usage {
		u := &usage[i]
		look := plain
		if u.Refusals > 0 {
			look = red
		}
		t.addRow(cell{u.Day, plain}, cell{u.KeyID, plain}, cell{u.Provider, plain}, cell{u.UserID, plain}, cell{strconv.FormatInt(u.Requests, 10), plain},
			cell{strconv.FormatInt(u.Refusals, 10), look}, cell{relativeTime(u.LastUsedAt, now), plain})
	}
	if err := p.printTable(t); err != nil {
		return err
	}
	p.printMore(next)
	return nil
}
