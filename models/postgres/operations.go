package postgres

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"gorm.io/gorm"

	"github.com/agentrouter/aikeys/internal/position"
	"github.com/agentrouter/aikeys/models"
)

// Transact implements models.Engine.
func (e *engine) Transact(ctx context.Context, from models.Pool, fn func(*models.Tx) error) error {
	if from == models.RequestPool {
		select {
		case e.writers <- struct{}{}:
			defer func() { <-e.writers }()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return e.ORM(from).WithContext(ctx).Transaction(func(db *gorm.DB) error {
		return fn(models.NewTx(db, txNumber, time.Now().UnixMicro()))
	})
}

// Query implements models.Engine.
func (e *engine) Query(ctx context.Context, statement string, args []any, scan func(models.Row) error) error {
	return e.requests.query(ctx, statement, args, scan)
}

// QueryRow implements models.Engine.
func (e *engine) QueryRow(ctx context.Context, statement string, args []any, dest ...any) error {
	r := &read{ctx: ctx, statement: statement, args: args, dest: dest}
	if err := e.reads.Do(ctx, r); err != nil {
		return err
	}
	return r.err
}

// read is a read of one row. Its worker sets dest and err.
type read struct {
	ctx       context.Context //nolint:containedctx // its deadline bounds its group
	statement string
	args      []any
	dest      []any
	err       error // of this row; an error of the whole group is returned by the worker
}

// readGroup sends a group of reads in one round trip. The group's deadline is the earliest of its members'.
func (e *engine) readGroup(group iter.Seq[*read]) error {
	deadline := time.Now().Add(e.timeout)
	var all pgx.Batch
	for r := range group {
		if d, ok := r.ctx.Deadline(); ok && d.Before(deadline) {
			deadline = d
		}
		all.Queue(r.statement, r.args...).QueryRow(func(row pgx.Row) error {
			r.err = row.Scan(r.dest...)
			if e.isStatementAtFault(r.err) {
				return r.err
			}
			return nil
		})
	}
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	return e.requests.SendBatch(ctx, &all).Close()
}

func (p *pool) query(ctx context.Context, statement string, args []any, scan func(models.Row) error) error {
	rows, err := p.Query(ctx, statement, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// lockedCaller selects the same as models.CallerStatement, and locks the rows. So until this transaction ends, nobody
// can remove the caller or revoke their API key. Without the locks, that could happen while a registration waits for
// another registration of the same name.
const lockedCaller = `SELECT ` + models.CallerColumns + ` FROM (SELECT 1) AS one
LEFT JOIN (SELECT id, projects, barred FROM api_tokens WHERE id = $1 AND revoked_at = 0 AND (expires_at = 0 OR expires_at > $2) FOR SHARE) t ON true
LEFT JOIN (SELECT role FROM project_members WHERE customer_id = $3 AND project_id = $4 AND user_id = $5 FOR SHARE) m ON ` + models.TokenReaches

// registerStatement returns a single statement, so that a registration takes one round trip and one transaction. The
// statement checks the caller and, if their role suffices, stores the key, its event and its idempotency record. Three
// statements in a transaction would take five round trips.
func registerStatement(c models.Caller, needs models.Role, r models.Registration, now int64) (string, models.Params) {
	params := models.CallerParams(c, now)
	allowed := ` FROM caller, quota WHERE live AND (role = 'owner' OR role = ` + params.Add(string(needs)) + `) AND active < ` + strconv.Itoa(max(r.Quota, 1)) +
		` AND ` + r.IsDestinationKept(&params, " FOR SHARE")
	statement := `WITH caller AS (` + lockedCaller + `), quota AS (SELECT ` + r.ActiveKeys(&params) + ` AS active),
`
	source := allowed
	if r.Idempotency != nil {
		row := models.IdempotencyRow(*r.Idempotency)
		statement += `claimed AS (` + row.Into() + `SELECT ` + params.Add(row.Values...) + allowed + ` ON CONFLICT DO NOTHING RETURNING 1),
`
		source = ` FROM claimed`
	}
	key, event := models.KeyRow(r.Key), models.EventRow(r.Event)
	statement += `stored AS (` + key.Into() + `SELECT ` + params.Add(key.Values...) + source + ` RETURNING 1),
recorded AS (` + event.Into("tx") + `SELECT ` + txNumber + `, ` + params.Add(event.Values...) + ` FROM stored)`
	isShared := `false`
	if len(r.Fingerprints) > 0 {
		var all []string
		for _, fingerprint := range r.Fingerprints {
			all = append(all, params.Add(fingerprint)+"::bytea")
		}
		statement += `,
fingerprinted AS (INSERT INTO key_fingerprints (customer_id, key_id, version, fingerprint)
SELECT ` + params.Add(r.Key.CustomerID, r.Key.ID, r.Key.Version) + `, f FROM stored, (VALUES (` + strings.Join(all, "), (") + `)) AS fs (f) ON CONFLICT DO NOTHING)`
		isShared = `EXISTS (` + models.SharedFingerprint + `IN (` + strings.Join(all, ", ") + `))`
	}
	statement += `
SELECT live, role, EXISTS (SELECT 1 FROM stored), active, ` + isShared + `, ` + models.UserKeysColumns + ` FROM caller CROSS JOIN quota LEFT JOIN ` + models.UserKeysTable
	return statement, params
}

// Register implements models.Engine.
func (e *engine) Register(
	ctx context.Context, c models.Caller, needs models.Role, r models.Registration, now int64,
) (status models.CallerStatus, outcome models.RegisterOutcome, err error) {
	statement, params := registerStatement(c, needs, r, now)
	// The whole result must be read, since its last message says whether the transaction was committed.
	err = e.Query(ctx, statement, params, func(row models.Row) error {
		return row.Scan(append([]any{&status.Live, &status.Role, &outcome.Stored, &outcome.Active, &outcome.IsShared}, outcome.UserKeys.Dest()...)...)
	})
	outcome.Full = r.Quota > 0 && outcome.Active >= r.Quota
	return status, outcome, err
}

// rewrapStatement changes only rows that no other transaction has locked. If it waited for locks, it could deadlock
// with a transaction that holds some of them, and would delay transactions that wait for the rows locked here. The
// changed columns are not indexed, so an update that fits on the row's page writes to no index.
const rewrapStatement = `WITH given AS (
  SELECT * FROM unnest($1::text[], $2::integer[], $3::bytea[], $4::bytea[], $5::text[]) AS g (id, version, old, new, kek_id)
), held AS MATERIALIZED (
  SELECT k.id FROM given g JOIN ai_keys k ON k.id = g.id AND k.version = g.version AND k.envelope = g.old
  FOR NO KEY UPDATE OF k SKIP LOCKED
), held_versions AS MATERIALIZED (
  SELECT v.key_id, v.version FROM given g JOIN key_versions v ON v.key_id = g.id AND v.version = g.version AND v.envelope = g.old
  FOR NO KEY UPDATE OF v SKIP LOCKED
), moved AS (
  UPDATE ai_keys k SET envelope = g.new, kek_id = g.kek_id FROM held h JOIN given g ON g.id = h.id
  WHERE k.id = h.id AND k.version = g.version AND k.envelope = g.old RETURNING k.id, k.version
), moved_versions AS (
  UPDATE key_versions v SET envelope = g.new, kek_id = g.kek_id FROM held_versions h JOIN given g ON g.id = h.key_id AND g.version = h.version
  WHERE v.key_id = h.key_id AND v.version = h.version AND v.envelope = g.old RETURNING v.key_id, v.version
)
SELECT * FROM moved UNION ALL SELECT * FROM moved_versions`

// Rewrap implements models.Engine.
func (e *engine) Rewrap(ctx context.Context, batch []models.Rewrapping) ([]string, error) {
	n := len(batch)
	ids, versions, keks := make([]string, n), make([]uint32, n), make([]string, n)
	olds, news := make([][]byte, n), make([][]byte, n)
	for i, r := range batch {
		ids[i], versions[i], keks[i], olds[i], news[i] = r.KeyID, r.Version, r.KEKID, r.Old, r.New
	}
	stored := make([]string, 0, n)
	err := e.Query(ctx, rewrapStatement, []any{ids, versions, olds, news, keks}, func(row models.Row) error {
		var (
			id      string
			version uint32
		)
		err := row.Scan(&id, &version)
		stored = append(stored, models.SealedName(id, version))
		return err
	})
	return stored, err
}

// Statements returns hand-written statements of the hot paths by name: get, list, insert-key, insert-event and
// insert-fingerprint. A benchmark measures them without the service.
func Statements() map[string]string {
	insert := func(row *models.Insert, first string, further ...string) string {
		return row.Into(further...) + `VALUES (` + first + new(models.Params).Add(row.Values...) + `)`
	}
	list, _ := models.ListKeysStatement(models.Caller{}, models.KeyFilter{Limit: 51}, 0)
	return map[string]string{
		"get":                models.GetKeyStatement,
		"list":               list,
		"insert-key":         insert(models.KeyRow(models.Key{}), ""),
		"insert-event":       insert(models.EventRow(models.Event{}), txNumber+", ", "tx"),
		"insert-fingerprint": insert(models.FingerprintRow(models.KeyFingerprint{}), ""),
	}
}

const (
	// newestKey selects the newest key of a scope that may serve. It reads the key's entry in an index, and the entries
	// of newer keys that are disabled or expired.
	newestKey = `SELECT id, version, last_used_at, last_failure_at, last_failure_status, expires_at, restrictions, limits, envelope FROM ai_keys
WHERE customer_id = $3 AND project_id = $4 AND provider = $6 AND ` + models.Usable + ` AND user_id = `

	fetchByIDStatement = `SELECT ` + models.FetchByIDColumns + `, ` + currentPosition + ` FROM ` + models.FetchByIDTables
)

var (
	fetchStatement = fetchStatementWith(`CASE WHEN ` + models.AnyArranged + ` THEN 'yes' ELSE '' END`)
	// arrangedFetchStatement also selects the arranged keys. PostgreSQL sets up every part of a statement on each run,
	// so this statement takes longer than fetchStatement even if no key is arranged.
	arrangedFetchStatement = fetchStatementWith(models.ArrangedKeys(`json_agg`, `json_build_object`, `encode(envelope, 'hex')`))
)

func fetchStatementWith(arranged string) string {
	return `SELECT ` + models.FetchColumns + `, ` + arranged + `, ` + currentPosition + ` FROM ` + models.FetchTables + `
LEFT JOIN LATERAL (` + newestKey + `$5 ORDER BY seq DESC LIMIT 1) o ON $5 <> ''
LEFT JOIN LATERAL (` + newestKey + `'' ORDER BY seq DESC LIMIT 1) k ON true`
}

// Fetch implements models.Engine. It uses the result of one statement, which reads everything in one snapshot. If keys
// are arranged, it runs arrangedFetchStatement and uses only the result of that statement.
func (e *engine) Fetch(ctx context.Context, dataPlaneID string, c models.Caller, provider string, now int64) (models.FetchRow, error) {
	params := models.FetchParams(dataPlaneID, c, provider, now)
	row, err := e.fetch(ctx, fetchStatement, params)
	if err == nil && row.IsArranged() {
		return e.fetch(ctx, arrangedFetchStatement, params)
	}
	return row, err
}

func (e *engine) fetch(ctx context.Context, statement string, params models.Params) (row models.FetchRow, err error) {
	var asOf string
	if err := e.QueryRow(ctx, statement, params, append(row.Dest(), &asOf)...); err != nil {
		return row, err
	}
	row.AsOf, err = e.parsePosition(asOf)
	return row, err
}

// FetchByID implements models.Engine.
func (e *engine) FetchByID(ctx context.Context, dataPlaneID, id string, now int64) (row models.FetchByIDRow, err error) {
	var asOf string
	if err := e.QueryRow(ctx, fetchByIDStatement, []any{dataPlaneID, now, id}, append(row.Dest(), &asOf)...); err != nil {
		return row, err
	}
	row.AsOf, err = e.parsePosition(asOf)
	return row, err
}

// RecordFetch implements models.Engine.
func (e *engine) RecordFetch(ctx context.Context, r models.FetchRecord) error {
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(e.timeout)
	}
	return e.records.Do(ctx, queuedRecord{r, deadline})
}

// queuedRecord is a record with its caller's deadline.
type queuedRecord struct {
	models.FetchRecord
	deadline time.Time
}

// maxRecords bounds how many records one commit carries.
const maxRecords = 256

// insertRecords stores a group of records in one commit, which does not wait for the disk: a crash of the database server can
// lose records of fetches, and nothing else. With a statement for each record, every answer would wait for a commit of its own.
// The group's deadline is the earliest of its members'.
func (e *engine) insertRecords(group []queuedRecord) error {
	n := len(group)
	if n == 0 { // all callers have given up
		return nil
	}
	first := slices.MinFunc(group, func(a, b queuedRecord) int { return a.deadline.Compare(b.deadline) })
	ctx, cancel := context.WithDeadline(context.Background(), first.deadline)
	defer cancel()
	at, versions, ends := make([]int64, n), make([]uint32, n), make([]int64, n)
	var dataPlanes, customers, projects, users, tokens, providers, keys, decisions, reasons, requests []string
	for i, r := range group {
		at[i], versions[i], ends[i] = r.At, r.Version, r.DerivedUntil
		dataPlanes, customers, projects = append(dataPlanes, r.DataPlaneID), append(customers, r.CustomerID), append(projects, r.ProjectID)
		users, tokens, providers = append(users, r.UserID), append(tokens, r.TokenID), append(providers, r.Provider)
		keys, decisions = append(keys, r.KeyID), append(decisions, string(r.Decision))
		reasons, requests = append(reasons, r.Reason), append(requests, r.RequestID)
	}
	_, err := e.reserved.Exec(ctx, `WITH quick AS (SELECT set_config('synchronous_commit', 'off', true))
INSERT INTO fetches (at, data_plane_id, customer_id, project_id, user_id, token_id, provider, key_id, version, decision, reason, request_id, derived_until)
SELECT r.* FROM quick, unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
  $9::integer[], $10::text[], $11::text[], $12::text[], $13::bigint[]) AS r`,
		at, dataPlanes, customers, projects, users, tokens, providers, keys, versions, decisions, reasons, requests, ends)
	return err
}

// A transaction's number is its xid, with the server's timeline from bit 40 on (see position.OnTimeline). So a snapshot says
// which transactions a statement sees. An event with a number beyond the snapshot's xmax was restored from another server.
//
// After a crash, a server reassigns the numbers above the last number on its disk. The numbers of visible events are on
// its disk, so they are not reassigned. Therefore a position ends with the number of the newest event: an event with a
// higher number, even a reassigned one, counts as not yet found.
const (
	// timeline fails on a standby. The planner computes it once for a plan; no plan outlives the server's timeline.
	timeline     = `('x' || left(pg_walfile_name('0/1'), 8))::bit(32)::bigint`
	timelineBase = `((` + timeline + ` - 1) << 40)`
	txNumber     = `(pg_current_xact_id()::text::bigint + ` + timelineBase + `)`
	xmax         = `(pg_snapshot_xmax(pg_current_snapshot())::text::bigint + ` + timelineBase + `)`
	// currentPosition is the timeline, the snapshot and the number of the newest event in it, separated by slashes. It is empty on
	// a server that takes no writes, because its answers may be stale.
	currentPosition = `CASE current_setting('transaction_read_only') WHEN 'off' THEN ` + timeline +
		` || '/' || pg_current_snapshot() || '/' || COALESCE((SELECT MAX(tx) FROM events WHERE tx < ` + xmax + `), 0) ELSE '' END`
)

// parsePosition parses the value of currentPosition. If it is empty, it closes the connections, as dropReadOnly does.
func (e *engine) parsePosition(text string) (position.Position, error) {
	if text == "" {
		e.dropConnections()
		return position.Position{}, models.ErrReadOnly
	}
	line, rest, _ := strings.Cut(text, "/")
	snapshot, newest, _ := strings.Cut(rest, "/")
	p, err := position.Parse(snapshot)
	number, ok := position.ParseTx(line)
	tx, ok2 := position.ParseTx(newest)
	if err != nil || !ok || !ok2 {
		return position.Position{}, fmt.Errorf("position %q: %w", text, position.ErrInvalid)
	}
	return p.OnTimeline(number).Before(tx + 1), nil
}

// Position implements models.Engine.
func (e *engine) Position(ctx context.Context) (position.Position, error) {
	var text string
	if err := e.reserved.QueryRow(ctx, "SELECT "+currentPosition).Scan(&text); err != nil {
		return position.Position{}, err
	}
	return e.parsePosition(text)
}

// Changes implements models.Engine. It finds the events from the position's xmax on, and the events of transactions
// that were still running at the position.
func (e *engine) Changes(ctx context.Context, since position.Position, limit int) ([]models.Change, position.Position, error) {
	var (
		changes []models.Change
		text    string
	)
	err := e.reserved.query(ctx, changesStatement(limit), []any{since.Xmax, since.Open}, func(row models.Row) error {
		return models.ScanChange(row, &text, &changes)
	})
	if err != nil {
		return nil, position.Position{}, err
	}
	now, err := e.parsePosition(text)
	return changes, now, err
}

func changesStatement(limit int) string {
	last := ` AND outcome = 'allowed' ORDER BY tx LIMIT ` + strconv.Itoa(limit)
	return models.ChangesStatement(currentPosition,
		`(SELECT `+models.ChangeColumns+` FROM events WHERE tx >= $1 AND tx < `+xmax+last+`)
UNION ALL (SELECT `+models.ChangeColumns+` FROM events WHERE tx = ANY($2::bigint[])`+last+`)`)
}

// channel is the channel on which replicas notify one another.
const channel = "aikeys_changes"

// The shortest and the longest time between two attempts to listen.
const (
	firstRetry = 50 * time.Millisecond
	lastRetry  = 2 * time.Second
)

// Notify implements models.Engine.
func (e *engine) Notify(ctx context.Context) error {
	_, err := e.reserved.Exec(ctx, "SELECT pg_notify($1, $2)", channel, e.id)
	return err
}

// Listen implements models.Engine. Its connection belongs to no pool, so it never waits for one.
func (e *engine) Listen(ctx context.Context, wake func()) error {
	for wait := firstRetry; ctx.Err() == nil; wait = min(2*wait, lastRetry) {
		if e.listenOnce(ctx, wake) {
			wait = firstRetry
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
	return nil
}

// listenOnce listens until the connection is lost, and reports whether it had one.
func (e *engine) listenOnce(ctx context.Context, wake func()) (listened bool) {
	conn, err := pgx.ConnectConfig(ctx, e.listener.Copy())
	if err != nil {
		return false
	}
	defer e.disconnect(ctx, conn)
	if _, err := conn.Exec(ctx, "LISTEN "+channel); err != nil {
		return false
	}
	wake() // for earlier commits
	for {
		note, err := e.waitForNotification(ctx, conn)
		if err != nil {
			return true
		}
		if note != nil && note.Payload != e.id {
			wake()
		}
	}
}

// waitForNotification returns the next notification. If none comes for a while, it checks that the server is still there and
// takes writes, and returns nil.
func (e *engine) waitForNotification(ctx context.Context, conn *pgx.Conn) (*pgconn.Notification, error) {
	quiet, cancel := context.WithTimeout(ctx, e.timeout)
	defer cancel()
	note, err := conn.WaitForNotification(quiet)
	if err == nil || quiet.Err() == nil || ctx.Err() != nil {
		return note, err
	}
	asked, cancel := context.WithTimeout(ctx, e.timeout)
	defer cancel()
	return nil, e.listener.ValidateConnect(asked, conn.PgConn())
}

// disconnect closes a connection, and waits until its goroutines have ended.
func (e *engine) disconnect(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), e.timeout)
	defer cancel()
	_ = conn.Close(ctx)
	select {
	case <-conn.PgConn().CleanupDone():
	case <-ctx.Done():
	}
}
