package models

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"
)

// UsageBatch holds the requests that a process of a data plane counted since its last batch.
type UsageBatch struct {
	// ReporterID identifies the process. Number increases with each of its batches.
	ReporterID string
	Number     int64
	Counts     []UsageCount
}

// UsageCount counts the requests with a key for a user, and how many of them were refused. LastUsedAt is the time of
// the last request, in microseconds. All requests are in the hour of LastUsedAt. UserID is empty for no particular
// user.
type UsageCount struct {
	KeyID, UserID      string
	Requests, Refusals int64
	LastUsedAt         int64
}

// usageRow is the usage of a key by a user in an hour.
type usageRow struct {
	UsageHour
	Requests, Refusals, LastUsedAt int64
}

// UsageHour identifies a row of usage. Day counts from the Unix epoch, Hour from the start of the day. It is exported for GORM,
// which ignores embedded structs of unexported types.
type UsageHour struct {
	CustomerID, ProjectID string
	Day                   int64
	KeyID, UserID         string
	Hour                  int64
}

// TableName is the table's name.
func (usageRow) TableName() string { return "key_usage" }

func (a UsageHour) compare(b UsageHour) int {
	return cmp.Or(cmp.Compare(a.CustomerID, b.CustomerID), cmp.Compare(a.ProjectID, b.ProjectID), cmp.Compare(a.Day, b.Day),
		cmp.Compare(a.KeyID, b.KeyID), cmp.Compare(a.UserID, b.UserID), cmp.Compare(a.Hour, b.Hour))
}

const (
	microsecondsPerHour = int64(time.Hour / time.Microsecond)
	hoursPerDay         = 24
)

// AddUsage adds a batch to the usage of its keys, unless it was added before. It ignores unknown keys, and keys of customers
// that the data plane does not serve.
func (s *Store) AddUsage(ctx context.Context, d DataPlane, b UsageBatch) error {
	ids := make([]string, len(b.Counts))
	for i, c := range b.Counts {
		ids[i] = c.KeyID
	}
	known, err := s.findKeys(ctx, ids)
	if err != nil {
		return err
	}
	rows := b.rows(slices.DeleteFunc(known, func(k Key) bool { return !d.Serves(k.CustomerID) }))
	if len(rows) == 0 {
		return nil
	}
	return s.Transact(ctx, func(tx *Tx) error {
		isNew, err := tx.claimBatch(d.ID, b)
		if err != nil || !isNew {
			return err
		}
		return tx.addUsage(rows)
	})
}

// rows adds up the counts of some keys by hour. It sorts the rows, so that two batches with the same rows don't
// deadlock.
func (b UsageBatch) rows(of []Key) []usageRow {
	keys, sums := map[string]Key{}, map[UsageHour]usageRow{}
	for _, k := range of {
		keys[k.ID] = k
	}
	for _, c := range b.Counts {
		k, ok := keys[c.KeyID]
		if !ok {
			continue
		}
		hour := c.LastUsedAt / microsecondsPerHour
		scope := UsageHour{k.CustomerID, k.ProjectID, hour / hoursPerDay, k.ID, c.UserID, hour % hoursPerDay}
		sum := sums[scope]
		sums[scope] = usageRow{scope, sum.Requests + c.Requests, sum.Refusals + c.Refusals, max(sum.LastUsedAt, c.LastUsedAt)}
	}
	return slices.SortedFunc(maps.Values(sums), func(a, b usageRow) int { return a.UsageHour.compare(b.UsageHour) })
}

// claimBatch records that a batch is stored, and reports whether it is new. It locks the reporter's row, so that a second
// request with the same batch waits for the first.
func (tx *Tx) claimBatch(dataPlaneID string, b UsageBatch) (bool, error) {
	stored, err := tx.exec(`INSERT INTO usage_reporters (data_plane_id, id, batch, at) VALUES ($1, $2, $3, $4)
ON CONFLICT (data_plane_id, id) DO UPDATE SET batch = excluded.batch, at = excluded.at WHERE usage_reporters.batch < excluded.batch`,
		[]any{dataPlaneID, b.ReporterID, b.Number, tx.Now})
	return stored > 0, err
}

func (tx *Tx) addUsage(rows []usageRow) error {
	const t = "key_usage"
	var scope []clause.Column
	for _, name := range []string{"customer_id", "project_id", "day", "key_id", "user_id", "hour"} {
		scope = append(scope, clause.Column{Name: name})
	}
	return tx.db.Clauses(clause.OnConflict{Columns: scope, DoUpdates: clause.Assignments(map[string]any{
		"requests": gorm.Expr(t + ".requests + excluded.requests"),
		"refusals": gorm.Expr(t + ".refusals + excluded.refusals"),
		"last_used_at": gorm.Expr("CASE WHEN excluded.last_used_at > " + t + ".last_used_at THEN excluded.last_used_at ELSE " + t +
			".last_used_at END"),
	})}).Create(rows).Error
}

