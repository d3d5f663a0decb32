package aikeys

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"golang.org/x/text/unicode/norm"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/impl/feed"
	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/impl/keysetcheck"
	"github.com/agentrouter/aikeys/impl/providers"
	"github.com/agentrouter/aikeys/impl/verification"
	"github.com/agentrouter/aikeys/internal/problem"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/sealer"
)

// RegisterKey seals a provider key and stores it.
func (s *server) RegisterKey(ctx context.Context, req gen.RegisterKeyRequestObject) (gen.RegisterKeyResponseObject, error) {
	caller, err := s.caller(ctx, req.CustomerID, req.ProjectID)
	if err != nil {
		return nil, err
	}
	provider, err := s.findProvider(ctx, caller, req.Body.Provider)
	if err != nil {
		return nil, err
	}
	now := s.Now()
	form, err := s.checkRegistration(provider, req.Body, now)
	if err != nil {
		return nil, err
	}
	key := newKey(caller, provider, req.Body, form.DisplaySuffix, now)
	key.ID = s.ids.Next(models.KeyIDPrefix, now)
	quota := s.Quotas.Project
	if key.UserID != "" {
		quota = s.Quotas.User
	}
	idempotency := registrationRecord(req.Params.IdempotencyKey, caller, key, req.Body.Secret.Reveal())
	event := s.keyEvent(ctx, models.EventKeyRegistered, caller, key)
	if event.After, err = s.verifySecret(ctx, caller, provider, &key, req.Body); err != nil {
		return nil, s.recordDenied(ctx, err, event)
	}
	sealed, err := s.sealSecret(ctx, key, req.Body.Secret.Reveal(), form.Parts)
	if err != nil {
		return nil, err
	}
	key.Envelope, key.KEKID = sealed.Envelope.Bytes, sealed.Envelope.KEKID
	// In one statement, the store checks the caller's role and writes the key, the event and the idempotency record, or
	// nothing. For a retry, it returns the key of the first request.
	key, err = s.Store.RegisterKey(ctx, caller, roleToWrite(key), models.Registration{
		Key: key, Event: event, Idempotency: idempotency, Quota: quota, Fingerprints: sealed.Fingerprints,
	}, s.Now().UnixMicro())
	if errors.Is(err, models.ErrAlreadyExists) {
		return nil, errNameTaken(err)
	}
	if errors.Is(err, models.ErrDestinationGone) {
		return nil, problem.Invalid("provider", s.Providers.UnknownReason())
	}
	if err != nil {
		return nil, s.recordDenied(ctx, err, event)
	}
	return gen.RegisterKey201JSONResponse{
		Body:    gen.RegisterResponse{Key: s.wireKey(key), Warnings: wireWarnings(key.Duplicates)},
		Headers: gen.RegisterKey201ResponseHeaders{Location: new(keyPath(key)), ETag: new(etag(key))},
	}, nil
}

// newKey returns the key that a request describes, without an id and an envelope.
func newKey(caller models.Caller, provider providers.Provider, body *gen.RegisterRequest, displaySuffix string, now time.Time) models.Key {
	key := models.Key{
		CustomerID: caller.CustomerID, ProjectID: caller.ProjectID, Provider: provider.Slug, Destination: provider.Destination,
		Name: norm.NFC.String(body.Name), DisplaySuffix: displaySuffix, Version: 1, CreatedAt: now.UnixMicro(), CreatedBy: caller.UserID,
		Order: orZero(body.Order), Weight: orZero(body.Weight),
	}
	if at := body.ExpiresAt; at != nil {
		key.ExpiresAt = at.UnixMicro()
	}
	if r := body.Restrict; r != nil {
		key.Restrictions = models.Restrictions{Users: r.Users, Models: r.Models, Operations: r.Operations}
	}
	if l := body.Limit; l != nil {
		key.Limits = models.Limits{RequestsPerMinute: orZero(l.RequestsPerMinute), RequestsPerDay: orZero(l.RequestsPerDay), Concurrent: orZero(l.Concurrent)}
	}
	if orZero(body.UserScope) {
		key.UserID = caller.UserID
	}
	return key
}

