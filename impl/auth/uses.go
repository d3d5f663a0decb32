package auth

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/agentrouter/aikeys/models"
)

const (
	// usesInterval is how long uses of API keys are collected before they are stored.
	usesInterval = 30 * time.Second
	// maxUses bounds the memory. At the bound, uses of further API keys are not noted until old ones are forgotten.
	maxUses = 50_000
	// maxUsesStored is how many uses one transaction stores.
	maxUsesStored = 500
)

// UseStore stores when API keys were last used, in microseconds by id; *models.Store is one.
type UseStore interface {
	MarkTokensUsed(ctx context.Context, uses map[string]int64) error
}

// TokenUses notes when API keys are used, and stores the times in batches. It notes each API key at most once per
// models.TokenUseInterval. If the process crashes, times that are not stored yet are lost. It is safe for concurrent
// use.
type TokenUses struct {
	store UseStore
	log   *slog.Logger

	mu     sync.Mutex
	noted  map[string]int64 // :: API key → when its use was last noted; guarded by mu
	unsent map[string]int64 // the entries of noted that are not stored yet; guarded by mu
}

// NewTokenUses returns a TokenUses. Run stores the noted uses.
func NewTokenUses(store UseStore, log *slog.Logger) *TokenUses {
	return &TokenUses{store: store, log: log, noted: map[string]int64{}, unsent: map[string]int64{}}
}

func (u *TokenUses) note(id string, now time.Time) {
	if u == nil || id == "" {
		return
	}
	at := now.UnixMicro()
	u.mu.Lock()
	defer u.mu.Unlock()
	if last, known := u.noted[id]; known && at-last < models.TokenUseInterval.Microseconds() || !known && len(u.noted) >= maxUses {
		return
	}
	u.noted[id], u.unsent[id] = at, at
}

// Run stores the noted uses at each interval until ctx is done, and then once more.
func (u *TokenUses) Run(ctx context.Context) error {
	ticker := time.NewTicker(usesInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			u.Flush(context.WithoutCancel(ctx))
			return nil
		case <-ticker.C:
			u.Flush(ctx)
			u.forget(time.Now())
		}
	}
}

// Flush stores the noted uses. A batch that can't be stored is dropped: its API keys are noted again when they are used
// later.
func (u *TokenUses) Flush(ctx context.Context) {
	for {
		batch := u.take()
		if len(batch) == 0 {
			return
		}
		if err := u.store.MarkTokensUsed(ctx, batch); err != nil {
			if u.log != nil && ctx.Err() == nil {
				u.log.WarnContext(ctx, "last uses of API keys were not stored", slog.Int("api_keys", len(batch)), slog.String("error", err.Error()))
			}
			return
		}
	}
}

func (u *TokenUses) take() map[string]int64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	batch := map[string]int64{}
	for id, at := range u.unsent {
		if len(batch) == maxUsesStored {
			break
		}
		batch[id] = at
		delete(u.unsent, id)
	}
	return batch
}

// forget drops the API keys whose next use would be noted anyway.
func (u *TokenUses) forget(now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for id, at := range u.noted {
		if now.UnixMicro()-at >= models.TokenUseInterval.Microseconds() {
			delete(u.noted, id)
		}
	}
}
