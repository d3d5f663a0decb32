package agentrouter

import (
	"context"
	"iter"

	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"
	"github.com/tetrateio/agentrouter-go/internal/operations"
)

// UsageClient reads how often which key served whom.
type UsageClient struct{ service service }

// With returns a client whose calls take these optional parameters: OfKey, OfUser, OfProvider, From, To and PageSize, and
// PageToken for List.
func (u *UsageClient) With(options ...CallOption) *UsageClient {
	return &UsageClient{u.service.with(options)}
}

// List returns the usage, newest day first: all of it, or one page with PageSize or PageToken. An owner gets the project's,
// other members what was served to them.
func (u *UsageClient) List(ctx context.Context, customerID, projectID string) (*aikeysv1.ListUsageResponse, error) {
	return list(u.service, func(s service) (*aikeysv1.ListUsageResponse, error) {
		r := s.inProject(operations.ListUsage(), customerID, projectID)
		return send(ctx, r, func(r *aikeysv1.ListUsageResponse) bool { return r.Usage != nil })
	}, func(r *aikeysv1.ListUsageResponse) (*[]aikeysv1.Usage, *string) { return &r.Usage, &r.NextPageToken })
}

// All iterates over the entries of all pages, newest day first. It fetches pages as needed and stops after an error.
func (u *UsageClient) All(ctx context.Context, customerID, projectID string) iter.Seq2[aikeysv1.Usage, error] {
	return allPages(u.service, func(s service) ([]aikeysv1.Usage, string, error) {
		page, err := (&UsageClient{s}).List(ctx, customerID, projectID)
		if err != nil {
			return nil, "", err
		}
		return page.Usage, page.NextPageToken, nil
	})
}