// Usage counts a user's requests with a key on a day.
type Usage struct {
	UsageKey
	Provider                       string
	Requests, Refusals, LastUsedAt int64
}

// UsageKey identifies a Usage. Day counts from the Unix epoch. UserID is empty for no particular user.
type UsageKey struct {
	Day           int64
	KeyID, UserID string
}

// String returns the key as text of at most 95 characters, which ParseUsageKey reads.
func (k UsageKey) String() string {
	return fmt.Sprintf("%05d%s%s", k.Day, k.KeyID[len(KeyIDPrefix):], k.UserID)
}

// ParseUsageKey reads what String returned.
func ParseUsageKey(text string) (k UsageKey, ok bool) {
	const days, ulid = 5, 26
	if len(text) < days+ulid {
		return k, false
	}
	for _, digit := range text[:days] {
		if digit < '0' || digit > '9' {
			return k, false
		}
		k.Day = 10*k.Day + int64(digit-'0')
	}
	k.KeyID, k.UserID = KeyIDPrefix+text[days:days+ulid], text[days+ulid:]
	return k, ValidID(k.KeyID) && (k.UserID == "" || ValidID(k.UserID))
}

// UsageFilter selects a page of a project's usage. Zero values select everything.
type UsageFilter struct {
	KeyID, UserID, Provider string
	// From and To are times in microseconds. They select the hours from the hour of From up to the last hour that
	// begins before To.
	From, To int64
	// After is the last entry of the previous page.
	After UsageKey
	Limit int
}

// ListUsage returns a page of a project's usage, newest day first. The caller must check that the user may read it.
func (s *Store) ListUsage(ctx context.Context, customerID, projectID string, f UsageFilter) ([]Usage, error) {
	return find[Usage](ctx, s, func(db *gorm.DB) *gorm.DB {
		// The order is that of an index, read backwards, so that a page costs the same however many pages follow.
		db = db.Model(&usageRow{}).
			Select(`day, key_id, user_id, (SELECT k.provider FROM ai_keys k WHERE k.id = key_usage.key_id) AS provider,
CAST(SUM(requests) AS bigint) AS requests, CAST(SUM(refusals) AS bigint) AS refusals, MAX(last_used_at) AS last_used_at`).
			Where("customer_id = ? AND project_id = ?", customerID, projectID).
			Group("day, key_id, user_id").Order("day DESC, key_id DESC, user_id DESC").Limit(f.Limit)
		return f.apply(db)
	})
}

// apply adds the filter to a query of usage.
func (f UsageFilter) apply(db *gorm.DB) *gorm.DB {
	// With an expression, SQLite does not use the index by user, from which it would look up every row.
	db = whereEqual(db, "key_id || ''", f.KeyID, "user_id", f.UserID,
		"(SELECT k.provider FROM ai_keys k WHERE k.id = key_usage.key_id)", f.Provider)
	if f.From > 0 {
		hour := f.From / microsecondsPerHour
		db = db.Where("day >= ? AND day * 24 + hour >= ?", hour/hoursPerDay, hour)
	}
	if f.To > 0 {
		hour := (f.To - 1) / microsecondsPerHour
		db = db.Where("day <= ? AND day * 24 + hour <= ?", hour/hoursPerDay, hour)
	}
	if f.After != (UsageKey{}) {
		db = db.Where("(day, key_id, user_id) < (?, ?, ?)", f.After.Day, f.After.KeyID, f.After.UserID)
	}
	return db
}

// ForgetUsage deletes up to limit rows of usage from the days before the day of the time before (microseconds), and
// returns how many rows it deleted.
func (tx *Tx) ForgetUsage(before int64, limit int) (int64, error) {
	const scope = "customer_id, project_id, day, key_id, user_id, hour"
	return tx.exec(`DELETE FROM key_usage WHERE (`+scope+`) IN (SELECT `+scope+` FROM key_usage WHERE day < $1 LIMIT $2)`,
		[]any{before / microsecondsPerHour / hoursPerDay, limit})
}

// UsageReporterLife is how long the last batch of a data plane's process is remembered. It is longer than the maximum age of the
// counts in a batch.
const UsageReporterLife = 48 * time.Hour

// ForgetUsageReporters deletes up to limit reporters whose last batch came before a time (microseconds), and returns
// how many it deleted.
func (tx *Tx) ForgetUsageReporters(before int64, limit int) (int64, error) {
	return tx.exec(`DELETE FROM usage_reporters
WHERE (data_plane_id, id) IN (SELECT data_plane_id, id FROM usage_reporters WHERE at < $1 LIMIT $2)`, []any{before, limit})
}
