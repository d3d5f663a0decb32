package models

import (
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strconv"

	"gorm.io/gorm"

	"github.com/agentrouter/aikeys/internal/position"
)

// Fetched is the result of a fetch's statement, as of one position.
type Fetched struct {
	Policy Policy
	// Serving has the keys that may serve, with their envelopes: the newest of each scope or, if any key is arranged, all of them.
	Serving
	// AsOf is the position as text.
	AsOf string
}

// FetchRow is the row of an engine's statement for a fetch: the values of FetchColumns, and the position that the statement saw.
type FetchRow struct {
	dataPlane dataPlaneStatus
	caller    CallerStatus
	// byProvider is the policy's map in JSON. The policy is empty if the project has written none.
	policy       Policy
	byProvider   string
	own, project Key
	arranged     string
	AsOf         position.Position
}

// FetchColumns and FetchTables are common to the engines' statements for a fetch. They select the data plane, the
// caller, the policy, and the keys o and k: the newest Usable key of the user and of the project. Each engine joins
// these keys in its own way. A column about arranged keys, such as ArrangedKeys, follows FetchColumns. The statement's
// parameters are FetchParams. The statement is hand-written because an inference request waits for it, and because a
// fetch must read everything from one snapshot.
const (
	FetchColumns = dataPlaneColumns + `, ` + CallerColumns + `,
COALESCE(p.user_keys, ''), COALESCE(p.user_keys_by_provider, ''), COALESCE(p.on_bad_key, ''), COALESCE(p.on_limited, ''), COALESCE(p.operations, ''),
COALESCE(o.id, ''), COALESCE(o.version, 0), COALESCE(o.last_used_at, 0), COALESCE(o.last_failure_at, 0), COALESCE(o.last_failure_status, 0), COALESCE(o.expires_at, 0), COALESCE(o.restrictions, ''), COALESCE(o.limits, ''), o.envelope,
COALESCE(k.id, ''), COALESCE(k.version, 0), COALESCE(k.last_used_at, 0), COALESCE(k.last_failure_at, 0), COALESCE(k.last_failure_status, 0), COALESCE(k.expires_at, 0), COALESCE(k.restrictions, ''), COALESCE(k.limits, ''), k.envelope`
	FetchTables = CallerTables + `
LEFT JOIN data_planes d ON d.id = $7 AND d.revoked_at = 0 AND (d.expires_at = 0 OR d.expires_at > $2)
LEFT JOIN project_policies p ON p.customer_id = $3 AND p.project_id = $4
`

	dataPlaneColumns = `d.id IS NOT NULL, COALESCE(d.customers, 'null')`
)

// FetchParams returns the parameters of FetchColumns and FetchTables: CallerParams, the provider ($6) and the data plane ($7).
func FetchParams(dataPlaneID string, c Caller, provider string, now int64) Params {
	return append(CallerParams(c, now), provider, dataPlaneID)
}

// Dest returns where to scan FetchColumns.
func (r *FetchRow) Dest() []any {
	return []any{
		&r.dataPlane.live, &r.dataPlane.customers, &r.caller.Live, &r.caller.Role,
		&r.policy.UserKeys, &r.byProvider, &r.policy.OnBadKey, &r.policy.OnLimited, &r.policy.Operations,
		&r.own.ID, version{&r.own.Version}, &r.own.LastUsedAt, &r.own.LastFailureAt, &r.own.LastFailureStatus, &r.own.ExpiresAt, &r.own.Restrictions, &r.own.Limits, &r.own.Envelope,
		&r.project.ID, version{&r.project.Version}, &r.project.LastUsedAt, &r.project.LastFailureAt, &r.project.LastFailureStatus, &r.project.ExpiresAt, &r.project.Restrictions, &r.project.Limits, &r.project.Envelope,
		&r.arranged,
	}
}

// AnyArranged is the condition that a key of the provider in one of the two scopes is arranged.
const AnyArranged = `EXISTS (SELECT 1 FROM ai_keys WHERE customer_id = $3 AND project_id = $4 AND provider = $6 AND user_id IN ('', $5) AND arranged
AND revoked_at = 0)`

