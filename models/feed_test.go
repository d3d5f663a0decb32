package models_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/internal/position"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
)

const manyChanges = 10_000

func (f *fixture) position() position.Position {
	f.t.Helper()
	p, err := f.Position(f.t.Context())
	require.NoError(f.t, err)
	return p
}

// changes returns what is new since a position, and moves it on.
func (f *fixture) changes(at *position.Position) []models.Change {
	f.t.Helper()
	found, next, err := f.Changes(f.t.Context(), *at, manyChanges)
	require.NoError(f.t, err)
	*at = next
	return found
}

// event returns an event of the fixture's project, which was allowed.
func (f *fixture) event(kind models.EventType, changes ...func(*models.Event)) models.Event {
	e := models.Event{CustomerID: acme, ProjectID: web, ID: f.ids.Next(models.EventIDPrefix, time.Now()), Type: kind,
		Outcome: models.OutcomeAllowed, At: now()}
	for _, change := range changes {
		change(&e)
	}
	return e
}

func about(keyID string) func(*models.Event) {
	return func(e *models.Event) { e.KeyID = keyID }
}

// note appends the event of an act about a key.
func (f *fixture) note(keyID string) {
	f.t.Helper()
	f.transact(func(tx *models.Tx) error { return tx.AppendEvent(f.event(models.EventPolicySet, about(keyID))) })
}

// revokeNoted revokes a key as the API does: with the event that says so.
func (f *fixture) revokeNoted(k *models.Key) {
	f.t.Helper()
	require.NoError(f.t, f.tryRevokeNoted(f.t.Context(), k))
}

func (f *fixture) tryRevokeNoted(ctx context.Context, k *models.Key) error {
	e := f.event(models.EventKeyRevoked, about(k.ID), func(e *models.Event) { e.ScopeUserID = k.UserID })
	return f.Transact(ctx, func(tx *models.Tx) error {
		_, err := tx.RevokeKey(k, "olga", e)
		return err
	})
}

func keyIDs(changes []models.Change) []string {
	out := []string{}
	for _, c := range changes {
		out = append(out, c.KeyID)
	}
	return out
}

func TestAChangeSaysWhatWasDoneAndWhomItIsAbout(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		at := f.position()
		require.Empty(t, f.changes(&at))
		shared := f.register(f.shared(olga, provider("openai")))
		own := f.register(f.own(mia, provider("anthropic")))
		f.revokeNoted(&own)
		f.transact(func(tx *models.Tx) error {
			for _, e := range []models.Event{
				f.event(models.EventPolicySet),
				f.event(models.EventMemberSet, func(e *models.Event) { e.MemberID, e.Role = "mia", models.RoleOwner }),
				f.event(models.EventMemberRemoved, func(e *models.Event) { e.MemberID, e.CustomerID, e.ProjectID = "moe", "globex", "ios" }),
				f.event(models.EventTokenRevoked, func(e *models.Event) { e.MemberID, e.TokenID = "mia", "01TOKEN" }),
				f.event(models.EventKeyFailing, about(shared.ID)),
			} {
				if err := tx.AppendEvent(e); err != nil {
					return err
				}
			}
			return nil
		})
		got := f.changes(&at)
		for i := range got {
			require.Positive(t, got[i].Tx)
			require.True(t, at.Contains(got[i].Tx))
			got[i].Tx = 0
		}
		in := func(c models.Change) models.Change { c.CustomerID, c.ProjectID = acme, web; return c }
		require.ElementsMatch(t, []models.Change{
			in(models.Change{Type: models.EventKeyRegistered, KeyID: shared.ID, Provider: "openai"}),
			in(models.Change{Type: models.EventKeyRegistered, KeyID: own.ID, Provider: "anthropic", UserID: "mia"}),
			in(models.Change{Type: models.EventKeyRevoked, KeyID: own.ID, UserID: "mia"}),
			in(models.Change{Type: models.EventPolicySet}),
			in(models.Change{Type: models.EventMemberSet, UserID: "mia"}),
			{Type: models.EventMemberRemoved, CustomerID: "globex", ProjectID: "ios", UserID: "moe"},
			in(models.Change{Type: models.EventTokenRevoked, UserID: "mia", TokenID: "01TOKEN"}),
			in(models.Change{Type: models.EventKeyFailing, KeyID: shared.ID}),
		}, got)
		require.Empty(t, f.changes(&at), "none comes twice")
	})
}

func TestWhatWasDeniedOrUndoneIsNoChange(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		at := f.position()
		f.transact(func(tx *models.Tx) error {
			return tx.AppendEvent(f.event(models.EventKeyRevoked, func(e *models.Event) { e.Outcome = models.OutcomeDenied }))
		})
		require.ErrorIs(t, f.Transact(t.Context(), func(tx *models.Tx) error {
			require.NoError(t, tx.AppendEvent(f.event(models.EventPolicySet)))
			return errRefused
		}), errRefused)
		require.Empty(t, f.changes(&at))
		f.note("later")
		require.Equal(t, []string{"later"}, keyIDs(f.changes(&at)))
	})
}

