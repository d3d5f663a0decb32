package models_test

import (
	"context"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/internal/position"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
)

// fetch fetches for openai through a data plane.
func (f *fixture) fetch(d models.DataPlane, c models.Caller) models.Fetched {
	f.t.Helper()
	found, err := f.Fetch(f.t.Context(), d.ID, c, "openai", now())
	require.NoError(f.t, err)
	return found
}

func (f *fixture) fetchErr(d models.DataPlane, c models.Caller) error {
	found, err := f.Fetch(f.t.Context(), d.ID, c, "openai", now())
	if err != nil {
		require.Equal(f.t, models.Fetched{}, found, "a refusal tells nothing")
	}
	return err
}

func parsed(t *testing.T, text string) position.Position {
	t.Helper()
	p, err := position.Parse(text)
	require.NoError(t, err)
	return p
}

func TestFetchChecksTheDataPlane(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		fetchByIDErr := func(d models.DataPlane, k models.Key) error {
			found, asOf, err := f.FetchByID(t.Context(), d.ID, k.ID, now())
			if err != nil {
				require.Equal(t, models.Key{}, found, "a refusal tells nothing")
				require.Empty(t, asOf)
			}
			return err
		}
		key := f.register(f.shared(olga))
		f.dataPlane("revoked", nil)
		revoked, err := f.revokeDataPlane("revoked")
		require.NoError(t, err)
		for _, c := range []struct {
			dataPlane models.DataPlane
			want      error
		}{
			{f.dataPlane("all", nil), nil},
			{f.dataPlane("ours", []string{"globex", acme}), nil},
			{f.dataPlane("lasting", nil, expiring(now()+1e9)), nil},
			{f.dataPlane("none", []string{}), models.ErrNotServed},
			{f.dataPlane("another's", []string{"globex", "acme2", "ACME"}), models.ErrNotServed},
			{f.dataPlane("expired", nil, expiring(now())), models.ErrDataPlaneEnded},
			{f.dataPlane("expired another's", []string{"globex"}, expiring(1)), models.ErrDataPlaneEnded},
			{revoked, models.ErrDataPlaneEnded},
			{models.DataPlane{ID: "absent"}, models.ErrDataPlaneEnded},
			{models.DataPlane{}, models.ErrDataPlaneEnded},
		} {
			for _, caller := range []models.Caller{mia, project} {
				err := f.fetchErr(c.dataPlane, caller)
				require.Equal(t, c.want == nil, err == nil, "%s: %v", c.dataPlane.Name, err)
				require.ErrorIs(t, err, c.want, c.dataPlane.Name)
			}
			require.ErrorIs(t, fetchByIDErr(c.dataPlane, key), c.want, c.dataPlane.Name)
		}
	})
}

func TestAFetchIsForAMemberWhoseSessionIsLive(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.register(f.shared(olga))
		d := f.dataPlane("all", nil)
		f.transact(func(tx *models.Tx) error {
			for id, token := range map[string]models.Token{"good": {}, "revoked": {RevokedAt: 1}, "expired": {ExpiresAt: now()}, "lasting": {ExpiresAt: now() + 1e9}} {
				token.ID, token.Hash, token.CustomerID, token.ProjectID, token.UserID = id, []byte("h"), acme, web, "mia"
				if err := tx.CreateToken(token); err != nil {
					return err
				}
			}
			return nil
		})
		for caller, want := range map[models.Caller]error{
			mia: nil, olga: nil, project: nil, bearing(mia, "good"): nil, bearing(mia, "lasting"): nil, bearing(project, "good"): nil,
			stranger:                 models.ErrNotMember,
			bearing(mia, "revoked"):  models.ErrSessionEnded,
			bearing(mia, "expired"):  models.ErrSessionEnded,
			bearing(mia, "absent"):   models.ErrSessionEnded,
			bearing(project, "gone"): models.ErrSessionEnded,
			{CustomerID: acme, ProjectID: "nowhere", UserID: "mia"}:   models.ErrNotMember,
			{CustomerID: "globex", ProjectID: web, UserID: "mia"}:     models.ErrNotMember,
			{CustomerID: acme, ProjectID: web, UserID: "MIA"}:         models.ErrNotMember,
			bearing(stranger, "revoked"):                              models.ErrSessionEnded,
			bearing(models.Caller{CustomerID: acme}, "lasting"):       nil,
			{CustomerID: "globex", ProjectID: web, TokenID: "absent"}: models.ErrSessionEnded,
		} {
			err := f.fetchErr(d, caller)
			require.Equal(t, want == nil, err == nil, "%+v: %v", caller, err)
			require.ErrorIs(t, err, want, "%+v", caller)
		}
		require.NoError(t, f.removeMember("mia"))
		require.ErrorIs(t, f.fetchErr(d, mia), models.ErrNotMember, "from the next fetch on")
	})
}

