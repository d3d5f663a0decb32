package models

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"gorm.io/gorm"
)

// Key is a provider key that the service holds. Reads without envelopes leave Envelope and KEKID empty.
type Key struct {
	// ID is "byok_" and a ULID.
	ID         string `gorm:"primaryKey"`
	CustomerID string
	ProjectID  string
	// UserID is the user whose own key it is; empty for a project-level key.
	UserID        string
	Provider      string
	Name          string
	DisplaySuffix string
	// Destination is the digest of the custom provider that the secret was sealed for; empty for a provider of the
	// catalogue. Only reads for re-wrapping set it. It does not decide where a key may be sent: Provider does.
	Destination string
	// Version is the number of the active version, LastVersion the highest number so far. The first version is 1.
	Version, LastVersion uint32
	// VersionAt and VersionBy say when the active version was handed in, and by whom. ActivatedAt is when the version
	// became active. They are zero and empty until the first rotation. RotatedAt, RotatedBy and RotationTx describe the
	// rotation or rollback that made the version active in place of ReplacedVersion; zero and empty if there was none.
	// RotatedBy is also empty if the service rolled the key back. Until ProbationUntil, a refusal by the provider rolls
	// the key back. Until ProbationUntil, a refusal by the provider rolls the key back.
	VersionAt       int64
	VersionBy       string
	ActivatedAt     int64
	RotatedAt       int64
	RotatedBy       string
	RotationTx      int64
	ReplacedVersion uint32
	ProbationUntil  int64
	// Envelope is the sealed secret, opaque here. KEKID names the key-encryption key that opens it.
	Envelope  []byte
	KEKID     string `gorm:"column:kek_id"`
	CreatedAt int64  `gorm:"autoCreateTime:false"`
	CreatedBy string
	// RevokedAt is zero, and RevokedBy empty, while the key is active.
	RevokedAt int64
	RevokedBy string
	// RevocationTx is the number of the transaction that revoked it; zero while it is active, and for keys revoked by releases
	// without data planes.
	RevocationTx int64
	// DisabledAt, DisabledBy and DisabledTx say when, by whom and in which transaction it was disabled; zero and empty while it
	// is enabled.
	DisabledAt int64
	DisabledBy string
	DisabledTx int64
	// ExpiresAt is when it stops serving, ExpiryDueAt when its next EventKeyExpiring or EventKeyExpired is due; zero for never.
	ExpiresAt   int64
	ExpiryDueAt int64
	// RemovalID is the id of the member's removal that suspended the key; empty for none. Only reads that lock the key
	// set RemovalID.
	RemovalID string
	// Revision counts people's changes to it. Its registration is 1.
	Revision int64
	// Order is its place among the keys of its scope; the lowest is first. Weight is its share of the callers among keys of the
	// same order; zero for none.
	Order        int `gorm:"column:serve_order"`
	Weight       int
	Restrictions Restrictions
	Limits       Limits
	// LastUsedAt is when a data plane last used the key with success. LastFailureAt is when the provider last refused
	// the key, and LastFailureStatus is the status of that answer. All three are zero if there was none.
	// LastFailureReason is empty if the data plane did not say.
	LastUsedAt        int64
	LastFailureAt     int64
	LastFailureStatus int
	LastFailureReason string
	// UserKeys is the written policy's choice on members' own keys of the provider; empty without a written policy. GetKey,
	// ListKeys and RegisterKey set it.
	UserKeys UserKeys `gorm:"-"`
	// Duplicates are the ids of other keys with the same secret that the caller may see. RegisterKey sets it.
	Duplicates []string `gorm:"-"`
	// Verdict and VerdictReason are the result of the last test at the provider, at VerifiedAt; empty and zero for none.
	Verdict       string
	VerdictReason string
	VerifiedAt    int64
}

// UserKeysColumns and UserKeysTable add the policy on members' own keys to a statement with CallerParams.
const (
	UserKeysColumns = `COALESCE(p.user_keys, ''), COALESCE(p.user_keys_by_provider, '')`
	UserKeysTable   = `project_policies p ON p.customer_id = $3 AND p.project_id = $4`
)

