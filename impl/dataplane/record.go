package dataplane

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/impl/resolution"
	"github.com/agentrouter/aikeys/models"
)

// reasons are the codes under which refusals are on record. Any other failure is on record as "failed".
var reasons = []struct {
	err  error
	code string
}{
	{models.ErrNotServed, "customer_not_served"},
	{models.ErrNotMember, "not_a_member"},
	{resolution.ErrKeyRevoked, "key_revoked"},
	{resolution.ErrUserKeyRequired, string(resolution.UserKeyRequired)},
	{resolution.ErrNoKey, string(resolution.NoKey)},
	{models.ErrNotFound, string(resolution.NoKey)},
	{errUnreadable, "unreadable"},
}

// unrecorded are failures that leave no record, since nothing was decided and nobody learned anything: the data plane itself
// was refused, the database did not answer, the request was cancelled, or the caller's credential is unknown. Recording the
// last would let strangers fill the database.
var unrecorded = []error{models.ErrDataPlaneEnded, models.ErrUnavailable, resolution.ErrCallerUnauthenticated, context.Canceled}

// fetchRecord returns the record of a fetch that had this outcome, nil for a key that was given out.
func fetchRecord(ctx context.Context, now time.Time, f found, outcome error) models.FetchRecord {
	r := models.FetchRecord{
		At: now.UnixMicro(), DataPlaneID: auth.PrincipalFrom(ctx).DataPlaneID, CustomerID: f.caller.CustomerID, ProjectID: f.caller.ProjectID,
		UserID: f.caller.UserID, TokenID: f.caller.TokenID, Provider: f.provider,
		KeyID: f.choice.Key.ID, Version: f.choice.Key.Version,
		Decision: models.OutcomeAllowed, Reason: string(f.choice.Reason), RequestID: httpapi.CallFrom(ctx).ID,
	}
	if outcome != nil {
		r.Decision, r.Reason = models.OutcomeDenied, reasonOf(outcome)
	}
	return r
}

func reasonOf(err error) string {
	for _, r := range reasons {
		if errors.Is(err, r.err) {
			return r.code
		}
	}
	return "failed"
}

// record stores the record of a fetch, unless its outcome is one that leaves none.
func (s *server) record(ctx context.Context, r models.FetchRecord, outcome error) error {
	for _, err := range unrecorded {
		if errors.Is(outcome, err) {
			return nil
		}
	}
	if err := s.store.RecordFetch(ctx, r); err != nil {
		return fmt.Errorf("record fetch: %w", err)
	}
	return nil
}
