package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
	agentrouter "github.com/tetrateio/agentrouter-go"
	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

// maxPageSize is the API's largest page of events.
const maxPageSize = 500

func (p *program) eventsCommand() *cobra.Command {
	limit, token := 50, ""
	var filter eventFilter
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Read the audit trail",
		Long: `Reads the audit trail, newest first: who did what to which key, when, from where, and whether it was allowed. If
there are more events than --limit, tare prints the --page-token that continues the list.`,
		Example: `  tare api byok events --limit 20
  tare api byok events --actor bob --outcome denied --from 2026-11-23
  tare api byok events --key byok_01M83VVAHV8M2T5K7N9R4W1XYZ --limit 1000 -o json`,
		Args: cli.NoArguments("--limit", "--key", "--actor", "--type", "--outcome", "--provider", "--from", "--to"),
	}
	cmd.Flags().IntVar(&limit, "limit", limit, "show at most this many events")
	cmd.Flags().StringVar(&token, "page-token", "", "continue a list with the `token` that it ended with")
	filter.addFlags(p, cmd)
	completeNothingFor(cmd, "limit", "page-token")
	cmd.RunE = p.withSession(func(ctx context.Context, s *session, _ []string) error {
		if limit < 1 {
			return cli.Usagef("--limit must be 1 or more")
		}
		options, err := filter.options()
		if err != nil {
			return err
		}
		trail, err := p.readTrail(ctx, s, options, limit, token)
		if err != nil {
			return err
		}
		if p.flags.output != formatTable {
			return p.printDocument(trail.document)
		}
		return p.printEvents(trail, filter)
	})
	return cmd
}

// eventFilter has the flags that narrow the audit trail.
type eventFilter struct {
	key, actor, eventType, provider, from, to string
	outcome                                   aikeysv1.EventOutcome
}

func (f *eventFilter) addFlags(p *program, cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.key, "key", "", "only events about this key, by its `id`")
	flags.StringVar(&f.actor, "actor", "", "only what this `user` did, or this operator, such as ops@host-1")
	flags.StringVar(&f.eventType, "type", "", "only events of this `type`, such as key.revoked")
	addChoice(flags, cmd, &f.outcome, "outcome", "", "only events with this outcome", aikeysv1.EventOutcomeAllowed, aikeysv1.EventOutcomeDenied)
	flags.StringVar(&f.provider, "provider", "", "only events about keys of this `provider`")
	flags.StringVar(&f.from, "from", "", "only from this `time` on: a day or a time")
	flags.StringVar(&f.to, "to", "", "only before this `time`")
	setCompletion(cmd, "actor", p.completeOnline(completeMembers))
	setCompletion(cmd, "provider", p.completeOnline(completeProviders))
	completeNothingFor(cmd, "key", "type", "from", "to")
}

// options returns the filter as options of a call.
func (f *eventFilter) options() (options []agentrouter.CallOption, err error) {
	if f.key != "" {
		id, err := keyID(f.key)
		if err != nil {
			return nil, err
		}
		options = append(options, agentrouter.OfKey(id))
	}
	if f.actor != "" {
		options = append(options, agentrouter.ByActor(f.actor))
	}
	if f.eventType != "" {
		options = append(options, agentrouter.OfType(aikeysv1.EventType(f.eventType)))
	}
	if f.outcome != "" {
		options = append(options, agentrouter.WithOutcome(f.outcome))
	}
	if f.provider != "" {
		options = append(options, agentrouter.OfProvider(aikeysv1.Provider(f.provider)))
	}
	return appendTimes(options, f.from, f.to)
}

// flags returns the filter as it was given, for a command that goes on with the list.
func (f *eventFilter) flags() (text string) {
	for _, flag := range [...][2]string{
		{"key", f.key}, {"actor", f.actor}, {"type", f.eventType}, {"outcome", string(f.outcome)}, {"provider", f.provider},
		{"from", f.from}, {"to", f.to},
	} {
		if flag[1] != "" {
			text += " --" + flag[0] + " " + flag[1]
		}
	}
	return text
}

