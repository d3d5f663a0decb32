package agentrouter

import (
	"context"
	"iter"
	"time"

	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"
	"github.com/tetrateio/agentrouter-go/internal/operations"
)

// AIKeysClient registers, reads, changes, rotates, tests and revokes provider keys.
type AIKeysClient struct{ service service }

// With returns a client that adds options to its calls. The methods take:
//
//   - Register: IdempotencyKey, Verify, Force, ExpiresAt, AtOrder, WithWeight, Restricted and Limited
//   - List: OfProvider, InState, PageSize and PageToken; All: the same without PageToken
//   - Get, Revoke and Versions: Wait
//   - Update, ActivateVersion and Rollback: Wait and IfMatch; Rotate: IdempotencyKey too
//   - DestroyVersion: IfMatch
//   - Resolve: Explained, OfUser and WhileLimited
func (a *AIKeysClient) With(options ...CallOption) *AIKeysClient {
	return &AIKeysClient{a.service.with(options)}
}

// registerRequest is the body of Register. It is not exported because it holds the secret.
type registerRequest struct {
	Provider  aikeysv1.Provider `json:"provider"`
	Name      string            `json:"name"`
	Secret    string            `json:"secret"`
	UserScope bool              `json:"user_scope"`
	Verify    bool              `json:"verify,omitempty"`
	Force     bool              `json:"force,omitempty"`
	ExpiresAt time.Time         `json:"expires_at,omitzero"`
	Order     *int              `json:"order,omitempty"`
	Weight    *int              `json:"weight,omitempty"`

	Restrict *aikeysv1.Restrictions `json:"restrict,omitempty"`
	Limit    *aikeysv1.KeyLimit     `json:"limit,omitempty"`
}

// RegisterParams says which key to register. Its Secret prints as [redacted].
type RegisterParams struct {
	// CustomerID and ProjectID say where; empty means the session's own.
	CustomerID, ProjectID string
	Provider              aikeysv1.Provider
	// Name tells people which key it is. It is not secret.
	Name   string
	Secret Secret
	// UserScope registers the caller's own key; otherwise the key is the project's, and the caller must be an owner.
	UserScope bool
}

// RegisterKey is Register with named arguments, so that a name and a secret can't be swapped by mistake.
func (a *AIKeysClient) RegisterKey(ctx context.Context, params RegisterParams) (*aikeysv1.RegisterResponse, error) {
	return a.Register(ctx, params.CustomerID, params.ProjectID, params.Provider, params.Name, string(params.Secret), params.UserScope)
}

// Register seals a provider's key and stores it under a project. With userScope the key is the caller's own; otherwise it
// is the project's, and the caller must be an owner. Each call sends an idempotency key, so retries register one key only.
func (a *AIKeysClient) Register(
	ctx context.Context, customerID, projectID string, provider aikeysv1.Provider, name, secret string, userScope bool,
) (*aikeysv1.RegisterResponse, error) {
	r := a.service.inProject(operations.RegisterKey(), customerID, projectID)
	r.checkText("provider", string(provider))
	r.checkText("name", name)
	r.checkText("secret", secret)
	r.body = registerRequest{Provider: provider, Name: name, Secret: secret, UserScope: userScope, Verify: r.verify, Force: r.force, ExpiresAt: r.expiresAt,
		Order: r.order, Weight: r.weight, Restrict: r.restrict, Limit: r.limit}
	return send(ctx, r, func(r *aikeysv1.RegisterResponse) bool { return r.Key.ID != "" })
}

// Get returns one key's metadata, whether active or revoked. With Wait, the service answers when the key's Receipt or DisableReceipt is complete.
func (a *AIKeysClient) Get(ctx context.Context, customerID, projectID, id string) (*aikeysv1.GetResponse, error) {
	r := a.service.inProject(operations.GetKey(), customerID, projectID, "id", id)
	return send(ctx, r, func(r *aikeysv1.GetResponse) bool { return r.Key.ID != "" })
}

// List returns the project's keys and the caller's own, newest first: all of them, or one page with PageSize or PageToken.
func (a *AIKeysClient) List(ctx context.Context, customerID, projectID string) (*aikeysv1.ListResponse, error) {
	return a.pages(customerID, projectID).list(ctx)
}

// All iterates over the keys of all pages, newest first. It fetches pages as needed and stops after an error.
func (a *AIKeysClient) All(ctx context.Context, customerID, projectID string) iter.Seq2[aikeysv1.Key, error] {
	return a.pages(customerID, projectID).all(ctx)
}

func (a *AIKeysClient) pages(customerID, projectID string) pages[aikeysv1.ListResponse, aikeysv1.Key] {
	return pagesInProject(a.service, operations.ListKeys(), customerID, projectID,
		func(r *aikeysv1.ListResponse) (*[]aikeysv1.Key, *string) { return &r.Keys, &r.NextPageToken })
}

// KeyChange is one change that Update makes to a key.
type KeyChange func(changes map[string]any)

// SetName gives the key another name.
func SetName(name string) KeyChange { return func(c map[string]any) { c["name"] = name } }

// SetDisabled stops the key, as fast as a revocation, or lets it serve again.
func SetDisabled(disabled bool) KeyChange { return func(c map[string]any) { c["disabled"] = disabled } }

// SetExpiry has the key stop serving at a time, which must be in the future.
func SetExpiry(t time.Time) KeyChange { return func(c map[string]any) { c["expires_at"] = t.UTC() } }

