package models_test

import (
	"bytes"
	"fmt"
	"maps"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
)

// rememberer is a replica that fetches, beside the fixture's store, where changes are made. What it remembers does not age
// unless a test says so.
type rememberer struct {
	*fixture
	replica   *models.Store
	dataPlane models.DataPlane
	first     models.Key // the project's, before those that a test registers
}

func newRememberer(t *testing.T) *rememberer {
	t.Helper()
	url := modelstest.EnginePostgres.URL(t)
	store := modelstest.OpenStore(t, url, models.Options{})
	_, err := store.Migrate(t.Context())
	require.NoError(t, err)
	f := newFixture(t, store)
	f.url = url
	replica := modelstest.OpenStore(t, url, models.Options{})
	models.SetMemoryAge(replica, 0)
	return &rememberer{fixture: f, replica: replica, dataPlane: f.dataPlane("edge", nil), first: f.register(f.shared(olga))}
}

func (r *rememberer) recorded(requestID string) {
	r.t.Helper()
	require.NoError(r.t, r.replica.RecordFetch(r.t.Context(), record(requestID)))
}

func (r *rememberer) read(c models.Caller) models.Fetched {
	r.t.Helper()
	found, err := r.replica.Fetch(r.t.Context(), r.dataPlane.ID, c, "openai", now())
	require.NoError(r.t, err)
	require.False(r.t, found.Remembered())
	return found
}

func (r *rememberer) recall(c models.Caller) (models.Fetched, bool) {
	return r.replica.Remembered(r.dataPlane.ID, c, "openai", now())
}

// remember brings the memory to the present, reads once, and returns the same from memory.
func (r *rememberer) remember(c models.Caller) models.Fetched {
	r.t.Helper()
	r.recorded("present")
	read := r.read(c)
	found, known := r.recall(c)
	require.True(r.t, known)
	require.True(r.t, found.Remembered())
	require.Equal(r.t, []any{read.Own, read.Project, read.Policy, read.AsOf}, []any{found.Own, found.Project, found.Policy, found.AsOf})
	return found
}

// confirm records a fetch that rests on memory.
func (r *rememberer) confirm(found models.Fetched, requestID string) (string, error) {
	rec := record(requestID)
	rec.DataPlaneID = r.dataPlane.ID
	return r.replica.RecordRemembered(r.t.Context(), rec, found)
}

// requireOutdated shows that what is remembered is neither recorded nor remembered any longer.
func (r *rememberer) requireOutdated(c models.Caller, found models.Fetched) {
	r.t.Helper()
	before := r.count("fetches")
	_, err := r.confirm(found, "outdated")
	require.ErrorIs(r.t, err, models.ErrChanged)
	require.Equal(r.t, before, r.count("fetches"), "nothing is on record that was not answered")
	_, known := r.recall(c)
	require.False(r.t, known)
}

func TestWhatIsRememberedCountsUntilSomethingOfItsCustomerChanges(t *testing.T) {
	t.Parallel()
	r := newRememberer(t)
	caller := bearing(mia, "01MIA")
	token := models.Token{ID: "01MIA", Hash: []byte("h"), CustomerID: acme, ProjectID: web, UserID: "mia"}
	r.transact(func(tx *models.Tx) error { return tx.CreateToken(token) })
	key := r.register(r.shared(olga))
	for _, change := range []struct {
		name string
		make func(tx *models.Tx) (models.Event, error)
	}{
		{"a policy", func(tx *models.Tx) (models.Event, error) {
			policy := models.DefaultPolicy(acme, web)
			return r.event(models.EventPolicySet), tx.SetPolicy(&policy, "olga")
		}},
		{"another project", func(*models.Tx) (models.Event, error) {
			return r.event(models.EventMemberRemoved, func(e *models.Event) { e.ProjectID = "ios" }), nil
		}},
		{"a revoked key", func(tx *models.Tx) (models.Event, error) {
			_, err := tx.RevokeKey(&key, "olga")
			return r.event(models.EventKeyRevoked, about(key.ID)), err
		}},
		{"a removed member", func(tx *models.Tx) (models.Event, error) {
			return r.event(models.EventMemberRemoved), tx.RemoveMember(acme, web, "moe")
		}},
		{"a revoked API key", func(tx *models.Tx) (models.Event, error) {
			_, err := tx.RevokeToken(acme, web, token.ID)
			return r.event(models.EventTokenRevoked), err
		}},
	} {
		found := r.remember(caller)
		_, err := r.confirm(found, "before")
		require.NoError(t, err, "before %s", change.name)
		r.transact(func(tx *models.Tx) error {
			event, err := change.make(tx)
			if err != nil {
				return err
			}
			return tx.AppendEvent(event)
		})
		r.requireOutdated(caller, found)
	}
	for _, registration := range []models.Registration{r.own(mia), r.shared(olga)} {
		found := r.remember(mia)
		r.register(registration)
		r.requireOutdated(mia, found)
	}
}

