package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	agentrouter "github.com/tetrateio/agentrouter-go"
	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

// never is what the flags that take a time take in place of one.
const never = "never"

func (p *program) disableCommand() *cobra.Command {
	wait, ifMatch := 5*time.Second, ""
	cmd := &cobra.Command{
		Use:   "disable <key>",
		Short: "Stop a key for now, and wait until every data plane has dropped it",
		Long: `Stops a key until it is enabled. No new request is served with it, data planes that have it cached drop it within a
second, and streams that it serves end. tare waits for the receipt, as "remove" does. Disabling again is safe, and shows
the receipt.`,
		Example: `  tare api byok disable byok_01M83VVAHV8M2T5K7N9R4W1XYZ
  tare api byok disable byok_01M83VVAHV8M2T5K7N9R4W1XYZ --wait 30s`,
		Args:              oneArgument("the key's id or name"),
		ValidArgsFunction: completeFirst(p.completeOnline(completeKeys(aikeysv1.KeyStateActive))),
	}
	cmd.Flags().Var(&durationFlag{target: &wait}, "wait", "how long to wait for the receipt; with 0 tare does not wait, and the exit code is 0")
	completeNothingFor(cmd, "wait")
	addIfMatch(cmd, &ifMatch)
	cmd.RunE = p.withSession(func(ctx context.Context, s *session, args []string) error {
		id, err := p.findKey(ctx, s, args[0])
		if err != nil {
			return err
		}
		options := ifMatchOptions(ifMatch)
		return p.awaitStop(ctx, stop{id: id, done: "disabled", wait: wait, request: func(ctx context.Context, held time.Duration) (*aikeysv1.Receipt, func() error, error) {
			reply, err := p.update(ctx, s, id, held, options, agentrouter.SetDisabled(true))
			if err != nil {
				return nil, nil, err
			}
			options = nil // the key has another etag now
			return receiptOf(&reply.Key), func() error { return p.printResponse(s, func() error { return p.printKey(&reply.Key) }) }, nil
		}})
	})
	return cmd
}

// receiptOf returns the receipt of a disabled key in the form of a revocation's.
func receiptOf(k *aikeysv1.Key) *aikeysv1.Receipt {
	r := k.DisableReceipt
	if r == nil { // another caller has enabled it since
		return &aikeysv1.Receipt{State: aikeysv1.ReceiptStateComplete}
	}
	return &aikeysv1.Receipt{
		State: r.State, RevokedAt: r.DisabledAt, RevokedBy: r.DisabledBy, DataPlanes: r.DataPlanes, Acknowledged: r.Acknowledged,
		SlowestMs: r.SlowestMs, CompleteBy: r.CompleteBy, InFlight: r.InFlight, InFlightFrom: r.InFlightFrom, Acknowledgements: r.Acknowledgements, Planes: r.Planes,
	}
}

// update changes a key. held is how long the service may hold its response.
func (p *program) update(
	ctx context.Context, s *session, id string, held time.Duration, options []agentrouter.CallOption, changes ...agentrouter.KeyChange,
) (*aikeysv1.UpdateResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, p.flags.timeout+held)
	defer cancel()
	if held > 0 {
		options = append(options, agentrouter.Wait(held))
	}
	return s.AIKeys().With(options...).Update(ctx, s.customer, s.project, id, changes...)
}

func (p *program) enableCommand() *cobra.Command {
	var ifMatch string
	cmd := &cobra.Command{
		Use:   "enable <key>",
		Short: "Let a disabled key serve again",
		Long: `Lets a disabled key serve again. Data planes learn of it within a second. A revoked key can't be enabled, and one that
has expired needs a later time too: see "update --expires".`,
		Example:           "  tare api byok enable byok_01M83VVAHV8M2T5K7N9R4W1XYZ",
		Args:              oneArgument("the key's id or name"),
		ValidArgsFunction: completeFirst(p.completeOnline(completeKeys(aikeysv1.KeyStateActive))),
		RunE: p.withSession(func(ctx context.Context, s *session, args []string) error {
			return p.updateKey(ctx, s, args[0], ifMatchOptions(ifMatch), agentrouter.SetDisabled(false))
		}),
	}
	addIfMatch(cmd, &ifMatch)
	return cmd
}

