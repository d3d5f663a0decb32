package models

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"
)

// channel is the Postgres channel on which replicas wake one another.
const channel = "aikeys_changes"

// The least and the most time between two attempts to listen.
const (
	firstListen = 50 * time.Millisecond
	lastListen  = 2 * time.Second
)

// Watch calls wake, which must not block, whenever something may have been committed by this Store or, on Postgres, by
// another one, until ctx ends. A wake-up may be lost while the connection to Postgres is: who must not miss a change looks
// now and then in any case. A Store has one watcher at a time.
func (s *Store) Watch(ctx context.Context, wake func()) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.listen(ctx, wake) })
	tell := make(chan struct{}, 1)
	group.Go(func() error {
		forEach(ctx, s.changed, func() {
			wake()
			signal(tell)
		})
		return nil
	})
	// Apart, lest a busy pool hold up our own watcher; after the commit, as NOTIFY in its transaction would make writers take
	// turns. One that fails is made up for by whoever looks in any case.
	group.Go(func() error {
		forEach(ctx, tell, func() {
			ctx, cancel := s.bounded(ctx)
			defer cancel()
			_ = s.notify(ctx)
		})
		return nil
	})
	return group.Wait()
}

// forEach calls do for each signal until ctx ends.
func forEach(ctx context.Context, signals <-chan struct{}, do func()) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-signals:
			do()
		}
	}
}

// signal leaves a signal, unless one waits already.
func signal(to chan<- struct{}) {
	select {
	case to <- struct{}{}:
	default:
	}
}

// Wake wakes whoever watches the database, as a commit does.
func (s *Store) Wake() { signal(s.changed) }

func (p *postgresEngine) notify(ctx context.Context) error {
	return p.aside(ctx, "SELECT pg_notify($1, $2)::text", []any{channel, p.id}, func(scanner) error { return nil })
}

// listen holds a connection of its own, which must not wait for the pool's, nor count as one of them.
func (p *postgresEngine) listen(ctx context.Context, wake func()) error {
	for pause := firstListen; ctx.Err() == nil; pause = min(2*pause, lastListen) {
		if p.listenOnce(ctx, wake) {
			pause = firstListen
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
	return nil
}

// listenOnce listens until the connection is lost, and tells whether it ever had one.
func (p *postgresEngine) listenOnce(ctx context.Context, wake func()) (listened bool) {
	conn, err := pgx.ConnectConfig(ctx, p.listener.Copy())
	if err != nil {
		return false
	}
	defer p.leave(ctx, conn)
	if _, err := conn.Exec(ctx, "LISTEN "+channel); err != nil {
		return false
	}
	wake() // what was committed before
	for {
		note, err := p.hear(ctx, conn)
		if err != nil {
			return true
		}
		if note != nil && note.Payload != p.id {
			wake()
		}
	}
}

// hear waits for a notification. Where none comes for long it asks whether the server is still there, which networks do not
// always tell, and returns nil.
func (p *postgresEngine) hear(ctx context.Context, conn *pgx.Conn) (*pgconn.Notification, error) {
	quiet, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	note, err := conn.WaitForNotification(quiet)
	if err == nil || quiet.Err() == nil || ctx.Err() != nil {
		return note, err
	}
	asked, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	return nil, conn.Ping(asked)
}

// leave ends the connection, and waits until nothing of it is left.
func (p *postgresEngine) leave(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.timeout)
	defer cancel()
	_ = conn.Close(ctx)
	select {
	case <-conn.PgConn().CleanupDone():
	case <-ctx.Done():
	}
}

// SQLite has one process, whose own commits wake it.
func (e *sqliteEngine) notify(context.Context) error { return nil }

func (e *sqliteEngine) listen(ctx context.Context, _ func()) error {
	<-ctx.Done()
	return nil
}
