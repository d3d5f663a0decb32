package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/agentrouter/aikeys/models"
)

const (
	// expiryInterval is how often the service looks for expiries of keys to announce and for replaced versions to
	// destroy. After a key's expiry was moved to an earlier time, data planes end the key's streams when they get the
	// service's event about the expiry.
	expiryInterval = 500 * time.Millisecond
	expiryBatch    = 100
	// destroyInterval is how often the service looks for removals of members that can no longer be undone.
	destroyInterval = 10 * time.Second
	destroyBatch    = 20
	// cleanupInterval is how often the service deletes old records, at most cleanupBatch in a transaction.
	cleanupInterval = time.Hour
	cleanupBatch    = 1000
)

// every calls do at once and then once every interval, until ctx is done.
func every(ctx context.Context, interval time.Duration, do func()) error {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		do()
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// announceExpiries writes the events of keys that will expire or have expired, and destroys replaced versions whose overlap has
// ended, until ctx is done. Every process does this.
func (s *service) announceExpiries(ctx context.Context) error {
	newEvent := newServiceEvent()
	warn := func(cause slog.Attr) {
		s.log.WarnContext(ctx, "the expiry of keys can't be announced, and replaced versions can't be destroyed; keys stop serving in time all the same", cause)
	}
	return every(ctx, expiryInterval, inBatches(ctx, expiryBatch, warn, func(now int64) (int, error) {
		announced, err := s.store.AnnounceExpiries(ctx, now, expiryBatch, newEvent)
		destroyed, destroyErr := s.store.DestroyRetired(ctx, now, expiryBatch, newEvent)
		return max(announced, destroyed), errors.Join(err, destroyErr)
	}))
}

// destroyRemoved destroys the keys of removed members once their removal can no longer be undone, until ctx is done. Every
// process does this.
func (s *service) destroyRemoved(ctx context.Context) error {
	newEvent := newServiceEvent()
	warn := func(cause slog.Attr) {
		s.log.WarnContext(ctx, "keys of removed members can't be destroyed; they serve nobody all the same", cause)
	}
	return every(ctx, destroyInterval, inBatches(ctx, destroyBatch, warn, func(now int64) (int, error) {
		return s.store.DestroyRemoved(ctx, now, destroyBatch, newEvent)
	}))
}

// inBatches returns a function that calls work until work fails or does less than a whole batch. If work fails several
// times in a row, the function calls warn only for the first failure.
func inBatches(ctx context.Context, size int, warn func(cause slog.Attr), work func(now int64) (done int, err error)) func() {
	failing := false
	return func() {
		for done := size; done == size; {
			var err error
			if done, err = work(time.Now().UnixMicro()); err != nil && !failing && ctx.Err() == nil {
				warn(slog.String("error", err.Error()))
			}
			if failing = err != nil; failing {
				return
			}
		}
	}
}

// newServiceEvent returns a function that makes the events of timed changes to keys. The service makes these changes
// without a request.
func newServiceEvent() func(models.EventType, models.Key) models.Event {
	var ids models.IDs
	return func(what models.EventType, k models.Key) models.Event {
		now := time.Now()
		return models.Event{
			ID: ids.Next(models.EventIDPrefix, now), CustomerID: k.CustomerID, ProjectID: k.ProjectID, ScopeUserID: k.UserID,
			Type: what, Outcome: models.OutcomeAllowed, At: now.UnixMicro(), ActorMethod: models.MethodService, KeyID: k.ID, Provider: k.Provider,
		}
	}
}

// deleteOldRecords deletes the records that have outlived their retention, until ctx is done. Records that remain after
// a failure are deleted the next time.
func (s *service) deleteOldRecords(ctx context.Context) error {
	return every(ctx, cleanupInterval, func() {
		for kind, rule := range map[string]struct {
			keep   time.Duration // 0 is forever
			delete func(tx *models.Tx, before int64, limit int) (int64, error)
		}{
			"idempotency":    {models.IdempotencyLife, (*models.Tx).ForgetIdempotency},
			"usage reporter": {models.UsageReporterLife, (*models.Tx).ForgetUsageReporters},
			"fetch":          {s.cfg.FetchRetention, (*models.Tx).ForgetFetches},
			"usage":          {s.cfg.UsageRetention, (*models.Tx).ForgetUsage},
		} {
			if rule.keep == 0 {
				continue
			}
			before, deleted := time.Now().Add(-rule.keep).UnixMicro(), int64(0)
			var err error
			for batch := int64(cleanupBatch); err == nil && batch == cleanupBatch; { // small transactions, so that no request waits long for a write
				err = s.store.Transact(ctx, func(tx *models.Tx) (err error) {
					batch, err = rule.delete(tx, before, cleanupBatch)
					return err
				})
				if err == nil {
					deleted += batch
				}
			}
			if err != nil && ctx.Err() == nil {
				s.log.WarnContext(ctx, "old records were not deleted", slog.String("kind", kind), slog.String("error", err.Error()))
			} else if deleted > 0 {
				s.log.InfoContext(ctx, "old records deleted", slog.String("kind", kind), slog.Int64("records", deleted))
			}
		}
	})
}