func TestAFetchFindsTheNewestActiveKeysWithTheirEnvelopes(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		d := f.dataPlane("all", nil)
		require.Empty(t, firstID(f.fetch(d, mia).Project))
		backwards := func(r *models.Registration) { // as by a replica whose clock is behind
			r.Key.ID, r.Key.CreatedAt = models.KeyIDPrefix+"0000000000000000000000000"+r.Key.UserID, r.Key.CreatedAt-time.Hour.Microseconds()
		}
		own1, shared1 := f.register(f.own(mia)), f.register(f.shared(olga))
		own2, shared2 := f.register(f.own(mia, backwards)), f.register(f.shared(olga, backwards))
		for _, r := range []models.Registration{f.own(moe), f.own(mia, provider("anthropic")), f.shared(olga, provider("anthropic"))} {
			f.register(r)
		}
		for _, k := range []*models.Key{&own1, &shared1, &own2, &shared2} {
			k.LastVersion = 1 // the column's default
		}
		servingPart := func(k models.Key) models.Key { // the fields that a fetch returns
			return models.Key{
				ID: k.ID, CustomerID: k.CustomerID, ProjectID: k.ProjectID, UserID: k.UserID, Provider: k.Provider, Version: k.Version,
				Envelope: k.Envelope, LastUsedAt: k.LastUsedAt, LastFailureAt: k.LastFailureAt, LastFailureStatus: k.LastFailureStatus,
			}
		}
		requireFound := func(own, shared models.Key) {
			t.Helper()
			found := f.fetch(d, mia)
			all, err := f.Candidates(t.Context(), mia, "openai", now())
			require.NoError(t, err)
			if own.ID != "" {
				require.Equal(t, []models.Key{servingPart(own)}, found.Own)
				require.Equal(t, own, all.Own[0])
			} else {
				require.Empty(t, found.Own)
			}
			require.Equal(t, []models.Key{servingPart(shared)}, found.Project)
			require.Equal(t, shared, all.Project[0])
		}
		requireFound(own2, shared2)
		require.Empty(t, f.fetch(d, project).Own, "without a user, none's own")
		require.Equal(t, []models.Key{servingPart(shared2)}, f.fetch(d, project).Project)
		require.Empty(t, f.fetch(d, olga).Own)

		all, err := f.Candidates(t.Context(), mia, "openai", now())
		require.NoError(t, err)
		require.Equal(t, models.Serving{Own: []models.Key{own2, own1}, Project: []models.Key{shared2, shared1}, All: true}, all)
		all, err = f.Candidates(t.Context(), project, "openai", now())
		require.NoError(t, err)
		require.Empty(t, all.Own)
		require.Len(t, all.Project, 2)

		f.revoke(&own2)
		requireFound(own1, shared2)
		f.revoke(&shared2)
		requireFound(own1, shared1)
		f.revoke(&own1)
		requireFound(models.Key{}, shared1)
	})
}

