package agentrouter

import (
	"context"
	"iter"

	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"
	"github.com/tetrateio/agentrouter-go/internal/operations"
)

// EventsClient reads the audit trail.
type EventsClient struct{ service service }

// With returns a client whose calls take these optional parameters: OfKey, ByActor, OfType, WithOutcome, OfProvider, From, To,
// PageSize and PageToken.
func (e *EventsClient) With(options ...CallOption) *EventsClient {
	return &EventsClient{e.service.with(options)}
}

// List returns a page of the audit trail, newest first: who did what to which key, when, from where, with what outcome.
func (e *EventsClient) List(
	ctx context.Context, customerID, projectID string,
) (*aikeysv1.ListEventsResponse, error) {
	r := e.service.inProject(operations.ListEvents(), customerID, projectID)
	return send(ctx, r, func(r *aikeysv1.ListEventsResponse) bool { return r.Events != nil })
}

// All iterates over the events of all pages, newest first. It fetches pages as needed and stops after an error.
func (e *EventsClient) All(ctx context.Context, customerID, projectID string) iter.Seq2[aikeysv1.Event, error] {
	return allPages(e.service, func(s service) ([]aikeysv1.Event, string, error) {
		page, err := (&EventsClient{s}).List(ctx, customerID, projectID)
		if err != nil {
			return nil, "", err
		}
		return page.Events, page.NextPageToken, nil
	})
}