// ArrangedKeys returns the column that follows FetchColumns. If AnyArranged holds, the column has the keys of both
// scopes that may serve, as a JSON array of arrangedKey. Otherwise it is an empty text. It is one column and not rows
// of keys, so every fetch has one row. For a project that arranges no keys, the column costs one look into an index
// that has no keys of the project. The arguments are the engine's functions for a JSON array of rows and for a JSON
// object, and its expression for the envelope in hexadecimal.
//
// The scopes' parameters are written as (SELECT $3), because the planner of PostgreSQL does not look into such a
// subquery. With a plain $3, the planner would estimate that a plan for the parameter's value is cheaper, and would
// plan each fetch again. Planning takes ten times as long as running the fetch.
func ArrangedKeys(array, object, hexEnvelope string) string {
	scope := func(user string) string {
		return `SELECT * FROM (SELECT * FROM ai_keys WHERE customer_id = (SELECT $3) AND project_id = (SELECT $4) AND provider = (SELECT $6) AND user_id = ` + user + ` AND ` + Usable + `
ORDER BY serve_order, seq DESC LIMIT ` + strconv.Itoa(maxCandidates) + `) AS s`
	}
	return `CASE WHEN ` + AnyArranged + ` THEN COALESCE(CAST((SELECT ` + array + `(` + object + `('id', id, 'own', user_id <> '', 'version', version, 'last_used_at', last_used_at,
'last_failure_at', last_failure_at, 'last_failure_status', last_failure_status, 'expires_at', expires_at, 'serve_order', serve_order, 'weight', weight,
'seq', seq, 'restrictions', restrictions, 'limits', limits, 'envelope', ` + hexEnvelope + `)) FROM (` + scope("''") + ` UNION ALL ` + scope("(SELECT $5)") + ` WHERE (SELECT $5) <> '') AS a) AS text), '') ELSE '' END`
}

// arrangedKey is a key in ArrangedKeys.
type arrangedKey struct {
	ID                string `json:"id"`
	Own               truth  `json:"own"`
	Version           int64  `json:"version"`
	LastUsedAt        int64  `json:"last_used_at"`
	LastFailureAt     int64  `json:"last_failure_at"`
	LastFailureStatus int    `json:"last_failure_status"`
	ExpiresAt         int64  `json:"expires_at"`
	Order             int    `json:"serve_order"`
	Weight            int    `json:"weight"`
	Seq               int64  `json:"seq"`
	Restrictions      string `json:"restrictions"`
	Limits            string `json:"limits"`
	Envelope          string `json:"envelope"`
}

// truth is a boolean, which SQLite represents as a number.
type truth bool

// UnmarshalJSON implements json.Unmarshaler.
func (t *truth) UnmarshalJSON(text []byte) error {
	*t = string(text) == "true" || string(text) == "1"
	return nil
}

// IsArranged reports whether the statement found AnyArranged.
func (r *FetchRow) IsArranged() bool { return r.arranged != "" }

// serving returns the row's keys.
func (r *FetchRow) serving(c Caller, provider string) (found Serving, err error) {
	if !r.IsArranged() {
		r.own.setScope(c, provider, c.UserID)
		r.project.setScope(c, provider, "")
		if r.own.ID != "" {
			found.Own = []Key{r.own}
		}
		if r.project.ID != "" {
			found.Project = []Key{r.project}
		}
		return found, nil
	}
	var all []arrangedKey
	if err := json.Unmarshal([]byte(r.arranged), &all); err != nil {
		return found, err
	}
	slices.SortFunc(all, func(a, b arrangedKey) int { return cmp.Or(cmp.Compare(a.Order, b.Order), cmp.Compare(b.Seq, a.Seq)) })
	found.All = true
	for _, a := range all {
		k := Key{ID: a.ID, LastUsedAt: a.LastUsedAt, LastFailureAt: a.LastFailureAt, LastFailureStatus: a.LastFailureStatus, ExpiresAt: a.ExpiresAt,
			Order: a.Order, Weight: a.Weight}
		_ = version{&k.Version}.Scan(a.Version) // it never fails
		if err := cmp.Or(k.Restrictions.Scan(a.Restrictions), k.Limits.Scan(a.Limits)); err != nil {
			return found, err
		}
		if k.Envelope, err = hex.DecodeString(a.Envelope); err != nil {
			return found, err
		}
		if a.Own {
			k.setScope(c, provider, c.UserID)
			found.Own = append(found.Own, k)
		} else {
			k.setScope(c, provider, "")
			found.Project = append(found.Project, k)
		}
	}
	return found, nil
}