// PostgreSQL plans a statement again for each run if it estimates that a plan for the parameters is cheaper. Planning a
// fetch takes ten times as long as running it.
func TestNoFrequentStatementIsPlannedEachTime(t *testing.T) {
	t.Parallel()
	f := newFixture(t, migrate(t, modelstest.Postgres(t)), models.Options{MaxConns: 1})
	require.NoError(t, models.Exec(t.Context(), f.Store, `INSERT INTO ai_keys (id, customer_id, project_id, user_id, provider, name,
display_suffix, version, envelope, kek_id, created_at, created_by) SELECT 'key_' || i, 'acme', 'p' || i % 50, '', 'openai', 'key-' || i, 'abcd', 1,
decode(repeat('ab', 200), 'hex'), 'local:0', 1, 'olga' FROM generate_series(1, 3000) i`))
	require.NoError(t, models.Exec(t.Context(), f.Store, `ANALYZE ai_keys`))
	d, key := f.dataPlane("all", nil), f.register(f.own(mia))
	for range 10 {
		f.fetch(d, mia)
		f.fetch(d, project)
		for name, call := range guarded(f, key.ID) {
			require.NoError(t, call(t.Context(), mia), name)
		}
	}
	// A list without a limit is left out: no API requests one, and running it costs more than planning it.
	db := models.Conn(f.Store)
	require.NotEmpty(t, query[string](t, db, `SELECT statement FROM pg_prepared_statements WHERE custom_plans = 5`))
	require.Empty(t, query[string](t, db, `SELECT statement FROM pg_prepared_statements WHERE custom_plans > 5 AND statement NOT LIKE '%ORDER BY k.id DESC'`))
}

func TestTheLastStoppedKeyIsOfTheScopesAskedFor(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		last := func(c models.Caller, provider string, scopes ...string) string {
			t.Helper()
			key, err := f.LastStopped(t.Context(), c, provider, scopes, now())
			require.NoError(t, err)
			require.Empty(t, key.Envelope)
			return key.ID
		}
		older, newer, own := f.register(f.shared(olga)), f.register(f.shared(olga)), f.register(f.own(mia))
		require.Empty(t, last(mia, "openai", mia.UserID, ""), "all are active")
		f.revoke(&newer)
		f.revoke(&older)
		require.Equal(t, older.ID, last(mia, "openai", mia.UserID, ""))
		f.revoke(&own)
		require.Equal(t, own.ID, last(mia, "openai", mia.UserID, ""))
		require.Equal(t, own.ID, last(mia, "openai", mia.UserID))
		require.Equal(t, older.ID, last(mia, "openai", ""))
		require.Equal(t, older.ID, last(olga, "openai", olga.UserID, ""), "another's own key is not theirs")
		require.Empty(t, last(mia, "groq", mia.UserID, ""))
		require.Empty(t, last(mia, "openai"))
		elsewhere := mia
		elsewhere.ProjectID = "elsewhere"
		require.Empty(t, last(elsewhere, "openai", mia.UserID, ""))
		elsewhere.ProjectID, elsewhere.CustomerID = mia.ProjectID, "globex"
		require.Empty(t, last(elsewhere, "openai", mia.UserID, ""))
	})
}

func TestAFetchByIDFindsTheKeyRevokedOrNot(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		d := f.dataPlane("all", nil)
		key := f.register(f.own(mia))
		got, asOf, err := f.FetchByID(t.Context(), d.ID, key.ID, now())
		require.NoError(t, err)
		require.Equal(t, key, got)
		f.revoke(&key)
		got, later, err := f.FetchByID(t.Context(), d.ID, key.ID, now())
		require.NoError(t, err)
		require.Equal(t, key, got)
		require.False(t, parsed(t, asOf).Contains(key.RevocationTx))
		require.True(t, parsed(t, later).Contains(key.RevocationTx))
		for _, absent := range []string{"byok_absent", ""} {
			_, _, err = f.FetchByID(t.Context(), d.ID, absent, now())
			require.ErrorIs(t, err, models.ErrNotFound)
		}
	})
}