func TestChangesAreCutShortAtTheLimit(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		at := f.position()
		for i := range 7 {
			f.note(fmt.Sprint(i))
		}
		found, _, err := f.Changes(t.Context(), at, 5)
		require.NoError(t, err)
		require.Equal(t, []string{"0", "1", "2", "3", "4"}, keyIDs(found))
		found, _, err = f.Changes(t.Context(), at, 7)
		require.NoError(t, err)
		require.Len(t, found, 7)
	})
}

// A position of a database that has since been put back to an earlier state ends beyond the database's own.
func TestAPositionFromTheFutureIsToldByTheOneOfNow(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.note("k")
		now := f.position()
		future := position.Position{Xmin: now.Xmin + 1000, Xmax: now.Xmax + 2000, Open: []int64{now.Xmax + 1500}}
		found, at, err := f.Changes(t.Context(), future, 10)
		require.NoError(t, err)
		require.Empty(t, found)
		require.Less(t, at.Xmax, future.Xmax)
		require.True(t, at.Contains(now.Xmax-1))
	})
}

// An event whose number the server has not reached was restored from another server.
func TestEventsOfAnotherServerAreNoChanges(t *testing.T) {
	t.Parallel()
	f := newFixture(t, modelstest.NewStore(t, modelstest.EnginePostgres))
	f.note("before")
	at := f.position()
	f.transact(func(tx *models.Tx) error {
		return models.TxExec(tx, `INSERT INTO events (SELECT customer_id, project_id, scope_user_id, 'evt_restored', type, outcome, at, actor_user_id,
actor_method, actor_token_id, key_id, token_id, provider, member_id, role, source_ip, request_id, tx + 1000000000 FROM events LIMIT 1)`)
	})
	require.Empty(t, f.changes(&at))
	f.note("after")
	require.Equal(t, []string{"after"}, keyIDs(f.changes(&at)))
	require.Less(t, at.Xmax, int64(1_000_000_000))
}

func TestChangesOfTransactionsThatCommitOutOfOrder(t *testing.T) {
	t.Parallel()
	f := newFixture(t, modelstest.NewStore(t, modelstest.EnginePostgres))
	at := f.position()
	written, finish := make(chan struct{}), make(chan struct{})
	first := make(chan error, 1)
	go func() {
		first <- f.Transact(context.WithoutCancel(t.Context()), func(tx *models.Tx) error {
			err := tx.AppendEvent(f.event(models.EventPolicySet, about("A")))
			close(written)
			<-finish
			return err
		})
	}()
	<-written
	f.note("B")
	require.Equal(t, []string{"B"}, keyIDs(f.changes(&at)), "B does not wait for A")
	require.NotEmpty(t, at.Open, "A is at work")
	text := at.String()
	require.Empty(t, f.changes(&at))
	close(finish)
	require.NoError(t, <-first)
	resumed, err := position.Parse(text)
	require.NoError(t, err)
	for _, from := range []position.Position{at, resumed} {
		require.Equal(t, []string{"A"}, keyIDs(f.changes(&from)), "A comes, and B not again")
		require.Empty(t, f.changes(&from))
	}
}

// An unrelated transaction stays open for as long as 16 writers write and one reader follows them.
func TestChangesOfManyWritersComeOnce(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		stranger := newStranger(t, f)
		at := f.position()
		var (
			mu        sync.Mutex
			committed = map[string]time.Time{}
			writers   sync.WaitGroup
		)
		until := time.Now().Add(2 * time.Second)
		for w := range 16 {
			writers.Go(func() {
				for i := 0; time.Now().Before(until); i++ {
					name := fmt.Sprintf("%d.%d", w, i)
					denied := func(e *models.Event) {
						if i%5 == 0 {
							e.Outcome = models.OutcomeDenied
						}
					}
					err := f.Transact(t.Context(), func(tx *models.Tx) error {
						err := tx.AppendEvent(f.event(models.EventPolicySet, about(name), denied))
						if i%7 == 0 {
							return errRefused
						}
						return err
					})
					if err == nil && i%5 != 0 {
						mu.Lock()
						committed[name] = time.Now()
						mu.Unlock()
					}
				}
			})
		}
		writing := make(chan struct{})
		go func() { defer close(writing); writers.Wait() }()
		seen := map[string]time.Time{}
		look := func() {
			for _, name := range keyIDs(f.changes(&at)) {
				require.Zero(t, seen[name], "%s came twice", name)
				seen[name] = time.Now()
			}
		}
		for done := false; !done; {
			select {
			case <-writing:
				done = true
			case <-time.After(time.Millisecond):
			}
			look()
		}
		require.Greater(t, len(committed), 100)
		require.Len(t, seen, len(committed))
		var delays []time.Duration
		for name, at := range committed {
			require.NotZero(t, seen[name], name)
			delays = append(delays, seen[name].Sub(at))
		}
		slices.Sort(delays)
		require.Less(t, delays[len(delays)/2], 500*time.Millisecond, "delivery waited")
		if stranger != 0 {
			require.Contains(t, at.Open, stranger, "it is at work still")
		}
	})
}