func TestWhatChangesElsewhereOutdatesNothing(t *testing.T) {
	t.Parallel()
	r := newRememberer(t)
	key := r.register(r.shared(olga))
	found := r.remember(mia)
	r.addMember(models.Caller{CustomerID: "globex", ProjectID: web, UserID: "gus"}, models.RoleOwner)
	for i, change := range []func(*models.Event){
		func(e *models.Event) { e.CustomerID = "globex" },
		func(e *models.Event) { e.Outcome = models.OutcomeDenied },
	} {
		r.transact(func(tx *models.Tx) error { return tx.AppendEvent(r.event(models.EventPolicySet, change)) })
		id := strconv.Itoa(i)
		asOf, err := r.confirm(found, id)
		require.NoError(t, err)
		require.Equal(t, id, r.fetches(0, 1)[0].RequestID)
		require.Equal(t, r.position().Xmax, parsed(t, asOf).Xmax, "the position is that of the answer, not of the memory")
	}
	require.Equal(t, key.ID, found.Project.ID)
}

// Transactions commit out of order: one that began before what was remembered may end after it, with a lower number than
// others that have been seen.
func TestAChangeThatCommitsLateOutdatesWhatIsRemembered(t *testing.T) {
	t.Parallel()
	r := newRememberer(t)
	key := r.register(r.shared(olga))
	began, end, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		done <- r.Transact(t.Context(), func(tx *models.Tx) error {
			_, err := tx.RevokeKey(&key, "olga")
			if err == nil {
				err = tx.AppendEvent(r.event(models.EventKeyRevoked, about(key.ID)))
			}
			close(began)
			<-end
			return err
		})
	}()
	<-began
	for i := range 5 { // the position goes past it
		r.transact(func(tx *models.Tx) error {
			return tx.AppendEvent(r.event(models.EventPolicySet, func(e *models.Event) { e.CustomerID = "globex" }))
		})
		r.recorded("past" + strconv.Itoa(i))
	}
	found := r.remember(mia)
	require.Equal(t, key.ID, found.Project.ID)
	_, err := r.confirm(found, "still so")
	require.NoError(t, err)
	close(end)
	require.NoError(t, <-done)
	r.requireOutdated(mia, found)
	require.Equal(t, r.first.ID, r.remember(mia).Project.ID)
}

func TestADataPlaneWhoseCredentialEndedRecallsNothing(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(r *rememberer, found models.Fetched){
		"revoked": func(r *rememberer, _ models.Fetched) {
			_, err := r.revokeDataPlane("edge")
			require.NoError(r.t, err)
		},
		"expired": func(r *rememberer, _ models.Fetched) {
			_, err := models.Conn(r.Store).ExecContext(r.t.Context(), `UPDATE data_planes SET expires_at = $1`, now())
			require.NoError(r.t, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRememberer(t)
			found := r.remember(mia)
			end(r, found)
			before := r.count("fetches")
			_, err := r.confirm(found, "ended")
			require.ErrorIs(t, err, models.ErrChanged)
			require.Equal(t, before, r.count("fetches"))
			_, err = r.replica.Fetch(t.Context(), r.dataPlane.ID, mia, "openai", now())
			require.ErrorIs(t, err, models.ErrDataPlaneEnded)
		})
	}
}