// findProvider returns a provider of the catalogue, or a custom provider that the caller's project can use. It refuses
// a slug of a custom provider if the caller is not a member of the project, so only members learn which custom
// providers exist.
func (s *server) findProvider(ctx context.Context, caller models.Caller, slug string) (providers.Provider, error) {
	if found, known := s.Providers.Lookup(slug); known {
		return found, nil
	}
	unknown := problem.Invalid("provider", s.Providers.UnknownReason())
	if !s.CustomProviders || !providers.IsCustom(slug) {
		return providers.Provider{}, unknown
	}
	if _, err := s.Store.Role(ctx, caller, s.Now().UnixMicro()); err != nil {
		return providers.Provider{}, err
	}
	found, err := s.Store.CustomProvider(ctx, caller.CustomerID, caller.ProjectID, slug)
	if errors.Is(err, models.ErrNotFound) {
		return providers.Provider{}, unknown
	}
	return providers.CustomOf(found.Slug, found.Name, found.BaseURL, found.Dialect, found.Auth, found.Header).Provider(), err
}

// checkRegistration checks what the OpenAPI document can't express.
func (s *server) checkRegistration(provider providers.Provider, body *gen.RegisterRequest, now time.Time) (providers.Form, error) {
	form, err := s.Providers.CheckKey(provider, body.Name, body.Secret.Reveal())
	if refusal := (*providers.Refusal)(nil); errors.As(err, &refusal) {
		return form, problem.Invalid(refusal.Field, refusal.Reason)
	}
	if err == nil && !isPrintable(body.Name) {
		err = errName()
	}
	if err == nil && body.ExpiresAt != nil {
		err = checkExpiry(*body.ExpiresAt, now)
	}
	if r := body.Restrict; err == nil && r != nil && len(r.Users) > 0 && orZero(body.UserScope) {
		err = errOwnKeyUsers()
	}
	return form, err
}

// errNameTaken adds the field "name" to a models.ErrAlreadyExists.
func errNameTaken(err error) error {
	return &problem.Error{Kind: err, Fields: []problem.Field{{Field: "name", Message: "is taken by an active key"}}}
}

func errName() error {
	return problem.Invalid("name", "must not begin or end with a space, nor hold control or invisible characters")
}

func errOwnKeyUsers() error {
	return problem.Invalid("restrict.users", "can't be given for a user's own key, which serves that user alone")
}

// checkExpiry refuses a time that has passed, and a time after the year 9999, which JSON can't hold.
func checkExpiry(at, now time.Time) error {
	switch {
	case at.UnixMicro() <= now.UnixMicro():
		return problem.Invalid("expires_at", "must be in the future")
	case at.UTC().Year() > 9999:
		return problem.Invalid("expires_at", "must be before the year 10000, in UTC")
	}
	return nil
}

// isPrintable reports whether a name is safe to show: it has no spaces at its ends, no invisible characters and no
// control characters. Such characters could make it look like another name, or affect a terminal. The document's
// pattern covers only ASCII spaces and control characters, because OpenAPI has no portable way to write those of
// Unicode.
func isPrintable(name string) bool {
	return strings.TrimSpace(name) == name && !strings.ContainsFunc(name, func(r rune) bool {
		return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Variation_Selector, unicode.Other_Default_Ignorable_Code_Point)
	})
}

// registrationRecord returns the idempotency record of a registration, or nil without an Idempotency-Key. The record
// covers everything that the caller chose, including the secret.
func registrationRecord(idempotencyKey *string, caller models.Caller, key models.Key, secret string) *models.IdempotencyRecord {
	parts := []string{key.Provider, key.Name, key.UserID, secret}
	if key.ExpiresAt != 0 { // empty fields are left out, so that records of earlier releases still match
		parts = append(parts, strconv.FormatInt(key.ExpiresAt, 10))
	}
	if restrictions, err := key.Restrictions.Value(); err == nil && restrictions != "" {
		parts = append(parts, fmt.Sprint(restrictions))
	}
	if !key.Limits.IsZero() {
		parts = append(parts, fmt.Sprintf("%+v", key.Limits))
	}
	if key.IsArranged() {
		parts = append(parts, fmt.Sprintf("order %d, weight %d", key.Order, key.Weight))
	}
	return idempotencyRecord(idempotencyKey, "aikeys/v1/fingerprint:", caller, key.ID, key.CreatedAt, parts...)
}

