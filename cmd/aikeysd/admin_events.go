package main

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/models"
)

// maxSystemEvents is the maximum number of system events in a list.
const maxSystemEvents = 10_000

func (p *program) systemEventsCommand() *cobra.Command {
	var (
		filter                      models.SystemEventFilter
		eventType, from, to, output string
		limit                       int
	)
	cmd := &cobra.Command{
		Use:   "events",
		Short: "List what operators and the service itself did",
		Long: `Lists the system trail, newest first: who created and revoked data planes, what operators changed in projects and whose
lists they read, how key-encryption keys changed, when secrets were re-wrapped, and when the database's schema changed.
ACTOR is the user and the machine that the command ran on, or those of the service's own process. BEFORE and AFTER show
the state before and after the change. What members do in their projects is in the events of each project.

A day in --from or --to means its first moment in UTC.`,
		Example: `  aikeysd admin events
  aikeysd admin events --type dataplane.created --from 2026-11-01 --to 2026-12-01
  aikeysd admin events --customer acme --limit 1000 -o json`,
	}
	a := p.newAdmin()
	flags := cmd.Flags()
	flags.StringVar(&eventType, "type", "", "only events of this `type`, such as dataplane.revoked")
	flags.StringVar(&filter.Actor, "actor", "", "only what this `operator` did, such as ops@host-1")
	flags.StringVar(&filter.CustomerID, "customer", "", "only events in this customer's projects")
	flags.StringVar(&filter.ProjectID, "project", "", "only events in this project")
	flags.StringVar(&from, "from", "", "only events from this `time` on: a day or a time, such as 2026-11-23 or 2026-11-23T06:42:24Z")
	flags.StringVar(&to, "to", "", "only events before this `time`")
	flags.IntVar(&limit, "limit", 50, "list at most this many")
	flags.StringVarP(&output, "output", "o", outputTable, "form of the output: table or json")
	a.idFlags = []identifier{{"--customer", &filter.CustomerID, false}, {"--project", &filter.ProjectID, false}}
	return a.command(cmd, func() (err error) {
		if limit < 1 || limit > maxSystemEvents {
			err = cli.Usagef("--limit: must be a whole number from 1 to %d", maxSystemEvents)
		}
		if output != outputTable && output != outputJSON {
			err = errors.Join(err, cli.Usagef("--output: must be %s or %s", outputTable, outputJSON))
		}
		filter.Type = models.EventType(eventType)
		return errors.Join(err, parseTime("--from", from, &filter.From), parseTime("--to", to, &filter.To))
	}, func(ctx context.Context) error {
		events, err := a.store.ListSystemEvents(ctx, filter, limit)
		if err != nil {
			return err
		}
		if output == outputJSON {
			text, err := json.MarshalIndent(systemEvents(events), "", "  ")
			if err != nil {
				return err
			}
			return a.Say("%s", text)
		}
		table := a.NewTable("TIME", "ACTOR", "COMMAND", "TYPE", "PROJECT", "OF", "BEFORE", "AFTER")
		for _, e := range events {
			project := ""
			if e.ProjectID != "" {
				project = e.CustomerID + "/" + e.ProjectID
			}
			table.Row(formatMillis(e.At), e.Actor, e.Command, string(e.Type), orDash(project), orDash(e.Subject), stateInTable(e.Before), stateInTable(e.After))
		}
		return table.Flush()
	})
}

// parseTime parses the day or time in a flag and stores it in microseconds since 1970. If the text is empty, parseTime
// stores nothing.
func parseTime(flag, text string, into *int64) error {
	if text == "" {
		return nil
	}
	for _, layout := range [...]string{time.DateOnly, time.RFC3339Nano} {
		if at, err := time.Parse(layout, text); err == nil && at.Unix() > 0 {
			*into = at.UnixMicro()
			return nil
		}
	}
	return cli.Usagef("%s: must be a day or a time since 1970, such as 2026-11-23 or 2026-11-23T06:42:24Z", flag)
}

// stateInTable returns an event's state for a table, where JSON's null is a dash.
func stateInTable(state string) string {
	if state == "null" {
		return "-"
	}
	return state
}

// stateInJSON returns an event's state for a JSON document. A damaged state becomes null, so that the document stays valid.
func stateInJSON(state string) json.RawMessage {
	if !json.Valid([]byte(state)) {
		return json.RawMessage("null")
	}
	return json.RawMessage(state)
}

// systemEventsReport is the output in JSON.
type systemEventsReport struct {
	Events []systemEvent `json:"events"`
}

type systemEvent struct {
	ID         string          `json:"id"`
	Type       string          `json:"type"`
	At         time.Time       `json:"at"`
	Actor      string          `json:"actor"`
	Command    string          `json:"command"`
	CustomerID string          `json:"customer_id,omitempty"`
	ProjectID  string          `json:"project_id,omitempty"`
	Subject    string          `json:"subject,omitempty"`
	Before     json.RawMessage `json:"before"`
	After      json.RawMessage `json:"after"`
}

func systemEvents(events []models.SystemEvent) systemEventsReport {
	report := systemEventsReport{Events: make([]systemEvent, len(events))}
	for i, e := range events {
		report.Events[i] = systemEvent{
			ID: e.ID, Type: string(e.Type), At: time.UnixMicro(e.At).UTC(), Actor: e.Actor, Command: e.Command,
			CustomerID: e.CustomerID, ProjectID: e.ProjectID, Subject: e.Subject,
			Before: stateInJSON(e.Before), After: stateInJSON(e.After),
		}
	}
	return report
}