// UserKeysRow holds the values of UserKeysColumns, which are empty if the project has written no policy.
type UserKeysRow struct {
	userKeys, byProvider string
	policy               Policy
	parsed               string // the last byProvider that was parsed
}

// Dest returns where to scan UserKeysColumns.
func (r *UserKeysRow) Dest() []any { return []any{&r.userKeys, &r.byProvider} }

// set sets the policy's choice for a key. All rows of a page have the same policy, which it parses once.
func (r *UserKeysRow) set(k *Key) error {
	if r.userKeys == "" {
		return nil
	}
	if r.parsed != r.byProvider {
		r.parsed, r.policy.UserKeysByProvider = r.byProvider, nil
		if err := json.Unmarshal([]byte(r.byProvider), &r.policy.UserKeysByProvider); err != nil {
			return err
		}
	}
	r.policy.UserKeys = UserKeys(r.userKeys)
	k.UserKeys = r.policy.For(k.Provider)
	return nil
}

// IsArranged reports whether anything but the key's age decides whom it serves. It is stored in the column arranged.
func (k Key) IsArranged() bool { return k.Order != 0 || k.Weight != 0 || len(k.Restrictions.Users) > 0 }

// badFor is how long a refusal by the provider counts against a key, unless a later use succeeds.
const badFor = 5 * time.Minute

// Bad reports whether the provider refused the key's last use, and did so less than badFor ago.
func (k Key) Bad(now int64) bool {
	return k.LastFailureAt > k.LastUsedAt && now-k.LastFailureAt < badFor.Microseconds()
}

// StopReason is the reason why a key serves nobody, whatever the policy says.
type StopReason string

// The reasons. If several apply, the first of them counts.
const (
	StopRevoked  StopReason = "revoked"
	StopDisabled StopReason = "disabled"
	StopExpired  StopReason = "expired"
)

// StopReason returns why the key serves nobody, or "" if it may serve.
func (k Key) StopReason(now int64) StopReason {
	switch {
	case k.RevokedAt != 0:
		return StopRevoked
	case k.DisabledAt != 0:
		return StopDisabled
	case k.ExpiresAt != 0 && k.ExpiresAt <= now:
		return StopExpired
	}
	return ""
}

// stoppedAt returns when the key stopped serving; zero if it may serve.
func (k Key) stoppedAt(now int64) int64 {
	switch k.StopReason(now) {
	case StopRevoked:
		return k.RevokedAt
	case StopDisabled:
		return k.DisabledAt
	case StopExpired:
		return k.ExpiresAt
	}
	return 0
}

// staleAfter is how long a key may be unused before it counts as stale.
const staleAfter = 90 * 24 * time.Hour

// StaleSince returns when the key became stale, or zero. A revoked key is not stale.
func (k Key) StaleSince(now int64) int64 {
	since := max(k.CreatedAt, k.LastUsedAt) + staleAfter.Microseconds()
	if k.RevokedAt != 0 || since > now {
		return 0
	}
	return since
}

// Stop is a change that ends the use of keys or of a version: a key was revoked, disabled or rotated, an API key was revoked, or
// a member was removed. Each has a receipt, which counts the data planes' acknowledgements.
type Stop struct {
	Type EventType
	// Subject is the id of the key, of the API key or of the user.
	Subject, CustomerID string
	// Tx is the number of the transaction; zero for revocations by releases without data planes.
	Tx int64
}

// ID returns an id that is unique among stops. The id of a revocation needs no transaction number, because a key is
// revoked only once.
func (s Stop) ID() string {
	if s.Type == EventKeyRevoked {
		return s.Subject
	}
	return s.Subject + "/" + strconv.FormatInt(s.Tx, 10)
}

// Stop returns the key's revocation or, if it is not revoked, the change that disabled it.
func (k Key) Stop() Stop {
	if k.RevokedAt != 0 || k.RevocationTx != 0 {
		return Stop{EventKeyRevoked, k.ID, k.CustomerID, k.RevocationTx}
	}
	return Stop{EventKeyDisabled, k.ID, k.CustomerID, k.DisabledTx}
}

// TableName is the resource's name in the public API.
func (Key) TableName() string { return "ai_keys" }