// idempotencyRecord returns the record by which a retry of a request is recognized, or nil without an Idempotency-Key.
// Its fingerprint is a MAC of the parts. The MAC's key is the Idempotency-Key, of which the database holds only a hash,
// so guesses of a secret can't be tested against a copy of the database.
func idempotencyRecord(
	idempotencyKey *string, purpose string, caller models.Caller, keyID string, now int64, parts ...string,
) *models.IdempotencyRecord {
	if idempotencyKey == nil {
		return nil
	}
	// HMAC hashes a key that is longer than a block. The purpose makes that hash differ from the stored one.
	mac := hmac.New(sha256.New, []byte(purpose+*idempotencyKey))
	for _, part := range parts {
		_ = binary.Write(mac, binary.BigEndian, uint64(len(part))) // a hash never fails to write
		mac.Write([]byte(part))
	}
	hash := sha256.Sum256([]byte(*idempotencyKey))
	return &models.IdempotencyRecord{
		CustomerID: caller.CustomerID, ProjectID: caller.ProjectID, UserID: caller.UserID,
		KeyHash: hash[:], Fingerprint: mac.Sum(nil), KeyID: keyID, CreatedAt: now,
	}
}

// errSecretRejected says that the provider rejects the secret of a registration.
var errSecretRejected = errors.New("secret is rejected by the provider")

// verifySecret tests the secret of a registration at its provider, if the request asks for a test. It returns an error
// before the test if the caller may not register the key; otherwise anyone could use the test to try out secrets.
// verifySecret sets the key's verdict, and returns the state for the event.
func (s *server) verifySecret(
	ctx context.Context, caller models.Caller, provider providers.Provider, key *models.Key, body *gen.RegisterRequest,
) (*models.EventState, error) {
	if !orZero(body.Verify) {
		return nil, nil
	}
	role, err := s.Store.Role(ctx, caller, s.Now().UnixMicro())
	if err != nil {
		return nil, err
	}
	if !role.Covers(roleToWrite(*key)) {
		return nil, models.ErrForbidden
	}
	result := s.testSecret(ctx, caller, provider, body.Secret.Reveal())
	rejected := result.Outcome == verification.Rejected
	if rejected && !orZero(body.Force) {
		return nil, &problem.Error{Kind: errSecretRejected, Fields: []problem.Field{{Field: "secret", Message: "is rejected by the provider"}}}
	}
	key.Verdict, key.VerdictReason, key.VerifiedAt = string(result.Outcome), result.Reason, s.Now().UnixMicro()
	return &models.EventState{Verdict: key.Verdict, Reason: key.VerdictReason, Forced: rejected}, nil
}

// testSecret tests a secret at its provider, unless the operator allows no tests.
func (s *server) testSecret(ctx context.Context, caller models.Caller, provider providers.Provider, secret string) verification.Result {
	if s.Verifier == nil {
		return verification.TurnedOff()
	}
	return s.Verifier.Verify(ctx, caller, provider, secret)
}

// sealSecret seals the secret of a key and makes the fingerprints of its parts. It wipes its own copy of the plaintext.
func (s *server) sealSecret(ctx context.Context, key models.Key, plaintext string, parts []string) (keysetcheck.Sealed, error) {
	secret := sealer.NewSecret([]byte(plaintext))
	defer secret.Wipe()
	return s.Keyset.SealSecret(ctx, sealer.Binding{
		CustomerID: key.CustomerID, ProjectID: key.ProjectID, KeyID: key.ID, Provider: sealer.ProviderAt(key.Provider, key.Destination), Version: key.Version,
	}, secret, parts)
}

// GetKey returns a key's metadata. If the request waits for a receipt, it answers when the receipt is complete.
func (s *server) GetKey(ctx context.Context, req gen.GetKeyRequestObject) (gen.GetKeyResponseObject, error) {
	caller, wait, err := s.callerAndWait(ctx, req.CustomerID, req.ProjectID, req.Params.Wait)
	if err != nil {
		return nil, err
	}
	key, err := s.Store.GetKey(ctx, caller, parseKeyID(req.ID), s.Now().UnixMicro())
	if err != nil {
		return nil, err
	}
	wire := s.wireKey(key)
	if key.RevokedAt != 0 || key.DisabledAt != 0 {
		receipt, err := s.awaitReceipt(ctx, key.Stop(), wait)
		if err != nil {
			return nil, err
		}
		s.setReceipt(&wire, key, receipt)
	}
	return gen.GetKey200JSONResponse{
		Body:    gen.GetResponse{Key: wire},
		Headers: gen.GetKey200ResponseHeaders{ETag: wire.Etag},
	}, nil
}

