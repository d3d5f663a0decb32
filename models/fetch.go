package models

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
)

// Fetched is what one statement found for a fetch, all as of one position.
type Fetched struct {
	Policy Policy
	// Own and Project are the newest active keys that could serve, with what serving takes: their envelopes, and how they
	// fared. An ID is empty where there is none.
	Own, Project Key
	// AsOf is the position at which it was found, in text.
	AsOf string
}

// The statement of a fetch: the data plane, the caller, the policy and the newest keys at once. Its parameters are
// callerArgs, the provider and the data plane.
const (
	fetchHead = `SELECT d.id IS NOT NULL, COALESCE(d.customers, 'null'), `
	fetchTail = `LEFT JOIN data_planes d ON d.id = $7 AND d.revoked_at = 0 AND (d.expires_at = 0 OR d.expires_at > $2)
LEFT JOIN project_policies p ON p.customer_id = $3 AND p.project_id = $4
`
	fetchPolicy = `COALESCE(p.user_keys, ''), COALESCE(p.user_keys_by_provider, ''), COALESCE(p.on_bad_key, '')`
	fetchByID   = `LEFT JOIN data_planes d ON d.id = $1 AND d.revoked_at = 0 AND (d.expires_at = 0 OR d.expires_at > $2)
LEFT JOIN ai_keys k ON k.id = $3
LEFT JOIN project_members m ON m.customer_id = k.customer_id AND m.project_id = k.project_id AND m.user_id = k.user_id`

	// servingColumns are what serving takes of a key k: the fewer, the faster.
	servingColumns = `COALESCE(k.id, ''), COALESCE(k.version, 0), COALESCE(k.last_used_at, 0), COALESCE(k.last_failure_at, 0),
COALESCE(k.last_failure_status, 0), k.envelope`
	// newestKey selects the newest active key of a user, %s.
	newestKey = `FROM ai_keys WHERE customer_id = $3 AND project_id = $4 AND user_id = %s
AND provider = $6 AND revoked_at = 0 ORDER BY seq DESC LIMIT 1`
	// SQLite knows no LATERAL: it finds the key twice.
	sqliteNewest = `LEFT JOIN ai_keys o ON o.id = (SELECT id ` + newestKey + `) AND $5 <> ''
LEFT JOIN ai_keys k ON k.id = (SELECT id ` + newestKey + `)`
	postgresNewest = `LEFT JOIN LATERAL (SELECT ` + servingNames + ` ` + newestKey + `) o ON $5 <> ''
LEFT JOIN LATERAL (SELECT ` + servingNames + ` ` + newestKey + `) k ON true`
	servingNames = `id, version, last_used_at, last_failure_at, last_failure_status, envelope`
)

func servingFields(k *Key) []any {
	return []any{&k.ID, &versionColumn{&k.Version}, &k.LastUsedAt, &k.LastFailureAt, &k.LastFailureStatus, &k.Envelope}
}

// fetchSQL is the statement of an engine, by its expressions for the position and for the newest keys; byID that for a key's id.
func fetchSQL(position, newest string) (forCaller, byID string) {
	own := strings.ReplaceAll(servingColumns, "k.", "o.")
	return fetchHead + callerColumns + `, ` + fetchPolicy + `, ` + own + `, ` + servingColumns + `, ` + position +
			` FROM ` + callerJoins + "\n" + fetchTail + fmt.Sprintf(newest, "$5", "''"),
		fetchHead + `m.user_id IS NOT NULL, ` + keyColumns + `, k.envelope, COALESCE(k.kek_id, ''), ` + position + ` FROM (SELECT 1) AS one` + "\n" + fetchByID
}