// ClearExpiry removes the time at which the key stops serving.
func ClearExpiry() KeyChange { return func(c map[string]any) { c["expires_at"] = nil } }

// SetOrder gives the key another place among the keys of its scope and provider. The lowest order serves; among equals, the newest key.
func SetOrder(order int) KeyChange { return func(c map[string]any) { c["order"] = order } }

// SetWeight gives the key a weight. Keys of the same provider, scope and order that have a weight share the callers in
// proportion to their weights.
func SetWeight(weight int) KeyChange { return func(c map[string]any) { c["weight"] = weight } }

// ClearWeight removes the key's weight: it no longer shares callers.
func ClearWeight() KeyChange { return func(c map[string]any) { c["weight"] = nil } }

// RestrictUsers has a project key serve only these users, or all of them if none is given.
func RestrictUsers(users ...string) KeyChange { return restrict("users", users) }

// RestrictModels has the key serve only these models, or all of them if none is given. A * at the end matches any rest.
func RestrictModels(models ...string) KeyChange { return restrict("models", models) }

// RestrictOperations has the key serve only these paths of the provider's API and those below them, or all if none is given.
func RestrictOperations(paths ...string) KeyChange { return restrict("operations", paths) }

// ClearRestrictions removes all restrictions.
func ClearRestrictions() KeyChange { return func(c map[string]any) { c["restrict"] = nil } }

// LimitRequestsPerMinute has the key serve at most this many requests a minute; 0 removes the limit.
func LimitRequestsPerMinute(requests int) KeyChange { return limit("requests_per_minute", requests) }

// LimitRequestsPerDay has the key serve at most this many requests a day (UTC); 0 removes the limit.
func LimitRequestsPerDay(requests int) KeyChange { return limit("requests_per_day", requests) }

// LimitConcurrent has the key serve at most this many requests at once; 0 removes the limit.
func LimitConcurrent(requests int) KeyChange { return limit("concurrent", requests) }

// ClearLimits removes all limits.
func ClearLimits() KeyChange { return func(c map[string]any) { c["limit"] = nil } }

func limit(name string, to int) KeyChange {
	return func(c map[string]any) {
		limits := membersOf(c, "limit")
		if limits[name] = to; to == 0 {
			limits[name] = nil
		}
	}
}

// membersOf returns an object of the body of an Update. If the body does not have it, membersOf adds it.
func membersOf(c map[string]any, object string) map[string]any {
	members, ok := c[object].(map[string]any)
	if !ok {
		members = map[string]any{}
		c[object] = members
	}
	return members
}

func restrict(list string, to []string) KeyChange {
	return func(c map[string]any) {
		lists := membersOf(c, "restrict")
		if lists[list] = to; len(to) == 0 {
			lists[list] = nil
		}
	}
}

// Update makes the changes to a key, and changes nothing else. If the key is disabled after the update, the returned
// key has a DisableReceipt; with Wait, the service answers when this receipt is complete. With IfMatch, the call fails
// if the key has changed since the caller read its Etag.
func (a *AIKeysClient) Update(
	ctx context.Context, customerID, projectID, id string, changes ...KeyChange,
) (*aikeysv1.UpdateResponse, error) {
	r := a.service.inProject(operations.UpdateKey(), customerID, projectID, "id", id)
	body := map[string]any{}
	for _, change := range changes {
		change(body)
	}
	if name, ok := body["name"].(string); ok {
		r.checkText("name", name)
	}
	if len(body) == 0 {
		r.setError("changes", "is required")
	}
	r.body = body
	return send(ctx, r, func(r *aikeysv1.UpdateResponse) bool { return r.Key.ID != "" })
}

// Revoke revokes a key permanently. The receipt says how many data planes have confirmed that they no longer use the
// key; with Wait, the service answers when all data planes have confirmed. Revoking again is safe and returns the first
// revocation's receipt.
func (a *AIKeysClient) Revoke(
	ctx context.Context, customerID, projectID, id string,
) (*aikeysv1.RevokeResponse, error) {
	r := a.service.inProject(operations.RevokeKey(), customerID, projectID, "id", id)
	return send(ctx, r, func(r *aikeysv1.RevokeResponse) bool { return r.Receipt.State != "" })
}

// Verify tests a stored key at its provider, and stores the verdict with the key. If the provider rejects the key, the
// key's Serves becomes false, but requests with the key still go to the provider. A key can be tested once in ten
// seconds; if it is tested sooner, the service answers 429, and the client retries after the time in Retry-After.
func (a *AIKeysClient) Verify(ctx context.Context, customerID, projectID, id string) (*aikeysv1.VerifyResponse, error) {
	r := a.service.inProject(operations.VerifyKey(), customerID, projectID, "id", id)
	return send(ctx, r, func(r *aikeysv1.VerifyResponse) bool { return r.Verification.Verdict != "" && r.Key.ID != "" })
}

// Resolve returns which key would serve the caller's request to a provider now, and why. It does not count as a use.
// With Explained, it lists every key that could serve; with OfUser, an owner sees which key serves another member; with
// WhileLimited, Resolve returns the key that serves while a certain key is at a limit.
func (a *AIKeysClient) Resolve(
	ctx context.Context, customerID, projectID string, provider aikeysv1.Provider,
) (*aikeysv1.ResolveResponse, error) {
	r := a.service.with([]CallOption{OfProvider(provider)}).inProject(operations.ResolveKey(), customerID, projectID)
	r.checkText("provider", string(provider))
	return send(ctx, r, func(r *aikeysv1.ResolveResponse) bool { return r.Reason != "" })
}
