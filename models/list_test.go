package models_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models"
)

func (f *fixture) list(c models.Caller, filter models.KeyFilter) []models.Key {
	f.t.Helper()
	keys, err := f.ListKeys(f.t.Context(), c, filter, now())
	require.NoError(f.t, err)
	return keys
}

func TestListIsNewestFirstOverBothScopes(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		var want []string
		for range 5 {
			want = append(want, f.register(f.shared(olga)).ID, f.register(f.own(mia)).ID)
			f.register(f.own(moe))
		}
		slices.Reverse(want)
		require.Equal(t, want, ids(f.list(mia, models.KeyFilter{})))
	})
}

func TestAnEmptyProjectListsNoKeysAndIsNoError(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		keys := f.list(mia, models.KeyFilter{})
		require.NotNil(t, keys)
		require.Empty(t, keys)
	})
}

func TestListFilters(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		openaiActive := f.register(f.shared(olga, provider("openai"))).ID
		anthropicActive := f.register(f.own(mia, provider("anthropic"))).ID
		revoked := f.register(f.shared(olga, provider("openai")))
		f.revoke(revoked)
		openaiRevoked := revoked.ID
		for _, tc := range []struct {
			name   string
			filter models.KeyFilter
			want   []string
		}{
			{"none", models.KeyFilter{}, []string{openaiRevoked, anthropicActive, openaiActive}},
			{"provider", models.KeyFilter{Provider: "openai"}, []string{openaiRevoked, openaiActive}},
			{"a provider without keys", models.KeyFilter{Provider: "mistral"}, []string{}},
			{"active", models.KeyFilter{State: models.KeyActive}, []string{anthropicActive, openaiActive}},
			{"revoked", models.KeyFilter{State: models.KeyRevoked}, []string{openaiRevoked}},
			{"both", models.KeyFilter{Provider: "openai", State: models.KeyActive}, []string{openaiActive}},
			{"with a limit", models.KeyFilter{Provider: "openai", Limit: 1}, []string{openaiRevoked}},
			{"with a page before", models.KeyFilter{Provider: "openai", Before: openaiRevoked}, []string{openaiActive}},
			{"nothing follows the last", models.KeyFilter{Before: openaiActive}, []string{}},
		} {
			t.Run(tc.name, func(t *testing.T) { require.Equal(t, tc.want, ids(f.list(mia, tc.filter))) })
		}
	})
}

func TestListWithoutALimitReturnsAll(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		const n = 120
		for range n {
			f.register(f.shared(olga))
		}
		for _, limit := range []int{0, -1, n, n + 1} {
			require.Len(t, f.list(mia, models.KeyFilter{Limit: limit}), n, "limit %d", limit)
		}
		require.Len(t, f.list(mia, models.KeyFilter{Limit: n - 1}), n-1)
	})
}

// Every page size from one key to more than all of them; before each page keys are added, revoked, and registered by
// others. What was there before the walk comes exactly once; what was added during it must not come twice.
func TestPagingWalksEveryKeyExactlyOnceWhileKeysComeAndGo(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		const n = 12
		var want []string
		for i := range n {
			k := f.register([]models.Registration{f.shared(olga), f.own(mia)}[i%2])
			want = append(want, k.ID)
			if i%3 == 0 {
				f.revoke(k)
			}
		}
		for _, size := range []int{1, 2, 5, n, 100} {
			var seen []string
			before := ""
			for {
				page := f.list(mia, models.KeyFilter{Before: before, Limit: size})
				if len(page) == 0 {
					break
				}
				require.LessOrEqual(t, len(page), size)
				for _, k := range page {
					require.NotContains(t, seen, k.ID)
					seen = append(seen, k.ID)
				}
				before = page[len(page)-1].ID
				f.register(f.own(moe))
				added := f.register(f.shared(olga))
				f.revoke(added)
				f.revoke(page[0])
			}
			require.Subset(t, seen, want, "page size %d", size)
			require.True(t, slices.IsSortedFunc(seen, func(a, b string) int { return strings.Compare(b, a) }))
		}
	})
}

func TestAPageIsFullWhateverOtherUsersRegister(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		oldest := f.register(f.own(mia)).ID
		shared := f.register(f.shared(olga)).ID
		for range 20 {
			f.register(f.own(moe))
		}
		require.Equal(t, []string{shared, oldest}, ids(f.list(mia, models.KeyFilter{Limit: 2})))
	})
}

func TestMetadataIsWholeAndNeverCarriesTheEnvelope(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		stored := f.register(f.own(mia, named("laptop"), provider("anthropic"),
			func(r *models.Registration) { r.Key.Version = 3 }))
		f.revoke(stored)
		got, err := f.GetKey(t.Context(), mia, stored.ID, now())
		require.NoError(t, err)
		require.NotZero(t, got.RevokedAt)
		require.NotZero(t, got.RevocationTx)
		want := stored
		want.Envelope, want.KEKID = nil, ""
		want.RevokedAt, want.RevokedBy, want.RevocationTx = got.RevokedAt, "olga", got.RevocationTx
		require.Equal(t, want, got)
		require.Equal(t, []models.Key{want}, f.list(mia, models.KeyFilter{}))
	})
}

func TestNoReadOfMetadataCarriesAnEnvelope(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		own, shared := f.register(f.own(mia)), f.register(f.shared(olga))
		serving, err := f.ServingKeys(t.Context(), mia, "openai")
		require.NoError(t, err)
		require.Equal(t, own.ID, serving.Own.ID)
		require.Equal(t, shared.ID, serving.Project.ID)
		require.Empty(t, serving.Own.Envelope)
		require.Empty(t, serving.Project.Envelope)
		var read models.Key
		f.transact(func(tx *models.Tx) (err error) {
			read, err = tx.Key(mia, own.ID)
			return err
		})
		require.Equal(t, own.ID, read.ID)
		require.Empty(t, read.Envelope)
	})
}