// setReceipt sets the receipt of a key's revocation or, if the key is only disabled, of its disabling.
func (s *server) setReceipt(wire *gen.Key, k models.Key, r feed.Receipt) {
	receipt := s.wireReceipt(k, r)
	if k.RevokedAt != 0 {
		wire.Receipt = &receipt
		return
	}
	wire.DisableReceipt = &gen.DisableReceipt{
		State: receipt.State, DisabledAt: wireTime(k.DisabledAt), DisabledBy: k.DisabledBy,
		DataPlanes: receipt.DataPlanes, Acknowledged: receipt.Acknowledged, SlowestMs: receipt.SlowestMs, CompleteBy: receipt.CompleteBy,
		InFlight: receipt.InFlight, InFlightFrom: receipt.InFlightFrom, Acknowledgements: receipt.Acknowledgements, Planes: receipt.Planes,
	}
}

// ListKeys returns the project's keys and the caller's own.
func (s *server) ListKeys(ctx context.Context, req gen.ListKeysRequestObject) (gen.ListKeysResponseObject, error) {
	caller, err := s.caller(ctx, req.CustomerID, req.ProjectID)
	if err != nil {
		return nil, err
	}
	page, err := parsePage(req.Params.PageSize, maxPageSize, req.Params.PageToken, isKeyID)
	if err != nil {
		return nil, err
	}
	filter := models.KeyFilter{Before: page.after, Limit: page.limit(), State: models.KeyState(orZero(req.Params.State))}
	if filter.Provider, err = s.parseProvider(req.Params.Provider); err != nil {
		return nil, err
	}
	keys, err := s.Store.ListKeys(ctx, caller, filter, s.Now().UnixMicro())
	if err != nil {
		return nil, err
	}
	keys, next := cut(page, keys, func(k models.Key) string { return k.ID })
	return gen.ListKeys200JSONResponse{Keys: convert(keys, s.wireKey), NextPageToken: next}, nil
}

// RevokeKey revokes a key and answers with the receipt. If the request asks to wait, RevokeKey answers when the receipt
// is complete or the requested time is over. Revoking a key again keeps the first revocation.
func (s *server) RevokeKey(ctx context.Context, req gen.RevokeKeyRequestObject) (gen.RevokeKeyResponseObject, error) {
	caller, wait, err := s.callerAndWait(ctx, req.CustomerID, req.ProjectID, req.Params.Wait)
	if err != nil {
		return nil, err
	}
	var (
		key   models.Key
		event models.Event
	)
	err = s.Store.Transact(ctx, func(tx *models.Tx) (err error) {
		if key, event, err = s.keyToWrite(ctx, tx, tx.Key, caller, req.ID, models.EventKeyRevoked); err != nil {
			return err
		}
		_, err = tx.RevokeKey(&key, caller.UserID, event)
		return err
	})
	if err != nil {
		return nil, s.recordDenied(ctx, err, event)
	}
	return gen.RevokeKey200JSONResponse{Receipt: s.wireReceipt(key, s.receiptOfStop(ctx, key.Stop(), wait))}, nil
}

// keyToWrite finds the key that a request writes, and returns it with the event of the attempt. find is the
// transaction's Key or LockKey. The error is models.ErrForbidden if the caller may not write the key.
func (s *server) keyToWrite(
	ctx context.Context, tx *models.Tx, find func(models.Caller, string) (models.Key, error), caller models.Caller, id string, what models.EventType,
) (key models.Key, event models.Event, err error) {
	role, err := tx.Role(caller)
	if err != nil {
		return key, event, err
	}
	if key, err = find(caller, parseKeyID(id)); err != nil {
		return key, event, err
	}
	event = s.keyEvent(ctx, what, caller, key)
	if !role.Covers(roleToWrite(key)) {
		err = models.ErrForbidden
	}
	return key, event, err
}

// awaitReceipt returns the receipt of a stop. It waits until the receipt is complete, or until the requested time is
// over. If maxWaits other requests of the user are waiting, it does not wait.
func (s *server) awaitReceipt(ctx context.Context, stop models.Stop, wait time.Duration) (feed.Receipt, error) {
	if wait > 0 {
		who := auth.PrincipalFrom(ctx)
		leave, admitted := s.waits.enter(who.CustomerID + "/" + who.UserID)
		defer leave()
		if admitted {
			return s.Receipts.WaitForReceipt(ctx, stop, wait)
		}
	}
	return s.Receipts.WaitForReceipt(ctx, stop, 0)
}

