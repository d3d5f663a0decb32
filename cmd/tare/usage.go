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

func (p *program) usageCommand() *cobra.Command {
	var key, user, from, to string
	cmd := &cobra.Command{
		Use:   "usage",
		Short: "Show how often which key served whom",
		Long: `Shows how often which key served whom: the requests of each day (UTC), key and user, and how many of them were refused,
newest day first. An owner sees the whole project; other members see what was served to them.

--from and --to are days or times; usage is counted by the hour.`,
		Example: `  tare api byok usage --from 2026-11-23
  tare api byok usage --key byok_01M83VVAHV8M2T5K7N9R4W1XYZ --from 2026-11-23T09:00:00Z --to 2026-11-23T10:00:00Z
  tare api byok usage --user bob -o json`,
		Args: cli.NoArguments("--key", "--user", "--from", "--to"),
	}
	cmd.Flags().StringVar(&key, "key", "", "only the usage of this key, by its `id`")
	cmd.Flags().StringVar(&user, "user", "", "only what was served to this `user`")
	cmd.Flags().StringVar(&from, "from", "", "only from this `time` on")
	cmd.Flags().StringVar(&to, "to", "", "only before this `time`")
	setCompletion(cmd, "user", p.completeOnline(completeMembers))
	completeNothingFor(cmd, "key", "from", "to")
	cmd.RunE = runCall(p, func(ctx context.Context, s *session, _ []string) (*aikeysv1.ListUsageResponse, error) {
		var options []agentrouter.CallOption
		if key != "" {
			id, err := keyID(key)
			if err != nil {
				return nil, err
			}
			options = append(options, agentrouter.OfKey(id))
		}
		if user != "" {
			options = append(options, agentrouter.OfUser(user))
		}
		options, err := appendTimes(options, from, to)
		if err != nil {
			return nil, err
		}
		return s.Usage().With(options...).List(ctx, s.customer, s.project)
	}, func(reply *aikeysv1.ListUsageResponse) error { return p.printUsage(reply.Usage) })
	return cmd
}

// appendTimes appends the options of --from and --to, unless they are empty.
func appendTimes(options []agentrouter.CallOption, from, to string) ([]agentrouter.CallOption, error) {
	for _, limit := range []struct {
		flag, text string
		option     func(time.Time) agentrouter.CallOption
	}{{"--from", from, agentrouter.From}, {"--to", to, agentrouter.To}} {
		if limit.text == "" {
			continue
		}
		at, err := parseTime(limit.flag, limit.text)
		if err != nil {
			return nil, err
		}
		options = append(options, limit.option(at))
	}
	return options, nil
}

// parseTime reads a day, which begins in UTC, or a time.
func parseTime(flag, text string) (time.Time, error) {
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if at, err := time.Parse(layout, text); err == nil {
			return at, nil
		}
	}
	return time.Time{}, cli.Usagef("%s must be a day, such as 2026-11-23, or a time, such as 2026-11-23T09:00:00Z", flag)
}

func (p *program) printUsage(usage []aikeysv1.Usage) error {
	if len(usage) == 0 {
		p.printNote("No use of a key has been reported.")
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
	return p.printTable(t)
}
