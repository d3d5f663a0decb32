package dataplane

import (
	"context"
	"time"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/internal/problem"
	"github.com/agentrouter/aikeys/models"
)

// ReportUsage adds a batch of counts to the usage, unless it was added before.
func (s *server) ReportUsage(ctx context.Context, req gen.ReportUsageRequestObject) (gen.ReportUsageResponseObject, error) {
	batch, err := usageBatch(req.Body, s.now())
	if err != nil {
		return nil, err
	}
	d, err := s.dataPlane(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.store.AddUsage(ctx, d, batch); err != nil {
		return nil, err
	}
	return gen.ReportUsage204Response{}, nil
}

// usageBatch converts ages to times of our own clock, and refuses what the document can't describe.
func usageBatch(from *gen.UsageReport, now time.Time) (models.UsageBatch, error) {
	batch := models.UsageBatch{ReporterID: from.ReporterID, Number: from.Batch, Counts: make([]models.UsageCount, len(from.Counts))}
	for i, c := range from.Counts {
		count := models.UsageCount{
			KeyID: c.KeyID, Requests: c.Requests, Refusals: c.Refusals,
			LastUsedAt: now.Add(-time.Duration(c.LastUsedMsAgo) * time.Millisecond).UnixMicro(),
		}
		if c.UserID != nil {
			count.UserID = *c.UserID
		}
		if count.UserID != "" && !models.ValidID(count.UserID) {
			return batch, problem.Invalid("counts", "has a user_id that is a dot, two dots or a dash")
		}
		if count.Refusals > count.Requests {
			return batch, problem.Invalid("counts", "has more refusals than requests")
		}
		batch.Counts[i] = count
	}
	return batch, nil
}
