package postgres

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/agentrouter/aikeys/internal/position"
	"github.com/agentrouter/aikeys/models"
)

// A transaction's number is its xid, so that a snapshot says which transactions a statement sees. Numbers from the snapshot's
// xmax on can only come from another server, a backup of which this one was made from.
//
// A server that crashed gives numbers out again: those above the last that had reached its disk. The number of an event had,
// since the event is not visible before. So a position ends with the newest event: an event that gets a higher number, for the
// second time even, is not in it, and is found.
const (
	txNumber = `pg_current_xact_id()::text::bigint`
	xmax     = `pg_snapshot_xmax(pg_current_snapshot())::text::bigint`
	// currentPosition is the snapshot, a slash, and the number of the newest event in it.
	currentPosition = `pg_current_snapshot()::text || '/' || COALESCE((SELECT MAX(tx) FROM events WHERE tx < ` + xmax + `), 0)`
)

// parsePosition reads what currentPosition selects.
func parsePosition(text string) (position.Position, error) {
	snapshot, newest, _ := strings.Cut(text, "/")
	p, err := position.Parse(snapshot)
	tx, ok := position.ParseTx(newest)
	if err != nil || !ok {
		return position.Position{}, fmt.Errorf("position %q: %w", text, position.ErrInvalid)
	}
	return p.Before(tx + 1), nil
}

// Position implements models.Engine.
func (e *engine) Position(ctx context.Context) (position.Position, error) {
	var text string
	if err := e.reserved.QueryRow(ctx, "SELECT "+currentPosition).Scan(&text); err != nil {
		return position.Position{}, err
	}
	return parsePosition(text)
}

// Changes implements models.Engine. Unseen are the events from the position's xmax on, and those of the transactions that were
// running.
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
	now, err := parsePosition(text)
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

// Listen implements models.Engine. Its connection belongs to no pool, so that it neither waits for one nor counts as a part of
// it.
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
	wake() // for what was committed before
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

// waitForNotification returns the next notification. After a quiet time it asks whether the server is still there, which a
// network may not tell, and returns nil.
func (e *engine) waitForNotification(ctx context.Context, conn *pgx.Conn) (*pgconn.Notification, error) {
	quiet, cancel := context.WithTimeout(ctx, e.timeout)
	defer cancel()
	note, err := conn.WaitForNotification(quiet)
	if err == nil || quiet.Err() == nil || ctx.Err() != nil {
		return note, err
	}
	asked, cancel := context.WithTimeout(ctx, e.timeout)
	defer cancel()
	return nil, conn.Ping(asked)
}

// disconnect closes the connection, and waits until its goroutines have ended.
func (e *engine) disconnect(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), e.timeout)
	defer cancel()
	_ = conn.Close(ctx)
	select {
	case <-conn.PgConn().CleanupDone():
	case <-ctx.Done():
	}
}
