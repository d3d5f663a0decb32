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

// never is the word that flags accept instead of a time.
const never = "never"

func (p *program) disableCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "disable <key>",
		Short: "Stop a key for now, and wait until every data plane has dropped it",
		Long: `Stops a key until you enable it. No new request is served with it, data planes that have it cached drop it within a
second, and streams that it serves end. tare waits for the receipt, as "remove" does. Disabling again is safe, and shows
the receipt.`,
		Example: `  tare api byok disable byok_01M83VVAHV8M2T5K7N9R4W1XYZ
  tare api byok disable byok_01M83VVAHV8M2T5K7N9R4W1XYZ --wait 30s`,
	}
	wait, ifMatch := addReceiptWait(cmd), addIfMatch(cmd)
	return p.keyCommand(cmd, aikeysv1.KeyStateActive, func(ctx context.Context, s *session, id string) error {
		return p.awaitStop(ctx, stop{id: id, done: "disabled", wait: *wait, request: func(ctx context.Context, held time.Duration) (*aikeysv1.Receipt, func() error, error) {
			reply, err := p.update(ctx, s, id, held, *ifMatch, agentrouter.SetDisabled(true))
			if err != nil {
				return nil, nil, err
			}
			*ifMatch = "" // the key has another etag now
			return receiptOf(&reply.Key), func() error { return p.printResponse(s, func() error { return p.printKey(&reply.Key) }) }, nil
		}})
	})
}

// receiptOf returns the receipt of a disabled key as a Receipt.
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

// update changes a key. While the receipt is pending, the service may hold its response for the time held.
func (p *program) update(
	ctx context.Context, s *session, id string, held time.Duration, ifMatch string, changes ...agentrouter.KeyChange,
) (*aikeysv1.UpdateResponse, error) {
	ctx, cancel, wait := p.withHold(ctx, held)
	defer cancel()
	return s.AIKeys().With(wait, when(ifMatch != "", agentrouter.IfMatch(ifMatch))).Update(ctx, s.customer, s.project, id, changes...)
}

func (p *program) enableCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "enable <key>",
		Short: "Let a disabled key serve again",
		Long: `Lets a disabled key serve again. Data planes learn of it within a second. A revoked key can't be enabled, and an expired
key also needs a later time: see "update --expires".`,
		Example: "  tare api byok enable byok_01M83VVAHV8M2T5K7N9R4W1XYZ",
	}
	ifMatch := addIfMatch(cmd)
	return p.keyCommand(cmd, aikeysv1.KeyStateActive, func(ctx context.Context, s *session, id string) error {
		return p.updateKey(ctx, s, id, *ifMatch, agentrouter.SetDisabled(false))
	})
}

// addIfMatch adds the flag with which a command changes nothing if others have changed the key.
func addIfMatch(cmd *cobra.Command) *string {
	etag := cmd.Flags().String("if-match", "", "change nothing unless the key still has this `etag`, which -o json shows")
	completeNothingFor(cmd, "if-match")
	return etag
}

func (p *program) updateCommand() *cobra.Command {
	var (
		name, expires string
		order, weight int
		use           useFlags
	)
	cmd := &cobra.Command{
		Use:   "update <key>",
		Short: "Change a key's name, expiry, order, weight, restrictions or limits",
		Long: `Changes what the flags name, and leaves the rest of the key as it is. A key that has expired serves again if you give it a
later time.

Of several keys, the one with the lowest --order serves; among equals, the newest. If that key has a --weight, callers
are divided among all keys of the same order with a weight; each caller stays with one key. "resolve --explain" shows
the outcome.

A key can be restricted to users, models and operations (paths of the provider's API). A --restrict flag takes values
separated by commas, can be repeated, and replaces the list; an empty value removes it: --restrict-models=. Data planes
refuse requests whose model they can't read.

A key can have limits: --limit-rpm requests a minute, --limit-rpd requests a day, --limit-concurrent requests at once.
Each data plane enforces its share. 0 removes a limit.

With --if-match and the key's etag, nothing is changed if others have changed the key since, and the exit code is 6.`,
		Example: `  tare api byok update byok_01M83VVAHV8M2T5K7N9R4W1XYZ --name openai-2027
  tare api byok update byok_01M83VVAHV8M2T5K7N9R4W1XYZ --expires 2099-06-30
  tare api byok update byok_01M83VVAHV8M2T5K7N9R4W1XYZ --expires never
  tare api byok update byok_01M83VVAHV8M2T5K7N9R4W1XYZ --order 1
  tare api byok update byok_01M83VVAHV8M2T5K7N9R4W1XYZ --order 0 --weight 3
  tare api byok update byok_01M83VVAHV8M2T5K7N9R4W1XYZ --restrict-models 'gpt-4o-mini,o4-*'
  tare api byok update byok_01M83VVAHV8M2T5K7N9R4W1XYZ --limit-rpm 60 --limit-concurrent 0`,
	}
	flags := cmd.Flags()
	flags.StringVar(&name, "name", "", "the new `label`")
	flags.StringVar(&expires, "expires", "", "stop serving at this `time`: a day in UTC, such as 2099-06-30, a time, such as 2099-06-30T09:00:00Z, or never")
	flags.IntVar(&order, "order", 0, "its place among the keys of its scope: the lowest `number` serves; among equals, the newest key")
	flags.IntVar(&weight, "weight", 0, "its `share` of the callers, among the keys of its order that have a weight; 0 means no weight")
	p.addUseFlags(cmd, &use)
	ifMatch := addIfMatch(cmd)
	completeNothingFor(cmd, "name", "expires", "order", "weight")
	return p.keyCommand(cmd, aikeysv1.KeyStateActive, func(ctx context.Context, s *session, id string) error {
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
		if changes = append(changes, use.changes(flags)...); len(changes) == 0 {
			return cli.Usagef("nothing to change: give --name, --expires, --order, --weight, a --restrict flag or a --limit flag")
		}
		return p.updateKey(ctx, s, id, *ifMatch, changes...)
	})
}