// addIfMatch adds the flag with which a command changes nothing that others have changed.
func addIfMatch(cmd *cobra.Command, etag *string) {
	cmd.Flags().StringVar(etag, "if-match", "", "change nothing unless the key still has this `etag`, which -o json shows")
	completeNothingFor(cmd, "if-match")
}

func ifMatchOptions(etag string) []agentrouter.CallOption {
	if etag == "" {
		return nil
	}
	return []agentrouter.CallOption{agentrouter.IfMatch(etag)}
}

func (p *program) updateCommand() *cobra.Command {
	var (
		name, expires, ifMatch string
		order, weight          int
		restrictions           restrictionFlags
		limits                 limitFlags
	)
	cmd := &cobra.Command{
		Use:   "update <key>",
		Short: "Give a key another name, place among the keys, or time at which it stops serving",
		Long: `Changes what the flags name, and leaves the rest of the key as it is. A key that has expired serves again once it has a
later time.

Of several keys, the one of the lowest --order serves, and of the same order the newest. If that one has a --weight, it
shares the callers with all others of its order that have one; each caller stays with one key. "resolve --explain" shows
the outcome.

A key may be restricted to users, models and operations (paths of the provider's API). Each --restrict flag can be repeated
and takes commas, replaces that list, and takes it away if it is empty: --restrict-models=. Data planes refuse requests
whose model they can't read.

A key may have limits: --limit-rpm requests a minute, --limit-rpd requests a day, --limit-concurrent requests at once. Each data
plane enforces its share; 0 takes a limit away.

With --if-match, the key's etag, nothing is changed if others have changed the key since: the exit code is 6 then.`,
		Example: `  tare api byok update byok_01M83VVAHV8M2T5K7N9R4W1XYZ --name openai-2027
  tare api byok update byok_01M83VVAHV8M2T5K7N9R4W1XYZ --expires 2099-06-30
  tare api byok update byok_01M83VVAHV8M2T5K7N9R4W1XYZ --expires never
  tare api byok update byok_01M83VVAHV8M2T5K7N9R4W1XYZ --order 1
  tare api byok update byok_01M83VVAHV8M2T5K7N9R4W1XYZ --order 0 --weight 3
  tare api byok update byok_01M83VVAHV8M2T5K7N9R4W1XYZ --restrict-models 'gpt-4o-mini,o4-*'
  tare api byok update byok_01M83VVAHV8M2T5K7N9R4W1XYZ --limit-rpm 60 --limit-concurrent 0`,
		Args:              oneArgument("the key's id or name"),
		ValidArgsFunction: completeFirst(p.completeOnline(completeKeys(aikeysv1.KeyStateActive))),
	}
	flags := cmd.Flags()
	flags.StringVar(&name, "name", "", "the new `label`")
	flags.StringVar(&expires, "expires", "", "stop serving at this `time`: a day, such as 2099-06-30, which begins in UTC, a time, such as 2099-06-30T09:00:00Z, or never")
	flags.IntVar(&order, "order", 0, "its place among the keys of its scope: the lowest `number` serves, and of the same one the newest")
	flags.IntVar(&weight, "weight", 0, "its `share` of the callers among keys of its order that have one; 0 is none")
	p.addUseFlags(cmd, &restrictions, &limits)
	addIfMatch(cmd, &ifMatch)
	completeNothingFor(cmd, "name", "expires", "order", "weight")
	cmd.RunE = p.withSession(func(ctx context.Context, s *session, args []string) error {
		var changes []agentrouter.KeyChange
		if flags.Changed("name") {
			changes = append(changes, agentrouter.SetName(name))
		}
		switch at, err := parseTime("--expires", expires); {
		case expires == never:
			changes = append(changes, agentrouter.ClearExpiry())
		case err != nil:
			return err
		case !at.IsZero():
			changes = append(changes, agentrouter.SetExpiry(at))
		}
		if flags.Changed("order") {
			changes = append(changes, agentrouter.SetOrder(order))
		}
		switch {
		case !flags.Changed("weight"):
		case weight == 0:
			changes = append(changes, agentrouter.ClearWeight())
		default:
			changes = append(changes, agentrouter.SetWeight(weight))
		}
		changes = append(changes, restrictions.changes(flags)...)
		changes = append(changes, limits.changes(flags)...)
		if len(changes) == 0 {
			return cli.Usagef("give --name, --expires, --order, --weight, or a --restrict or --limit flag: what to change")
		}
		return p.updateKey(ctx, s, args[0], ifMatchOptions(ifMatch), changes...)
	})
	return cmd
}