func TestADataPlaneRecallsOnlyForTheCustomersThatItServes(t *testing.T) {
	t.Parallel()
	r := newRememberer(t)
	found := r.remember(mia)
	require.True(t, found.Remembered())
	for name, customers := range map[string][]string{"theirs": {acme}, "another's": {"globex"}, "none": {}} {
		d := r.fixture.dataPlane(name, customers)
		_, known := r.replica.Remembered(d.ID, mia, "openai", now())
		require.False(t, known, "it is not known itself")
		_, err := r.replica.Fetch(t.Context(), d.ID, olga, "openai", now())
		_, known = r.replica.Remembered(d.ID, mia, "openai", now())
		require.Equal(t, name == "theirs", known)
		require.Equal(t, name == "theirs", err == nil)
	}
}

func TestASessionThatEndsByTimeIsNotRecalled(t *testing.T) {
	t.Parallel()
	r := newRememberer(t)
	ends := now() + time.Hour.Microseconds()
	r.transact(func(tx *models.Tx) error {
		return tx.CreateToken(models.Token{ID: "01MIA", Hash: []byte("h"), CustomerID: acme, ProjectID: web, UserID: "mia", ExpiresAt: ends})
	})
	caller := bearing(mia, "01MIA")
	r.remember(caller)
	for at, want := range map[int64]bool{ends - 1: true, ends: false, ends + 1: false} {
		_, known := r.replica.Remembered(r.dataPlane.ID, caller, "openai", at)
		require.Equal(t, want, known)
	}
}

func TestARefusalIsNotRemembered(t *testing.T) {
	t.Parallel()
	r := newRememberer(t)
	_, err := r.replica.Fetch(t.Context(), r.dataPlane.ID, stranger, "openai", now())
	require.ErrorIs(t, err, models.ErrNotMember)
	_, known := r.recall(stranger)
	require.False(t, known)
}

// How keys fare decides which serves there, and not each report of it is announced.
func TestNothingIsRememberedWhereAnotherKeyServesInThePlaceOfABadOne(t *testing.T) {
	t.Parallel()
	r := newRememberer(t)
	policy := models.DefaultPolicy(acme, web)
	policy.OnBadKey = models.OnBadKeyNextKey
	r.transact(func(tx *models.Tx) error {
		if err := tx.SetPolicy(&policy, "olga"); err != nil {
			return err
		}
		return tx.AppendEvent(r.event(models.EventPolicySet))
	})
	r.recorded("present")
	r.read(mia)
	_, known := r.recall(mia)
	require.False(t, known)
}

// What nobody announced, a row that was changed by hand, counts a second later.
func TestNothingIsRememberedForLong(t *testing.T) {
	t.Parallel()
	r := newRememberer(t)
	found := r.remember(mia)
	models.SetMemoryAge(r.replica, models.RememberFor)
	_, known := r.recall(mia)
	require.True(t, known)
	models.SetMemoryAge(r.replica, models.RememberFor+1)
	r.requireOutdated(mia, found)
	require.LessOrEqual(t, models.RememberFor, time.Second)
}

func TestMoreChangesThanAreLookedAtOutdateAll(t *testing.T) {
	t.Parallel()
	for name, order := range map[string]struct {
		changes  int
		outdated bool
	}{"just too many": {models.MaxUnseen, true}, "just few enough": {models.MaxUnseen - 1, false}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRememberer(t)
			found := r.remember(mia)
			r.transact(func(tx *models.Tx) error {
				for range order.changes {
					if err := tx.AppendEvent(r.event(models.EventPolicySet, func(e *models.Event) { e.CustomerID = "globex" })); err != nil {
						return err
					}
				}
				return nil
			})
			if order.outdated {
				r.requireOutdated(mia, found)
				return
			}
			_, err := r.confirm(found, "still so")
			require.NoError(t, err)
		})
	}
}