// version scans the column version. An impossible value, from a damaged row, is scanned as 0, so that the row does not
// make a list fail. No envelope opens with version 0.
type version struct{ to *uint32 }

// Scan implements sql.Scanner.
func (v version) Scan(value any) error {
	*v.to = 0
	if n, ok := value.(int64); ok && n > 0 && n <= math.MaxUint32 {
		*v.to = uint32(n)
	}
	return nil
}

// KeyRow returns a key as the row to store.
func KeyRow(k Key) *Insert {
	return (&Insert{Table: "ai_keys"}).
		set("id", k.ID).set("customer_id", k.CustomerID).set("project_id", k.ProjectID).set("user_id", k.UserID).
		set("provider", k.Provider).set("name", k.Name).set("display_suffix", k.DisplaySuffix).set("version", k.Version).
		set("envelope", k.Envelope).set("kek_id", k.KEKID).set("created_at", k.CreatedAt).set("created_by", k.CreatedBy).
		set("verdict", k.Verdict).set("verdict_reason", k.VerdictReason).set("verified_at", k.VerifiedAt).
		set("destination", k.Destination).set("expires_at", k.ExpiresAt).set("expiry_due_at", k.ExpiryDueAt).
		set("serve_order", k.Order).set("weight", k.Weight).set("arranged", k.IsArranged()).
		set("restrictions", k.Restrictions).set("limits", k.Limits)
}

// keyColumns select the metadata of a key k; they are empty if there is none. keyFields returns where to scan them.
const keyColumns = `COALESCE(k.id, ''), COALESCE(k.customer_id, ''), COALESCE(k.project_id, ''), COALESCE(k.user_id, ''),
COALESCE(k.provider, ''), COALESCE(k.name, ''), COALESCE(k.display_suffix, ''), COALESCE(k.version, 0),
COALESCE(k.created_at, 0), COALESCE(k.created_by, ''), COALESCE(k.revoked_at, 0), COALESCE(k.revoked_by, ''),
COALESCE(k.revocation_tx, 0), COALESCE(k.last_used_at, 0), COALESCE(k.last_failure_at, 0), COALESCE(k.last_failure_status, 0), COALESCE(k.last_failure_reason, ''),
COALESCE(k.verdict, ''), COALESCE(k.verdict_reason, ''), COALESCE(k.verified_at, 0),
COALESCE(k.disabled_at, 0), COALESCE(k.disabled_by, ''), COALESCE(k.disabled_tx, 0), COALESCE(k.expires_at, 0), COALESCE(k.revision, 0),
COALESCE(k.serve_order, 0), COALESCE(k.weight, 0), COALESCE(k.restrictions, ''), COALESCE(k.limits, '')`

func keyFields(k *Key) []any {
	return []any{&k.ID, &k.CustomerID, &k.ProjectID, &k.UserID, &k.Provider, &k.Name, &k.DisplaySuffix, version{&k.Version},
		&k.CreatedAt, &k.CreatedBy, &k.RevokedAt, &k.RevokedBy,
		&k.RevocationTx, &k.LastUsedAt, &k.LastFailureAt, &k.LastFailureStatus, &k.LastFailureReason,
		&k.Verdict, &k.VerdictReason, &k.VerifiedAt,
		&k.DisabledAt, &k.DisabledBy, &k.DisabledTx, &k.ExpiresAt, &k.Revision, &k.Order, &k.Weight, &k.Restrictions, &k.Limits}
}

// GetKeyStatement selects a key and its caller's status. Its parameters are CallerParams and the key's id. It is hand-written
// because it is the most frequent read: one statement instead of three.
const GetKeyStatement = `SELECT ` + CallerColumns + `, ` + UserKeysColumns + `, ` + keyColumns + ` FROM ` + CallerTables + `
LEFT JOIN ` + UserKeysTable + `
LEFT JOIN ai_keys k ON k.id = $6 AND k.customer_id = $3 AND k.project_id = $4 AND (k.user_id = '' OR k.user_id = $5) AND m.role <> ''`