// Fetch returns the keys that may serve a user's requests to a provider through a data plane, or only the project's
// keys if the UserID is empty. Errors: ErrDataPlaneEnded, ErrNotServed, ErrSessionEnded, ErrNotMember.
func (s *Store) Fetch(ctx context.Context, dataPlaneID string, c Caller, provider string, now int64) (Fetched, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	row, err := s.engine.Fetch(ctx, dataPlaneID, c, provider, now)
	if err == nil {
		err = row.dataPlane.check(c.CustomerID)
	}
	if err == nil && (c.UserID != "" || !row.caller.Live) {
		err = row.caller.Check(RoleMember)
	}
	if err != nil {
		return Fetched{}, s.classify(err)
	}
	policy := DefaultPolicy(c.CustomerID, c.ProjectID)
	if row.policy.UserKeys != "" {
		policy.UserKeys, policy.OnBadKey, policy.OnLimited, policy.Operations = row.policy.UserKeys, row.policy.OnBadKey, row.policy.OnLimited, row.policy.Operations
		if err := json.Unmarshal([]byte(row.byProvider), &policy.UserKeysByProvider); err != nil {
			return Fetched{}, err
		}
	}
	serving, err := row.serving(c, provider)
	return Fetched{Policy: policy, Serving: serving, AsOf: row.AsOf.String()}, err
}

// setScope sets the fields that are parameters of the statement, which does not select them.
func (k *Key) setScope(c Caller, provider, userID string) {
	if k.ID != "" {
		k.CustomerID, k.ProjectID, k.Provider, k.UserID = c.CustomerID, c.ProjectID, provider, userID
	}
}

// FetchByIDRow is the row of an engine's statement for a fetch by id: the values of FetchByIDColumns, and the position that the
// statement saw.
type FetchByIDRow struct {
	dataPlane dataPlaneStatus
	// member reports whether the key's user is a member of its project.
	member bool
	key    Key
	AsOf   position.Position
}

// FetchByIDColumns and FetchByIDTables make the statement for a fetch by a key's id. Its parameters are the data plane, the time
// and the key's id.
const (
	FetchByIDColumns = dataPlaneColumns + `, m.user_id IS NOT NULL, ` + keyColumns + `, k.envelope, COALESCE(k.kek_id, '')`
	FetchByIDTables  = `(SELECT 1) AS one
LEFT JOIN data_planes d ON d.id = $1 AND d.revoked_at = 0 AND (d.expires_at = 0 OR d.expires_at > $2)
LEFT JOIN ai_keys k ON k.id = $3
LEFT JOIN project_members m ON m.customer_id = k.customer_id AND m.project_id = k.project_id AND m.user_id = k.user_id`
)

// Dest returns where to scan FetchByIDColumns.
func (r *FetchByIDRow) Dest() []any {
	dest := append([]any{&r.dataPlane.live, &r.dataPlane.customers, &r.member}, keyFields(&r.key)...)
	return append(dest, &r.key.Envelope, &r.key.KEKID)
}

// FetchByID returns a key with its envelope, whether it may serve or not, and the position that the statement saw.
// Errors: ErrDataPlaneEnded, ErrNotServed, ErrNotFound, and ErrNotMember for the own key of a user who has left the
// project.
func (s *Store) FetchByID(ctx context.Context, dataPlaneID, id string, now int64) (Key, string, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	row, err := s.engine.FetchByID(ctx, dataPlaneID, id, now)
	if err == nil && row.dataPlane.live && row.key.ID == "" {
		err = ErrNotFound
	}
	if err == nil {
		err = row.dataPlane.check(row.key.CustomerID)
	}
	if err == nil && row.key.UserID != "" && !row.member {
		err = ErrNotMember
	}
	if err != nil {
		return Key{}, "", s.classify(err)
	}
	return row.key, row.AsOf.String(), nil
}

// dataPlaneStatus is what a statement found out about the data plane that fetches.
type dataPlaneStatus struct {
	live      bool
	customers string // in JSON
}

