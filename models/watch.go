package models

import (
	"context"

	"golang.org/x/sync/errgroup"
)

// Watch calls wake, which must not block, whenever something may have been committed by this Store or, on PostgreSQL, by
// another one, until ctx ends. While the connection to PostgreSQL is lost, wake-ups are lost too: who must not miss a change
// also looks from time to time. A Store has one watcher at a time.
func (s *Store) Watch(ctx context.Context, wake func()) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.engine.Listen(ctx, wake) })
	committed := make(chan struct{}, 1)
	group.Go(func() error {
		forEach(ctx, s.changed, func() {
			wake()
			signal(committed)
		})
		return nil
	})
	// In a goroutine of its own, so that a slow database does not delay our own watcher. After the commit, because NOTIFY within
	// a transaction would make writers take turns. A failure is not reported: watchers look from time to time.
	group.Go(func() error {
		forEach(ctx, committed, func() {
			ctx, cancel := s.bounded(ctx)
			defer cancel()
			_ = s.engine.Notify(ctx)
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

// Wake wakes the watchers of the database, as a commit does.
func (s *Store) Wake() { signal(s.changed) }
