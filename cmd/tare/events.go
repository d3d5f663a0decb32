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

// mostInPage is the contract's largest page of events.
const mostInPage = 500

func (p *program) eventsCommand() *cobra.Command {
	limit, token := 50, ""
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Read the audit trail",
		Long: `Reads the audit trail, newest first: who did what to which key, when, from where, and whether it was carried out. What
comes after --limit is had with the --page-token that tare names then.`,
		Example: `  tare api byok events --limit 20
  tare api byok events --limit 1000 -o json`,
		Args: cli.NoArguments("--limit"),
	}
	cmd.Flags().IntVar(&limit, "limit", limit, "how many events to show at the most")
	cmd.Flags().StringVar(&token, "page-token", "", "go on where a list ended, with the `token` that it named")
	p.completesTo(cmd, "limit", nothing)
	p.completesTo(cmd, "page-token", nothing)
	cmd.RunE = p.online(func(ctx context.Context, s *session, _ []string) error {
		if limit < 1 {
			return cli.Usagef("--limit must be 1 or more")
		}
		trail, err := p.readTrail(ctx, s, limit, token)
		if err != nil {
			return err
		}
		if p.flags.output != asTable {
			return p.showRaw(trail.document)
		}
		return p.printEvents(trail)
	})
	return cmd
}

// trail is some pages of the audit trail, put together.
type trail struct {
	events   []aikeysv1.Event
	next     string
	document []byte // as one page of the service
}

// readTrail reads pages, each as large as may be, so that the last one ends where the limit is.
func (p *program) readTrail(ctx context.Context, s *session, limit int, token string) (trail, error) {
	got := trail{next: token}
	var raw []json.RawMessage
	pages := 0
	for more := true; more; more = got.next != "" && len(got.events) < limit {
		pages++
		reply, err := p.readPage(ctx, s, min(mostInPage, limit-len(got.events)), got.next)
		if err != nil {
			return trail{}, err
		}
		got.events, got.next = append(got.events, reply.Events...), reply.NextPageToken
		got.document = bytes.Clone(s.answers.last.Bytes())
		var page struct {
			Events []json.RawMessage `json:"events"`
		}
		if err := json.Unmarshal(got.document, &page); err != nil {
			return trail{}, err
		}
		raw = append(raw, page.Events...)
		if len(reply.Events) == 0 {
			break // a service that names a next page without end
		}
	}
	if pages == 1 {
		return got, nil // as it came
	}
	var err error
	got.document, err = json.Marshal(struct {
		Events []json.RawMessage `json:"events"`
		Next   string            `json:"next_page_token,omitempty"`
	}{raw, got.next})
	return got, err
}

func (p *program) readPage(ctx context.Context, s *session, size int, token string) (*aikeysv1.ListEventsResponse, error) {
	options := []agentrouter.CallOption{agentrouter.PageSize(size)}
	if token != "" {
		options = append(options, agentrouter.PageToken(token))
	}
	ctx, cancel := p.within(ctx)
	defer cancel()
	return s.Events().With(options...).List(ctx, s.customer, s.project)
}

func (p *program) printEvents(got trail) error {
	if len(got.events) == 0 {
		p.tell("There are no events.")
		return nil
	}
	t := &table{columns: []column{
		{head: "WHEN"}, {head: "WHO", flexible: true}, {head: "WHAT"}, {head: "OUTCOME"}, {head: "OF"},
		{head: "PROVIDER", spare: 1}, {head: "FROM", spare: 2}, {head: "BY MEANS OF", spare: 3}, {head: "REQUEST", spare: 4},
	}}
	now := time.Now()
	for i := range got.events {
		e := &got.events[i]
		look := green
		if e.Outcome == aikeysv1.EventOutcomeDenied {
			look = red
		}
		t.row(cell{since(e.At, now), plain}, cell{actor(e.Actor), plain}, cell{string(e.Type), plain}, cell{string(e.Outcome), look},
			cell{object(e), plain}, cell{string(e.Provider), plain}, cell{e.SourceIP, plain},
			cell{string(e.Actor.Method), plain}, cell{e.RequestID, dim})
	}
	if err := p.print(t); err != nil {
		return err
	}
	if got.next != "" {
		p.tell("There are more: tare api byok events --page-token " + got.next)
	}
	return nil
}

// actor is who did it; operators and data planes have no user's name.
func actor(a aikeysv1.Actor) string {
	if a.UserID != "" {
		return a.UserID
	}
	return "(" + string(a.Method) + ")"
}

// object is what it was done to.
func object(e *aikeysv1.Event) string {
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
