package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/agentrouter/aikeys/models"
)

const (
	// destroyInterval is the time between two looks for removals of members that can't be undone any longer.
	destroyInterval = 10 * time.Second
	// destroyBatch is how many are dealt with after one look.
	destroyBatch = 20
)

// destroyRemoved destroys the keys of removed members when their removal can't be undone any longer, until ctx is done. Every process does so.
func (s *service) destroyRemoved(ctx context.Context) error {
	var ids models.IDs
	ticker := time.NewTicker(destroyInterval)
	defer ticker.Stop()
	for failing := false; ; {
		found, err := s.store.DestroyRemoved(ctx, time.Now().UnixMicro(), destroyBatch, newServiceEvent(&ids))
		if err != nil && !failing && ctx.Err() == nil {
			s.log.WarnContext(ctx, "keys of removed members can't be destroyed; they serve nobody even so", slog.String("error", err.Error()))
		}
		failing = err != nil
		if found == destroyBatch {
			continue // there are more
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}
