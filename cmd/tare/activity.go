package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	agentrouter "github.com/tetrateio/agentrouter-go"
	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

// The API's largest pages.
const (
	maxPageSize  = 500 // of events, and of records of fetches
	maxUsagePage = 1000
)

// pageFlag is the name of the flag that continues a list.
const pageFlag = "page-token"

// eventTypes returns the types of events that this version knows. The service may know more.
func eventTypes() []aikeysv1.EventType {
	return []aikeysv1.EventType{
		aikeysv1.EventTypeKeyRegistered, aikeysv1.EventTypeKeyRevoked, aikeysv1.EventTypeKeyUpdated, aikeysv1.EventTypeKeyDisabled,
		aikeysv1.EventTypeKeyEnabled, aikeysv1.EventTypeKeyExpiring, aikeysv1.EventTypeKeyExpired, aikeysv1.EventTypeKeyVerified,
		aikeysv1.EventTypeKeyFailing, aikeysv1.EventTypeKeyExposed, aikeysv1.EventTypeKeyRotated, aikeysv1.EventTypeKeyRotationRolledBack,
		aikeysv1.EventTypeKeyVersionAdded, aikeysv1.EventTypeKeyVersionDestroyed,
		aikeysv1.EventTypePolicySet, aikeysv1.EventTypeMemberSet, aikeysv1.EventTypeMemberRemoved,
		aikeysv1.EventTypeTokenCreated, aikeysv1.EventTypeTokenRevoked,
	}
}

func (p *program) eventsCommand() *cobra.Command {
	var list listFlags
	var actor, eventType string
	var outcome aikeysv1.EventOutcome
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Read the audit trail",
		Long: `Reads the audit trail, newest first: who did what to which key, when, from where, and whether it was allowed. If
there are more events than --limit, tare prints the command that continues the list.

The types of events:

  key.registered, key.revoked    a key was registered or revoked
  key.updated                    a key got another name, or another time at which it expires
  key.disabled, key.enabled      a key was stopped for now, or serves again
  key.expiring, key.expired      a key expires in 30, 7 or 1 days, or has expired
  key.verified                   a stored key was tested at its provider
  key.failing                    a provider has begun to refuse a key
  key.exposed                    a provider sent a key back in an answer; the gateway masked it
  key.rotated                    another version of a key serves
  key.rotation_rolled_back       the previous version serves again
  key.version_added              a version waits to be activated
  key.version_destroyed          the secret of a version is gone
  policy.set                     the policy was changed
  member.set, member.removed     a member was added, got another role, or was removed
  token.created, token.revoked   a user or an operator made or revoked an AgentRouter API key
  provider.created               an owner added a server of the project's own
  provider.deleted               an owner removed such a server`,
		Example: `  tare api byok events --limit 20
  tare api byok events --actor bob --outcome denied --from 2026-11-23
  tare api byok events --type policy.set
  tare api byok events --key byok_01M83VVAHV8M2T5K7N9R4W1XYZ --limit 1000 -o json`,
		Args: cli.NoArguments("--limit", "--key", "--actor", "--type", "--outcome", "--provider", "--from", "--to"),
	}
	list.addPaging(cmd, 50, "show at most this many events")
	list.addFilters(p, cmd, "events")
	flags := cmd.Flags()
	flags.StringVar(&actor, "actor", "", "only what this `user` or operator did, such as alice or ops@host-1")
	flags.StringVar(&eventType, "type", "", "only events of this `type`")
	addChoice(flags, cmd, &outcome, "outcome", "", "only events with this outcome", aikeysv1.EventOutcomeAllowed, aikeysv1.EventOutcomeDenied)
	setCompletion(cmd, "actor", p.completeOnline(completeMembers))
	setCompletion(cmd, "type", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return texts(eventTypes()), cobra.ShellCompDirectiveNoFileComp
	})
	cmd.RunE = p.withSession(func(ctx context.Context, s *session, _ []string) error {
		calls := s.Events().With(
			when(actor != "", agentrouter.ByActor(actor)), when(eventType != "", agentrouter.OfType(aikeysv1.EventType(eventType))),
			when(outcome != "", agentrouter.WithOutcome(outcome)),
		)
		err := listPages(ctx, p, s, &list, maxPageSize, func(ctx context.Context, options []agentrouter.CallOption) (*aikeysv1.ListEventsResponse, error) {
			return calls.With(options...).List(ctx, s.customer, s.project)
		}, func(r *aikeysv1.ListEventsResponse) ([]aikeysv1.Event, string) { return r.Events, r.NextPageToken }, p.printEvents)
		if near := nearestWord(eventType, texts(eventTypes())); err != nil && near != "" && near != eventType {
			return hintedError{err, "Did you mean " + near + "?"}
		}
		return err
	})
	return cmd
}

