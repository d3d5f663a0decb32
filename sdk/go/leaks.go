package agentrouter

import (
	"context"

	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"
	"github.com/tetrateio/agentrouter-go/internal/operations"
)

// LeaksClient finds and revokes keys that have leaked. Its methods take at most 100 values. Owners only.
type LeaksClient struct{ service service }

// With returns a client that adds options to its calls: Revoke takes Wait, which waits for the receipts.
func (l *LeaksClient) With(options ...CallOption) *LeaksClient {
	return &LeaksClient{l.service.with(options)}
}

// Find returns the keys and API keys whose secrets are among the values. A value may also be a line that contains a
// secret.
func (l *LeaksClient) Find(ctx context.Context, customerID, projectID string, values []string) (*aikeysv1.LeaksResponse, error) {
	return l.send(ctx, customerID, projectID, map[string]any{"values": values, "revoke": false})
}

// Revoke revokes the keys and API keys that Find would return. If a value is the secret of an inactive version, Revoke
// destroys only this version of the key. The source says where the values were found, for the audit trail; it may be
// empty.
func (l *LeaksClient) Revoke(
	ctx context.Context, customerID, projectID string, values []string, source string,
) (*aikeysv1.LeaksResponse, error) {
	body := map[string]any{"values": values, "revoke": true}
	if source != "" {
		body["source"] = source
	}
	return l.send(ctx, customerID, projectID, body)
}

func (l *LeaksClient) send(ctx context.Context, customerID, projectID string, body map[string]any) (*aikeysv1.LeaksResponse, error) {
	r := l.service.inProject(operations.FindLeaks(), customerID, projectID)
	r.body = body
	return send(ctx, r, func(r *aikeysv1.LeaksResponse) bool { return r.Matches != nil })
}