func (d dataPlaneStatus) check(customerID string) error {
	if !d.live {
		return ErrDataPlaneEnded
	}
	var dataPlane DataPlane
	if err := json.Unmarshal([]byte(d.customers), &dataPlane.Customers); err != nil {
		return err
	}
	if !dataPlane.Serves(customerID) {
		return ErrNotServed
	}
	return nil
}

// Candidates returns all keys of a provider that may serve, with their envelopes. Fetch can leave out older keys,
// because a fetch needs them only if the newest key is bad.
func (s *Store) Candidates(ctx context.Context, c Caller, provider string, now int64) (Serving, error) {
	return s.candidates(ctx, c, provider, usable, now)
}

// ControlPlane is the DataPlaneID of the record of a key that the control plane opened for itself.
const ControlPlane = "control_plane"

// FetchRecord records a fetch by a data plane, allowed or refused, or that the control plane opened a key to test it.
type FetchRecord struct {
	ID          int64
	At          int64
	DataPlaneID string
	CustomerID  string
	ProjectID   string
	UserID      string
	TokenID     string
	Provider    string
	// KeyID and Version identify the key that was given out, requested by its id, or found to be revoked or unreadable. They are
	// empty and zero if there was none.
	KeyID    string
	Version  uint32
	Decision Outcome
	// Reason is the reason code of the resolution or of the refusal.
	Reason    string
	RequestID string
	// DerivedUntil is when a credential that was derived from the key's secret expires, in microseconds. It is zero if
	// the secret itself was given out.
	DerivedUntil int64
}

// TableName is the table's name.
func (FetchRecord) TableName() string { return "fetches" }

// RecordFetch stores the record of a fetch. When it returns, the record is committed and survives this process. On PostgreSQL
// the commit may not have reached the disk yet, so a crash of the database server may lose it.
func (s *Store) RecordFetch(ctx context.Context, r FetchRecord) error {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	return s.classify(s.engine.RecordFetch(ctx, r))
}

// RecordFetch stores the record of a fetch in the transaction.
func (tx *Tx) RecordFetch(r FetchRecord) error { return tx.db.Create(&r).Error }

// FetchFilter selects a page of a project's fetches. Zero values select everything.
type FetchFilter struct {
	KeyID, UserID, Provider string
	// DataPlane is a data plane's id, or a name that data planes have or had.
	DataPlane string
	Decision  Outcome
	// From and To bound the time of the fetch, in microseconds since the Unix epoch: at From or later, and before To.
	From, To int64
	// Before is the id of the last record of the previous page.
	Before int64
	Limit  int
}

// ListFetches returns a page of a project's fetches, newest first. The caller must check that the user may read it.
func (s *Store) ListFetches(ctx context.Context, customerID, projectID string, f FetchFilter) ([]FetchRecord, error) {
	return find[FetchRecord](ctx, s, func(db *gorm.DB) *gorm.DB {
		// The project's records are read in the order of their index until the page is full, since another index would make every
		// fetch slower.
		return f.apply(db.Where("customer_id = ? AND project_id = ?", customerID, projectID)).Order("id DESC").Limit(f.Limit)
	})
}

// apply adds the filter to a query of records.
func (f FetchFilter) apply(db *gorm.DB) *gorm.DB {
	db = whereEqual(db, "key_id", f.KeyID, "user_id", f.UserID, "provider", f.Provider, "decision", string(f.Decision))
	if f.DataPlane != "" {
		db = db.Where("(data_plane_id = ? OR data_plane_id IN (SELECT d.id FROM data_planes d WHERE d.name = ?))", f.DataPlane, f.DataPlane)
	}
	if f.From > 0 {
		db = db.Where("at >= ?", f.From)
	}
	if f.To > 0 {
		db = db.Where("at < ?", f.To)
	}
	if f.Before > 0 {
		db = db.Where("id < ?", f.Before)
	}
	return db
}

// ForgetFetches reads the limit oldest records, deletes those that were made before a time (microseconds), and returns
// how many it deleted. There is no index on the time, because it would make every fetch slower.
func (tx *Tx) ForgetFetches(before int64, limit int) (int64, error) {
	oldest := tx.db.Model(&FetchRecord{}).Select("id").Order("id").Limit(limit)
	done := tx.db.Where("id IN (?) AND at < ?", oldest, before).Delete(&FetchRecord{})
	return done.RowsAffected, done.Error
}
