package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	agentrouter "github.com/tetrateio/agentrouter-go"
	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

// maxPageSize is the API's largest page of events, and of records of fetches.
const maxPageSize = 500

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
  key.rotation_rolled_back       the version before serves again
  key.version_added              a version waits to be activated
  key.version_destroyed          the secret of a version is gone
  policy.set                     the policy was changed
  member.set, member.removed     a member was added, got another role, or was removed
  token.created, token.revoked   a user or an operator made or revoked an AgentRouter API key
  provider.created               an owner added a server of the project's own
  provider.deleted               an owner removed one`,
		Example: `  tare api byok events --limit 20
  tare api byok events --actor bob --outcome denied --from 2026-11-23
  tare api byok events --type policy.set
  tare api byok events --key byok_01M83VVAHV8M2T5K7N9R4W1XYZ --limit 1000 -o json`,
		Args: cli.NoArguments("--limit", "--key", "--actor", "--type", "--outcome", "--provider", "--from", "--to"),
	}
	list.addPaging(cmd, 50, "show at most this many events")
	list.addFilters(p, cmd, "events")
	flags := cmd.Flags()
	flags.StringVar(&actor, "actor", "", "only what this `user` did, or this operator, such as ops@host-1")
	flags.StringVar(&eventType, "type", "", "only events of this `type`")
	addChoice(flags, cmd, &outcome, "outcome", "", "only events with this outcome", aikeysv1.EventOutcomeAllowed, aikeysv1.EventOutcomeDenied)
	setCompletion(cmd, "actor", p.completeOnline(completeMembers))
	setCompletion(cmd, "type", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return texts(eventTypes()), cobra.ShellCompDirectiveNoFileComp
	})
	cmd.RunE = p.withSession(func(ctx context.Context, s *session, _ []string) error {
		options, err := list.options(p)
		if err != nil {
			return err
		}
		if actor != "" {
			options = append(options, agentrouter.ByActor(actor))
		}
		if eventType != "" {
			options = append(options, agentrouter.OfType(aikeysv1.EventType(eventType)))
		}
		if outcome != "" {
			options = append(options, agentrouter.WithOutcome(outcome))
		}
		events, next, err := readPages(ctx, p, list, maxPageSize, options,
			func(ctx context.Context, options []agentrouter.CallOption) ([]aikeysv1.Event, string, error) {
				page, err := s.Events().With(options...).List(ctx, s.customer, s.project)
				if err != nil {
					return nil, "", err
				}
				return page.Events, page.NextPageToken, nil
			})
		if near := nearestWord(eventType, texts(eventTypes())); err != nil && near != "" && near != eventType {
			return hintedError{err, "Did you mean " + near + "?"}
		}
		if err != nil {
			return err
		}
		return p.printResponse(s, func() error { return p.printEvents(events, next) })
	})
	return cmd
}

func (p *program) printEvents(events []aikeysv1.Event, next string) error {
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
	if err := p.printTable(t); err != nil {
		return err
	}
	p.printMore(next)
	return nil
}

// formatActor returns the user. Operators and data planes have none; for them it returns the method in parentheses.
func formatActor(a aikeysv1.Actor) string {
	if a.UserID != "" {
		return a.UserID
	}
	return "(" + string(a.Method) + ")"
}

// formatObjects returns what the event is about, in one line or more: a key, a member and how their role changed, each change
// of the policy, or an API key.
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

// formatKeyChanges returns a line for each part of a key that changed, with the names of the flags of "update".
func formatKeyChanges(before, after aikeysv1.EventState) (lines []string) {
	if before.Version != after.Version {
		number := func(n int) string {
			if n == 0 {
				return ""
			}
			return strconv.Itoa(n)
		}
		lines = append(lines, formatChange("version", number(before.Version), number(after.Version), "none"))
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

// formatPolicyChanges returns a line for each part of the policy that changed, with the names of the flags of "policy set".
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