func TestADatabaseThatIsPutBackOutdatesWhatIsRemembered(t *testing.T) {
	t.Parallel()
	r := newRememberer(t)
	found := r.remember(mia)
	_, err := models.Conn(r.Store).ExecContext(t.Context(), `DELETE FROM events WHERE tx = (SELECT MAX(tx) FROM events)`)
	require.NoError(t, err)
	r.requireOutdated(mia, found)
}

func TestWithoutItsDatabaseAStoreForgets(t *testing.T) {
	t.Parallel()
	cluster := modelstest.StartCluster(t, modelstest.WithoutFsync())
	store := openForOutage(t, cluster.URL("postgres"))
	_, err := store.Migrate(t.Context())
	require.NoError(t, err)
	models.SetMemoryAge(store, 0)
	r := &rememberer{fixture: newFixture(t, store), replica: store}
	r.dataPlane = r.fixture.dataPlane("edge", nil)
	r.register(r.shared(olga))
	found := r.remember(mia)
	require.NoError(t, cluster.Stop(modelstest.Fast))
	_, err = r.confirm(found, "during")
	require.ErrorIs(t, err, models.ErrUnavailable)
	_, known := r.recall(mia)
	require.False(t, known)
	require.NoError(t, cluster.Start())
	require.Eventually(t, func() bool {
		_, err := r.replica.Fetch(t.Context(), r.dataPlane.ID, mia, "openai", now())
		return err == nil && r.replica.RecordFetch(t.Context(), record("after")) == nil
	}, 10*time.Second, 20*time.Millisecond)
	_, err = r.confirm(found, "after")
	require.ErrorIs(t, err, models.ErrChanged)
	r.remember(mia)
}

// A group is one statement: what the server refuses of it costs those that rest on memory no more than another try.
func TestARecordThatTheServerRefusesNeverLetsMemoryPassUnchecked(t *testing.T) {
	t.Parallel()
	r := newRememberer(t)
	found := r.remember(mia)
	var confirmed atomic.Int64
	const n = 200
	for i, err := range together(n, func(i int) error {
		id := "remembered " + strconv.Itoa(i)
		if i%10 == 0 {
			id = "zero\x00byte"
		}
		_, err := r.confirm(found, id)
		if err == nil {
			confirmed.Add(1)
		}
		return err
	}) {
		if i%10 == 0 {
			require.Error(t, err)
		} else if err != nil {
			require.ErrorIs(t, err, models.ErrChanged)
		}
	}
	require.EqualValues(t, confirmed.Load(), r.count("fetches")-1, "who was told so is on record, and nobody else")
}

func TestWhatIsRememberedIsBoundedByItsBytes(t *testing.T) {
	t.Parallel()
	r := newRememberer(t)
	large := func(reg *models.Registration) { reg.Key.Envelope = bytes.Repeat([]byte("e"), 1<<20) }
	r.register(r.shared(olga, large))
	r.remember(mia)
	users := 0
	for ; users < models.MaxRemembered; users++ {
		c := models.Caller{CustomerID: acme, ProjectID: web, UserID: fmt.Sprintf("user-%d", users)}
		r.addMember(c, models.RoleMember)
		r.read(c)
		if _, known := r.recall(c); !known {
			break
		}
	}
	require.Less(t, users, 50, "some 40 MiB")
	_, known := r.recall(mia)
	require.False(t, known, "it is full, and begins anew")
	r.remember(mia)
}

func TestStrangersAndThoseWithoutKeysDoNotFillTheMemory(t *testing.T) {
	t.Parallel()
	r := newRememberer(t)
	found := r.remember(mia)
	nobody := r.fixture.dataPlane("nobody", []string{})
	for i := range models.MaxRemembered + 1 {
		invented := models.Caller{CustomerID: fmt.Sprintf("customer-%d", i), ProjectID: web}
		_, err := r.replica.Fetch(t.Context(), nobody.ID, invented, "openai", now())
		require.ErrorIs(t, err, models.ErrNotServed)
		if i%10 == 0 {
			r.read(models.Caller{CustomerID: acme, ProjectID: fmt.Sprintf("project-%d", i)})
		}
	}
	_, err := r.confirm(found, "still so")
	require.NoError(t, err)
	require.Less(t, models.MemorySize(r.replica), 10)
}

