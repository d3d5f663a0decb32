package agentrouter

import (
	"context"
	"iter"

	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"
	"github.com/tetrateio/agentrouter-go/internal/operations"
)

// FetchesClient reads which data planes fetched which keys. Owners only.
type FetchesClient struct{ service service }

// With returns a client whose calls take these optional parameters: OfKey, OfUser, OfDataPlane, OfProvider, WithDecision,
// From, To, PageSize and PageToken.
func (f *FetchesClient) With(options ...CallOption) *FetchesClient {
	return &FetchesClient{f.service.with(options)}
}

// List returns a page of the records of fetches, newest first: which data plane asked for which key, for whom, and what it got.
func (f *FetchesClient) List(
	ctx context.Context, customerID, projectID string,
) (*aikeysv1.ListFetchesResponse, error) {
	r := f.service.inProject(operations.ListFetches(), customerID, projectID)
	return send(ctx, r, func(r *aikeysv1.ListFetchesResponse) bool { return r.Fetches != nil })
}

// All iterates over the records of all pages, newest first. It fetches pages as needed and stops after an error.
func (f *FetchesClient) All(ctx context.Context, customerID, projectID string) iter.Seq2[aikeysv1.Fetch, error] {
	return allPages(f.service, func(s service) ([]aikeysv1.Fetch, string, error) {
		page, err := (&FetchesClient{s}).List(ctx, customerID, projectID)
		if err != nil {
			return nil, "", err
		}
		return page.Fetches, page.NextPageToken, nil
	})
}
