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

// ReportKeys stores how keys fare, and has those tested that a provider has begun to refuse.
func (s *server) ReportKeys(ctx context.Context, req gen.ReportKeysRequestObject) (gen.ReportKeysResponseObject, error) {
	reports, err := keyReports(req.Body.Keys, s.now())
	if err != nil {
		return nil, err
	}
	d, err := s.dataPlane(ctx)
	if err != nil {
		return nil, err
	}
	failing, err := s.store.ReportKeys(ctx, d, reports, func(kind models.EventType, k models.Key, caller models.ReportedCaller) models.Event {
		return s.keyEvent(ctx, kind, d, k, caller)
	})
	if err != nil {
		return nil, err
	}
	for _, k := range failing {
		s.tests.Enqueue(verification.Refused{KeyID: k.ID, Event: s.keyEvent(ctx, models.EventKeyVerified, d, k, models.ReportedCaller{})})
	}
	return gen.ReportKeys204Response{}, nil
}

// keyReports converts ages to times of our own clock, and refuses what the document can't describe.
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
			ExposedAt: ago(r.ExposedMsAgo), ExposedFor: reportedCaller(r.ExposedFor),
		}
		if r.FailureStatus != nil {
			reports[i].FailureStatus = *r.FailureStatus
		}
		if r.FailedVersion != nil {
			reports[i].FailedVersion = uint32(*r.FailedVersion) //nolint:gosec // the document bounds it
		}
		if r.FailureReason != nil {
			reports[i].FailureReason = *r.FailureReason
		}
	}
	return reports, nil
}

func reportedCaller(from *gen.ReportedCaller) (caller models.ReportedCaller) {
	if from == nil {
		return caller
	}
	caller.UserID = from.UserID
	if from.TokenID != nil {
		caller.TokenID = *from.TokenID
	}
	return caller
}

// keyEvent returns an event that a data plane's report makes. Those who may read the key may read the event.
func (s *server) keyEvent(
	ctx context.Context, kind models.EventType, d models.DataPlane, key models.Key, caller models.ReportedCaller,
) models.Event {
	call, now := httpapi.CallFrom(ctx), s.now()
	return models.Event{
		ID: s.ids.Next(models.EventIDPrefix, now), CustomerID: key.CustomerID, ProjectID: key.ProjectID, ScopeUserID: key.UserID,
		Type: kind, Outcome: models.OutcomeAllowed, At: now.UnixMicro(),
		ActorUserID: d.ID, ActorMethod: string(auth.PrincipalFrom(ctx).Method), KeyID: key.ID, Provider: key.Provider,
		MemberID: caller.UserID, TokenID: caller.TokenID, SourceIP: call.SourceIP, RequestID: call.ID,
	}
}
