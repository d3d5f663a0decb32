package models_test

import (
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
)

func record(requestID string) models.FetchRecord {
	return models.FetchRecord{At: now(), DataPlaneID: "dp", CustomerID: acme, ProjectID: web, UserID: "mia", TokenID: "01T", Provider: "openai",
		KeyID: "byok_1", Version: 3, Decision: models.OutcomeAllowed, Reason: "own_key", RequestID: requestID}
}

func (f *fixture) fetches(before int64, limit int) []models.FetchRecord {
	f.t.Helper()
	page, err := f.ListFetches(f.t.Context(), acme, web, before, limit)
	require.NoError(f.t, err)
	return page
}

func TestARecordedFetchIsThereForOthersWhenTheCallReturns(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		other := &fixture{Store: modelstest.OpenStore(t, f.url, models.Options{}), t: t}
		for i := range 20 {
			want := record(strconv.Itoa(i))
			if i%2 == 0 {
				want.KeyID, want.Version, want.Decision, want.Reason = "", 0, models.OutcomeDenied, "not_member"
			}
			require.NoError(t, f.RecordFetch(t.Context(), want))
			got := other.fetches(0, 1)
			require.Len(t, got, 1)
			want.ID = got[0].ID
			require.Equal(t, want, got[0])
		}
	})
}

func TestFetchesComeByProjectInPagesNewestFirst(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		for i := range 7 {
			require.NoError(t, f.RecordFetch(t.Context(), record(strconv.Itoa(i))))
			elsewhere := record("elsewhere")
			elsewhere.ProjectID = "ios"
			require.NoError(t, f.RecordFetch(t.Context(), elsewhere))
		}
		var got []string
		for before := int64(0); ; {
			page := f.fetches(before, 3)
			for _, r := range page {
				got = append(got, r.RequestID)
			}
			if len(page) < 3 {
				break
			}
			before = page[2].ID
		}
		require.Equal(t, []string{"6", "5", "4", "3", "2", "1", "0"}, got)
	})
}

func TestTheOldestFetchesAreForgotten(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		for _, at := range []int64{10, 50, 20, 30, 40} {
			r := record(strconv.FormatInt(at, 10))
			r.At = at
			require.NoError(t, f.RecordFetch(t.Context(), r))
		}
		forget := func(before int64, limit int) (n int64) {
			f.transact(func(tx *models.Tx) (err error) { n, err = tx.ForgetFetches(before, limit); return err })
			return n
		}
		require.EqualValues(t, 2, forget(40, 3))
		require.EqualValues(t, 1, forget(40, 3))
		require.Zero(t, forget(40, 3))
		left := f.fetches(0, 10)
		require.Len(t, left, 2)
		require.ElementsMatch(t, []int64{40, 50}, []int64{left[0].At, left[1].At})
	})
}

func TestManyFetchesAreRecordedInFewCommits(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		const n = 1000
		for _, err := range together(n, func(i int) error { return f.RecordFetch(t.Context(), record(strconv.Itoa(i))) }) {
			require.NoError(t, err)
		}
		seen := map[string]bool{}
		for _, r := range f.fetches(0, 2*n) {
			require.False(t, seen[r.RequestID], r.RequestID)
			seen[r.RequestID] = true
		}
		require.Len(t, seen, n)
		if !f.isSQLite() { // which commits them with all its other writes
			var commits int
			require.NoError(t, models.Conn(f.Store).QueryRowContext(t.Context(), "SELECT count(DISTINCT xmin::text) FROM fetches").Scan(&commits))
			require.Less(t, commits, n/4)
		}
	})
}

// A group is one statement: what the server refuses of it must not cost the others their records.
func TestARecordThatTheServerRefusesCostsNoOtherItsPlace(t *testing.T) {
	t.Parallel()
	f := newFixture(t, modelstest.NewStore(t, modelstest.EnginePostgres))
	const n = 200
	for i, err := range together(n, func(i int) error {
		r := record(strconv.Itoa(i))
		if i%10 == 0 {
			r.UserID = "zero\x00byte"
		}
		return f.RecordFetch(t.Context(), r)
	}) {
		require.Equal(t, i%10 == 0, err != nil, "%d: %v", i, err)
	}
	require.Equal(t, n-n/10, f.count("fetches"))
}

func TestRecordFetchWithoutDatabase(t *testing.T) {
	t.Parallel()
	cluster := modelstest.StartCluster(t, modelstest.WithoutFsync())
	store := openForOutage(t, cluster.URL("postgres"))
	_, err := store.Migrate(t.Context())
	require.NoError(t, err)
	f := newFixture(t, store)
	require.NoError(t, f.RecordFetch(t.Context(), record("before")))
	require.NoError(t, cluster.Stop(modelstest.Fast))
	began := time.Now()
	for _, err := range together(50, func(int) error { return f.RecordFetch(t.Context(), record("during")) }) {
		require.ErrorIs(t, err, models.ErrUnavailable)
	}
	require.Less(t, time.Since(began), outageTimeout+slack)
	require.NoError(t, cluster.Start())
	require.Eventually(t, func() bool {
		return f.Ping(t.Context()) == nil && f.RecordFetch(t.Context(), record("after")) == nil
	}, 10*time.Second, 20*time.Millisecond)
	got := f.fetches(0, 100)
	require.Equal(t, "after", got[0].RequestID)
	require.Equal(t, "before", got[len(got)-1].RequestID)
}

func TestCloseLosesNoAcknowledgedRecord(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		const workers = 16
		closing := modelstest.OpenStore(t, f.url, models.Options{})
		recorded := make(chan string, 100_000)
		errs := together(workers+1, func(w int) error {
			if w == workers {
				for len(recorded) < 200 {
					time.Sleep(time.Millisecond)
				}
				return closing.Close()
			}
			for i := 0; ; i++ {
				id := strconv.Itoa(w) + "." + strconv.Itoa(i)
				if err := closing.RecordFetch(t.Context(), record(id)); err != nil {
					return err
				}
				recorded <- id
			}
		})
		require.NoError(t, errs[workers])
		for _, err := range errs[:workers] {
			require.ErrorIs(t, err, models.ErrUnavailable)
		}
		close(recorded)
		there := map[string]bool{}
		for _, r := range f.fetches(0, 200_000) {
			there[r.RequestID] = true
		}
		for id := range recorded {
			require.True(t, there[id], id)
		}
		require.ErrorIs(t, closing.RecordFetch(t.Context(), record("late")), models.ErrUnavailable)
	})
}
