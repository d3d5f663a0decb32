package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/agentrouter/aikeys/models"
)

// forgetInterval is how often old records are deleted, forgetBatch how many in one transaction.
const (
	forgetInterval = time.Hour
	forgetBatch    = 1000
)

// oldRecords are records that outlive their use.
type oldRecords struct {
	kind   string
	life   time.Duration
	forget func(tx *models.Tx, before int64, limit int) (int64, error)
}

// forgetRecords deletes the records that have outlived their use, at once and then every interval, until ctx ends. A failure
// is made up for the next time.
func (s *service) forgetRecords(ctx context.Context, interval time.Duration) {
	kinds := []oldRecords{{"idempotency", models.IdempotencyLife, (*models.Tx).ForgetIdempotency}}
	if s.cfg.FetchRetention > 0 {
		kinds = append(kinds, oldRecords{"fetch", s.cfg.FetchRetention, (*models.Tx).ForgetFetches})
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		for _, old := range kinds {
			forgotten, err := s.forgetOnce(ctx, old)
			if err != nil && ctx.Err() == nil {
				s.log.WarnContext(ctx, "old records were not deleted", slog.String("kind", old.kind), slog.String("error", err.Error()))
			} else if forgotten > 0 {
				s.log.InfoContext(ctx, "old records deleted", slog.String("kind", old.kind), slog.Int64("records", forgotten))
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// forgetOnce works in batches, so that no write of a request waits long for it.
func (s *service) forgetOnce(ctx context.Context, old oldRecords) (int64, error) {
	before := time.Now().Add(-old.life).UnixMicro()
	for total := int64(0); ; {
		var batch int64
		err := s.store.Transact(ctx, func(tx *models.Tx) (err error) {
			batch, err = old.forget(tx, before, forgetBatch)
			return err
		})
		total += batch
		if err != nil || batch < forgetBatch {
			return total, err
		}
	}
}
