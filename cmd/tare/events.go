package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
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
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Read the audit trail",
		Long: `Reads the audit trail, newest first: who did what to which key, when, from where, and whether it was allowed. If
there are more events than --limit, tare prints the --page-token that continues the list.`,
		Example: `  tare api byok events --limit 20
  tare api byok events --limit 1000 -o json`,
		Args: cli.NoArguments("--limit"),
	}
	cmd.Flags().IntVar(&limit, "limit", limit, "show at most this many events")
	cmd.Flags().StringVar(&token, "page-token", "", "continue a list with the `token` that it ended with")
	completeNothingFor(cmd, "limit", "page-token")
	cmd.RunE = p.withSession(func(ctx context.Context, s *session, _ []string) error {
		if limit < 1 {
			return cli.Usagef("--limit must be 1 or more")
		}
		trail, err := p.readTrail(ctx, s, limit, token)
		if err != nil {
			return err
		}
		if p.flags.output != formatTable {
			return p.printDocument(trail.document)
		}
		return p.printEvents(trail)
	})
	return cmd
}

// trail is a part of the audit trail.
type trail struct {
	events    []aikeysv1.Event
	nextToken string
	document  []byte // in the form of one page of the service
}

// readTrail reads pages until it has limit events. The last page is only as large as needed, so its token continues after
// the limit.
func (p *program) readTrail(ctx context.Context, s *session, limit int, token string) (trail, error) {
	got := trail{nextToken: token}
	var raw []json.RawMessage
	pages := 0
	for more := true; more; more = got.nextToken != "" && len(got.events) < limit {
		pages++
		reply, err := p.readPage(ctx, s, min(maxPageSize, limit-len(got.events)), got.nextToken)
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

func (p *program) readPage(ctx context.Context, s *session, size int, token string) (*aikeysv1.ListEventsResponse, error) {
	options := []agentrouter.CallOption{agentrouter.PageSize(size)}
	if token != "" {
		options = append(options, agentrouter.PageToken(token))
	}
	ctx, cancel := p.withTimeout(ctx)
	defer cancel()
	return s.Events().With(options...).List(ctx, s.customer, s.project)
}

func (p *program) printEvents(got trail) error {
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
		p.printNote("There are more: tare api byok events --page-token " + got.nextToken)
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
