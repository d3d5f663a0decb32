package agentrouter

import (
	"context"

	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"
	"github.com/tetrateio/agentrouter-go/internal/operations"
)

// LeaksClient finds and revokes what has leaked. Its methods take at most 100 values, and an owner of the project as the caller.
type LeaksClient struct{ service service }

// With returns a client whose calls take the optional parameter Wait, which waits for the receipts of Revoke.
func (l *LeaksClient) With(options ...CallOption) *LeaksClient {
	return &LeaksClient{l.service.with(options)}
}

// Find returns the keys and API keys that the values are secrets of. A value may be a line of a file with one.
func (l *LeaksClient) Find(ctx context.Context, customerID, projectID string, values []string) (*aikeysv1.LeaksResponse, error) {
	return l.send(ctx, customerID, projectID, map[string]any{"values": values, "revoke": false})
}

// Revoke finds as Find does, and revokes what it finds: a key by the secret of its active version, and an API key everywhere. Another version
// of a key is destroyed. The source says where the values were found, for the audit trail; empty says nothing.
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
