package agentrouter

import (
	"context"

	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"
	"github.com/tetrateio/agentrouter-go/internal/operations"
)

// PolicyClient reads and writes the project's policy.
type PolicyClient struct{ service service }

type policyRequest struct {
	UserKeys           aikeysv1.UserKeys           `json:"user_keys,omitempty"`
	UserKeysByProvider aikeysv1.UserKeysByProvider `json:"user_keys_by_provider,omitzero"`
	OnBadKey           aikeysv1.OnBadKey           `json:"on_bad_key,omitempty"`
	OnLimited          aikeysv1.OnLimited          `json:"on_limited,omitempty"`
	Operations         aikeysv1.Operations         `json:"operations,omitempty"`
	RemovalGraceDays   *int                        `json:"removal_grace_days,omitempty"`
}

// With returns a client that adds options to its calls: Set takes OnLimited and RemovalGraceDays.
func (p *PolicyClient) With(options ...CallOption) *PolicyClient {
	return &PolicyClient{p.service.with(options)}
}

// Get returns the policy in force. It is the default policy until one is written.
func (p *PolicyClient) Get(ctx context.Context, customerID, projectID string) (*aikeysv1.PolicyResponse, error) {
	return sendPolicy(ctx, p.service.inProject(operations.GetPolicy(), customerID, projectID))
}

// Set replaces the whole policy. Set restores the default of each part whose value is empty, nil or left out, including
// served, OnLimited and RemovalGraceDays. Owners only.
func (p *PolicyClient) Set(
	ctx context.Context, customerID, projectID string,
	userKeys aikeysv1.UserKeys, userKeysByProvider aikeysv1.UserKeysByProvider, onBadKey aikeysv1.OnBadKey,
	served ...aikeysv1.Operations,
) (*aikeysv1.PolicyResponse, error) {
	r := p.service.inProject(operations.SetPolicy(), customerID, projectID)
	body := policyRequest{UserKeys: userKeys, UserKeysByProvider: userKeysByProvider, OnBadKey: onBadKey, OnLimited: r.onLimited,
		RemovalGraceDays: r.removalGraceDays}
	if len(served) > 0 {
		body.Operations = served[0]
	}
	r.body = body
	return sendPolicy(ctx, r)
}

func sendPolicy(ctx context.Context, r *request) (*aikeysv1.PolicyResponse, error) {
	return send(ctx, r, func(r *aikeysv1.PolicyResponse) bool { return r.Policy.UserKeys != "" })
}
