package aikeys

import (
	"context"
	"errors"
	"fmt"

	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/models"
)

// event is the audit line of what the request at hand does in a project.
func (s *server) event(ctx context.Context, what models.EventType, caller models.Caller) models.Event {
	call, now := httpapi.CallFrom(ctx), s.now()
	return models.Event{
		ID: s.ids.Next(models.EventIDPrefix, now), CustomerID: caller.CustomerID, ProjectID: caller.ProjectID,
		Type: what, Outcome: models.OutcomeAllowed, At: now.UnixMicro(),
		ActorUserID: call.Principal.UserID, ActorMethod: string(call.Principal.Method), ActorTokenID: call.Principal.TokenID,
		SourceIP: call.SourceIP, RequestID: call.ID,
	}
}

// keyEvent is the audit line of what the request at hand does to key.
func (s *server) keyEvent(ctx context.Context, what models.EventType, caller models.Caller, key models.Key) models.Event {
	event := s.event(ctx, what, caller)
	event.ScopeUserID, event.KeyID, event.Provider = key.UserID, key.ID, key.Provider
	return event
}

// asOwner carries out a write that needs an owner, and records it; what a member may not do is recorded as denied.
func (s *server) asOwner(ctx context.Context, caller models.Caller, event models.Event, write func(*models.Tx) error) error {
	err := s.store.Transact(ctx, func(tx *models.Tx) error {
		role, err := tx.Role(caller)
		if err != nil {
			return err
		}
		if role != models.RoleOwner {
			return models.ErrForbidden
		}
		if err := write(tx); err != nil {
			return err
		}
		return tx.AppendEvent(event)
	})
	return s.refused(ctx, err, event)
}

// refused returns err, and adds a member's refused attempt to the audit trail first, also when the member has left by then.
func (s *server) refused(ctx context.Context, err error, event models.Event) error {
	if !errors.Is(err, models.ErrForbidden) {
		return err
	}
	event.Outcome = models.OutcomeDenied
	if event.Type == models.EventKeyRegistered {
		event.KeyID = "" // no such key came to be
	}
	lost := s.store.Transact(context.WithoutCancel(ctx), func(tx *models.Tx) error { return tx.AppendEvent(event) })
	if lost != nil {
		return fmt.Errorf("%w: %w: %w", err, httpapi.ErrUnrecorded, lost)
	}
	return err
}
