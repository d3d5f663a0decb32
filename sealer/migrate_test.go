package sealer_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/sealertest"
)

func TestMigratingContract(t *testing.T) {
	sealertest.Run(t, func(t *testing.T) sealer.Sealer {
		return sealer.Migrating(sealertest.New(t), sealertest.New(t), sealertest.New(t))
	})
}

func TestMigratingFromNothing(t *testing.T) {
	current := sealertest.New(t)
	require.Same(t, current, sealer.Migrating(current))
}

func TestMigratingSealAndOpen(t *testing.T) {
	current, first, second := sealertest.New(t), sealertest.New(t), sealertest.New(t)
	m := sealer.Migrating(current, first, second)
	for _, s := range []sealer.Sealer{current, first, second} {
		sealertest.RequireOpens(t, m, sealertest.MustSeal(t, s).Bytes)
	}
	sealertest.RequireOpens(t, current, sealertest.MustSeal(t, m).Bytes)
	primary, err := m.PrimaryKEK(t.Context())
	require.NoError(t, err)
	require.Equal(t, sealertest.MustSeal(t, current).KEKID, primary)

	_, err = m.Open(t.Context(), sealertest.Binding(), sealertest.MustSeal(t, sealertest.New(t)).Bytes)
	require.ErrorIs(t, err, sealer.ErrUnknownKEK)
}

func TestMigratingRewrap(t *testing.T) {
	current, backend := sealertest.New(t), sealertest.New(t)
	var opened []sealer.Secret
	old := sealertest.Fake{Sealer: backend, OpenFunc: func(ctx context.Context, b sealer.Binding, envelope []byte) (sealer.Secret, error) {
		secret, err := backend.Open(ctx, b, envelope)
		opened = append(opened, secret)
		return secret, err
	}}
	m := sealer.Migrating(current, old)
	moved, err := m.Rewrap(t.Context(), sealertest.Binding(), sealertest.MustSeal(t, old).Bytes)
	require.NoError(t, err)
	sealertest.RequireOpens(t, current, moved.Bytes)
	require.Len(t, opened, 1)
	require.Zero(t, opened[0].Len())

	again, err := m.Rewrap(t.Context(), sealertest.Binding(), moved.Bytes)
	require.NoError(t, err)
	require.Equal(t, moved, again)

	other := sealertest.Binding()
	other.ProjectID = "another"
	_, err = m.Rewrap(t.Context(), other, sealertest.MustSeal(t, old).Bytes)
	require.ErrorIs(t, err, sealer.ErrBinding)
}

func TestMigratingWithAnUnavailableOldSealer(t *testing.T) {
	current, old, away := sealertest.New(t), sealertest.New(t), sealertest.NewUnavailable(sealertest.New(t))
	m := sealer.Migrating(current, away, old)
	sealertest.RequireOpens(t, m, sealertest.MustSeal(t, current).Bytes)
	sealertest.RequireOpens(t, m, sealertest.MustSeal(t, old).Bytes)

	stranger := sealertest.MustSeal(t, sealertest.New(t)).Bytes
	_, err := m.Open(t.Context(), sealertest.Binding(), stranger)
	require.ErrorIs(t, err, sealer.ErrUnavailable, "it may be its envelope")
	_, err = m.Rewrap(t.Context(), sealertest.Binding(), stranger)
	require.ErrorIs(t, err, sealer.ErrUnavailable)
	away.SetAvailable(true)
	_, err = m.Open(t.Context(), sealertest.Binding(), stranger)
	require.ErrorIs(t, err, sealer.ErrUnknownKEK)
}

func TestMigratingKEKs(t *testing.T) {
	current, old := sealertest.New(t), sealertest.New(t)
	keks, err := sealer.Migrating(current, old).KEKs(t.Context())
	require.NoError(t, err)
	require.Equal(t, []sealer.KEK{
		{ID: sealertest.MustSeal(t, current).KEKID, State: sealer.KEKPrimary}, {ID: sealertest.MustSeal(t, old).KEKID, State: sealer.KEKEnabled},
	}, keks)

	_, err = sealer.Migrating(current, sealertest.NewUnavailable(old)).KEKs(t.Context())
	require.ErrorIs(t, err, sealer.ErrUnavailable)
}

// batching is a sealer that re-wraps in batches, and counts them.
type batching struct {
	sealer.Sealer
	batches int
}

func (b *batching) RewrapAll(ctx context.Context, items []sealer.Item) ([]sealer.Result, error) {
	b.batches++
	return sealer.RewrapAll(ctx, b.Sealer, items)
}

func TestRewrapAll(t *testing.T) {
	current, old := &batching{Sealer: sealertest.New(t)}, sealertest.New(t)
	kept := sealertest.MustSeal(t, current)
	items := []sealer.Item{
		{Binding: sealertest.Binding(), Envelope: kept.Bytes},
		{Binding: sealertest.Binding(), Envelope: sealertest.MustSeal(t, old).Bytes},
		{Binding: sealertest.Binding(), Envelope: sealertest.MustSeal(t, sealertest.New(t)).Bytes},
		{Binding: sealertest.Binding(), Envelope: []byte("no envelope")},
		{Binding: sealer.Binding{}, Envelope: kept.Bytes},
	}
	results, err := sealer.RewrapAll(t.Context(), sealer.Migrating(current, old), items)
	require.NoError(t, err)
	require.Equal(t, 1, current.batches)
	require.Len(t, results, len(items))
	require.Equal(t, sealer.Result{Envelope: kept}, results[0])
	require.NoError(t, results[1].Err)
	sealertest.RequireOpens(t, current, results[1].Envelope.Bytes)
	require.ErrorIs(t, results[2].Err, sealer.ErrUnknownKEK)
	require.ErrorIs(t, results[3].Err, sealer.ErrMalformed)
	require.ErrorIs(t, results[4].Err, sealer.ErrInvalidBinding)
}

func TestRewrapAllUnavailable(t *testing.T) {
	current := sealertest.New(t)
	items := []sealer.Item{{Binding: sealertest.Binding(), Envelope: sealertest.MustSeal(t, sealertest.New(t)).Bytes}}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for name, s := range map[string]sealer.Sealer{
		"one by one": current, "migrating": sealer.Migrating(current, sealertest.New(t)),
	} {
		results, err := sealer.RewrapAll(ended, s, items)
		require.ErrorIs(t, err, context.Canceled, name)
		require.Nil(t, results, name)
	}
	for name, s := range map[string]sealer.Sealer{
		"the current one is away": sealertest.NewUnavailable(current),
		"the old one is away":     sealer.Migrating(current, sealertest.NewUnavailable(current)),
	} {
		results, err := sealer.RewrapAll(t.Context(), s, items)
		require.ErrorIs(t, err, sealer.ErrUnavailable, name)
		require.Nil(t, results, name)
	}
}