// Fetch returns what could serve a user's requests to a provider, or with an empty UserID the project's own, through a data
// plane. Errors: ErrDataPlaneEnded, ErrNotServed, ErrSessionEnded, ErrNotMember.
func (s *Store) Fetch(ctx context.Context, dataPlaneID string, c Caller, provider string, now int64) (Fetched, error) {
	var (
		found           Fetched
		who             standing
		live            bool
		customers, byPr string
		asOf            string
		p               = &found.Policy
	)
	fields := []any{&live, &customers, &who.live, &who.role, &p.UserKeys, &byPr, &p.OnBadKey}
	fields = append(append(append(fields, servingFields(&found.Own)...), servingFields(&found.Project)...), &asOf)
	sql, _ := s.fetchSQL()
	err := s.lookUp(ctx, sql, append(callerArgs(c, now), provider, dataPlaneID), func(row scanner) error { return row.Scan(fields...) })
	d := DataPlane{ID: dataPlaneID}
	if err == nil {
		err = d.mayServe(live, customers, c.CustomerID)
	}
	if err == nil && (c.UserID != "" || !who.live) {
		err = who.check(RoleMember)
	}
	if err != nil {
		return Fetched{}, s.classify(err)
	}
	if p.CustomerID, p.ProjectID = c.CustomerID, c.ProjectID; p.UserKeys == "" {
		found.Policy = DefaultPolicy(c.CustomerID, c.ProjectID)
	} else if err := json.Unmarshal([]byte(byPr), &p.UserKeysByProvider); err != nil {
		return Fetched{}, err
	}
	found.Own.place(c, provider, c.UserID)
	found.Project.place(c, provider, "")
	at, err := seen(asOf)
	if err != nil {
		return Fetched{}, err
	}
	found.AsOf = at.String()
	return found, nil
}

// place says whose key it is, which the statement was told and does not tell again.
func (k *Key) place(c Caller, provider, userID string) {
	if k.ID != "" {
		k.CustomerID, k.ProjectID, k.Provider, k.UserID = c.CustomerID, c.ProjectID, provider, userID
	}
}

// FetchByID returns a key with its envelope, revoked or not, and the position as of which it is so. Errors: ErrDataPlaneEnded,
// ErrNotServed, ErrNotFound, and ErrNotMember for the own key of a user who has left the project.
func (s *Store) FetchByID(ctx context.Context, dataPlaneID, id string, now int64) (Key, string, error) {
	var (
		k               Key
		live, member    bool
		customers, asOf string
	)
	fields := append(append([]any{&live, &customers, &member}, keyFields(&k)...), &k.Envelope, &k.KEKID, &asOf)
	_, sql := s.fetchSQL()
	err := s.lookUp(ctx, sql, []any{dataPlaneID, now, id}, func(row scanner) error { return row.Scan(fields...) })
	if err == nil && live && k.ID == "" {
		err = ErrNotFound
	}
	if err == nil {
		err = (&DataPlane{}).mayServe(live, customers, k.CustomerID)
	}
	if err == nil && k.UserID != "" && !member {
		err = ErrNotMember
	}
	if err != nil {
		return Key{}, "", s.classify(err)
	}
	at, err := seen(asOf)
	return k, at.String(), err
}

// mayServe reads what a statement found of a data plane: ErrDataPlaneEnded, ErrNotServed.
func (d *DataPlane) mayServe(live bool, customers, customerID string) error {
	if !live {
		return ErrDataPlaneEnded
	}
	if err := json.Unmarshal([]byte(customers), &d.Customers); err != nil {
		return err
	}
	if !d.Serves(customerID) {
		return ErrNotServed
	}
	return nil
}

// maxCandidates bounds how many keys are looked at for one that is not bad.
const maxCandidates = 50

// Candidates returns the active keys of a provider with their envelopes, the newest first: the user's own, and the project's.
// What a fetch's statement leaves out for its speed, it is for the rare case that the newest is bad.
func (s *Store) Candidates(ctx context.Context, c Caller, provider string) (own, project []Key, err error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	newest := func(userID string) (keys []Key, err error) {
		err = s.orm(requestPool).WithContext(ctx).
			Where("customer_id = ? AND project_id = ? AND user_id = ? AND provider = ? AND revoked_at = 0",
				c.CustomerID, c.ProjectID, userID, provider).
			Order("seq DESC").Limit(maxCandidates).Find(&keys).Error
		return keys, s.classify(err)
	}
	if c.UserID != "" {
		if own, err = newest(c.UserID); err != nil {
			return nil, nil, err
		}
	}
	project, err = newest("")
	return own, project, err
}
