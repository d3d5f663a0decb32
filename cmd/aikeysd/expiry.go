package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/agentrouter/aikeys/models"
)

const (
	// expiryInterval is the time between two looks for keys whose expiry is due to be announced, and for versions that are due. Data planes end the streams of a key whose
	// time was cut short by that announcement.
	expiryInterval = 500 * time.Millisecond
	// expiryBatch is how many keys' expiries are announced after one look.
	expiryBatch = 100
)

// announceExpiries adds to the audit trails that keys will expire and have expired, and destroys the versions whose overlap has ended, until
// ctx is done. Every process does so.
func (s *service) announceExpiries(ctx context.Context) error {
	var ids models.IDs
	newEvent := newServiceEvent(&ids)
	ticker := time.NewTicker(expiryInterval)
	defer ticker.Stop()
	for failing := false; ; {
		found, err := s.store.AnnounceExpiries(ctx, time.Now().UnixMicro(), expiryBatch, newEvent)
		retired, notDestroyed := s.store.DestroyRetired(ctx, time.Now().UnixMicro(), expiryBatch, newEvent)
		if err = errors.Join(err, notDestroyed); err != nil && !failing && ctx.Err() == nil {
			s.log.WarnContext(ctx, "expiries of keys can't be announced, nor replaced versions destroyed; keys stop serving in time even so", slog.String("error", err.Error()))
		}
		failing = err != nil
		if found == expiryBatch || retired == expiryBatch {
			continue // there are more
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// newServiceEvent returns a function that makes the events of what the service does to keys by the clock.
func newServiceEvent(ids *models.IDs) func(models.EventType, models.Key) models.Event {
	return func(what models.EventType, k models.Key) models.Event {
		now := time.Now()
		return models.Event{
			ID: ids.Next(models.EventIDPrefix, now), CustomerID: k.CustomerID, ProjectID: k.ProjectID, ScopeUserID: k.UserID,
			Type: what, Outcome: models.OutcomeAllowed, At: now.UnixMicro(), ActorMethod: models.MethodService, KeyID: k.ID, Provider: k.Provider,
		}
	}
}
