package aikeys

import (
	"context"
	"crypto/subtle"
	"errors"
	"slices"
	"strconv"
	"time"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/providers"
	"github.com/agentrouter/aikeys/impl/verification"
	"github.com/agentrouter/aikeys/internal/problem"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/sealer"
)

var (
	// errSameSecret says that the key already has the secret of a rotation.
	errSameSecret = errors.New("key has this secret already")
	// errRotationRejected says that the provider rejects the secret of a rotation.
	errRotationRejected = errors.New("secret of the rotation is rejected by the provider")
)

const (
	// defaultOverlap is how long a replaced version stays if the request does not say.
	defaultOverlap = 15 * time.Minute
	// maxRotateTries is how often a secret is sealed again if another rotation has taken its version number.
	maxRotateTries = 5
	// reasonRotation is the reason of the records of versions that were opened to compare them with a new secret.
	reasonRotation = "rotation"
)

// rotation is a parsed request to rotate a key.
type rotation struct {
	keyID    string
	ifMatch  *string
	secret   string
	activate gen.RotateRequestActivate
	// overlap is in microseconds, and expiresAt as in models.KeyVersion.
	overlap, expiresAt int64
	idempotency        *models.IdempotencyRecord
	// fingerprint is of the whole secret; nil if it can't be made.
	fingerprint []byte
	// tested is the result of the test of the secret; nil before the test.
	tested *verification.Result
}

// RotateKey seals another secret as the next version of a key, and activates it at once, after a test, or not at all,
// as the request says.
func (s *server) RotateKey(ctx context.Context, req gen.RotateKeyRequestObject) (gen.RotateKeyResponseObject, error) {
	caller, wait, err := s.callerAndWait(ctx, req.CustomerID, req.ProjectID, req.Params.Wait)
	if err != nil {
		return nil, err
	}
	r, err := s.parseRotation(caller, req)
	if err != nil {
		return nil, err
	}
	if made := s.Keyset.FingerprintsOf(ctx, caller.CustomerID, r.secret); len(made) > 0 {
		r.fingerprint = made[0]
	}
	key, version, err := s.rotate(ctx, caller, &r)
	if err != nil {
		return nil, err
	}
	body := s.wireRotation(ctx, key, version, wait)
	return gen.RotateKey200JSONResponse{Body: body, Headers: gen.RotateKey200ResponseHeaders{ETag: body.Key.Etag}}, nil
}

// parseRotation parses a request. It makes the checks that the document can't express and that need no key.
func (s *server) parseRotation(caller models.Caller, req gen.RotateKeyRequestObject) (rotation, error) {
	r := rotation{
		keyID: parseKeyID(req.ID), ifMatch: req.Params.IfMatch, secret: req.Body.Secret.Reveal(), activate: gen.RotateRequestActivateVerified,
		overlap: defaultOverlap.Microseconds(), expiresAt: models.KeepExpiry,
	}
	if req.Body.Activate != nil {
		r.activate = *req.Body.Activate
	}
	if req.Body.Overlap != nil {
		overlap, err := time.ParseDuration(*req.Body.Overlap)
		if err != nil || overlap > models.MaxOverlap {
			return r, problem.Invalid("overlap", "must be a time such as 0s, 15m or 24h, at most 720h")
		}
		r.overlap = overlap.Microseconds()
	}
	if req.Body.ExpiresAt.IsNull() {
		r.expiresAt = 0
	} else if req.Body.ExpiresAt.IsSpecified() {
		at := req.Body.ExpiresAt.MustGet()
		if err := checkExpiry(at, s.Now()); err != nil {
			return r, err
		}
		r.expiresAt = at.UnixMicro()
	}
	r.idempotency = idempotencyRecord(req.Params.IdempotencyKey, "aikeys/v1/fingerprint/rotate:", caller, r.keyID, s.Now().UnixMicro(),
		r.keyID, r.secret, string(r.activate), strconv.FormatInt(r.overlap, 10), strconv.FormatInt(r.expiresAt, 10))
	return r, nil
}