func TestTheMemoryIsLetGoWhenNobodyFetches(t *testing.T) {
	t.Parallel()
	r := newRememberer(t)
	r.remember(mia)
	models.SetMemoryAge(r.replica, models.RememberFor+1)
	require.Eventually(t, func() bool { return models.MemorySize(r.replica) == 0 }, 10*time.Second, 10*time.Millisecond)
}

func TestWhatWasReadIsNotConfirmed(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		d := f.dataPlane("edge", nil)
		_, err := f.RecordRemembered(t.Context(), record("read"), f.fetch(d, mia))
		require.ErrorIs(t, err, models.ErrChanged)
		require.Zero(t, f.count("fetches"))
	})
}

// A server that is behind, a standby that a connection has come to, must not bring back what has changed.
func TestNoAnswerOlderThanTheMemoryIsKept(t *testing.T) {
	at := models.Position{Xmin: 90, Xmax: 100, Open: []int64{90, 95}}
	for name, c := range map[string]struct {
		read models.Position
		kept bool
	}{
		"the same":                 {at, true},
		"newer":                    {models.Position{Xmin: 95, Xmax: 120, Open: []int64{95, 110}}, true},
		"behind":                   {models.Position{Xmin: 90, Xmax: 99, Open: []int64{90, 95}}, false},
		"without one that it had":  {models.Position{Xmin: 90, Xmax: 120, Open: []int64{90, 94}}, false},
		"of before all":            {models.Position{}, false},
		"with those that were not": {models.Position{Xmin: 200, Xmax: 200}, true},
	} {
		require.Equal(t, c.kept, models.Contains(c.read, at), name)
	}
}

// The guarantee that all of this is for: whatever is remembered, and whichever replica revokes, no fetch that begins when the
// revocation has been committed gives the key out.
func TestNoFetchThatBeginsAfterARevocationRecallsTheKey(t *testing.T) {
	t.Parallel()
	r := newRememberer(t)
	var (
		wg      sync.WaitGroup
		stop    = make(chan struct{})
		mu      sync.Mutex
		revoked = map[string]bool{} // ids of keys whose revocation has been committed
		fetches atomic.Int64
		recalls atomic.Int64
		failed  = make(chan string, 64)
	)
	fetchOnce := func(requestID string) {
		mu.Lock()
		gone := maps.Clone(revoked)
		mu.Unlock()
		found, known := r.recall(mia)
		if known {
			if _, err := r.confirm(found, requestID); err != nil {
				known = false
			}
		}
		if !known {
			var err error
			if found, err = r.replica.Fetch(t.Context(), r.dataPlane.ID, mia, "openai", now()); err == nil {
				err = r.replica.RecordFetch(t.Context(), record(requestID))
			}
			if err != nil {
				failed <- err.Error()
				return
			}
		} else {
			recalls.Add(1)
		}
		fetches.Add(1)
		if id := found.Project.ID; id != "" && gone[id] {
			failed <- fmt.Sprintf("%s was given out (remembered: %v) after it was revoked", id, known)
		}
	}
	for w := range 8 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
					fetchOnce(fmt.Sprintf("%d.%d", w, i))
				}
			}
		})
	}
	for range 100 {
		key := r.register(r.shared(olga))
		for before := recalls.Load(); recalls.Load() < before+5 && len(failed) == 0; {
			time.Sleep(50 * time.Microsecond)
		}
		r.revokeNoted(&key)
		mu.Lock()
		revoked[key.ID] = true
		mu.Unlock()
	}
	close(stop)
	wg.Wait()
	close(failed)
	for text := range failed {
		require.Fail(t, text)
	}
	require.Greater(t, recalls.Load(), int64(500), "the memory served")
	t.Logf("%d fetches, %d from memory", fetches.Load(), recalls.Load())
}