// GetKey returns a key's metadata. Errors: ErrSessionEnded, ErrNotMember, and ErrNotFound where the key is absent, in another
// project, or another member's own.
func (s *Store) GetKey(ctx context.Context, c Caller, id string, now int64) (Key, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	key, err := getKey(func(statement string, args []any, dest ...any) error {
		return s.engine.QueryRow(ctx, statement, args, dest...)
	}, c, id, now)
	return key, s.classify(err)
}

// GetKey is Store.GetKey in the transaction.
func (tx *Tx) GetKey(c Caller, id string) (Key, error) { return getKey(tx.queryRow, c, id, tx.Now) }

func getKey(queryRow func(statement string, args []any, dest ...any) error, c Caller, id string, now int64) (Key, error) {
	var (
		status CallerStatus
		policy UserKeysRow
		key    Key
	)
	err := queryRow(GetKeyStatement, append(CallerParams(c, now), id), slices.Concat(status.dest(), policy.Dest(), keyFields(&key))...)
	if err != nil {
		return Key{}, err
	}
	if err := status.Check(RoleMember); err != nil {
		return Key{}, err
	}
	if key.ID == "" {
		return Key{}, ErrNotFound
	}
	err = policy.set(&key)
	return key, err
}

// KeyState selects keys by whether they are revoked. Empty selects all.
type KeyState string

// The states of a key.
const (
	KeyActive  KeyState = "active"
	KeyRevoked KeyState = "revoked"
)

// KeyFilter selects keys. The zero value selects all of them.
type KeyFilter struct {
	Provider string
	State    KeyState
	// Before is the id of the last key of the previous page. Empty begins with the newest.
	Before string
	// Limit is the maximum number of keys to return. Zero means no limit.
	Limit int
}

// ListKeysStatement selects a page of keys and its caller's status. It is hand-written because it is the second most frequent
// read. It reads a page of each scope from its own range of the index, so that other members' keys cost nothing.
//
// The text contains only the filters that apply, and has the limit as a number. With other texts, the planner would
// expect to read much of a large project, and would plan each page again, or sort all keys of the project.
func ListKeysStatement(c Caller, f KeyFilter, now int64) (string, Params) {
	params := CallerParams(c, now)
	filter := ""
	if f.Before != "" {
		filter += ` AND id < ` + params.Add(f.Before)
	}
	if f.Provider != "" {
		filter += ` AND provider = ` + params.Add(f.Provider)
	}
	switch f.State {
	case KeyActive:
		filter += ` AND revoked_at = 0`
	case KeyRevoked:
		filter += ` AND revoked_at <> 0`
	}
	limit := ""
	if f.Limit > 0 {
		limit = ` LIMIT ` + strconv.Itoa(f.Limit)
	}
	page := func(userID string) string {
		return `SELECT * FROM (SELECT id, customer_id, project_id, user_id, provider, name, display_suffix, version, created_at, created_by,
revoked_at, revoked_by, revocation_tx, last_used_at, last_failure_at, last_failure_status, last_failure_reason, verdict, verdict_reason, verified_at,
disabled_at, disabled_by, disabled_tx, expires_at, revision, serve_order, weight, restrictions, limits
FROM ai_keys WHERE customer_id = $3 AND project_id = $4 AND user_id = ` + userID + filter + ` ORDER BY id DESC` + limit + `) AS scope`
	}
	return `SELECT ` + CallerColumns + `, ` + UserKeysColumns + `, ` + keyColumns + ` FROM ` + CallerTables + `
LEFT JOIN ` + UserKeysTable + `
LEFT JOIN (` + page("''") + ` UNION ALL ` + page("$5") + `) AS k ON m.role <> '' ORDER BY k.id DESC` + limit, params
}

