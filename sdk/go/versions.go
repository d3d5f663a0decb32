package agentrouter

import (
	"context"
	"strconv"
	"time"

	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"
	"github.com/tetrateio/agentrouter-go/internal/operations"
)

// RotateOption is an optional parameter of Rotate.
type RotateOption func(body map[string]any)

// ActivateNow has the new version serve at once, untested. By default the secret is tested at its provider: if it is valid, the version
// serves; if the test has no result, the version stays pending.
func ActivateNow() RotateOption { return func(b map[string]any) { b["activate"] = "now" } }

// ActivateLater leaves the new version pending, until ActivateVersion.
func ActivateLater() RotateOption { return func(b map[string]any) { b["activate"] = "manual" } }

// Overlap sets how long the replaced version is kept for a rollback, in whole seconds; 0 destroys it at once. The default is 15 minutes.
func Overlap(d time.Duration) RotateOption {
	return func(b map[string]any) { b["overlap"] = strconv.FormatInt(int64(d/time.Second), 10) + "s" }
}

// NewExpiry changes the key's expiry when the version is activated. Without it, the expiry stays.
func NewExpiry(t time.Time) RotateOption { return func(b map[string]any) { b["expires_at"] = t.UTC() } }

// NoExpiry removes the key's expiry when the version is activated.
func NoExpiry() RotateOption { return func(b map[string]any) { b["expires_at"] = nil } }

// Rotate seals another secret as the key's next version. If the version is active, the response has a receipt, which
// says when the old secret may be deleted at the provider; Wait waits for the receipt. If the provider rejects the
// secret, the error has status 422; if the key already has this secret, it has status 409. Each call sends an
// idempotency key, so retries make only one version.
func (a *AIKeysClient) Rotate(
	ctx context.Context, customerID, projectID, id, secret string, options ...RotateOption,
) (*aikeysv1.RotateResponse, error) {
	r := a.service.inProject(operations.RotateKey(), customerID, projectID, "id", id)
	r.checkText("secret", secret)
	body := map[string]any{}
	for _, option := range options {
		option(body)
	}
	body["secret"] = secret
	r.body = body
	return send(ctx, r, isRotated)
}

// Versions returns the key's versions, newest first, and the receipt of its last rotation or rollback, for which Wait waits.
func (a *AIKeysClient) Versions(ctx context.Context, customerID, projectID, id string) (*aikeysv1.VersionsResponse, error) {
	r := a.service.inProject(operations.ListKeyVersions(), customerID, projectID, "id", id)
	return send(ctx, r, func(r *aikeysv1.VersionsResponse) bool { return r.Versions != nil })
}

// ActivateVersion activates a pending version, or makes a retiring version active again.
func (a *AIKeysClient) ActivateVersion(
	ctx context.Context, customerID, projectID, id string, version int,
) (*aikeysv1.RotateResponse, error) {
	r := a.service.inProject(operations.ActivateKeyVersion(), customerID, projectID, "id", id, "version", strconv.Itoa(version))
	return send(ctx, r, isRotated)
}

// Rollback activates the version that the active version replaced, if it is still retiring.
func (a *AIKeysClient) Rollback(ctx context.Context, customerID, projectID, id string) (*aikeysv1.RotateResponse, error) {
	r := a.service.inProject(operations.RollbackKey(), customerID, projectID, "id", id)
	return send(ctx, r, isRotated)
}

// DestroyVersion destroys a version that is not active. It can't be activated again.
func (a *AIKeysClient) DestroyVersion(
	ctx context.Context, customerID, projectID, id string, version int,
) (*aikeysv1.DestroyVersionResponse, error) {
	r := a.service.inProject(operations.DestroyKeyVersion(), customerID, projectID, "id", id, "version", strconv.Itoa(version))
	return send(ctx, r, func(r *aikeysv1.DestroyVersionResponse) bool { return r.Version.Version > 0 })
}

func isRotated(r *aikeysv1.RotateResponse) bool { return r.Key.ID != "" && r.Version.Version > 0 }