// rotate adds the version, and returns the changed key and the version's number. No transaction is open while the
// secret is tested and sealed. If another rotation has taken the number by then, the secret is sealed again for the
// next number.
func (s *server) rotate(ctx context.Context, caller models.Caller, r *rotation) (versioned, uint32, error) {
	for try := 1; ; try++ {
		found, kept, err := s.beginRotation(ctx, caller, r)
		if err != nil || found.replayed != 0 {
			return found, found.replayed, err
		}
		next, err := s.newVersion(ctx, caller, found.key, kept, r)
		if err != nil {
			return found, 0, err
		}
		done, err := s.storeVersion(ctx, caller, next, r)
		if errors.Is(err, models.ErrVersionTaken) && try < maxRotateTries {
			continue
		}
		if done.replayed != 0 {
			return done, done.replayed, err
		}
		return done, next.Version, err
	}
}

// beginRotation finds the key, checks that the caller may rotate it now, and returns the versions without fingerprints,
// with their envelopes. If this process may open secrets, beginRotation also stores records that these versions are
// opened.
func (s *server) beginRotation(ctx context.Context, caller models.Caller, r *rotation) (versioned, []models.KeyVersion, error) {
	var (
		key      models.Key
		kept     []models.KeyVersion
		replayed uint32
	)
	found, err := s.changeVersions(ctx, caller, versionChange{r.keyID, r.ifMatch, models.EventKeyRotated}, func(c changing) (err error) {
		key, kept = c.key, nil
		if r.idempotency != nil {
			if replayed, err = c.tx.FindIdempotency(*r.idempotency); err != nil || replayed != 0 {
				return err
			}
		}
		if c.isStale {
			return errPrecondition
		}
		if key.RevokedAt != 0 {
			return errRevoked
		}
		if kept, err = s.notCompared(c.tx, key, r); err != nil || s.Opener == nil {
			return err
		}
		for _, v := range kept {
			if err := c.tx.RecordFetch(openedForRotation(caller, key, v.Version, c.newEvent(models.EventKeyRotated))); err != nil {
				return err
			}
		}
		return nil
	})
	if replayed != 0 {
		found.replayed = replayed
		return found, nil, err
	}
	found.key = key // with its envelope
	return found, kept, err
}

// notCompared returns the versions of a key that have no fingerprint, or errSameSecret if a version has the secret's
// fingerprint.
func (s *server) notCompared(tx *models.Tx, key models.Key, r *rotation) ([]models.KeyVersion, error) {
	kept, err := tx.KeptVersions(key.ID)
	if err != nil {
		return nil, err
	}
	kept = append(kept, key.ActiveVersion())
	having, same, err := tx.FingerprintedVersions(key.CustomerID, key.ID, r.fingerprint)
	if err == nil && slices.ContainsFunc(kept, func(v models.KeyVersion) bool { return same[v.Version] }) {
		err = errSameSecret
	}
	return slices.DeleteFunc(kept, func(v models.KeyVersion) bool { return having[v.Version] }), err
}

// openedForRotation returns the record that a version is opened for a rotation.
func openedForRotation(caller models.Caller, k models.Key, version uint32, event models.Event) models.FetchRecord {
	return models.FetchRecord{
		At: event.At, DataPlaneID: models.ControlPlane, CustomerID: k.CustomerID, ProjectID: k.ProjectID, Provider: k.Provider,
		UserID: caller.UserID, TokenID: caller.TokenID, KeyID: k.ID, Version: version,
		Decision: models.OutcomeAllowed, Reason: reasonRotation, RequestID: event.RequestID,
	}
}

// newVersion checks, tests and seals the secret of a rotation as the next version of a key.
func (s *server) newVersion(
	ctx context.Context, caller models.Caller, key models.Key, kept []models.KeyVersion, r *rotation,
) (next models.NewVersion, err error) {
	provider, err := s.findProvider(ctx, caller, key.Provider)
	if err != nil {
		return next, err
	}
	form, err := s.Providers.CheckKey(provider, key.Name, r.secret)
	if refusal := (*providers.Refusal)(nil); errors.As(err, &refusal) {
		return next, problem.Invalid("secret", refusal.Reason)
	}
	if err != nil {
		return next, err
	}
	if err := s.checkIsAnother(ctx, key, kept, r.secret); err != nil {
		return next, err
	}
	now := s.Now().UnixMicro()
	next.KeyVersion = models.KeyVersion{
		KeyID: key.ID, Version: key.LastVersion + 1, DisplaySuffix: form.DisplaySuffix, CreatedAt: now, CreatedBy: caller.UserID,
		Overlap: r.overlap, ExpiresAt: r.expiresAt,
	}
	next.Activate = r.activate == gen.RotateRequestActivateNow
	if r.activate == gen.RotateRequestActivateVerified {
		if err := s.testRotation(ctx, caller, provider, r); err != nil {
			return next, err
		}
		next.Activate = r.tested.Outcome == verification.Valid
		next.Verdict, next.VerdictReason, next.VerifiedAt = string(r.tested.Outcome), r.tested.Reason, s.Now().UnixMicro()
		next.Verified = &models.EventState{Verdict: next.Verdict, Reason: next.VerdictReason}
	}
	key.Version = next.Version
	sealed, err := s.sealSecret(ctx, key, r.secret, form.Parts)
	next.Envelope, next.KEKID, next.Fingerprints = sealed.Envelope.Bytes, sealed.Envelope.KEKID, sealed.Fingerprints
	return next, err
}