// ListKeys returns the project's keys and the caller's own, newest first. Errors: ErrSessionEnded, ErrNotMember.
func (s *Store) ListKeys(ctx context.Context, c Caller, f KeyFilter, now int64) ([]Key, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	var (
		status CallerStatus
		policy UserKeysRow
		k      Key
	)
	keys := make([]Key, 0, max(0, min(f.Limit, 64)))
	statement, params := ListKeysStatement(c, f, now)
	dest := slices.Concat(status.dest(), policy.Dest(), keyFields(&k)) // every row sets all of it
	err := s.engine.Query(ctx, statement, params, func(row Row) error {
		if err := row.Scan(dest...); err != nil {
			return err
		}
		if k.ID != "" { // empty where there is no key, and the row has the caller's status alone
			k.UserKeys = ""
			if err := policy.set(&k); err != nil {
				return err
			}
			keys = append(keys, k)
		}
		return nil
	})
	if err != nil {
		return nil, s.classify(err)
	}
	return keys, status.Check(RoleMember)
}

// ListAllKeys returns a page of a project's keys, including all users' own, newest first, without their envelopes. before is the
// id of the last key of the previous page; empty begins with the newest. It is for operators.
func (s *Store) ListAllKeys(ctx context.Context, customerID, projectID, before string, limit int) ([]Key, error) {
	return find[Key](ctx, s, func(db *gorm.DB) *gorm.DB {
		db = db.Omit("envelope").Where("customer_id = ? AND project_id = ?", customerID, projectID)
		if before != "" {
			db = db.Where("id < ?", before)
		}
		return db.Order("id DESC").Limit(limit)
	})
}

// Serving has the keys of a provider that may serve a user if the policy allows it: active, enabled and not expired. They are
// sorted by Order, and newest first within the same order. The newer of two keys is the one that was stored later, whatever the
// clocks say.
type Serving struct {
	Own, Project []Key
	// All reports whether Own and Project have all such keys, up to maxCandidates in each scope. Otherwise they have
	// only the newest key of each scope, which suffices if no key is arranged.
	All bool
}

// Usable is the condition that a key may serve at the time $2: it is not revoked, disabled or expired. held is the
// condition that a key is not revoked, and is disabled or expired.
const (
	Usable = `revoked_at = 0 AND disabled_at = 0 AND (expires_at = 0 OR expires_at > $2)`
	held   = `revoked_at = 0 AND (disabled_at <> 0 OR (expires_at <> 0 AND expires_at <= ?))`
)

var usable = strings.ReplaceAll(Usable, "$2", "?")

// maxCandidates bounds how many keys of a scope are searched for one that serves.
const maxCandidates = 50

// ServingKeys returns all keys of a provider that may serve a user, without their envelopes.
func (s *Store) ServingKeys(ctx context.Context, c Caller, provider string, now int64) (Serving, error) {
	return s.candidates(ctx, c, provider, usable, now, "envelope")
}

// HeldKeys returns the keys of a provider that are disabled or have expired, without their envelopes, up to maxCandidates of the
// user's own and of the project's.
func (s *Store) HeldKeys(ctx context.Context, c Caller, provider string, now int64) (Serving, error) {
	return s.candidates(ctx, c, provider, held, now, "envelope")
}

// candidates returns the keys of a provider, in the two scopes that may serve a user, that meet a condition at a time.
func (s *Store) candidates(ctx context.Context, c Caller, provider, where string, now int64, omit ...string) (Serving, error) {
	found := Serving{All: true}
	err := s.read(ctx, func(db *gorm.DB) error {
		scope := func(userID string) *gorm.DB {
			return scopeKeys(db, c, userID, provider).Omit(omit...).Where(where, now).Order("serve_order, seq DESC").Limit(maxCandidates)
		}
		err := scope("").Find(&found.Project).Error
		if err == nil && c.UserID != "" {
			err = scope(c.UserID).Find(&found.Own).Error
		}
		return err
	})
	return found, err
}

// scopeKeys selects the keys of a provider in one scope: a user's own, or the project's if userID is empty.
func scopeKeys(db *gorm.DB, c Caller, userID, provider string) *gorm.DB {
	return db.Where("customer_id = ? AND project_id = ? AND user_id = ? AND provider = ?", c.CustomerID, c.ProjectID, userID, provider)
}

