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

// List returns a page of the audit trail, newest event first: who did what to which key, when, from where, and the outcome.
func (e *EventsClient) List(ctx context.Context, customerID, projectID string) (*aikeysv1.ListEventsResponse, error) {
	return e.pages(customerID, projectID).page(ctx, e.service)
}

// All iterates over the events of all pages, newest first. It fetches pages as needed and stops after an error.
func (e *EventsClient) All(ctx context.Context, customerID, projectID string) iter.Seq2[aikeysv1.Event, error] {
	return e.pages(customerID, projectID).all(ctx)
}

func (e *EventsClient) pages(customerID, projectID string) pages[aikeysv1.ListEventsResponse, aikeysv1.Event] {
	return pagesInProject(e.service, operations.ListEvents(), customerID, projectID,
		func(r *aikeysv1.ListEventsResponse) (*[]aikeysv1.Event, *string) { return &r.Events, &r.NextPageToken })
}

// FetchesClient reads which data planes fetched which keys. Owners only.
type FetchesClient struct{ service service }

// With returns a client whose calls take these optional parameters: OfKey, OfUser, OfDataPlane, OfProvider, WithDecision,
// From, To, PageSize and PageToken.
func (f *FetchesClient) With(options ...CallOption) *FetchesClient {
	return &FetchesClient{f.service.with(options)}
}

// List returns a page of the records of fetches, newest first: which data plane asked for which key, for whom, and what it got.
func (f *FetchesClient) List(ctx context.Context, customerID, projectID string) (*aikeysv1.ListFetchesResponse, error) {
	return f.pages(customerID, projectID).page(ctx, f.service)
}

// All iterates over the records of all pages, newest first. It fetches pages as needed and stops after an error.
func (f *FetchesClient) All(ctx context.Context, customerID, projectID string) iter.Seq2[aikeysv1.Fetch, error] {
	return f.pages(customerID, projectID).all(ctx)
}

func (f *FetchesClient) pages(customerID, projectID string) pages[aikeysv1.ListFetchesResponse, aikeysv1.Fetch] {
	return pagesInProject(f.service, operations.ListFetches(), customerID, projectID,
		func(r *aikeysv1.ListFetchesResponse) (*[]aikeysv1.Fetch, *string) {
			return &r.Fetches, &r.NextPageToken
		})
}

// UsageClient reads how often each key served each user.
type UsageClient struct{ service service }

// With returns a client whose calls take these optional parameters: OfKey, OfUser, OfProvider, From, To and PageSize, and
// PageToken for List.
func (u *UsageClient) With(options ...CallOption) *UsageClient {
	return &UsageClient{u.service.with(options)}
}

// List returns the usage, newest day first. With PageSize or PageToken it returns one page, otherwise all entries. An
// owner gets the usage of the whole project; other members get their own usage.
func (u *UsageClient) List(ctx context.Context, customerID, projectID string) (*aikeysv1.ListUsageResponse, error) {
	return u.pages(customerID, projectID).list(ctx)
}

// All iterates over the entries of all pages, newest day first. It fetches pages as needed and stops after an error.
func (u *UsageClient) All(ctx context.Context, customerID, projectID string) iter.Seq2[aikeysv1.Usage, error] {
	return u.pages(customerID, projectID).all(ctx)
}

func (u *UsageClient) pages(customerID, projectID string) pages[aikeysv1.ListUsageResponse, aikeysv1.Usage] {
	return pagesInProject(u.service, operations.ListUsage(), customerID, projectID,
		func(r *aikeysv1.ListUsageResponse) (*[]aikeysv1.Usage, *string) { return &r.Usage, &r.NextPageToken })
}