// checkIsAnother returns errSameSecret if a version of a key has the given secret. It skips versions whose envelopes
// can't be opened, so that a rotation can replace a damaged version.
func (s *server) checkIsAnother(ctx context.Context, key models.Key, kept []models.KeyVersion, secret string) error {
	for _, v := range kept {
		plain, err := s.Opener.Open(ctx, sealer.Binding{
			CustomerID: key.CustomerID, ProjectID: key.ProjectID, KeyID: key.ID, Provider: sealer.ProviderAt(key.Provider, key.Destination), Version: v.Version,
		}, v.Envelope)
		if errors.Is(err, sealer.ErrUnavailable) || ctx.Err() != nil {
			return err
		}
		if err != nil {
			continue
		}
		same := subtle.ConstantTimeCompare(plain.Reveal(), []byte(secret)) == 1
		plain.Wipe()
		if same {
			return errSameSecret
		}
	}
	return nil
}

// testRotation tests the secret of a rotation at its provider, once. Call it only if the caller may rotate the key.
func (s *server) testRotation(ctx context.Context, caller models.Caller, provider providers.Provider, r *rotation) error {
	if r.tested == nil {
		r.tested = new(s.testSecret(ctx, caller, provider, r.secret))
	}
	if r.tested.Outcome == verification.Rejected {
		return &problem.Error{Kind: errRotationRejected, Fields: []problem.Field{{Field: "secret", Message: "is rejected by the provider"}}}
	}
	return nil
}

// storeVersion adds a version to its key.
func (s *server) storeVersion(ctx context.Context, caller models.Caller, next models.NewVersion, r *rotation) (versioned, error) {
	var (
		replayed   uint32
		duplicates []string
	)
	done, err := s.changeVersions(ctx, caller, versionChange{r.keyID, r.ifMatch, models.EventKeyRotated}, func(c changing) (err error) {
		if r.idempotency != nil {
			record := *r.idempotency
			record.Version = next.Version
			if replayed, err = c.tx.ClaimIdempotency(record); err != nil || replayed != 0 {
				return err
			}
		}
		if c.isStale {
			return errPrecondition
		}
		if c.key.RevokedAt != 0 {
			return errRevoked
		}
		if duplicates, err = c.tx.Duplicates(caller, c.key.ID, next.Fingerprints); err != nil {
			return err
		}
		return c.tx.AddVersion(c.key, next, caller.UserID, c.newEvent)
	})
	done.replayed, done.key.Duplicates = replayed, duplicates
	return done, err
}

// versioned is a key with its versions.
type versioned struct {
	key models.Key
	// others are the versions that are not active, newest first.
	others []models.KeyVersion
	// replayed is the version that an earlier request with the same Idempotency-Key made; zero if there was none.
	replayed uint32
}

// find returns a version of the key by its number.
func (v versioned) find(number uint32) models.KeyVersion {
	for _, other := range v.others {
		if other.Version == number {
			return other
		}
	}
	return v.key.ActiveVersion()
}

// versionChange describes a change of a key's versions: the key, the request's If-Match, and the event of a denied attempt.
type versionChange struct {
	keyID   string
	ifMatch *string
	denied  models.EventType
}

// changing is a key whose versions are being changed, in a transaction that has locked it.
type changing struct {
	tx  *models.Tx
	key models.Key // with its envelope
	// isStale reports whether the request's If-Match names another state of the key.
	isStale  bool
	newEvent func(models.EventType) models.Event
}