func (p *program) printEvents(events []aikeysv1.Event) error {
	if len(events) == 0 {
		p.printNoItems("There are no events.", "No events match.")
		return nil
	}
	t := &table{columns: []column{
		{head: "WHEN"}, {head: "WHO", canShrink: true}, {head: "WHAT"}, {head: "OUTCOME"}, {head: "OF"},
		{head: "PROVIDER", dropRank: 1}, {head: "FROM", dropRank: 2}, {head: "BY MEANS OF", dropRank: 3}, {head: "REQUEST", dropRank: 4},
	}}
	now := time.Now()
	for i := range events {
		e := &events[i]
		look := green
		if e.Outcome == aikeysv1.EventOutcomeDenied {
			look = red
		}
		outcome := string(e.Outcome)
		if e.Repeated > 0 {
			outcome = fmt.Sprintf("%s, %d times", outcome, e.Repeated)
		}
		objects := formatObjects(e)
		t.addRow(cell{relativeTime(e.At, now), plain}, cell{formatActor(e.Actor), plain}, cell{string(e.Type), plain}, cell{outcome, look},
			cell{objects[0], plain}, cell{string(e.Provider), plain}, cell{e.SourceIP, plain},
			cell{string(e.Actor.Method), plain}, cell{e.RequestID, dim})
		for _, object := range objects[1:] {
			t.continueRow(4, cell{object, plain})
		}
	}
	return p.printTable(t)
}

// formatActor returns the actor's user id. Operators and data planes have none: for them it returns the method in parentheses.
func formatActor(a aikeysv1.Actor) string {
	if a.UserID != "" {
		return a.UserID
	}
	return "(" + string(a.Method) + ")"
}

// formatObjects returns one or more lines that describe the object of an event: a key and its changes, a member and
// their role, the address of a custom provider, the changes of the policy, or an API key.
func formatObjects(e *aikeysv1.Event) []string {
	switch {
	case e.KeyID != "":
		before := e.Before
		if e.Type != aikeysv1.EventTypeKeyUpdated {
			before.ExpiresAt = e.After.ExpiresAt // nothing changed
		}
		return append([]string{e.KeyID}, formatKeyChanges(before, e.After)...)
	case e.Before.Role != "" || e.After.Role != "":
		return []string{formatChange(e.MemberID, string(e.Before.Role), string(e.After.Role), "no member")}
	case e.MemberID != "" && e.Role != "":
		return []string{fmt.Sprintf("%s as %s", e.MemberID, e.Role)}
	case e.MemberID != "":
		return []string{e.MemberID}
	case e.Before.BaseURL != "" || e.After.BaseURL != "":
		return []string{formatChange("base_url", e.Before.BaseURL, e.After.BaseURL, "none")}
	case e.After.UserKeys != "":
		return formatPolicyChanges(e.Before, e.After)
	default:
		return []string{e.TokenID}
	}
}

// formatKeyChanges returns a line for each part of a key that changed, by the flag of "update".
func formatKeyChanges(before, after aikeysv1.EventState) (lines []string) {
	if before.Version != after.Version {
		lines = append(lines, formatChange("version", formatNonZero("%d", before.Version), formatNonZero("%d", after.Version), "none"))
	}
	if before.Name != after.Name {
		lines = append(lines, formatChange("name", before.Name, after.Name, ""))
	}
	if !before.ExpiresAt.Equal(after.ExpiresAt) {
		at := func(t time.Time) string {
			if t.IsZero() {
				return ""
			}
			return t.UTC().Format(time.RFC3339)
		}
		lines = append(lines, formatChange("expires", at(before.ExpiresAt), at(after.ExpiresAt), never))
	}
	return lines
}

// formatPolicyChanges returns a line for each part of the policy that changed, by the flag of "policy set".
func formatPolicyChanges(before, after aikeysv1.EventState) (lines []string) {
	add := func(name, was, is string) {
		if was != is {
			lines = append(lines, formatChange(name, was, is, removeException))
		}
	}
	add("user-keys", string(before.UserKeys), string(after.UserKeys))
	exceptions := slices.Concat(slices.Collect(maps.Keys(before.UserKeysByProvider)), slices.Collect(maps.Keys(after.UserKeysByProvider)))
	slices.Sort(exceptions)
	for _, provider := range slices.Compact(exceptions) {
		add("user-keys-for "+provider, string(before.UserKeysByProvider[provider]), string(after.UserKeysByProvider[provider]))
	}
	add("on-bad-key", string(before.OnBadKey), string(after.OnBadKey))
	add("on-limited", string(before.OnLimited), string(after.OnLimited))
	add("operations", string(before.Operations), string(after.Operations))
	add("removal-grace-days", formatDays(before.RemovalGraceDays), formatDays(after.RemovalGraceDays))
	if len(lines) == 0 {
		return []string{"unchanged"}
	}
	return lines
}

