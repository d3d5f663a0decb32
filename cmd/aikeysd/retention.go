package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/agentrouter/aikeys/models"
)

// Old records are deleted once every cleanupInterval, at most cleanupBatch in a transaction.
const (
	cleanupInterval = time.Hour
	cleanupBatch    = 1000
)

// retentionRule says how long one kind of records is kept.
type retentionRule struct {
	kind   string // for the log
	keep   time.Duration
	delete func(tx *models.Tx, before int64, limit int) (int64, error)
}

// deleteOldRecords deletes the records that have outlived their retention, at once and then every interval, until ctx is
// done. What a failure leaves is deleted the next time.
func (s *service) deleteOldRecords(ctx context.Context, interval time.Duration) {
	rules := []retentionRule{
		{"idempotency", models.IdempotencyLife, (*models.Tx).ForgetIdempotency},
		{"usage reporter", models.UsageReporterLife, (*models.Tx).ForgetUsageReporters},
	}
	if s.cfg.FetchRetention > 0 {
		rules = append(rules, retentionRule{"fetch", s.cfg.FetchRetention, (*models.Tx).ForgetFetches})
	}
	if s.cfg.UsageRetention > 0 {
		rules = append(rules, retentionRule{"usage", s.cfg.UsageRetention, (*models.Tx).ForgetUsage})
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		for _, rule := range rules {
			deleted, err := s.deleteInBatches(ctx, rule)
			if err != nil && ctx.Err() == nil {
				s.log.WarnContext(ctx, "old records were not deleted", slog.String("kind", rule.kind), slog.String("error", err.Error()))
			} else if deleted > 0 {
				s.log.InfoContext(ctx, "old records deleted", slog.String("kind", rule.kind), slog.Int64("records", deleted))
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// deleteInBatches applies one rule. It works in batches, so that no request waits long for a write.
func (s *service) deleteInBatches(ctx context.Context, rule retentionRule) (int64, error) {
	before := time.Now().Add(-rule.keep).UnixMicro()
	for total := int64(0); ; {
		var batch int64
		err := s.store.Transact(ctx, func(tx *models.Tx) (err error) {
			batch, err = rule.delete(tx, before, cleanupBatch)
			return err
		})
		total += batch
		if err != nil || batch < cleanupBatch {
			return total, err
		}
	}
}