// LastStopped returns the key for a provider that was the last to stop serving in the given scopes: it was revoked or
// disabled, or it has expired. A scope is a user's id, or "" for the project's keys. If no key of these scopes has
// stopped serving, the returned key has an empty ID.
func (s *Store) LastStopped(ctx context.Context, c Caller, provider string, scopes []string, now int64) (last Key, err error) {
	err = s.read(ctx, func(db *gorm.DB) error {
		for _, userID := range scopes { // one query for each scope, because the index is in order only within a scope
			scope := func() *gorm.DB { return scopeKeys(db, c, userID, provider).Omit("envelope").Limit(1) }
			var revoked, stopped []Key
			err := errors.Join(
				scope().Where("revoked_at <> 0").Order("revoked_at DESC").Find(&revoked).Error,
				scope().Where(held, now).Order("CASE WHEN disabled_at <> 0 THEN disabled_at ELSE expires_at END DESC").Find(&stopped).Error)
			if err != nil {
				return err
			}
			for _, k := range append(revoked, stopped...) {
				if k.stoppedAt(now) > last.stoppedAt(now) {
					last = k
				}
			}
		}
		return nil
	})
	return last, err
}

// KeysByKEK counts the envelopes that are sealed with each key-encryption key. It includes revoked keys, and the
// pending and retiring versions of keys.
func (s *Store) KeysByKEK(ctx context.Context) (map[string]int64, error) {
	var rows []struct {
		KEKID string `gorm:"column:kek_id"`
		Keys  int64
	}
	err := s.read(ctx, func(db *gorm.DB) error {
		return db.Raw(`SELECT kek_id, COUNT(*) AS keys FROM (SELECT kek_id FROM ai_keys WHERE kek_id <> ''
UNION ALL SELECT kek_id FROM key_versions WHERE state <> ?) AS sealed GROUP BY kek_id`, string(VersionDestroyed)).Scan(&rows).Error
	})
	counts := make(map[string]int64, len(rows))
	for _, row := range rows {
		counts[row.KEKID] = row.Keys
	}
	return counts, err
}

// LockAnyKey locks and returns a key of any user without its envelope. It checks no access. Errors: ErrNotFound.
func (tx *Tx) LockAnyKey(id string) (k Key, err error) {
	err = tx.locking().Omit("envelope").Where("id = ?", id).Take(&k).Error
	return k, err
}

// Key returns a key that the caller may see, without its envelope. Errors: ErrNotFound.
func (tx *Tx) Key(c Caller, id string) (Key, error) { return findKey(tx.db, c, id) }

func findKey(db *gorm.DB, c Caller, id string) (k Key, err error) {
	err = db.Omit("envelope").Where("id = ? AND customer_id = ? AND project_id = ? AND user_id IN ?",
		id, c.CustomerID, c.ProjectID, []string{"", c.UserID}).Take(&k).Error
	return k, err
}

// RevokeKey revokes the key with the ID of k, and stores the event that tells data planes. If the key was already
// revoked, the first revocation stands: RevokeKey stores no event and returns false. In both cases, k then has the
// stored revocation.
func (tx *Tx) RevokeKey(k *Key, by string, event Event) (revoked bool, err error) {
	done, err := tx.exec(`UPDATE ai_keys SET revoked_at = $1, revoked_by = $2, revocation_tx = `+tx.number+`,
expiry_due_at = 0, revision = revision + 1
WHERE id = $3 AND revoked_at = 0`, []any{tx.Now, by, k.ID})
	if err != nil {
		return false, err
	}
	err = tx.db.Select("customer_id", "revoked_at", "revoked_by", "revocation_tx", "revision").Where("id = ?", k.ID).Take(k).Error
	if err != nil || done == 0 {
		return false, err
	}
	if err := tx.eraseVersions("key_id = ?", k.ID); err != nil {
		return false, err
	}
	return true, tx.AppendEvent(event)
}

// eraseVersions destroys versions without storing events.
func (tx *Tx) eraseVersions(where string, args ...any) error {
	return tx.db.Model(&KeyVersion{}).Where(where, args...).Where("state <> ?", string(VersionDestroyed)).Updates(map[string]any{
		"state": string(VersionDestroyed), "envelope": []byte{}, "kek_id": "", "retire_at": 0, "destroyed_at": tx.Now,
	}).Error
}