// updateKey changes a key and prints it.
func (p *program) updateKey(ctx context.Context, s *session, id, ifMatch string, changes ...agentrouter.KeyChange) error {
	reply, err := p.update(ctx, s, id, 0, ifMatch, changes...)
	if err != nil {
		return hintIfSent(ctx, err, "The key may have been changed anyway. Running this again is safe.")
	}
	return p.printResponse(s, func() error { return p.printKey(&reply.Key) })
}

// useFlags are the flags that say what a key may be used for, and how often.
type useFlags struct {
	restrict aikeysv1.Restrictions
	limit    aikeysv1.KeyLimit
}

func (p *program) addUseFlags(cmd *cobra.Command, use *useFlags) {
	flags := cmd.Flags()
	flags.StringSliceVar(&use.restrict.Users, "restrict-users", nil, "serve only these `users`; for the project's keys")
	flags.StringSliceVar(&use.restrict.Models, "restrict-models", nil, "serve only these `models`; * at the end matches any rest")
	flags.StringSliceVar(&use.restrict.Operations, "restrict-operations", nil,
		"serve only these `paths` of the provider's API, such as /chat/completions, and those below them")
	flags.IntVar(&use.limit.RequestsPerMinute, "limit-rpm", 0, "serve at most this `number` of requests a minute; 0 means no limit")
	flags.IntVar(&use.limit.RequestsPerDay, "limit-rpd", 0, "serve at most this `number` of requests a day (UTC); 0 means no limit")
	flags.IntVar(&use.limit.Concurrent, "limit-concurrent", 0, "serve at most this `number` of requests at once; 0 means no limit")
	completeNothingFor(cmd, "restrict-models", "restrict-operations", "limit-rpm", "limit-rpd", "limit-concurrent")
	setCompletion(cmd, "restrict-users", p.completeOnline(completeMembers))
}

// changes returns the changes of an update: those of the flags that are given.
func (u *useFlags) changes(flags *pflag.FlagSet) (changes []agentrouter.KeyChange) {
	for flag, change := range map[string]agentrouter.KeyChange{
		"restrict-users":      agentrouter.RestrictUsers(u.restrict.Users...),
		"restrict-models":     agentrouter.RestrictModels(u.restrict.Models...),
		"restrict-operations": agentrouter.RestrictOperations(u.restrict.Operations...),
		"limit-rpm":           agentrouter.LimitRequestsPerMinute(u.limit.RequestsPerMinute),
		"limit-rpd":           agentrouter.LimitRequestsPerDay(u.limit.RequestsPerDay),
		"limit-concurrent":    agentrouter.LimitConcurrent(u.limit.Concurrent),
	} {
		if flags.Changed(flag) {
			changes = append(changes, change)
		}
	}
	return changes
}

// options returns the restrictions and limits of a new key.
func (u *useFlags) options() []agentrouter.CallOption {
	r := u.restrict
	return []agentrouter.CallOption{
		when(len(r.Users)+len(r.Models)+len(r.Operations) > 0, agentrouter.Restricted(r)),
		when(u.limit.RequestsPerMinute != 0 || u.limit.RequestsPerDay != 0 || u.limit.Concurrent != 0, agentrouter.Limited(u.limit)),
	}
}