func TestAFetchBringsThePolicyInForce(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		d := f.dataPlane("all", nil)
		require.Equal(t, models.DefaultPolicy(acme, web), f.fetch(d, mia).Policy)
		for _, byProvider := range []map[string]models.UserKeys{nil, {"openai": models.UserKeysForbid, "groq": models.UserKeysRequire}} {
			policy := models.Policy{CustomerID: acme, ProjectID: web, UserKeys: models.UserKeysRequire, UserKeysByProvider: byProvider, OnBadKey: models.OnBadKeyNextKey, OnLimited: models.OnLimitedNextKey, Operations: models.OperationsAll}
			f.transact(func(tx *models.Tx) error { return tx.SetPolicy(&policy, "olga", f.event(models.EventPolicySet)) })
			got := f.fetch(d, mia).Policy
			require.Equal(t, models.OnBadKeyNextKey, got.OnBadKey)
			require.Equal(t, models.OnLimitedNextKey, got.OnLimited)
			require.Equal(t, models.OperationsAll, got.Operations)
			require.Equal(t, models.UserKeysRequire, got.UserKeys)
			require.Equal(t, policy.For("openai"), got.For("openai"))
			require.Equal(t, policy.For("groq"), got.For("groq"))
			require.Equal(t, []string{acme, web}, []string{got.CustomerID, got.ProjectID})
		}
	})
}

// The position of a fetch includes a key's revocation if and only if the fetch did not find the key.
func TestAFetchThatFoundAKeyIsNotAsOfItsRevocation(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.holdTransaction() // a transaction that stays open, so that positions have a list
		d := f.dataPlane("all", nil)
		key := f.register(f.shared(olga))
		byID := func() (bool, string, error) {
			k, asOf, err := f.FetchByID(t.Context(), d.ID, key.ID, now())
			return k.RevokedAt == 0, asOf, err
		}
		byCaller := func() (bool, string, error) {
			found, err := f.Fetch(t.Context(), d.ID, mia, "openai", now())
			return len(found.Project) > 0, found.AsOf, err
		}
		const fetches = 200
		type outcome struct {
			found bool
			asOf  string
			err   error
		}
		var begun atomic.Int64
		outcomes := together(fetches+1, func(i int) (o outcome) {
			if i == fetches {
				for begun.Load() < fetches/4 {
					time.Sleep(100 * time.Microsecond)
				}
				o.err = f.tryRevoke(context.WithoutCancel(t.Context()), &key)
				return o
			}
			for range 3 {
				begun.Add(1)
				o.found, o.asOf, o.err = []func() (bool, string, error){byID, byCaller}[i%2]()
			}
			return o
		})
		require.NoError(t, outcomes[fetches].err)
		require.Positive(t, key.RevocationTx)
		for _, o := range outcomes[:fetches] {
			require.NoError(t, o.err)
			require.Equal(t, !o.found, parsed(t, o.asOf).Contains(key.RevocationTx), "%d in %s", key.RevocationTx, o.asOf)
		}
		for range 2 {
			found, asOf, err := byCaller()
			require.NoError(t, err)
			require.False(t, found)
			require.True(t, parsed(t, asOf).Contains(key.RevocationTx))
		}
	})
}

// On PostgreSQL, a revocation that has its number but is not committed yet is not in the position of a fetch.
func TestARevocationUnderWayIsInNoFetch(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		d := f.dataPlane("all", nil)
		key := f.register(f.shared(olga))
		event := f.event(models.EventKeyRevoked, about(key.ID))
		written, finish := make(chan struct{}), make(chan struct{})
		done := make(chan error, 1)
		go func() {
			done <- f.Transact(context.WithoutCancel(t.Context()), func(tx *models.Tx) error {
				_, err := tx.RevokeKey(&key, "olga", event)
				close(written)
				<-finish
				return err
			})
		}()
		<-written
		if !f.isSQLite() {
			f.note("another, which is committed") // the newest event is then later than the revocation
		}
		during := f.fetch(d, mia)
		close(finish)
		require.NoError(t, <-done)
		require.Equal(t, key.ID, firstID(during.Project))
		require.False(t, parsed(t, during.AsOf).Contains(key.RevocationTx))
		after := f.fetch(d, mia)
		require.Empty(t, firstID(after.Project))
		require.True(t, parsed(t, after.AsOf).Contains(key.RevocationTx))
	})
}