// KeyToOpen locks and returns a key of any user with its envelope. If the key is not revoked, nobody can revoke it
// before this transaction ends. Errors: ErrNotFound.
func (tx *Tx) KeyToOpen(id string) (k Key, err error) {
	err = tx.locking().Where("id = ?", id).Take(&k).Error
	return k, err
}

// StoreVerdict stores the result of a key's test, and its event. If the key has got another secret since the test, its
// verdict does not change.
func (tx *Tx) StoreVerdict(k Key, event Event) error {
	_, err := tx.exec(`UPDATE ai_keys SET verdict = $1, verdict_reason = $2, verified_at = $3 WHERE id = $4 AND version = $5`,
		[]any{k.Verdict, k.VerdictReason, k.VerifiedAt, k.ID, k.Version})
	if err != nil {
		return err
	}
	return tx.AppendEvent(event)
}

// Registration is everything that RegisterKey stores, in one transaction.
type Registration struct {
	Key   Key
	Event Event
	// Fingerprints are those of the key's secret; none if they cannot be made.
	Fingerprints [][]byte
	// Idempotency is nil if the request has no Idempotency-Key.
	Idempotency *IdempotencyRecord
	// Quota is how many active keys the key's scope may have. The scope is the project, or the user in the project.
	// Zero means no limit. Simultaneous registrations do not count each other.
	Quota int
}

// ActiveKeys returns an SQL expression that counts the active keys in the scope of the new key, up to its quota.
func (r Registration) ActiveKeys(params *Params) string {
	if r.Quota <= 0 {
		return "0"
	}
	places := strings.Split(params.Add(r.Key.CustomerID, r.Key.ProjectID, r.Key.UserID), ", ")
	return `(SELECT COUNT(*) FROM (SELECT 1 FROM ai_keys WHERE customer_id = ` + places[0] + ` AND project_id = ` + places[1] +
		` AND user_id = ` + places[2] + ` AND revoked_at = 0 LIMIT ` + strconv.Itoa(r.Quota) + `) AS active)`
}

// quotaSlack remembers how many keys each scope may add before its keys are counted again. This number is a tenth of
// the places that were free at the last count. Counting many keys is slow, so a scope that is far from its quota is
// counted rarely. Up to ten processes together do not exceed a quota because of this; more processes may exceed it
// slightly.
type quotaSlack struct {
	mu   sync.Mutex
	left map[[3]string]int // by customer, project and user; guarded by mu
}

// maxQuotaScopes bounds the memory of quotaSlack.
const maxQuotaScopes = 10_000

func (r Registration) scope() [3]string {
	return [3]string{r.Key.CustomerID, r.Key.ProjectID, r.Key.UserID}
}

// take reports whether a scope may take a key without a count.
func (q *quotaSlack) take(scope [3]string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.left[scope] == 0 {
		return false
	}
	q.left[scope]--
	return true
}

// set records how many places of a scope were free.
func (q *quotaSlack) set(scope [3]string, free int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.left) >= maxQuotaScopes {
		clear(q.left)
	}
	q.left[scope] = free / 10
}

// IdempotencyRecord records which key or version a request with an Idempotency-Key made.
type IdempotencyRecord struct {
	CustomerID string `gorm:"primaryKey"`
	ProjectID  string `gorm:"primaryKey"`
	UserID     string `gorm:"primaryKey"`
	// KeyHash is the SHA-256 of the Idempotency-Key, whose text may hold anything.
	KeyHash []byte `gorm:"primaryKey"`
	// Fingerprint is a MAC over the request, to tell a retry from a reuse.
	Fingerprint []byte
	KeyID       string
	// Version is the version that a rotation made; zero for a registration.
	Version   uint32
	CreatedAt int64 `gorm:"autoCreateTime:false"`
}

// findIdempotency returns the record of the first request with the same Idempotency-Key. Errors: ErrNotFound, and
// ErrIdempotencyReuse if the first request was a different one.
func findIdempotency(db *gorm.DB, r IdempotencyRecord) (first IdempotencyRecord, err error) {
	err = db.Where("customer_id = ? AND project_id = ? AND user_id = ? AND key_hash = ?", r.CustomerID, r.ProjectID, r.UserID, r.KeyHash).
		Take(&first).Error
	if err == nil && !bytes.Equal(first.Fingerprint, r.Fingerprint) {
		err = ErrIdempotencyReuse
	}
	return first, err
}

