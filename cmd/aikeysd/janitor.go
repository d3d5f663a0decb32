package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/agentrouter/aikeys/models"
)

// forgetInterval is how often old idempotency records are deleted, forgetBatch how many in one transaction.
const (
	forgetInterval = time.Hour
	forgetBatch    = 1000
)

// forgetIdempotency deletes the idempotency records that have outlived their use, at once and then every interval, until
// ctx ends. A failure is made up for the next time.
func (s *service) forgetIdempotency(ctx context.Context, interval time.Duration) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		forgotten, err := s.forgetOnce(ctx)
		if err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "old idempotency records were not deleted", slog.String("error", err.Error()))
		} else if forgotten > 0 {
			s.log.InfoContext(ctx, "old idempotency records deleted", slog.Int64("records", forgotten))
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// forgetOnce works in batches, so that no write of a request waits long for it.
func (s *service) forgetOnce(ctx context.Context) (int64, error) {
	before := time.Now().Add(-models.IdempotencyLife).UnixMicro()
	for total := int64(0); ; {
		var batch int64
		err := s.store.Transact(ctx, func(tx *models.Tx) (err error) {
			batch, err = tx.ForgetIdempotency(before, forgetBatch)
			return err
		})
		total += batch
		if err != nil || batch < forgetBatch {
			return total, err
		}
	}
}