// formatDays returns a number of days, or nothing for nil.
func formatDays(days *int) string {
	if days == nil {
		return ""
	}
	return strconv.Itoa(*days)
}

// formatChange returns "name: was → is", with none for an empty value, or "name: is" if nothing changed.
func formatChange(name, was, is, none string) string {
	was, is = cmp.Or(was, none), cmp.Or(is, none)
	if was == is {
		return name + ": " + is
	}
	return name + ": " + was + " → " + is
}

func (p *program) fetchesCommand() *cobra.Command {
	var list listFlags
	var dataPlane string
	var decision aikeysv1.FetchDecision
	cmd := &cobra.Command{
		Use:   "fetches",
		Short: "Show which data planes fetched which keys",
		Long: `Shows the records of fetches, newest first: which data plane asked for which key, for whom, and what it got. Afterwards the
data plane serves from its cache; "usage" counts the requests. Owners only. If there are more records than --limit, tare
prints the command that continues the list.`,
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
		calls := s.Fetches().With(
			when(dataPlane != "", agentrouter.OfDataPlane(dataPlane)), when(decision != "", agentrouter.WithDecision(decision)),
		)
		return listPages(ctx, p, s, &list, maxPageSize, func(ctx context.Context, options []agentrouter.CallOption) (*aikeysv1.ListFetchesResponse, error) {
			return calls.With(options...).List(ctx, s.customer, s.project)
		}, func(r *aikeysv1.ListFetchesResponse) ([]aikeysv1.Fetch, string) { return r.Fetches, r.NextPageToken }, p.printFetches)
	})
	return cmd
}

func (p *program) printFetches(fetches []aikeysv1.Fetch) error {
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
	return p.printTable(t)
}

func (p *program) usageCommand() *cobra.Command {
	var list listFlags
	cmd := &cobra.Command{
		Use:   "usage",
		Short: "Show how often each key served each user",
		Long: `Shows how often each key served each user: the requests by day (UTC), key and user, newest day first. An owner sees the
whole project; other members see what was served to them.

REFUSED is the part of the requests that the provider refused with 401, 403 or 429, or that the gateway itself refused,
such as an operation that the policy does not allow.

Data planes report every 10 seconds, so the latest requests may be missing. --from and --to are days or times; usage is
counted by the hour.`,
		Example: `  tare api byok usage --from 2026-11-23
  tare api byok usage --key byok_01M83VVAHV8M2T5K7N9R4W1XYZ --from 2026-11-23T09:00:00Z --to 2026-11-23T10:00:00Z
  tare api byok usage --user bob -o json`,
		Args: cli.NoArguments("--limit", "--key", "--user", "--provider", "--from", "--to"),
	}
	list.addPaging(cmd, 0, "show at most this many entries (default: all)")
	list.addFilters(p, cmd, "the usage")
	list.addUser(p, cmd, "only what was served to this `user`")
	cmd.RunE = p.withSession(func(ctx context.Context, s *session, _ []string) error {
		return listPages(ctx, p, s, &list, maxUsagePage, func(ctx context.Context, options []agentrouter.CallOption) (*aikeysv1.ListUsageResponse, error) {
			return s.Usage().With(options...).List(ctx, s.customer, s.project)
		}, func(r *aikeysv1.ListUsageResponse) ([]aikeysv1.Usage, string) { return r.Usage, r.NextPageToken }, p.printUsage)
	})
	return cmd
}

func (p *program) printUsage(usage []aikeysv1.Usage) error {
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
	return p.printTable(t)
}

// listFlags are the flags of the commands that print long lists. A command need not have all of the filters.
type listFlags struct {
	limit                         int // 0 for all
	token                         string
	key, user, provider, from, to string
}

// addPaging adds the flags that bound the list.
func (f *listFlags) addPaging(cmd *cobra.Command, limit int, usage string) {
	cmd.Flags().IntVar(&f.limit, "limit", limit, usage)
	cmd.Flags().StringVar(&f.token, pageFlag, "", "continue a list with the `token` that it ended with")
	completeNothingFor(cmd, "limit", pageFlag)
}

// addFilters adds the filters that all lists have. what names the items of the list in help.
func (f *listFlags) addFilters(p *program, cmd *cobra.Command, what string) {
	flags := cmd.Flags()
	flags.StringVar(&f.key, "key", "", "only "+what+" of this key, by its `id`")
	flags.StringVar(&f.provider, "provider", "", "only "+what+" of keys of this provider, by its `slug`")
	flags.StringVar(&f.from, "from", "", "only from this `time` on: a day, such as 2026-11-23, or a time, such as 2026-11-23T09:00:00Z")
	flags.StringVar(&f.to, "to", "", "only before this `time`")
	setCompletion(cmd, "key", p.completeOnline(completeKeys("")))
	setCompletion(cmd, "provider", p.completeOnline(completeProviders))
	completeNothingFor(cmd, "from", "to")
}