// receiptOfStop returns the receipt of a stop that was just made, and waits for it like awaitReceipt. If the receipt
// can't be read, receiptOfStop returns a pending receipt without counts.
func (s *server) receiptOfStop(ctx context.Context, stop models.Stop, wait time.Duration) feed.Receipt {
	receipt, err := s.awaitReceipt(ctx, stop, wait)
	if err != nil {
		return feed.Receipt{Remaining: unknownRemaining}
	}
	return receipt
}

// maxWaits is how many requests of one user may wait for receipts at a time, in each process.
const maxWaits = 20

// waits counts each user's requests that wait for a receipt.
type waits struct {
	mu     sync.Mutex
	byUser map[string]int // has no zeros; guarded by mu
}

// enter counts a request that will wait, and reports whether the user may have another such request. The caller must
// always call leave.
func (w *waits) enter(user string) (leave func(), admitted bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.byUser[user] >= maxWaits {
		return func() {}, false
	}
	w.byUser[user]++
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.byUser[user]--; w.byUser[user] == 0 {
			delete(w.byUser, user)
		}
	}, true
}

// VerifyKey tests a stored key at its provider, stores the verdict and answers with it.
func (s *server) VerifyKey(ctx context.Context, req gen.VerifyKeyRequestObject) (gen.VerifyKeyResponseObject, error) {
	caller, err := s.caller(ctx, req.CustomerID, req.ProjectID)
	if err != nil {
		return nil, err
	}
	var event models.Event
	tested, err := s.Tests.Test(ctx, caller.CustomerID+"/"+caller.UserID, func(tx *models.Tx) (key models.Key, _ models.Event, err error) {
		key, event, err = s.keyToWrite(ctx, tx, tx.Key, caller, req.ID, models.EventKeyVerified)
		return key, event, err
	})
	if err != nil {
		return nil, s.recordDenied(ctx, err, event)
	}
	key, err := s.Store.GetKey(ctx, caller, tested.ID, s.Now().UnixMicro()) // again, for its present state and the policy's choice
	if err != nil {
		return nil, err
	}
	return gen.VerifyKey200JSONResponse{Verification: *wireVerification(tested), Key: s.wireKey(key)}, nil
}

const (
	// maxWait is the longest time that a request may wait for a receipt.
	maxWait = 30 * time.Second
	// unknownRemaining is the remaining time that is reported if the receipt can't be read. It is the longest time for
	// which any data plane may serve a key without asking the control plane.
	unknownRemaining = time.Hour
)

// callerAndWait returns the caller of a request, and how long the request waits for a receipt: zero if waitFor is nil.
func (s *server) callerAndWait(
	ctx context.Context, customerID, projectID string, waitFor *string,
) (caller models.Caller, wait time.Duration, err error) {
	if waitFor != nil {
		if wait, err = time.ParseDuration(*waitFor); err != nil || wait > maxWait {
			return caller, 0, problem.Invalid("wait", "must be a time such as 500ms or 2s, at most 30s")
		}
	}
	caller, err = s.caller(ctx, customerID, projectID)
	return caller, wait, err
}

// roleToWrite returns the role that a caller needs to register or revoke a key: member for a user's own key, owner for
// a project-level key.
func roleToWrite(key models.Key) models.Role {
	if key.UserID != "" {
		return models.RoleMember
	}
	return models.RoleOwner
}

// parseKeyID returns a key's id, which may be given as a bare ULID.
func parseKeyID(id string) string {
	if len(id) == len("01ARZ3NDEKTSV4RRFFQ69G5FAV") {
		return models.KeyIDPrefix + id
	}
	return id
}

func isKeyID(id string) bool { return strings.HasPrefix(id, models.KeyIDPrefix) && models.ValidID(id) }

// keyPath returns the path at which a key can be read.
func keyPath(k models.Key) string {
	return "/v1/customers/" + k.CustomerID + "/projects/" + k.ProjectID + "/aikeys/" + k.ID
}

