package auth

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models"
)

// storedUses is a UseStore that keeps the batches.
type storedUses struct {
	batches []map[string]int64
	err     error
}

func (s *storedUses) MarkTokensUsed(_ context.Context, uses map[string]int64) error {
	s.batches = append(s.batches, uses)
	return s.err
}

func TestUsesOfAnAPIKeyAreStoredOnceInAWhile(t *testing.T) {
	store := &storedUses{}
	u := NewTokenUses(store, nil)
	begin := time.Now()
	for i := range 1000 {
		u.note("01A", begin.Add(time.Duration(i)*time.Millisecond))
	}
	u.note("", begin) // a session token
	u.Flush(t.Context())
	u.Flush(t.Context())
	require.Equal(t, []map[string]int64{{"01A": begin.UnixMicro()}}, store.batches)
	later := begin.Add(models.TokenUseInterval)
	u.note("01A", later)
	u.Flush(t.Context())
	require.Equal(t, later.UnixMicro(), store.batches[1]["01A"])
	(*TokenUses)(nil).note("01A", begin)
}

func TestUsesOfManyAPIKeysTakeBoundedMemory(t *testing.T) {
	store := &storedUses{}
	u := NewTokenUses(store, nil)
	begin := time.Now()
	for i := range maxUses + 10 {
		u.note(strconv.Itoa(i), begin)
	}
	require.Len(t, u.noted, maxUses)
	u.Flush(t.Context())
	require.Len(t, store.batches, maxUses/maxUsesStored)
	u.forget(begin.Add(models.TokenUseInterval))
	require.Empty(t, u.noted)
	store.err = errors.New("down")
	u.note("01A", begin)
	u.Flush(t.Context())
	require.Empty(t, u.unsent)
}