// addUser adds the filter by user.
func (f *listFlags) addUser(p *program, cmd *cobra.Command, usage string) {
	cmd.Flags().StringVar(&f.user, "user", "", usage)
	setCompletion(cmd, "user", p.completeOnline(completeMembers))
}

// options returns the filters as options of a call.
func (f *listFlags) options(p *program) (options []agentrouter.CallOption, err error) {
	if f.key != "" {
		id, err := keyID(f.key)
		if err != nil {
			return nil, err
		}
		options = append(options, agentrouter.OfKey(id))
	}
	p.providers = []string{f.provider}
	from, err := parseTime("--from", f.from)
	if err != nil {
		return nil, err
	}
	to, err := parseTime("--to", f.to)
	if err != nil {
		return nil, err
	}
	if !from.IsZero() && !to.IsZero() && from.After(to) {
		return nil, cli.Usagef("--from must not be after --to")
	}
	return append(options,
		when(f.user != "", agentrouter.OfUser(f.user)), when(f.provider != "", agentrouter.OfProvider(aikeysv1.Provider(f.provider))),
		when(!from.IsZero(), agentrouter.From(from)), when(!to.IsZero(), agentrouter.To(to)),
	), nil
}

// parseTime reads a day, which begins in UTC, or a time. An empty text is the zero time.
func parseTime(flag, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if at, err := time.Parse(layout, text); err == nil {
			return at, nil
		}
	}
	return time.Time{}, cli.Usagef("%s must be a day, such as 2026-11-23, or a time, such as 2026-11-23T09:00:00Z", flag)
}

// listPages reads pages of at most largest items until it has --limit items or the list ends, and prints the items. It
// requests only the missing items as the last page, so that the page's token continues the list right after the limit.
// read fetches a page, and parts returns its items and next token.
func listPages[P, T any](
	ctx context.Context, p *program, s *session, f *listFlags, largest int,
	read func(ctx context.Context, options []agentrouter.CallOption) (*P, error), parts func(*P) ([]T, string), printTable func([]T) error,
) error {
	filter, err := f.options(p)
	if err != nil {
		return err
	}
	if f.limit < 0 || f.limit == 0 && p.command.Flags().Changed("limit") {
		return cli.Usagef("--limit must be 1 or more")
	}
	readPage := func(options ...agentrouter.CallOption) (*P, error) {
		ctx, cancel := p.withTimeout(ctx)
		defer cancel()
		return read(ctx, append(options, filter...))
	}
	var all []T
	for next := f.token; ; {
		size := largest
		if f.limit > 0 {
			size = min(largest, f.limit-len(all))
		}
		page, err := readPage(agentrouter.PageSize(size), when(next != "", agentrouter.PageToken(next)))
		if err != nil {
			return err
		}
		var items []T
		items, next = parts(page)
		all = append(all, items...)
		// An empty page ends the list: a service that repeats tokens must not keep tare busy forever.
		if next == "" || len(items) == 0 || f.limit > 0 && len(all) >= f.limit {
			return p.printResponse(s, func() error {
				err := printTable(all)
				if err == nil && len(all) > 0 {
					p.printMore(next)
				}
				return err
			})
		}
	}
}

// printNoItems says that a list is empty. A filter may be the reason.
func (p *program) printNoItems(none, noMatch string) {
	p.command.Flags().Visit(func(f *pflag.Flag) {
		if f.Name != "limit" && p.command.InheritedFlags().Lookup(f.Name) == nil {
			none = noMatch
		}
	})
	p.printNote(none)
}

// printMore prints the command that shows the rest of a list: the user's own command with the page token added.
func (p *program) printMore(token string) {
	if token == "" {
		return
	}
	line := p.command.CommandPath()
	p.command.Flags().Visit(func(f *pflag.Flag) {
		switch {
		case f.Name == pageFlag:
		case f.Value.Type() == "bool":
			line += " --" + f.Name + "=" + f.Value.String()
		default:
			line += " --" + f.Name + " " + shellQuote(f.Value.String())
		}
	})
	p.printNote("There are more: " + line + " --" + pageFlag + " " + shellQuote(token))
}

// shellQuote quotes a text that a shell would not take as one plain word.
func shellQuote(text string) string {
	const plainLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.,:/@%+="
	isForeign := func(r rune) bool { return !strings.ContainsRune(plainLetters, r) }
	if text != "" && !strings.ContainsFunc(text, isForeign) {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