func TestFetchByIDChecksMembership(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		d, key := f.dataPlane("gateway", nil), f.register(f.own(mia))
		require.NoError(t, f.removeMember(mia.UserID))
		_, _, err := f.FetchByID(t.Context(), d.ID, key.ID, now())
		require.ErrorIs(t, err, models.ErrNotMember)
	})
}

func (f *fixture) fetches(before int64, limit int) []models.FetchRecord {
	f.t.Helper()
	page, err := f.ListFetches(f.t.Context(), acme, web, models.FetchFilter{Before: before, Limit: limit})
	require.NoError(f.t, err)
	return page
}

func TestARecordedFetchIsThereForOthersWhenTheCallReturns(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		other := open(t, f.url, models.Options{})
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

func TestFetchFilters(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		first := f.dataPlane("edge", nil)
		_, err := f.revokeDataPlane("edge")
		require.NoError(t, err)
		second := f.dataPlane("edge", nil)
		for i, change := range []func(*models.FetchRecord){
			func(r *models.FetchRecord) { r.DataPlaneID, r.KeyID = first.ID, "byok_01" },
			func(r *models.FetchRecord) { r.DataPlaneID, r.UserID = second.ID, "olga" },
			func(r *models.FetchRecord) { r.Provider, r.Decision = "groq", models.OutcomeDenied },
			func(r *models.FetchRecord) { r.ProjectID, r.DataPlaneID = "ios", first.ID },
		} {
			r := record(strconv.Itoa(i))
			r.At = int64(i + 1)
			change(&r)
			require.NoError(t, f.RecordFetch(t.Context(), r))
		}
		for _, row := range []struct {
			filter models.FetchFilter
			want   []string
		}{
			{models.FetchFilter{}, []string{"2", "1", "0"}},
			{models.FetchFilter{KeyID: "byok_01"}, []string{"0"}},
			{models.FetchFilter{UserID: "olga"}, []string{"1"}},
			{models.FetchFilter{Provider: "groq"}, []string{"2"}},
			{models.FetchFilter{Decision: models.OutcomeDenied}, []string{"2"}},
			{models.FetchFilter{DataPlane: first.ID}, []string{"0"}},
			{models.FetchFilter{DataPlane: "edge"}, []string{"1", "0"}},
			{models.FetchFilter{DataPlane: "edge", Before: 2}, []string{"0"}},
			{models.FetchFilter{DataPlane: "edge", Decision: models.OutcomeDenied}, nil},
			{models.FetchFilter{From: 2}, []string{"2", "1"}},
			{models.FetchFilter{From: 2, To: 3}, []string{"1"}},
			{models.FetchFilter{To: 1}, nil},
		} {
			row.filter.Limit = 10
			page, err := f.ListFetches(t.Context(), acme, web, row.filter)
			require.NoError(t, err)
			var got []string
			for _, r := range page {
				got = append(got, r.RequestID)
			}
			require.Equal(t, row.want, got, "%+v", row.filter)
		}
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
			f.asOwner().transact(func(tx *models.Tx) (err error) { n, err = tx.ForgetFetches(before, limit); return err })
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
		const n = 400
		for _, err := range together(n, func(i int) error { return f.RecordFetch(t.Context(), record(strconv.Itoa(i))) }) {
			require.NoError(t, err)
		}
		seen := map[string]bool{}
		for _, r := range f.fetches(0, 2*n) {
			require.False(t, seen[r.RequestID], r.RequestID)
			seen[r.RequestID] = true
		}
		require.Len(t, seen, n)
		if !f.isSQLite() { // SQLite commits all writes in groups
			commits := query[int](t, models.Conn(f.Store), "SELECT count(DISTINCT xmin::text) FROM fetches")
			require.Less(t, commits[0], n/4)
		}
	})
}

// A group is one statement. If the server refuses one record, the other records must still be stored.
func TestARecordThatTheServerRefusesCostsNoOtherItsPlace(t *testing.T) {
	t.Parallel()
	f := newFixture(t, modelstest.EnginePostgres.MigratedURL(t), models.Options{})
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
	cluster := modelstest.StartCluster(t)
	f := newFixture(t, migrate(t, cluster.URL("postgres")), outage)
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
