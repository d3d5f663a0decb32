package agentrouter

import (
	"context"
	"strconv"
	"time"

	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"
	"github.com/tetrateio/agentrouter-go/internal/operations"
)

// RotateOption is what Rotate is told beside the secret.
type RotateOption func(body map[string]any)

// ActivateNow has the new version serve at once, without a test at the provider. Without it and ActivateLater, the secret is tested, and
// the version serves if it is valid; if nothing is known of it, the version is pending.
func ActivateNow() RotateOption { return func(b map[string]any) { b["activate"] = "now" } }

// ActivateLater leaves the new version pending, until ActivateVersion.
func ActivateLater() RotateOption { return func(b map[string]any) { b["activate"] = "manual" } }

// Overlap is how long the replaced version stays, so that a rollback is possible, in whole seconds; 0 destroys it at once. Without it, 15
// minutes.
func Overlap(d time.Duration) RotateOption {
	return func(b map[string]any) { b["overlap"] = strconv.FormatInt(int64(d/time.Second), 10) + "s" }
}

// NewExpiry has the key stop serving at a time, from the activation on. Without it, the key's expiry stays.
func NewExpiry(t time.Time) RotateOption { return func(b map[string]any) { b["expires_at"] = t.UTC() } }

// NoExpiry has the key serve without end, from the activation on.
func NoExpiry() RotateOption { return func(b map[string]any) { b["expires_at"] = nil } }

// Rotate seals another secret as the key's next version. An active one comes with its receipt, for which Wait waits; that says when the old
// secret may be deleted at the provider. A secret that the provider rejects is an error of status 422, and one that the key has already one
// of 409. Each call sends an idempotency key, so retries make one version only.
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

// ActivateVersion has a pending version serve, or a retiring one again.
func (a *AIKeysClient) ActivateVersion(
	ctx context.Context, customerID, projectID, id string, version int,
) (*aikeysv1.RotateResponse, error) {
	r := a.service.inProject(operations.ActivateKeyVersion(), customerID, projectID, "id", id, "version", strconv.Itoa(version))
	return send(ctx, r, isRotated)
}

// Rollback has the version serve again that the active one replaced, while it is retiring.
func (a *AIKeysClient) Rollback(ctx context.Context, customerID, projectID, id string) (*aikeysv1.RotateResponse, error) {
	r := a.service.inProject(operations.RollbackKey(), customerID, projectID, "id", id)
	return send(ctx, r, isRotated)
}

// DestroyVersion destroys a version that is not active: there is no rollback to it after that.
func (a *AIKeysClient) DestroyVersion(
	ctx context.Context, customerID, projectID, id string, version int,
) (*aikeysv1.DestroyVersionResponse, error) {
	r := a.service.inProject(operations.DestroyKeyVersion(), customerID, projectID, "id", id, "version", strconv.Itoa(version))
	return send(ctx, r, func(r *aikeysv1.DestroyVersionResponse) bool { return r.Version.Version > 0 })
}

func isRotated(r *aikeysv1.RotateResponse) bool { return r.Key.ID != "" && r.Version.Version > 0 }