// updateKey changes a key and prints it.
func (p *program) updateKey(ctx context.Context, s *session, text string, options []agentrouter.CallOption, changes ...agentrouter.KeyChange) error {
	id, err := p.findKey(ctx, s, text)
	if err != nil {
		return err
	}
	reply, err := p.update(ctx, s, id, 0, options, changes...)
	if err != nil {
		return hintIfSent(ctx, err, "The key may have been changed anyway. Running this again is safe.")
	}
	return p.printResponse(s, func() error { return p.printKey(&reply.Key) })
}

// addUseFlags adds the flags of what a key may be used for, and how often.
func (p *program) addUseFlags(cmd *cobra.Command, restrictions *restrictionFlags, limits *limitFlags) {
	restrictions.add(cmd.Flags())
	limits.add(cmd.Flags())
	completeNothingFor(cmd, "restrict-models", "restrict-operations", "limit-rpm", "limit-rpd", "limit-concurrent")
	setCompletion(cmd, "restrict-users", p.completeOnline(completeMembers))
}

// restrictionFlags are the lists of what a key may be used for.
type restrictionFlags struct{ users, models, operations []string }

func (r *restrictionFlags) add(flags *pflag.FlagSet) {
	flags.StringSliceVar(&r.users, "restrict-users", nil, "serve these `users` alone; only for the project's keys")
	flags.StringSliceVar(&r.models, "restrict-models", nil, "serve these `models` alone; * at the end is any rest")
	flags.StringSliceVar(&r.operations, "restrict-operations", nil, "serve these `paths` of the provider's API alone, with what is below: /chat/completions")
}

// changes returns what the flags that were given change.
func (r *restrictionFlags) changes(flags *pflag.FlagSet) (changes []agentrouter.KeyChange) {
	for _, list := range []struct {
		flag   string
		values []string
		change func(...string) agentrouter.KeyChange
	}{
		{"restrict-users", r.users, agentrouter.RestrictUsers},
		{"restrict-models", r.models, agentrouter.RestrictModels},
		{"restrict-operations", r.operations, agentrouter.RestrictOperations},
	} {
		if flags.Changed(list.flag) {
			changes = append(changes, list.change(list.values...))
		}
	}
	return changes
}

// options returns what makes a new key with these restrictions.
func (r *restrictionFlags) options() []agentrouter.CallOption {
	if len(r.users)+len(r.models)+len(r.operations) == 0 {
		return nil
	}
	return []agentrouter.CallOption{agentrouter.Restricted(aikeysv1.Restrictions{Users: r.users, Models: r.models, Operations: r.operations})}
}

// limitFlags are how many requests a key serves.
type limitFlags struct{ perMinute, perDay, concurrent int }

func (l *limitFlags) add(flags *pflag.FlagSet) {
	flags.IntVar(&l.perMinute, "limit-rpm", 0, "serve at most this `number` of requests a minute; 0 is any")
	flags.IntVar(&l.perDay, "limit-rpd", 0, "serve at most this `number` of requests a day of UTC; 0 is any")
	flags.IntVar(&l.concurrent, "limit-concurrent", 0, "serve at most this `number` of requests at once; 0 is any")
}

// changes returns what the flags that were given change.
func (l *limitFlags) changes(flags *pflag.FlagSet) (changes []agentrouter.KeyChange) {
	for _, limit := range []struct {
		flag   string
		value  int
		change func(int) agentrouter.KeyChange
	}{
		{"limit-rpm", l.perMinute, agentrouter.LimitRequestsPerMinute},
		{"limit-rpd", l.perDay, agentrouter.LimitRequestsPerDay},
		{"limit-concurrent", l.concurrent, agentrouter.LimitConcurrent},
	} {
		if flags.Changed(limit.flag) {
			changes = append(changes, limit.change(limit.value))
		}
	}
	return changes
}

// options returns what makes a new key with these limits.
func (l *limitFlags) options() []agentrouter.CallOption {
	limits := aikeysv1.KeyLimit{RequestsPerMinute: l.perMinute, RequestsPerDay: l.perDay, Concurrent: l.concurrent}
	if limits == (aikeysv1.KeyLimit{}) {
		return nil
	}
	return []agentrouter.CallOption{agentrouter.Limited(limits)}
}