// newStranger begins a transaction that has a number, and stays open until the test ends. It returns the number; zero on
// SQLite, which has one writer.
func newStranger(t *testing.T, f *fixture) (number int64) {
	t.Helper()
	if f.isSQLite() {
		return 0
	}
	past := models.Conn(modelstest.OpenStore(t, f.url, models.Options{Timeout: time.Minute}))
	tx, err := past.BeginTx(context.WithoutCancel(t.Context()), nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, tx.Rollback()) })
	require.NoError(t, tx.QueryRowContext(t.Context(), "SELECT pg_current_xact_id()::text::bigint").Scan(&number))
	return number
}

// The numbers that a server gave out shortly before it crashed may come again; here it has not written them down.
func TestACrashOfTheDatabaseMakesNoGap(t *testing.T) {
	t.Parallel()
	cluster := modelstest.StartCluster(t, modelstest.WithSetting("wal_writer_delay", "10s"), modelstest.WithSetting("autovacuum", "off"))
	store := openForOutage(t, cluster.URL("postgres"))
	_, err := store.Migrate(t.Context())
	require.NoError(t, err)
	f := newFixture(t, store)
	dataPlane := f.dataPlane("eu", nil)
	f.note("before")
	for range 50 { // each a transaction that does not wait for the disk
		require.NoError(t, f.RecordFetch(t.Context(), models.FetchRecord{DataPlaneID: dataPlane.ID, CustomerID: acme, ProjectID: web}))
	}
	at := f.position()
	key := f.register(f.shared(olga))
	fetched := f.position()
	for range 50 {
		require.NoError(t, f.RecordFetch(t.Context(), models.FetchRecord{DataPlaneID: dataPlane.ID, CustomerID: acme, ProjectID: web}))
	}
	crashed := f.position()
	require.NoError(t, cluster.Kill())
	require.NoError(t, cluster.Start())
	f.Store = openForOutage(t, cluster.URL("postgres")) // the other one's connections are dead
	f.revokeNoted(&key)
	f.note("after")
	require.Equal(t, []string{key.ID, key.ID, "after"}, keyIDs(f.changes(&at)))
	for _, p := range []position.Position{fetched, crashed} {
		require.False(t, p.Contains(key.RevocationTx))
		require.Equal(t, []string{key.ID, "after"}, keyIDs(f.changes(&p)))
	}
}

func TestARevocationHasTheNumberOfItsEvent(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		const n = 40
		keys := make([]models.Key, n)
		for i := range keys {
			keys[i] = f.register(f.own(mia))
		}
		at := f.position()
		for i, err := range together(2*n, func(i int) error {
			if i%2 == 1 { // other writers, in the same groups
				return f.Transact(t.Context(), func(tx *models.Tx) error { return tx.AppendEvent(f.event(models.EventPolicySet)) })
			}
			return f.tryRevokeNoted(t.Context(), &keys[i/2])
		}) {
			require.NoError(t, err, i)
		}
		number := map[string]int64{}
		for _, c := range f.changes(&at) {
			if c.Type == models.EventKeyRevoked {
				require.Zero(t, number[c.KeyID])
				number[c.KeyID] = c.Tx
			}
		}
		require.Len(t, number, n)
		for _, k := range keys {
			stands, err := f.GetKey(t.Context(), mia, k.ID, now())
			require.NoError(t, err)
			require.Equal(t, number[k.ID], stands.RevocationTx)
			require.Equal(t, stands.RevocationTx, k.RevocationTx)
		}
		again := keys[0]
		f.transact(func(tx *models.Tx) error {
			first, err := tx.RevokeKey(&again, "moe", f.event(models.EventKeyRevoked))
			require.False(t, first)
			return err
		})
		require.Equal(t, keys[0], again, "the first revocation stands")
	})
}

func (f *fixture) isSQLite() bool { return strings.HasPrefix(f.url, "sqlite:") }

// The newest event ends a position, so that a server which crashes and gives later numbers out again makes no gap.
func TestAPositionEndsWithTheNewestEvent(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		at := f.position()
		f.addMember(moe, models.RoleOwner) // a transaction without an event
		require.Equal(t, at.Xmax, f.position().Xmax)
		k := f.register(f.shared(olga))
		f.revokeNoted(&k)
		after := f.position()
		require.Equal(t, k.RevocationTx+1, after.Xmax)
		require.True(t, after.Contains(k.RevocationTx))
		require.False(t, at.Contains(k.RevocationTx))
		require.False(t, slices.ContainsFunc(after.Open, func(tx int64) bool { return tx >= after.Xmax }), fmt.Sprint(after))
	})
}