// trail is a part of the audit trail.
type trail struct {
	events    []aikeysv1.Event
	nextToken string
	document  []byte // in the form of one page of the service
}

// readTrail reads pages until it has limit events. The last page is only as large as needed, so its token continues after
// the limit.
func (p *program) readTrail(
	ctx context.Context, s *session, filter []agentrouter.CallOption, limit int, token string,
) (trail, error) {
	got := trail{nextToken: token}
	var raw []json.RawMessage
	pages := 0
	for more := true; more; more = got.nextToken != "" && len(got.events) < limit {
		pages++
		reply, err := p.readPage(ctx, s, filter, min(maxPageSize, limit-len(got.events)), got.nextToken)
		if err != nil {
			return trail{}, err
		}
		got.events, got.nextToken = append(got.events, reply.Events...), reply.NextPageToken
		got.document = bytes.Clone(s.responses.last.Bytes())
		var page struct {
			Events []json.RawMessage `json:"events"`
		}
		if err := json.Unmarshal(got.document, &page); err != nil {
			return trail{}, err
		}
		raw = append(raw, page.Events...)
		if len(reply.Events) == 0 {
			break // the service repeats tokens
		}
	}
	if pages == 1 {
		return got, nil // exactly the service's document
	}
	var err error
	got.document, err = json.Marshal(struct {
		Events []json.RawMessage `json:"events"`
		Next   string            `json:"next_page_token,omitempty"`
	}{raw, got.nextToken})
	return got, err
}

func (p *program) readPage(
	ctx context.Context, s *session, filter []agentrouter.CallOption, size int, token string,
) (*aikeysv1.ListEventsResponse, error) {
	options := append(slices.Clone(filter), agentrouter.PageSize(size))
	if token != "" {
		options = append(options, agentrouter.PageToken(token))
	}
	ctx, cancel := p.withTimeout(ctx)
	defer cancel()
	return s.Events().With(options...).List(ctx, s.customer, s.project)
}

func (p *program) printEvents(got trail, filter eventFilter) error {
	if len(got.events) == 0 {
		p.printNote("There are no events.")
		return nil
	}
	t := &table{columns: []column{
		{head: "WHEN"}, {head: "WHO", canShrink: true}, {head: "WHAT"}, {head: "OUTCOME"}, {head: "OF"},
		{head: "PROVIDER", dropRank: 1}, {head: "FROM", dropRank: 2}, {head: "BY MEANS OF", dropRank: 3}, {head: "REQUEST", dropRank: 4},
	}}
	now := time.Now()
	for i := range got.events {
		e := &got.events[i]
		look := green
		if e.Outcome == aikeysv1.EventOutcomeDenied {
			look = red
		}
		t.addRow(cell{relativeTime(e.At, now), plain}, cell{formatActor(e.Actor), plain}, cell{string(e.Type), plain}, cell{string(e.Outcome), look},
			cell{formatObject(e), plain}, cell{string(e.Provider), plain}, cell{e.SourceIP, plain},
			cell{string(e.Actor.Method), plain}, cell{e.RequestID, dim})
	}
	if err := p.printTable(t); err != nil {
		return err
	}
	if got.nextToken != "" {
		p.printNote("There are more: tare api byok events" + p.sanitize(filter.flags()) + " --page-token " + got.nextToken)
	}
	return nil
}

// formatActor returns the user. Operators and data planes have none; for them it returns the method in parentheses.
func formatActor(a aikeysv1.Actor) string {
	if a.UserID != "" {
		return a.UserID
	}
	return "(" + string(a.Method) + ")"
}

// formatObject returns what the event is about.
func formatObject(e *aikeysv1.Event) string {
	switch {
	case e.KeyID != "":
		return e.KeyID
	case e.MemberID != "" && e.Role != "":
		return fmt.Sprintf("%s as %s", e.MemberID, e.Role)
	case e.MemberID != "":
		return e.MemberID
	default:
		return e.TokenID
	}
}