// caller returns the user on whose behalf a request acts, and the project that it acts on. A session reaches only the projects of
// its own customer: another customer's project gets the same answer as a project that the user is not a member of.
func (s *server) caller(ctx context.Context, customerID, projectID string) (models.Caller, error) {
	who := auth.PrincipalFrom(ctx)
	if customerID == httpapi.SessionDefault {
		customerID = who.CustomerID
	}
	if projectID == httpapi.SessionDefault {
		projectID = who.ProjectID
	}
	if customerID != who.CustomerID {
		return models.Caller{}, fmt.Errorf("%w: project of another customer", models.ErrNotMember)
	}
	return models.Caller{CustomerID: customerID, ProjectID: projectID, UserID: who.UserID, TokenID: who.TokenID}, nil
}

// event returns the audit event of a request in a project.
func (s *server) event(ctx context.Context, what models.EventType, caller models.Caller) models.Event {
	call, who, now := httpapi.CallFrom(ctx), auth.PrincipalFrom(ctx), s.Now()
	return models.Event{
		ID: s.ids.Next(models.EventIDPrefix, now), CustomerID: caller.CustomerID, ProjectID: caller.ProjectID,
		Type: what, Outcome: models.OutcomeAllowed, At: now.UnixMicro(),
		ActorUserID: who.UserID, ActorMethod: string(who.Method), ActorTokenID: who.TokenID,
		SourceIP: call.SourceIP, RequestID: call.ID,
	}
}

// keyEvent returns the audit event of a request about a key.
func (s *server) keyEvent(ctx context.Context, what models.EventType, caller models.Caller, key models.Key) models.Event {
	event := s.event(ctx, what, caller)
	event.ScopeUserID, event.KeyID, event.Provider = key.UserID, key.ID, key.Provider
	return event
}

// recordDenied handles the error of a write. If err is models.ErrForbidden, it adds the denied attempt to the audit
// trail, even if the client has disconnected, and returns the error with which this type of write is refused. It
// returns any other err unchanged.
func (s *server) recordDenied(ctx context.Context, err error, event models.Event) error {
	if !errors.Is(err, models.ErrForbidden) {
		return err
	}
	err = cmp.Or(refusals[event.Type], models.ErrForbidden)
	event.Outcome = models.OutcomeDenied
	if event.Type == models.EventKeyRegistered {
		event.KeyID = "" // no key was created
	}
	if lost := s.Denials.record(context.WithoutCancel(ctx), event); lost != nil {
		return fmt.Errorf("%w: %w: %w", err, httpapi.ErrUnrecorded, lost)
	}
	return err
}

// notServing returns why a key can't serve, or "". A key that its provider has rejected can't serve until it is used with success or passes a test.
func notServing(k models.Key, now int64) string {
	switch stopped := k.StopReason(now); {
	case stopped != "":
		return string(stopped)
	case k.UserID != "" && k.UserKeys == models.UserKeysForbid:
		return "user_keys_forbidden"
	case k.UserID == "" && k.UserKeys == models.UserKeysRequire:
		return "user_key_required"
	case k.Verdict == string(verification.Rejected) && k.LastUsedAt <= k.VerifiedAt:
		return "rejected"
	}
	return ""
}

// etag returns the entity tag of a key's state. Only people's changes of the key change the tag.
func etag(k models.Key) string { return `"` + strconv.FormatInt(k.Revision, 10) + `"` }

func (s *server) wireKey(k models.Key) gen.Key {
	now := s.Now().UnixMicro()
	key := gen.Key{
		ID: k.ID, CustomerID: k.CustomerID, ProjectID: k.ProjectID, Provider: k.Provider, Name: k.Name,
		DisplaySuffix: k.DisplaySuffix, UserScope: k.UserID != "", CreatedAt: wireTime(k.CreatedAt), CreatedBy: k.CreatedBy,
		RevokedAt: optionalTime(k.RevokedAt), RevokedBy: optional(k.RevokedBy), State: string(models.KeyActive),
		LastUsedAt: optionalTime(k.LastUsedAt), StaleSince: optionalTime(k.StaleSince(now)), ExpiresAt: optionalTime(k.ExpiresAt),
		Etag: new(etag(k)), Disabled: new(k.DisabledAt != 0), DisabledAt: optionalTime(k.DisabledAt), DisabledBy: optional(k.DisabledBy),
		Order: new(k.Order), Weight: optional(k.Weight), Restrict: wireRestrictions(k.Restrictions), Limit: wireLimits(k.Limits),
		Version: optional(int(k.Version)),
	}
	key.NotServingReason = optional(notServing(k, now))
	key.Serves = new(key.NotServingReason == nil)
	if k.RevokedAt != 0 {
		key.State = string(models.KeyRevoked)
	}
	if k.LastFailureAt != 0 {
		key.LastFailure = &gen.KeyFailure{At: wireTime(k.LastFailureAt), Status: k.LastFailureStatus, Reason: optional(k.LastFailureReason)}
	}
	key.Verification = wireVerification(k)
	return key
}