// changeVersions makes a change to the versions of a key if the caller may change the key. It returns the key with its
// versions after the change.
func (s *server) changeVersions(
	ctx context.Context, caller models.Caller, what versionChange, change func(changing) error,
) (done versioned, err error) {
	var event models.Event
	err = s.Store.Transact(ctx, func(tx *models.Tx) error {
		key, attempt, err := s.keyToWrite(ctx, tx, tx.LockKey, caller, what.keyID, what.denied)
		event = attempt
		if err != nil {
			return err
		}
		newEvent := func(kind models.EventType) models.Event { return s.keyEvent(ctx, kind, caller, key) }
		if key, err = tx.KeyToOpen(key.ID); err != nil {
			return err
		}
		isStale := what.ifMatch != nil && !matchesETag(*what.ifMatch, etag(key))
		if err := change(changing{tx, key, isStale, newEvent}); err != nil {
			return err
		}
		done, err = readVersions(tx, caller, key.ID)
		return err
	})
	if err != nil {
		err = s.recordDenied(ctx, err, event)
	}
	return done, err
}

// readVersions returns a key that the transaction has locked, with its versions.
func readVersions(tx *models.Tx, caller models.Caller, id string) (done versioned, err error) {
	shown, err := tx.GetKey(caller, id)
	if err != nil {
		return done, err
	}
	if done.key, err = tx.LockKey(caller, id); err != nil {
		return done, err
	}
	done.key.UserKeys = shown.UserKeys
	done.others, err = tx.Versions(id)
	return done, err
}

// ListKeyVersions returns the versions of a key, and the receipt of the last change of the active one.
func (s *server) ListKeyVersions(ctx context.Context, req gen.ListKeyVersionsRequestObject) (gen.ListKeyVersionsResponseObject, error) {
	caller, wait, err := s.callerAndWait(ctx, req.CustomerID, req.ProjectID, req.Params.Wait)
	if err != nil {
		return nil, err
	}
	var found versioned
	err = s.Store.Transact(ctx, func(tx *models.Tx) error { // so that all reads see one state of the key
		found, err = readVersions(tx, caller, parseKeyID(req.ID))
		return err
	})
	if err != nil {
		return nil, err
	}
	body := gen.VersionsResponse{Versions: []gen.KeyVersion{}, Receipt: s.rotationReceipt(ctx, found.key, wait)}
	active, isListed := found.key.ActiveVersion(), false
	for _, v := range found.others {
		if !isListed && v.Version < active.Version {
			body.Versions, isListed = append(body.Versions, wireVersion(active)), true
		}
		body.Versions = append(body.Versions, wireVersion(v))
	}
	if !isListed {
		body.Versions = append(body.Versions, wireVersion(active))
	}
	return gen.ListKeyVersions200JSONResponse{Body: body, Headers: gen.ListKeyVersions200ResponseHeaders{ETag: new(etag(found.key))}}, nil
}

// ActivateKeyVersion makes a version of a key the active one.
func (s *server) ActivateKeyVersion(ctx context.Context, req gen.ActivateKeyVersionRequestObject) (gen.ActivateKeyVersionResponseObject, error) {
	version := uint32(req.Version) //nolint:gosec // the document bounds it
	body, err := s.switchVersion(ctx, req.CustomerID, req.ProjectID, req.Params.Wait,
		versionChange{parseKeyID(req.ID), req.Params.IfMatch, models.EventKeyRotated}, func(c changing, by string) error {
			if c.isStale && c.key.Version != version {
				return errPrecondition // this request may have made the change already, if it is sent again
			}
			return c.tx.ActivateVersion(c.key, version, by, c.newEvent)
		})
	return gen.ActivateKeyVersion200JSONResponse{Body: body, Headers: gen.ActivateKeyVersion200ResponseHeaders{ETag: body.Key.Etag}}, err
}

// RollbackKey activates the version of a key that the active version replaced.
func (s *server) RollbackKey(ctx context.Context, req gen.RollbackKeyRequestObject) (gen.RollbackKeyResponseObject, error) {
	body, err := s.switchVersion(ctx, req.CustomerID, req.ProjectID, req.Params.Wait,
		versionChange{parseKeyID(req.ID), req.Params.IfMatch, models.EventKeyRotationRolledBack}, func(c changing, by string) error {
			if c.isStale && c.key.ReplacedVersion <= c.key.Version {
				return errPrecondition
			}
			return c.tx.RollBack(c.key, by, c.newEvent)
		})
	return gen.RollbackKey200JSONResponse{Body: body, Headers: gen.RollbackKey200ResponseHeaders{ETag: body.Key.Etag}}, err
}