// IdempotencyLife is how long an Idempotency-Key is remembered.
const IdempotencyLife = 24 * time.Hour

// IdempotencyRow returns an idempotency record as the row to store.
func IdempotencyRow(r IdempotencyRecord) *Insert {
	return (&Insert{Table: "idempotency_records"}).
		set("customer_id", r.CustomerID).set("project_id", r.ProjectID).set("user_id", r.UserID).set("key_hash", r.KeyHash).
		set("fingerprint", r.Fingerprint).set("key_id", r.KeyID).set("created_at", r.CreatedAt)
}

// RegisterKey stores the key, its event and its idempotency record, if the caller's role covers needs. It returns the new key, or
// the one that an earlier request with the same idempotency key made. Errors: ErrSessionEnded, ErrNotMember, ErrForbidden,
// ErrAlreadyExists for a name that is taken, ErrIdempotencyReuse, ErrQuotaExceeded, ErrDestinationGone.
func (s *Store) RegisterKey(ctx context.Context, c Caller, needs Role, r Registration, now int64) (Key, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	r.Key.Revision, r.Key.ExpiryDueAt = 1, nextExpiryNotice(r.Key.ExpiresAt, now)
	quota := r.Quota
	if quota > 0 && s.quotas.take(r.scope()) {
		r.Quota = 0
	}
	status, outcome, err := s.engine.Register(ctx, c, needs, r, now)
	if err != nil {
		return Key{}, s.classify(err)
	}
	if err := status.Check(needs); err != nil {
		return Key{}, err
	}
	switch {
	case outcome.Stored:
		if r.Quota > 0 {
			s.quotas.set(r.scope(), quota-outcome.Active)
		}
		signal(s.changed)
		if outcome.IsShared { // the key is stored, so an error here only costs the warning
			r.Key.Duplicates, _ = duplicates(s.engine.ORM(RequestPool).WithContext(ctx), c, r.Key.ID, r.Fingerprints)
		}
		err = outcome.UserKeys.set(&r.Key)
		return r.Key, err
	case r.Idempotency == nil:
		return Key{}, r.refusal(outcome)
	}
	// A retry succeeds in a full scope too: its key may be the last one that fitted.
	var first IdempotencyRecord
	err = s.read(ctx, func(db *gorm.DB) (err error) {
		first, err = findIdempotency(db, *r.Idempotency)
		return err
	})
	switch {
	case err == nil:
		return s.GetKey(ctx, c, first.KeyID, now)
	case errors.Is(err, ErrNotFound) && (outcome.Full || r.Key.Destination != ""):
		err = r.refusal(outcome)
	}
	return Key{}, err
}

// refusal returns why a registration that is not a retry was not stored.
func (r Registration) refusal(outcome RegisterOutcome) error {
	switch {
	case outcome.Full:
		return ErrQuotaExceeded
	case r.Key.Destination != "":
		return ErrDestinationGone
	}
	return errors.New("register: nothing was stored, without a reason")
}

// RegisterOutcome is the result of a registration by a caller who may make it. If the key was not Stored and the scope
// is not Full, either the idempotency key is taken or the destination is gone.
type RegisterOutcome struct {
	Stored, Full bool
	// Active counts the active keys of the scope before the registration, up to the quota; zero without a quota.
	Active int
	// IsShared reports whether another key of the customer has one of the fingerprints.
	IsShared bool
	// UserKeys has the policy on members' own keys.
	UserKeys UserKeysRow
}

// ForgetIdempotency deletes the limit oldest records that were made before a time (microseconds), and returns how many
// it deleted.
func (tx *Tx) ForgetIdempotency(before int64, limit int) (int64, error) {
	oldest := tx.db.Model(&IdempotencyRecord{}).Select("created_at").Where("created_at < ?", before).
		Order("created_at").Limit(limit)
	done := tx.db.Where("created_at <= (SELECT MAX(created_at) FROM (?) AS oldest)", oldest).Delete(&IdempotencyRecord{})
	return done.RowsAffected, done.Error
}
