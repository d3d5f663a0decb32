package main

import (
	"cmp"
	"context"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

// maxFetches bounds one list of fetches.
const maxFetches = 10_000

func (p *program) fetchesCommand() *cobra.Command {
	var limit int
	return p.newAdmin(&cobra.Command{
		Use:   "fetches",
		Short: "List who fetched a project's keys",
		Long: `Lists the last fetches of a project's keys by data planes, newest first: when, by which data plane, for which user and
provider, which key was given out, and why, or why none was. A data plane serves requests from its cache, so there are
fewer fetches than requests.`,
		Example: `  aikeysd admin fetches --customer acme --project chat
  aikeysd admin fetches --customer acme --project chat --limit 1000`,
	}, adminSpec{flags: func(flags *pflag.FlagSet) {
		flags.IntVar(&limit, "limit", 50, "how many to list at the most")
	}, check: func() error {
		if limit < 1 || limit > maxFetches {
			return cli.Usagef("--limit: must be a whole number from 1 to %d", maxFetches)
		}
		return nil
	}, act: func(ctx context.Context, a *admin) error {
		if err := a.requireProject(ctx); err != nil {
			return err
		}
		fetches, err := a.store.ListFetches(ctx, a.customer, a.project, 0, limit)
		if err != nil {
			return err
		}
		names, err := a.dataPlaneNames(ctx)
		if err != nil {
			return err
		}
		table := a.NewTable("TIME", "DATA PLANE", "USER", "PROVIDER", "KEY", "DECISION", "REASON")
		for _, f := range fetches {
			table.Row(instant(f.At), cmp.Or(names[f.DataPlaneID], f.DataPlaneID), orDash(f.UserID), orDash(f.Provider), orDash(f.KeyID),
				string(f.Decision), f.Reason)
		}
		return table.Flush()
	}})
}

// dataPlaneNames are the names of data planes by their ids.
func (a *admin) dataPlaneNames(ctx context.Context) (map[string]string, error) {
	all, err := a.store.ListDataPlanes(ctx)
	names := make(map[string]string, len(all))
	for _, d := range all {
		names[d.ID] = d.Name
	}
	return names, err
}

// instant shows a time in microseconds to the millisecond.
func instant(micros int64) string {
	return time.UnixMicro(micros).UTC().Format("2006-01-02T15:04:05.000Z07:00")
}

func orDash(text string) string { return cmp.Or(text, "-") }
