package dataplane

import (
	"context"
	"time"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/internal/problem"
	"github.com/agentrouter/aikeys/models"
)

// ReportKeys stores how keys fare.
func (s *server) ReportKeys(ctx context.Context, req gen.ReportKeysRequestObject) (gen.ReportKeysResponseObject, error) {
	reports, err := keyReports(req.Body.Keys, s.now())
	if err != nil {
		return nil, err
	}
	d, err := s.dataPlane(ctx)
	if err != nil {
		return nil, err
	}
	err = s.store.ReportKeys(ctx, d, reports, func(k models.Key) models.Event { return s.failing(ctx, d, k) })
	if err != nil {
		return nil, err
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
		if (r.FailedMsAgo == nil) != (r.FailureStatus == nil) {
			return nil, problem.Invalid("keys", "has a failed_ms_ago or a failure_status without the other")
		}
		seen[r.KeyID] = true
		reports[i] = models.KeyReport{KeyID: r.KeyID, UsedAt: ago(r.UsedMsAgo), FailedAt: ago(r.FailedMsAgo)}
		if r.FailureStatus != nil {
			reports[i].FailureStatus = *r.FailureStatus
		}
	}
	return reports, nil
}

// failing returns the event of a key that begins to be bad. Those who may read the key may read the event.
func (s *server) failing(ctx context.Context, d models.DataPlane, key models.Key) models.Event {
	call, now := httpapi.CallFrom(ctx), s.now()
	return models.Event{
		ID: s.ids.Next(models.EventIDPrefix, now), CustomerID: key.CustomerID, ProjectID: key.ProjectID, ScopeUserID: key.UserID,
		Type: models.EventKeyFailing, Outcome: models.OutcomeAllowed, At: now.UnixMicro(),
		ActorUserID: d.ID, ActorMethod: string(auth.PrincipalFrom(ctx).Method), KeyID: key.ID, Provider: key.Provider,
		SourceIP: call.SourceIP, RequestID: call.ID,
	}
}