// switchVersion makes another version of a key active, and returns the answer.
func (s *server) switchVersion(
	ctx context.Context, customerID, projectID string, waitFor *string, what versionChange, change func(c changing, by string) error,
) (body gen.RotateResponse, err error) {
	caller, wait, err := s.callerAndWait(ctx, customerID, projectID, waitFor)
	if err != nil {
		return body, err
	}
	done, err := s.changeVersions(ctx, caller, what, func(c changing) error {
		if c.key.RevokedAt != 0 {
			return errRevoked
		}
		return change(c, caller.UserID)
	})
	if err != nil {
		return body, err
	}
	return s.wireRotation(ctx, done, done.key.Version, wait), nil
}

// DestroyKeyVersion destroys a version of a key that is not active.
func (s *server) DestroyKeyVersion(ctx context.Context, req gen.DestroyKeyVersionRequestObject) (gen.DestroyKeyVersionResponseObject, error) {
	caller, err := s.caller(ctx, req.CustomerID, req.ProjectID)
	if err != nil {
		return nil, err
	}
	version := uint32(req.Version) //nolint:gosec // the document bounds it
	done, err := s.changeVersions(ctx, caller, versionChange{parseKeyID(req.ID), req.Params.IfMatch, models.EventKeyVersionDestroyed},
		func(c changing) error {
			if c.isStale {
				return errPrecondition
			}
			return c.tx.DestroyVersion(c.key, version, c.newEvent)
		})
	if err != nil {
		return nil, err
	}
	return gen.DestroyKeyVersion200JSONResponse{
		Body:    gen.DestroyVersionResponse{Version: wireVersion(done.find(version))},
		Headers: gen.DestroyKeyVersion200ResponseHeaders{ETag: new(etag(done.key))},
	}, nil
}

// wireRotation returns the answer to a request that added or activated a version. The answer has no receipt for a
// version that is not active.
func (s *server) wireRotation(ctx context.Context, done versioned, version uint32, wait time.Duration) gen.RotateResponse {
	body := gen.RotateResponse{Key: s.wireKey(done.key), Version: wireVersion(done.find(version)), Warnings: wireWarnings(done.key.Duplicates)}
	if done.key.RevokedAt != 0 || done.key.DisabledAt != 0 { // revoked or disabled since, if the request is a retry
		s.setReceipt(&body.Key, done.key, s.receiptOfStop(ctx, done.key.Stop(), 0))
	}
	if version == done.key.Version {
		body.Receipt = s.rotationReceipt(ctx, done.key, wait)
	}
	return body
}

// rotationReceipt returns the receipt of the change that made a key's version active, or nil if the key was never
// rotated. It waits for the receipt like receiptOfStop.
func (s *server) rotationReceipt(ctx context.Context, k models.Key, wait time.Duration) *gen.RotationReceipt {
	if k.RotationTx == 0 {
		return nil
	}
	r := s.wireReceipt(k, s.receiptOfStop(ctx, k.Rotation(), wait))
	return &gen.RotationReceipt{
		State: r.State, Version: int(k.Version), ReplacedVersion: int(k.ReplacedVersion), RotatedAt: wireTime(k.RotatedAt),
		RotatedBy: optional(k.RotatedBy), OldVersionSafeToDelete: r.State == receiptComplete,
		DataPlanes: r.DataPlanes, Acknowledged: r.Acknowledged, SlowestMs: r.SlowestMs, CompleteBy: r.CompleteBy,
		InFlight: r.InFlight, InFlightFrom: r.InFlightFrom, Acknowledgements: r.Acknowledgements, Planes: r.Planes,
	}
}

func wireVersion(v models.KeyVersion) gen.KeyVersion {
	version := gen.KeyVersion{
		Version: int(v.Version), State: string(v.State), DisplaySuffix: v.DisplaySuffix, CreatedAt: wireTime(v.CreatedAt), CreatedBy: v.CreatedBy,
		ActivatedAt: optionalTime(v.ActivatedAt), RetiresAt: optionalTime(v.RetireAt), DestroyedAt: optionalTime(v.DestroyedAt),
		ExpiresAt: optionalTime(max(0, v.ExpiresAt)),
	}
	if v.VerifiedAt != 0 {
		version.Verification = &gen.Verification{Verdict: v.Verdict, Reason: optional(v.VerdictReason), CheckedAt: wireTime(v.VerifiedAt)}
	}
	return version
}