// wireLimits returns a key's limits, or nil if it has none.
func wireLimits(l models.Limits) *gen.KeyLimit {
	if l.IsZero() {
		return nil
	}
	return &gen.KeyLimit{RequestsPerMinute: optional(l.RequestsPerMinute), RequestsPerDay: optional(l.RequestsPerDay), Concurrent: optional(l.Concurrent)}
}

// wireRestrictions returns a key's restrictions, or nil if it has none.
func wireRestrictions(r models.Restrictions) *gen.Restrictions {
	if r.IsZero() {
		return nil
	}
	return &gen.Restrictions{Users: r.Users, Models: r.Models, Operations: r.Operations}
}

// wireVerification returns the result of a key's last test, or nil if there was none.
func wireVerification(k models.Key) *gen.Verification {
	if k.VerifiedAt == 0 {
		return nil
	}
	return &gen.Verification{Verdict: k.Verdict, Reason: optional(k.VerdictReason), CheckedAt: wireTime(k.VerifiedAt)}
}

// receiptComplete is the state of a receipt that proves that its stop has reached all data planes.
const receiptComplete = "complete"

func (s *server) wireReceipt(k models.Key, r feed.Receipt) gen.Receipt {
	return s.receiptOf(k.RevokedAt, k.RevokedBy, r)
}

// receiptOf returns the receipt of a revocation: at is its time in microseconds, by the user who revoked.
func (s *server) receiptOf(at int64, by string, r feed.Receipt) gen.Receipt {
	receipt := gen.Receipt{
		State: receiptComplete, RevokedAt: wireTime(at), RevokedBy: by,
		DataPlanes: r.DataPlanes, Acknowledged: r.Acknowledged,
	}
	if r.Slowest > 0 {
		receipt.SlowestMs = new(int(r.Slowest.Milliseconds()))
	}
	if r.Counted > 0 {
		receipt.InFlight, receipt.InFlightFrom = new(int(r.InFlight)), &r.Counted
	}
	for _, d := range r.ByDataPlane {
		confirmed := gen.Acknowledgement{DataPlane: d.Name, Acknowledged: d.Acknowledged}
		if d.Counted > 0 {
			confirmed.InFlight, confirmed.InFlightFrom = new(int(d.InFlight)), new(d.Counted)
		}
		receipt.Acknowledgements = append(receipt.Acknowledgements, confirmed)
	}
	for _, p := range r.Planes {
		plane := gen.ReceiptPlane{Name: p.Name, State: string(p.State)}
		if p.Took > 0 {
			plane.Ms = new(int(p.Took.Milliseconds()))
		}
		receipt.Planes = append(receipt.Planes, plane)
	}
	if !r.Complete {
		receipt.State = "pending"
		receipt.CompleteBy = new(wireTime(s.Now().Add(r.Remaining).UnixMicro()))
	}
	return receipt
}

// wireWarnings names the other keys that have the same secret, or a field of it.
func wireWarnings(duplicates []string) []gen.KeyWarning {
	var warnings []gen.KeyWarning
	for _, id := range duplicates {
		warnings = append(warnings, gen.KeyWarning{Code: "duplicate_secret", KeyID: id})
	}
	return warnings
}

// convert maps rows to their wire form. The result is never nil, so it is never null on the wire.
func convert[Row, Wire any](rows []Row, one func(Row) Wire) []Wire {
	out := make([]Wire, len(rows))
	for i, row := range rows {
		out[i] = one(row)
	}
	return out
}

// optional returns nil for a zero value, which leaves the member out of the answer.
func optional[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}

// orZero returns the value of an optional member, or the zero value if the request leaves it out.
func orZero[T any](given *T) (value T) {
	if given != nil {
		value = *given
	}
	return value
}

// wireTime converts microseconds since 1970.
func wireTime(micros int64) time.Time { return time.UnixMicro(micros).UTC() }

// optionalTime is wireTime with nil for 0, which means never.
func optionalTime(micros int64) *time.Time {
	if micros == 0 {
		return nil
	}
	return new(wireTime(micros))
}
