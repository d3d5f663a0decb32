package dataplane

import (
	"context"
	"time"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/impl/verification"
	"github.com/agentrouter/aikeys/internal/problem"
	"github.com/agentrouter/aikeys/models"
)

// ReportKeys stores when keys were used and refused, and has a key tested when its provider begins to refuse it.
func (s *server) ReportKeys(ctx context.Context, req gen.ReportKeysRequestObject) (gen.ReportKeysResponseObject, error) {
	reports, err := keyReports(req.Body.Keys, s.Now())
	if err != nil {
		return nil, err
	}
	d, err := s.dataPlane(ctx)
	if err != nil {
		return nil, err
	}
	failing, err := s.storeReports(ctx, d, reports)
	if err != nil {
		return nil, err
	}
	for _, k := range failing {
		s.Tests.Enqueue(verification.Refused{KeyID: k.ID, Event: s.keyEvent(ctx, models.EventKeyVerified, d, k, models.ReportedCaller{})})
	}
	return gen.ReportKeys204Response{}, nil
}

// keyReports converts ages to times of this service's clock, and checks what the document can't describe.
func keyReports(from []gen.KeyReport, now time.Time) ([]models.KeyReport, error) {
	ago := func(ms *int) int64 {
		if ms == nil {
			return 0
		}
		return now.Add(-time.Duration(*ms) * time.Millisecond).UnixMicro()
	}
	reports, seen := make([]models.KeyReport, len(from)), map[string]bool{}
	for i, r := range from {
		if seen[r.KeyID] {
			return nil, problem.Invalid("keys", "names a key twice")
		}
		if (r.FailedMsAgo == nil) != (r.FailureStatus == nil) || r.FailureReason != nil && r.FailureStatus == nil {
			return nil, problem.Invalid("keys", "has one of failed_ms_ago, failure_status and failure_reason without the others")
		}
		if (r.FailedFor != nil || r.FailedVersion != nil) && r.FailedMsAgo == nil || r.ExposedFor != nil && r.ExposedMsAgo == nil {
			return nil, problem.Invalid("keys", "has a failed_for, a failed_version or an exposed_for without its time")
		}
		seen[r.KeyID] = true
		reports[i] = models.KeyReport{
			KeyID: r.KeyID, UsedAt: ago(r.UsedMsAgo), FailedAt: ago(r.FailedMsAgo), FailedFor: reportedCaller(r.FailedFor),
			FailureStatus: valueOf(r.FailureStatus), FailureReason: valueOf(r.FailureReason),
			FailedVersion: uint32(valueOf(r.FailedVersion)), //nolint:gosec // the document bounds it
			ExposedAt:     ago(r.ExposedMsAgo), ExposedFor: reportedCaller(r.ExposedFor),
		}
	}
	return reports, nil
}

func reportedCaller(from *gen.ReportedCaller) models.ReportedCaller {
	caller := valueOf(from)
	return models.ReportedCaller{UserID: caller.UserID, TokenID: valueOf(caller.TokenID)}
}

// storeReports stores a data plane's reports with the events that follow from them, and returns the keys that have begun to fail.
func (s *server) storeReports(ctx context.Context, d models.DataPlane, reports []models.KeyReport) (failing []models.Key, err error) {
	return s.Store.ReportKeys(ctx, d, reports, func(kind models.EventType, k models.Key, caller models.ReportedCaller) models.Event {
		return s.keyEvent(ctx, kind, d, k, caller)
	})
}

// keyEvent returns an event for a data plane's report of a key. Users who may read the key may read the event.
func (s *server) keyEvent(
	ctx context.Context, kind models.EventType, d models.DataPlane, key models.Key, caller models.ReportedCaller,
) models.Event {
	call, now := httpapi.CallFrom(ctx), s.Now()
	return models.Event{
		ID: s.ids.Next(models.EventIDPrefix, now), CustomerID: key.CustomerID, ProjectID: key.ProjectID, ScopeUserID: key.UserID,
		Type: kind, Outcome: models.OutcomeAllowed, At: now.UnixMicro(),
		ActorUserID: d.ID, ActorMethod: string(auth.PrincipalFrom(ctx).Method), KeyID: key.ID, Provider: key.Provider,
		MemberID: caller.UserID, TokenID: caller.TokenID, SourceIP: call.SourceIP, RequestID: call.ID,
	}
}

// ReportUsage adds a batch of counts to the usage, unless the batch was added before.
func (s *server) ReportUsage(ctx context.Context, req gen.ReportUsageRequestObject) (gen.ReportUsageResponseObject, error) {
	batch, err := usageBatch(req.Body, s.Now())
	if err != nil {
		return nil, err
	}
	d, err := s.dataPlane(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.Store.AddUsage(ctx, d, batch); err != nil {
		return nil, err
	}
	return gen.ReportUsage204Response{}, nil
}

// usageBatch converts ages to times of this service's clock, and checks what the document can't describe.
func usageBatch(from *gen.UsageReport, now time.Time) (models.UsageBatch, error) {
	batch := models.UsageBatch{ReporterID: from.ReporterID, Number: from.Batch, Counts: make([]models.UsageCount, len(from.Counts))}
	for i, c := range from.Counts {
		count := models.UsageCount{
			KeyID: c.KeyID, UserID: valueOf(c.UserID), Requests: c.Requests, Refusals: c.Refusals,
			LastUsedAt: now.Add(-time.Duration(c.LastUsedMsAgo) * time.Millisecond).UnixMicro(),
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
