package models

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
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
	group.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-s.changed:
			}
			wake()
			// After the commit: in its transaction, NOTIFY would make writers take turns. One that fails is made up for by
			// whoever looks in any case.
			notifyCtx, cancel := s.bounded(ctx)
			_ = s.notify(notifyCtx)
			cancel()
		}
	})
	return group.Wait()
}

// Wake wakes whoever watches the database, as a commit does.
func (s *Store) Wake() {
	select {
	case s.changed <- struct{}{}:
	default: // a wake-up is due already
	}
}

func (p *postgresEngine) notify(ctx context.Context) error {
	_, err := p.pool.Exec(ctx, "SELECT pg_notify($1, $2)", channel, p.id)
	return err
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
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if _, err := conn.Exec(ctx, "LISTEN "+channel); err != nil {
		return false
	}
	wake() // what was committed before
	for {
		note, err := conn.WaitForNotification(ctx)
		if err != nil {
			return true
		}
		if note.Payload != p.id {
			wake()
		}
	}
}

// SQLite has one process, whose own commits wake it.
func (e *sqliteEngine) notify(context.Context) error { return nil }

func (e *sqliteEngine) listen(ctx context.Context, _ func()) error {
	<-ctx.Done()
	return nil
}
