package dataplane

import (
	"context"
	"errors"
	"fmt"

	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/impl/resolution"
	"github.com/agentrouter/aikeys/models"
)

// reasons are the codes under which refusals are on record; another failure is "failed".
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

// undecided are failures before anything was decided, by which nobody learned anything: the data plane itself was not let
// in, the database could not be asked, or who asked has left. Nor is a stranger's credential put on record, which would let
// strangers fill the database.
var undecided = []error{models.ErrDataPlaneEnded, models.ErrUnavailable, resolution.ErrCallerUnauthenticated, context.Canceled}

// record puts a fetch on record, with what came of it: models.ErrChanged where that rests on what may have changed.
func (s *server) record(ctx context.Context, f *fetch, outcome error) error {
	if errors.Is(outcome, models.ErrChanged) {
		return outcome
	}
	for _, err := range undecided {
		if errors.Is(outcome, err) {
			return nil
		}
	}
	r := models.FetchRecord{
		At: f.now, DataPlaneID: f.dataPlaneID, CustomerID: f.caller.CustomerID, ProjectID: f.caller.ProjectID,
		UserID: f.caller.UserID, TokenID: f.caller.TokenID, Provider: f.provider,
		KeyID: f.choice.Key.ID, Version: f.choice.Key.Version,
		Decision: models.OutcomeAllowed, Reason: string(f.choice.Reason), RequestID: httpapi.CallFrom(ctx).ID,
	}
	if outcome != nil {
		r.Decision, r.Reason = models.OutcomeDenied, reasonOf(outcome)
	}
	var err error
	if f.found.Remembered() {
		f.asOf, err = s.store.RecordRemembered(ctx, r, f.found)
	} else {
		err = s.store.RecordFetch(ctx, r)
	}
	if err != nil {
		return fmt.Errorf("record fetch: %w", err)
	}
	return nil
}

func reasonOf(err error) string {
	for _, r := range reasons {
		if errors.Is(err, r.err) {
			return r.code
		}
	}
	return "failed"
}
