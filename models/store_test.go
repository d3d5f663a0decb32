package models_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/oklog/ulid/v2"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"gorm.io/gorm"

	"github.com/agentrouter/aikeys/internal/position"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/database"
	"github.com/agentrouter/aikeys/models/modelstest"
)

func TestThePoolsConnectionsAreCounted(t *testing.T) {
	store := modelstest.OpenStore(t, modelstest.EnginePostgres.URL(t), models.Options{MaxConns: 3})
	require.Equal(t, models.PoolStats{Max: 3}, store.Stats())
	conn, err := models.Conn(store).Conn(t.Context())
	require.NoError(t, err)
	require.Equal(t, models.PoolStats{InUse: 1, Max: 3, Waits: 1}, store.Stats())
	require.NoError(t, conn.Close())
	require.Equal(t, models.PoolStats{Idle: 1, Max: 3, Waits: 1}, store.Stats())
}

func TestMethodsCheckSessionAndMembership(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.addMember(models.Caller{CustomerID: "globex", ProjectID: "web", UserID: "gus"}, models.RoleOwner)
		f.addMember(models.Caller{CustomerID: acme, ProjectID: "ios", UserID: "ida"}, models.RoleOwner)
		key := f.register(f.shared(olga))
		hour := time.Hour.Microseconds()
		unknown := mia
		unknown.TokenID = "no such token"
		strangerWithToken := f.withToken("live-of-stranger", 0, 0)
		strangerWithToken.UserID = stranger.UserID
		cases := map[string]struct {
			caller models.Caller
			want   error
		}{
			"a member with a session token":      {mia, nil},
			"an API key that never expires":      {f.withToken("live", 0, 0), nil},
			"an API key that has not expired":    {f.withToken("unexpired", now()+hour, 0), nil},
			"a revoked API key":                  {f.withToken("revoked", 0, now()), models.ErrSessionEnded},
			"an API key revoked by a fast clock": {f.withToken("revoked-ahead", 0, now()+hour), models.ErrSessionEnded},
			"an expired API key":                 {f.withToken("expired", now()-1, 0), models.ErrSessionEnded},
			"an API key that is not there":       {unknown, models.ErrSessionEnded},
			"a stranger":                         {stranger, models.ErrNotMember},
			"a stranger with a live API key":     {strangerWithToken, models.ErrNotMember},
			"an owner of a project of that name of another customer": {
				models.Caller{CustomerID: acme, ProjectID: web, UserID: "gus"}, models.ErrNotMember},
			"another customer's project of that name": {
				models.Caller{CustomerID: "globex", ProjectID: web, UserID: "mia"}, models.ErrNotMember},
			"an owner of another project": {
				models.Caller{CustomerID: acme, ProjectID: web, UserID: "ida"}, models.ErrNotMember},
			"a project that is not there": {
				models.Caller{CustomerID: acme, ProjectID: "nowhere", UserID: "mia"}, models.ErrNotMember},
			"nobody": {models.Caller{}, models.ErrNotMember},
		}
		for method, call := range guarded(f, key.ID) {
			for name, tc := range cases {
				t.Run(method+"/"+name, func(t *testing.T) {
					before := f.size()
					err := call(t.Context(), tc.caller)
					if tc.want == nil {
						require.NoError(t, err)
						return
					}
					require.ErrorIs(t, err, tc.want)
					require.Equal(t, before, f.size())
				})
			}
		}
	})
}

func TestAnAPIKeyEndsAtItsExpiryToTheMicrosecond(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		c := f.withToken("brief", 1_000_000, 0)
		_, err := f.Role(t.Context(), c, 999_999)
		require.NoError(t, err)
		_, err = f.Role(t.Context(), c, 1_000_000)
		require.ErrorIs(t, err, models.ErrSessionEnded)
		token, err := f.FindToken(t.Context(), "brief")
		require.NoError(t, err)
		require.True(t, token.Live(999_999))
		require.False(t, token.Live(1_000_000), "Token.Live says the same as the statements")
	})
}

func TestMembersMayNotActAsOwners(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		requests := map[string]models.Registration{
			"plain":                   f.shared(mia),
			"with an Idempotency-Key": f.shared(mia, retryable("once", "same")),
		}
		before := f.size()
		for name, r := range requests {
			_, err := f.RegisterKey(t.Context(), mia, models.RoleOwner, r, now())
			require.ErrorIs(t, err, models.ErrForbidden, name)
			require.Equal(t, before, f.size(), name)
		}
		f.addMember(mia, models.RoleOwner)
		for name, r := range requests {
			got, err := f.RegisterKey(t.Context(), mia, models.RoleOwner, r, now())
			require.NoError(t, err, "as an owner she may, and the refusal left nothing in the way: %s", name)
			require.Equal(t, r.Key.ID, got.ID)
		}
	})
}

func TestRoleIsTheCallersOwnInThatProject(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.addMember(models.Caller{CustomerID: acme, ProjectID: "ios", UserID: "mia"}, models.RoleOwner)
		for _, tc := range []struct {
			caller models.Caller
			want   models.Role
		}{
			{olga, models.RoleOwner}, {mia, models.RoleMember},
			{models.Caller{CustomerID: acme, ProjectID: "ios", UserID: "mia"}, models.RoleOwner},
		} {
			role, err := f.Role(t.Context(), tc.caller, now())
			require.NoError(t, err)
			require.Equal(t, tc.want, role)
			f.transact(func(tx *models.Tx) error {
				role, err = tx.Role(tc.caller)
				return err
			})
			require.Equal(t, tc.want, role)
		}
	})
}

func TestAKeyIsThereOnlyForThoseWhoMaySeeIt(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ida := models.Caller{CustomerID: acme, ProjectID: "ios", UserID: "mia"}
		gus := models.Caller{CustomerID: "globex", ProjectID: web, UserID: "mia"}
		f.addMember(ida, models.RoleOwner)
		f.addMember(gus, models.RoleOwner)
		shared, own := f.register(f.shared(olga)), f.register(f.own(mia))
		for _, tc := range []struct {
			name   string
			caller models.Caller
			sees   []string
		}{
			{"its user sees the project's and their own", mia, []string{own.ID, shared.ID}},
			{"another member sees the project's", moe, []string{shared.ID}},
			{"an owner sees no other's own either", olga, []string{shared.ID}},
			{"another project sees none, not even the same user", ida, []string{}},
			{"another customer sees none, not even the same user", gus, []string{}},
		} {
			t.Run(tc.name, func(t *testing.T) {
				keys, err := f.ListKeys(t.Context(), tc.caller, models.KeyFilter{}, now())
				require.NoError(t, err)
				require.Equal(t, tc.sees, ids(keys))
				for _, k := range []models.Key{shared, own} {
					_, err := f.GetKey(t.Context(), tc.caller, k.ID, now())
					txErr := f.Transact(t.Context(), func(tx *models.Tx) error {
						_, err := tx.Key(tc.caller, k.ID)
						return err
					})
					if slices.Contains(tc.sees, k.ID) {
						require.NoError(t, err)
						require.NoError(t, txErr)
						continue
					}
					require.ErrorIs(t, err, models.ErrNotFound)
					require.ErrorIs(t, txErr, models.ErrNotFound)
				}
			})
		}
		_, absent := f.GetKey(t.Context(), moe, "byok_absent", now())
		_, others := f.GetKey(t.Context(), moe, own.ID, now())
		require.Equal(t, absent, others, "another's own key is told apart from an absent one by nothing")
	})
}

func TestARoleReadInATransactionStaysUntilItsEnd(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		read, removed := make(chan struct{}), make(chan error, 1)
		go func() {
			<-read
			removed <- f.removeMember("mia")
		}()
		f.transact(func(tx *models.Tx) error {
			if _, err := tx.Role(mia); err != nil {
				return err
			}
			close(read)
			select {
			case err := <-removed:
				t.Errorf("mia was removed under a transaction that had read her role: %v", err)
			case <-time.After(100 * time.Millisecond):
			}
			_, err := tx.Role(mia)
			return err
		})
		require.NoError(t, <-removed)
		_, err := f.Role(t.Context(), mia, now())
		require.ErrorIs(t, err, models.ErrNotMember)
	})
}

func TestOneHotCallIsOneRoundTripToPostgres(t *testing.T) {
	proxy := newWireProxy(t, modelstest.EnginePostgres.MigratedURL(t))
	f := newFixture(t, proxy.url, models.Options{MaxConns: 1})
	c := f.withToken("live", 0, 0)
	key, d := f.register(f.own(mia)), f.dataPlane("all", nil)
	calls := guarded(f, key.ID)
	fetch := func(provider string) func(context.Context, models.Caller) error {
		return func(ctx context.Context, c models.Caller) error {
			return failure(f.Fetch(ctx, d.ID, c, provider, now()))
		}
	}
	calls["Fetch"], calls["Fetch of arranged keys"] = fetch("openai"), fetch("anthropic")
	calls["FetchByID"] = func(ctx context.Context, _ models.Caller) error {
		_, _, err := f.FetchByID(ctx, d.ID, key.ID, now())
		return err
	}
	_, err := f.update(f.register(f.shared(olga, provider("anthropic"))).ID, ordered(1, 0))
	require.NoError(t, err)
	for method, want := range map[string]int{
		"Role": 1, "GetKey": 1, "ListKeys": 1, "RegisterKey": 1, "RegisterKey with an Idempotency-Key": 1,
		"Fetch": 1, "FetchByID": 1, "Fetch of arranged keys": 2,
	} {
		require.NoError(t, calls[method](t.Context(), c), "the first call prepares the statement")
		before := proxy.roundTrips.Load()
		require.NoError(t, calls[method](t.Context(), c))
		require.EqualValues(t, want, proxy.roundTrips.Load()-before, method)
	}
}

func TestAnErrorUndoesTheWholeTransaction(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		key := f.register(f.shared(olga))
		before := f.size()
		err := f.Transact(t.Context(), func(tx *models.Tx) error {
			policy := models.DefaultPolicy(acme, web)
			_, revokeErr := tx.RevokeKey(&key, "olga", f.event(models.EventKeyRevoked))
			return errors.Join(revokeErr,
				tx.SetPolicy(&policy, "olga", f.event(models.EventPolicySet)),
				tx.EnsureProject(acme, "ios"),
				tx.AppendEvent(models.Event{CustomerID: acme, ProjectID: web, ID: "evt_1"}),
				errRefused)
		})
		require.ErrorIs(t, err, errRefused)
		require.Equal(t, before, f.size())
		require.Equal(t, 1, f.count("projects"))
		require.Equal(t, 0, f.count("project_policies"))
		stands, err := f.GetKey(t.Context(), olga, key.ID, now())
		require.NoError(t, err)
		require.Zero(t, stands.RevokedAt)
	})
}

func TestATransactionReadsItsOwnWritesAndHasOneTime(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		key := f.register(f.shared(olga))
		var read models.Key
		var then int64
		f.transact(func(tx *models.Tx) error {
			then = tx.Now
			if _, err := tx.RevokeKey(&key, "olga", f.event(models.EventKeyRevoked)); err != nil {
				return err
			}
			var err error
			read, err = tx.Key(olga, key.ID)
			return err
		})
		require.Equal(t, then, read.RevokedAt)
		require.Equal(t, then, key.RevokedAt)
		require.InDelta(t, now(), then, 60e6)
	})
}

func TestAPanicWritesNothingAndLeavesTheStoreUsable(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		explode := func() (err error) {
			defer func() {
				if p := recover(); p != nil {
					err = fmt.Errorf("panicked: %v", p)
				}
			}()
			return f.Transact(t.Context(), func(tx *models.Tx) error {
				if err := tx.EnsureProject(acme, "ios"); err != nil {
					return err
				}
				panic("boom")
			})
		}
		require.ErrorContains(t, explode(), "panicked")
		require.Equal(t, 1, f.count("projects"))
		f.register(f.shared(olga))
	})
}

func TestAPanicBecomesAnErrorOnSQLiteAndCarriesNoValue(t *testing.T) {
	f := newFixture(t, modelstest.EngineSQLite.MigratedURL(t), models.Options{})
	err := f.Transact(t.Context(), func(*models.Tx) error { panic("sk-ant-secret") })
	require.ErrorContains(t, err, "panicked")
	require.NotContains(t, err.Error(), "secret")
}

func TestAContextThatIsCancelledBeforeTheStartWritesNothing(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		var ran atomic.Bool
		err := f.Transact(ctx, func(tx *models.Tx) error {
			ran.Store(true)
			return tx.EnsureProject(acme, "ios")
		})
		require.ErrorIs(t, err, context.Canceled)
		require.False(t, ran.Load())
		require.Equal(t, 1, f.count("projects"))
	})
}

func TestEveryMethodReturnsTheErrorOfACancelledContext(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for name, call := range methods(f) {
			require.ErrorIs(t, call(ctx), context.Canceled, name)
		}
	})
}

func TestWhatFailsInParallelUndoesNothingOfItsNeighbours(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		const n = 200
		event := func(i int) string { return fmt.Sprintf("evt_%03d", i) }
		errs := together(n, func(i int) error {
			return f.Transact(t.Context(), func(tx *models.Tx) error {
				if err := tx.AppendEvent(models.Event{CustomerID: acme, ProjectID: web, ID: event(i)}); err != nil {
					return err
				}
				switch i % 9 {
				case 0:
					return errRefused
				case 3: // a statement fails, and not only the function
					return tx.AppendEvent(models.Event{CustomerID: acme, ProjectID: web, ID: event(i)})
				case 6:
					_, err := tx.SetMember(acme, "nowhere", "zoe", models.RoleOwner)
					return err
				}
				return nil
			})
		})
		var want, got []string
		for i, err := range errs {
			switch i % 9 {
			case 0:
				require.ErrorIs(t, err, errRefused)
			case 3:
				require.ErrorIs(t, err, models.ErrAlreadyExists)
			case 6:
				require.Error(t, err)
			default:
				require.NoError(t, err)
				want = append(want, event(i))
			}
		}
		events, err := f.ListEvents(t.Context(), olga, models.EventFilter{}, "", n)
		require.NoError(t, err)
		for _, e := range events {
			got = append(got, e.ID)
		}
		require.ElementsMatch(t, want, got)
	})
}

func TestPanicUndoesNoOtherWrite(t *testing.T) {
	f := newFixture(t, modelstest.EngineSQLite.MigratedURL(t), models.Options{})
	for i, err := range together(64, func(i int) error {
		return f.Transact(t.Context(), func(tx *models.Tx) error {
			if err := tx.EnsureProject(acme, fmt.Sprintf("p%02d", i)); err != nil {
				return err
			}
			if i%4 == 0 {
				panic("boom")
			}
			return nil
		})
	}) {
		require.Equal(t, i%4 == 0, err != nil, "write %d: %v", i, err)
	}
	require.Equal(t, 1+48, f.count("projects"))
}

// If a write waits behind a long write, it gives up in time. It is then never carried out.
func TestAWriteThatGivesUpWaitingIsNeverCarriedOut(t *testing.T) {
	t.Parallel()
	f := newFixture(t, modelstest.EngineSQLite.MigratedURL(t), models.Options{})
	holding, release, held := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		held <- f.Transact(context.WithoutCancel(t.Context()), func(*models.Tx) error {
			close(holding)
			<-release
			return nil
		})
	}()
	<-holding
	var released atomic.Bool
	time.AfterFunc(time.Second, func() {
		released.Store(true)
		close(release)
	})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := f.Transact(ctx, func(tx *models.Tx) error { return tx.EnsureProject(acme, "ios") })
	require.ErrorIs(t, err, models.ErrUnavailable)
	require.False(t, released.Load(), "it did not give up before its turn came")
	require.NoError(t, <-held)
	f.register(f.shared(olga))
	require.Equal(t, 1, f.count("projects"))
}

func TestNoErrorHoldsTheDatabasesPassword(t *testing.T) {
	t.Parallel()
	for _, url := range []string{
		"postgres://user:CANARY@127.0.0.1:1/db",
		"postgres://user:CANARY@127.0.0.1:1,127.0.0.1:2/db?sslmode=disable",
		"postgresql://user@127.0.0.1:1/db?password=CANARY",
		"postgres://user:CANARY@no-such-host.invalid/db",
		"postgres://user:CANARY@127.0.0.1:port/db",
		"postgres://user:CANARY@[::1/db",
		"postgres://user:CANARY@127.0.0.1:1/db?sslmode=maybe",
		"postgres://user:CANARY@127.0.0.1:1/db?pool_max_conns=CANARY",
		"postgres://user:12/CANARY@127.0.0.1:1/db",
		"postgres://user:CANARY/34@127.0.0.1:1/db",
		"postgres://user:12?CANARY@127.0.0.1:1/db",
		"postgres://user:CANARY%zz@127.0.0.1:1/db",
		"postgres:user:CANARY@127.0.0.1:1/db",
		"mysql://user:CANARY@127.0.0.1:1/db",
		"user=user password=CANARY host=127.0.0.1",
		"CANARY",
	} {
		t.Run(url, func(t *testing.T) {
			store, err := database.Open(url, models.Options{Timeout: time.Second})
			if err == nil {
				defer func() { require.NoError(t, store.Close()) }()
				err = store.Ping(t.Context())
				require.ErrorIs(t, err, models.ErrUnavailable)
			}
			for _, verb := range []string{"%v", "%+v", "%#v", "%q"} {
				require.NotContains(t, fmt.Sprintf(verb, err), "CANARY")
			}
		})
	}
}

func TestAClosedStoreIsUnavailableToEveryMethod(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		for _, call := range methods(f) {
			_ = call(t.Context()) // so that statements are prepared and connections open
		}
		require.NoError(t, f.Close())
		for name, call := range methods(f) {
			require.ErrorIs(t, call(t.Context()), models.ErrUnavailable, name)
		}
		require.NoError(t, f.Close(), "closing again does nothing")
	})
}

func TestAStoreThatIsClosedAtOnceNeedsNoDatabase(t *testing.T) {
	for _, url := range []string{"sqlite:" + t.TempDir() + "/aikeys.db", "postgres://nobody@127.0.0.1:1/none"} {
		store, err := database.Open(url, models.Options{})
		require.NoError(t, err)
		require.NoError(t, store.Close())
	}
}

func TestClosingUnderLoadEndsEveryCallAndGoroutine(t *testing.T) {
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		url := e.MigratedURL(t)
		before := goleak.IgnoreCurrent()
		f := newFixture(t, url, models.Options{})
		acknowledged := f.loadUntil(f.Close)
		require.NoError(t, goleak.Find(before))
		open(t, f.url, models.Options{}).requireAcknowledged(acknowledged)
	})
}

// waitingForLocks counts the sessions that wait for a lock in this database.
const waitingForLocks = `SELECT count(DISTINCT l.pid) FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
WHERE NOT l.granted AND a.datname = current_database()`

func TestWaitingWritersLeaveHalfOfTheConnections(t *testing.T) {
	const conns, writers = 8, 64
	// atOnce bounds a call that waits for no lock, on a busy machine. The lock is held longer.
	const atOnce = 500 * time.Millisecond
	f := newFixture(t, modelstest.EnginePostgres.MigratedURL(t), models.Options{MaxConns: conns, Timeout: 20 * time.Second})
	requireAtOnce := func(name string, call func(ctx context.Context) error) {
		t.Helper()
		began := time.Now()
		require.NoError(t, call(t.Context()), name)
		require.Less(t, time.Since(began), atOnce, name)
	}
	ana := models.Caller{CustomerID: acme, ProjectID: "ops", UserID: "ana"}
	f.addMember(ana, models.RoleOwner)
	key := f.register(f.shared(ana))

	release := f.hold("SELECT 1 FROM projects WHERE customer_id = 'acme' AND project_id = 'web' FOR UPDATE")
	written := make(chan error, writers)
	for range writers {
		go func() {
			written <- f.Transact(t.Context(), func(tx *models.Tx) error {
				_, err := tx.Role(olga)
				return err
			})
		}()
	}
	past := f.past()
	waiting := func() int { return query[int](t, past, waitingForLocks)[0] }
	require.Eventually(t, func() bool { return waiting() >= conns/2 }, 5*time.Second, 5*time.Millisecond)
	for range 10 {
		requireAtOnce("GetKey", func(ctx context.Context) error { _, err := f.GetKey(ctx, ana, key.ID, now()); return err })
		requireAtOnce("Role", func(ctx context.Context) error { _, err := f.Role(ctx, ana, now()); return err })
		requireAtOnce("ListKeys", func(ctx context.Context) error { _, err := f.ListKeys(ctx, ana, models.KeyFilter{}, now()); return err })
		requireAtOnce("RegisterKey", func(ctx context.Context) error {
			_, err := f.RegisterKey(ctx, ana, models.RoleOwner, f.shared(ana), now())
			return err
		})
	}
	require.Equal(t, conns/2, waiting())
	t.Run("a writer who leaves the queue has not written", func(t *testing.T) {
		ctx, leave := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer leave()
		err := f.Transact(ctx, func(*models.Tx) error { panic("begun") })
		require.ErrorIs(t, err, models.ErrUnavailable)
	})
	require.Empty(t, written)
	release()
	for range writers {
		require.NoError(t, <-written)
	}
}

// While requests hold every connection of their pool, everything that the event feed does continues.
func TestFeedNeedsNoRequestConnection(t *testing.T) {
	t.Parallel()
	f := newFixture(t, modelstest.EnginePostgres.MigratedURL(t), models.Options{MaxConns: 2, Timeout: 2 * time.Second})
	busy := f.Store
	dp := f.dataPlane("dp", nil).ID
	for range 2 {
		conn, err := models.Conn(busy).Conn(t.Context())
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, conn.Close()) })
	}
	stream := models.Stream{ID: "s1", DataPlaneID: dp, ReplicaID: "r1", Position: "1:1:", Settled: 1}
	at := position.Position{Xmin: 1, Xmax: 1}
	for _, step := range []struct {
		name string
		do   func(ctx context.Context) error
	}{
		{"OpenStream", func(ctx context.Context) error { return busy.OpenStream(ctx, stream, "") }},
		{"ForwardAcknowledgement", func(ctx context.Context) error { return busy.ForwardAcknowledgement(ctx, "s1", dp, at, nil) }},
		{"TakeForwarded", func(ctx context.Context) error { _, err := busy.TakeForwarded(ctx, "r1"); return err }},
		{"RecordHeartbeat", func(ctx context.Context) error { return busy.RecordHeartbeat(ctx, "r1") }},
		{"Position", func(ctx context.Context) error { _, err := busy.Position(ctx); return err }},
		{"Changes", func(ctx context.Context) error { _, _, err := busy.Changes(ctx, at, 10); return err }},
		{"LiveDataPlanes", func(ctx context.Context) error { _, err := busy.LiveDataPlanes(ctx, []string{dp}, now()); return err }},
		{"StreamIDs", func(ctx context.Context) error { _, err := busy.StreamIDs(ctx, "r1"); return err }},
		{"Replicas", func(ctx context.Context) error { _, err := busy.Replicas(ctx); return err }},
		{"SaveReceipts", func(ctx context.Context) error {
			return busy.SaveReceipts(ctx, []models.Receipt{{StopID: "k", ReplicaID: "r1"}})
		}},
		{"RecordFetch", func(ctx context.Context) error { return busy.RecordFetch(ctx, record("r")) }},
		{"DropStreams", func(ctx context.Context) error { return busy.DropStreams(ctx, []string{"s1"}) }},
		{"DeleteDeadReplica", func(ctx context.Context) error {
			return busy.DeleteDeadReplica(ctx, models.Replica{ID: "r1", Heartbeats: 1}, 0)
		}},
	} {
		require.NoError(t, step.do(t.Context()), step.name)
	}
	require.ErrorIs(t, busy.Ping(t.Context()), models.ErrUnavailable, "the request pool is full")
}

// A lock on the feed's tables must not hold up reading changes, the replica's heartbeat, or fetch records.
func TestFeedBookkeepingHoldsUpNoLease(t *testing.T) {
	t.Parallel()
	f := newFixture(t, modelstest.EnginePostgres.MigratedURL(t), models.Options{Timeout: 20 * time.Second})
	release := f.hold("LOCK TABLE streams, receipts IN ACCESS EXCLUSIVE MODE")
	const stuck = 12
	ended := make(chan error, stuck)
	for range stuck {
		go func() { ended <- f.DropStreams(t.Context(), []string{"s1"}) }()
	}
	past := f.past()
	require.Eventually(t, func() bool { return query[int](t, past, waitingForLocks)[0] >= 2 }, 5*time.Second, 5*time.Millisecond)
	for range 3 {
		require.NoError(t, f.RecordHeartbeat(t.Context(), "r1"))
		_, _, err := f.Changes(t.Context(), position.Position{Xmin: 1, Xmax: 1}, 10)
		require.NoError(t, err)
		require.NoError(t, f.RecordFetch(t.Context(), record("r")))
	}
	require.Empty(t, ended)
	release()
	for range stuck {
		require.NoError(t, <-ended)
	}
}

// A store opens without its server and works once the server is up. Then the server goes down under load in several
// ways. Each time, calls end in time with ErrUnavailable. When the server is back, acknowledged writes are there, and
// the store recovers by itself.
func TestPostgresMayComeLateAndGoAwayAndComeBack(t *testing.T) {
	t.Parallel()
	cluster := modelstest.StartCluster(t)
	require.NoError(t, cluster.Stop(modelstest.Fast))
	early := open(t, cluster.URL("postgres"), outage)
	early.requireUnavailable()
	require.NoError(t, cluster.Start())
	f := newFixture(t, migrate(t, early.url), outage)
	early.requireRecovers()

	var acknowledged []string
	for name, down := range map[string]func() error{
		"killed":          cluster.Kill,
		"stopped fast":    func() error { return cluster.Stop(modelstest.Fast) },
		"stopped at once": func() error { return cluster.Stop(modelstest.Immediate) },
	} {
		t.Run(name, func(t *testing.T) {
			acknowledged = append(acknowledged, f.loadUntil(down)...)
			f.requireUnavailable()
			require.NoError(t, cluster.Start())
			f.requireRecovers()
			f.requireAcknowledged(acknowledged)
		})
	}
}

func TestANetworkThatDropsEverythingHangsNoCall(t *testing.T) {
	t.Parallel()
	proxy := newWireProxy(t, modelstest.EnginePostgres.MigratedURL(t))
	f := newFixture(t, proxy.url, outage)
	for _, err := range together(8, func(int) error { return f.Ping(t.Context()) }) { // connections in the pool
		require.NoError(t, err)
	}
	proxy.stranded.Store(math.MaxInt64)
	f.requireUnavailable()
	f.requireUnavailable()
	proxy.thaw()
	f.requireRecovers()
}

// A firewall that forgets connections lets new connections through. The store's timeout shows that the old ones are
// dead, and the store opens new ones.
func TestConnectionsThatTheNetworkForgotAreReplaced(t *testing.T) {
	t.Parallel()
	proxy := newWireProxy(t, modelstest.EnginePostgres.MigratedURL(t))
	f := newFixture(t, proxy.url, models.Options{Timeout: outageTimeout, MaxConns: 4})
	key := f.register(f.shared(olga))
	look := func(int) error {
		_, err := f.GetKey(t.Context(), olga, key.ID, now())
		return err
	}
	for _, err := range together(32, look) { // on every connection that the pool may have
		require.NoError(t, err)
	}
	require.Equal(t, 4, f.Stats().Idle)
	proxy.stranded.Store(proxy.accepted.Load() + 1) // new connections work
	for _, err := range together(8, look) {
		require.ErrorIs(t, err, models.ErrUnavailable)
	}
	// pgx closes a dead connection in the background, and frees its place in the pool after 15 s.
	require.Eventually(t, func() bool { return errors.Join(together(8, look)...) == nil }, 40*time.Second, time.Millisecond)
	f.requireRecovers()
	proxy.thaw() // Close would wait for the dead connections, which pgx closes within 15 s
}

func TestAPoolWithoutAFreeConnectionIsUnavailableInTime(t *testing.T) {
	t.Parallel()
	f := newFixture(t, modelstest.EnginePostgres.MigratedURL(t), models.Options{Timeout: outageTimeout, MaxConns: 2})
	for range 2 {
		tx, err := models.Conn(f.Store).BeginTx(t.Context(), nil)
		require.NoError(t, err)
		t.Cleanup(func() { _ = tx.Rollback() })
	}
	began, calls := time.Now(), methods(f)
	names := []string{"Ping", "Transact", "Role", "GetKey", "ListKeys", "RegisterKey", "Policy", "Canary", "FindToken", "ListTokens",
		"ListMembers", "ListEvents", "ServingKeys", "KeysByKEK", "SealedVersion", "Rewrap", "FindDataPlane", "Fetch", "FetchByID", "Receipts", "ReportKeys"}
	for i, err := range together(len(names), func(i int) error { return calls[names[i]](t.Context()) }) {
		require.ErrorIs(t, err, models.ErrUnavailable, names[i])
	}
	require.Less(t, time.Since(began), outageTimeout+slack)
}

func TestATransactionThatWaitsForALockIsUnavailableInTime(t *testing.T) {
	t.Parallel()
	f := newFixture(t, modelstest.EnginePostgres.MigratedURL(t), models.Options{})
	lock, err := models.Conn(f.Store).BeginTx(t.Context(), nil)
	require.NoError(t, err)
	defer func() { _ = lock.Rollback() }()
	_, err = lock.ExecContext(t.Context(), "LOCK TABLE ai_keys, project_members")
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), outageTimeout)
	defer cancel()
	calls := guarded(f, "byok_absent")
	for _, method := range []string{"Role", "GetKey", "RegisterKey", "Tx.Role"} {
		began := time.Now()
		require.ErrorIs(t, calls[method](ctx, mia), models.ErrUnavailable, method)
		require.Less(t, time.Since(began), outageTimeout+slack, method)
	}
}

func TestTransactTimeoutUndoes(t *testing.T) {
	t.Parallel()
	f := newFixture(t, modelstest.EnginePostgres.MigratedURL(t), models.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	err := f.Transact(ctx, func(tx *models.Tx) error {
		err := tx.EnsureProject(acme, "ios")
		time.Sleep(300 * time.Millisecond)
		return err
	})
	require.ErrorIs(t, err, models.ErrUnavailable)
	require.Equal(t, 1, f.count("projects"))
}

func TestADatabaseThatIsNotReadyIsUnavailable(t *testing.T) {
	t.Parallel()
	database := modelstest.Postgres(t)
	at, err := url.Parse(database)
	require.NoError(t, err)
	name := strings.TrimPrefix(at.Path, "/")
	as := func(user, password, name string) *fixture {
		u := *at
		u.User, u.Path = url.UserPassword(user, password), "/"+name
		return open(t, u.String(), outage)
	}
	empty := open(t, database, outage)
	execute := func(statement string) { require.NoError(t, models.Exec(t.Context(), empty.Store, statement)) }
	execute("CREATE ROLE " + name + " LOGIN PASSWORD 'right'")
	t.Cleanup(func() {
		require.NoError(t, models.Exec(context.Background(), empty.Store, "DROP ROLE "+name))
	})

	t.Run("not migrated", func(t *testing.T) {
		empty.requireUnavailable("Ping", "Migrate", "Migrations")
	})
	t.Run("no such database", func(t *testing.T) { as(name, "right", "missing").requireUnavailable() })
	t.Run("the password was changed", func(t *testing.T) {
		changed := as(name, "CANARY", name)
		changed.requireUnavailable()
		require.NotContains(t, fmt.Sprintf("%+v", changed.Ping(t.Context())), "CANARY")
	})
	f := newFixture(t, migrate(t, database), outage)
	t.Run("a standby", func(t *testing.T) {
		execute("ALTER DATABASE " + name + " SET default_transaction_read_only = on")
		standby := open(t, database, outage)
		_, err := standby.RegisterKey(t.Context(), olga, models.RoleOwner, f.shared(olga), now())
		require.ErrorIs(t, err, models.ErrReadOnly)
		require.ErrorIs(t, standby.setMember("zoe", models.RoleMember), models.ErrReadOnly)
	})
	t.Run("no connection is left", func(t *testing.T) {
		execute("ALTER DATABASE " + name + " WITH CONNECTION LIMIT 0")
		as(name, "right", name).requireUnavailable()
	})
}

func TestSQLiteFileThatCannotBeOpened(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	f := open(t, "sqlite:"+filepath.Join(dir, "aikeys.db"), models.Options{})
	idle, err := models.Conn(f.Store).Conn(t.Context()) // the open connection; reads on it would still succeed
	require.NoError(t, err)
	defer func() { require.NoError(t, idle.Close()) }()
	require.NoError(t, os.RemoveAll(dir))
	all := methods(f)
	for _, method := range []string{"Ping", "Role", "GetKey", "ListKeys", "ServingKeys", "Policy", "ListEvents", "FindToken"} {
		require.ErrorIs(t, all[method](t.Context()), models.ErrUnavailable, method)
	}
}

func TestASQLitePathThatCannotBeAFileIsRefusedAtOpen(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	text := filepath.Join(dir, "text")
	require.NoError(t, os.WriteFile(text, []byte(strings.Repeat("no database ", 100)), 0o600))
	for name, path := range map[string]string{
		"a folder":             dir,
		"no database":          text,
		"below a file":         filepath.Join(file, "aikeys.db"),
		"nothing":              "",
		"a database in memory": ":memory:",
	} {
		t.Run(name, func(t *testing.T) {
			store, err := database.Open("sqlite:"+path, models.Options{})
			require.Error(t, err)
			require.Nil(t, store)
		})
	}
	require.NoFileExists(t, ":memory:")
}

func TestTheSQLiteFileIsAtItsPathWhateverCharactersThatHas(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new folder", "a?b=c&d%41#e.db")
	newFixture(t, migrate(t, "sqlite:"+path), models.Options{})
	entries, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	for _, entry := range entries {
		require.True(t, strings.HasPrefix(entry.Name(), filepath.Base(path)), entry.Name())
		info, err := entry.Info()
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm(), "only its owner reads %s", entry.Name())
	}
	require.FileExists(t, path)
}

// When the disk is full, SQLite rolls back the whole transaction, and with it the group's savepoints.
func TestAFullDiskFailsTheWholeGroupAndLeavesNothingOfIt(t *testing.T) {
	f := newFixture(t, modelstest.EngineSQLite.MigratedURL(t), models.Options{})
	limit := func(pages string) {
		require.NoError(t, models.Exec(t.Context(), f.Store, "PRAGMA max_page_count = "+pages))
	}
	limit("1") // SQLite takes the present size instead
	requests := make([]models.Registration, 200)
	for i := range requests {
		requests[i] = f.shared(olga, func(r *models.Registration) { r.Key.Envelope = make([]byte, 1000) })
	}
	errs := together(len(requests), func(i int) error {
		return failure(f.RegisterKey(t.Context(), olga, models.RoleOwner, requests[i], now()))
	})
	stored := map[string]bool{}
	for _, k := range f.list(olga, models.KeyFilter{}) {
		stored[k.ID] = true
	}
	failures := 0
	for i, err := range errs {
		if err != nil {
			require.ErrorIs(t, err, models.ErrUnavailable)
			failures++
		}
		require.Equal(t, err == nil, stored[requests[i].Key.ID], "an error means not stored: %v", err)
	}
	require.Positive(t, failures)
	require.Equal(t, f.size().keys, f.size().events)
	limit("1000000")
	f.requireRecovers()
}

func TestSQLiteFileLockedByAnotherProcess(t *testing.T) {
	t.Parallel()
	f := newFixture(t, modelstest.EngineSQLite.MigratedURL(t), outage)
	other, err := sql.Open("sqlite", "file:"+strings.TrimPrefix(f.url, "sqlite:")+"?_txlock=immediate")
	require.NoError(t, err)
	defer func() { require.NoError(t, other.Close()) }()
	lock, err := other.BeginTx(t.Context(), nil)
	require.NoError(t, err)

	began := time.Now()
	for _, err := range together(100, func(int) error {
		_, err := f.RegisterKey(context.WithoutCancel(t.Context()), olga, models.RoleOwner, f.shared(olga), now())
		return err
	}) {
		require.ErrorIs(t, err, models.ErrUnavailable)
	}
	require.Less(t, time.Since(began), outageTimeout+slack)
	_, err = f.Role(t.Context(), olga, now())
	require.NoError(t, err)
	require.NoError(t, lock.Rollback())
	f.requireRecovers()
	require.Equal(t, 1, f.size().keys, "what was refused was not carried out later")
}

func TestAcknowledgedWritesSurviveTheKillOfTheProcess(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		child, scanner := startChild(t, f.url)
		var lines []string
		kill := time.AfterFunc(time.Minute, func() { _ = child.Process.Kill() }) // in case the child hangs
		defer kill.Stop()
		require.True(t, scanner.Scan())
		require.Equal(t, "migrated", scanner.Text())
		for scanner.Scan() {
			if lines = append(lines, scanner.Text()); len(lines) == 100 {
				require.NoError(t, child.Process.Kill()) // lines that the child has printed before are still read
			}
		}
		require.Error(t, child.Wait(), "it was killed")
		require.GreaterOrEqual(t, len(lines), 100)
		f.requireAcknowledged(lines)
		f.register(f.shared(olga))
	})
}

// The test runs each statement of a hot path until PostgreSQL settles on a plan. No statement may scan a big table
// sequentially.
func TestHotStatementsUseAnIndex(t *testing.T) {
	f := newFixture(t, modelstest.EnginePostgres.MigratedURL(t), models.Options{Timeout: time.Minute})
	const all = "FROM generate_series(1, 20000) i"
	for _, statement := range []string{
		"INSERT INTO projects SELECT 'acme', 'p' || i, 0 " + all,
		"INSERT INTO project_members SELECT 'acme', 'p' || i, 'olga', 'owner', 0, 0 " + all,
		"INSERT INTO api_tokens (id, hash, customer_id, project_id, user_id, created_at) SELECT 'token' || i, 'hash', 'acme', 'p' || i, 'olga', 0 " + all,
		`INSERT INTO ai_keys (id, customer_id, project_id, user_id, provider, name, display_suffix, version, envelope, kek_id, created_at, created_by)
SELECT 'byok_' || i, 'acme', 'p' || i % 200, '', 'openai', 'key' || i, 'abcd', 1, 'sealed', 'kek-1', 0, 'olga' ` + all,
		`INSERT INTO events (customer_id, project_id, scope_user_id, id, type, outcome, at, actor_user_id, actor_method, actor_token_id, key_id, token_id,
provider, member_id, role, source_ip, request_id, tx) SELECT 'acme', 'p' || i % 200, '', 'evt_' || i, 'policy.set', 'allowed', 0, '', '', '', '', '', '', '', '', '', '', 1 ` + all,
		"ANALYZE",
	} {
		require.NoError(t, models.Exec(t.Context(), f.Store, statement))
	}
	caller := models.Caller{CustomerID: acme, ProjectID: "p7", UserID: "olga", TokenID: "token7"}
	dataPlane, at := f.dataPlane("all", nil), f.position()
	scans := `SELECT relname || ': ' || seq_scan FROM pg_stat_user_tables WHERE schemaname = current_schema()
AND relname IN ('projects', 'project_members', 'api_tokens', 'ai_keys', 'events') ORDER BY 1`
	for name, call := range map[string]func(*models.Store) error{
		"get": func(s *models.Store) error { return failure(s.GetKey(t.Context(), caller, "byok_7", now())) },
		"list": func(s *models.Store) error {
			return failure(s.ListKeys(t.Context(), caller, models.KeyFilter{Limit: 51}, now()))
		},
		"list a later page": func(s *models.Store) error {
			return failure(s.ListKeys(t.Context(), caller, models.KeyFilter{Limit: 51, Before: "byok_5", Provider: "openai", State: models.KeyActive}, now()))
		},
		"register": func(s *models.Store) error {
			return failure(s.RegisterKey(t.Context(), caller, models.RoleOwner, f.shared(caller), now()))
		},
		"register with an Idempotency-Key": func(s *models.Store) error {
			return failure(s.RegisterKey(t.Context(), caller, models.RoleOwner, f.shared(caller, retryable(f.ids.Next("", time.Now()), "same")), now()))
		},
		"fetch": func(s *models.Store) error {
			return failure(s.Fetch(t.Context(), dataPlane.ID, caller, "openai", now()))
		},
		"fetch by id": func(s *models.Store) error {
			_, _, err := s.FetchByID(t.Context(), dataPlane.ID, "byok_7", now())
			return err
		},
		"feed":    func(s *models.Store) error { _, _, err := s.Changes(t.Context(), at, 1000); return err },
		"session": func(s *models.Store) error { return failure(s.FindToken(t.Context(), "token7")) },
		"role":    func(s *models.Store) error { return failure(s.Role(t.Context(), caller, now())) },
	} {
		before := query[string](t, models.Conn(f.Store), scans)
		hot, err := database.Open(f.url+"&application_name=hot", models.Options{MaxConns: 1})
		require.NoError(t, err)
		for range 10 {
			require.NoError(t, call(hot), name)
		}
		require.NoError(t, hot.Close())
		require.Eventually(t, func() bool { // a session counts its scans when it ends
			return len(query[int](t, models.Conn(f.Store), "SELECT pid FROM pg_stat_activity WHERE application_name = 'hot'")) == 0
		}, 10*time.Second, 5*time.Millisecond)
		require.Equal(t, before, query[string](t, models.Conn(f.Store), scans), name)
	}
}

// The cases are errors that tests can't cause, or can't cause on every machine.
func TestDriverErrorsBecomeSentinels(t *testing.T) {
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		store := modelstest.OpenStore(t, e.URL(t), models.Options{})
		cases := map[error]error{
			gorm.ErrRecordNotFound:   models.ErrNotFound,
			gorm.ErrDuplicatedKey:    models.ErrAlreadyExists,
			context.DeadlineExceeded: models.ErrUnavailable,
			sql.ErrConnDone:          models.ErrUnavailable,
			sql.ErrTxDone:            models.ErrUnavailable,
			driver.ErrBadConn:        models.ErrUnavailable,
		}
		if e == modelstest.EnginePostgres {
			for code, want := range map[string]error{
				"23505": models.ErrAlreadyExists, // unique_violation
				"08006": models.ErrUnavailable,   // connection_failure
				"08P01": models.ErrUnavailable,   // protocol_violation, as poolers answer when they have no server
				"25006": models.ErrUnavailable,   // read_only_sql_transaction
				"25P03": models.ErrUnavailable,   // idle_in_transaction_session_timeout
				"3D000": models.ErrUnavailable,   // invalid_catalog_name
				"40001": models.ErrUnavailable,   // serialization_failure
				"40P01": models.ErrUnavailable,   // deadlock_detected
				"42P01": models.ErrUnavailable,   // undefined_table
				"53100": models.ErrUnavailable,   // disk_full
				"53300": models.ErrUnavailable,   // too_many_connections
				"55P03": models.ErrUnavailable,   // lock_not_available
				"57014": models.ErrUnavailable,   // query_canceled
				"57P01": models.ErrUnavailable,   // admin_shutdown
			} {
				cases[&pgconn.PgError{Code: code}] = want
			}
			cases[&net.OpError{Op: "read", Err: syscall.ECONNRESET}] = models.ErrUnavailable
			cases[io.ErrUnexpectedEOF] = models.ErrUnavailable
		}
		for cause, want := range cases {
			got := models.Classify(store, fmt.Errorf("wrapped: %w", cause))
			require.ErrorIs(t, got, want, "%v", cause)
			require.ErrorIs(t, got, cause)
		}
		// A bug has no sentinel.
		require.NoError(t, models.Classify(store, nil))
		for _, cause := range []error{
			errors.New("bug"),
			&pgconn.PgError{Code: "42601"}, // syntax_error
			&pgconn.PgError{Code: "5"},
			&pgconn.PgError{},
		} {
			require.Equal(t, cause, models.Classify(store, cause))
		}
	})
}

func TestIDsAreAPrefixAndAULIDOfTheTime(t *testing.T) {
	var g models.IDs
	at := time.UnixMilli(1_760_000_000_123)
	id := g.Next(models.KeyIDPrefix, at)
	parsed, err := ulid.ParseStrict(strings.TrimPrefix(id, "byok_"))
	require.NoError(t, err)
	require.Equal(t, at, parsed.Timestamp())
	require.True(t, strings.HasPrefix(g.Next(models.EventIDPrefix, at), "evt_"))
}

func TestIDsRiseWithinAProcessAlsoWhenTheClockStepsBack(t *testing.T) {
	var g models.IDs
	start := time.UnixMilli(1_760_000_000_000)
	last := ""
	for _, step := range []time.Duration{0, 0, time.Millisecond, 0, -time.Hour, -time.Hour, time.Microsecond, 2 * time.Millisecond} {
		for range 100 {
			id := g.Next("", start.Add(step))
			require.Greater(t, id, last)
			last = id
		}
	}
}

func TestIDsAreUniqueAndRiseForEachOfManyGoroutines(t *testing.T) {
	var g models.IDs
	const each = 2000
	var all []string
	for _, mine := range together(8, func(int) []string {
		out := make([]string, each)
		for i := range out {
			out[i] = g.Next("", time.Now())
		}
		return out
	}) {
		require.True(t, slices.IsSorted(mine))
		all = append(all, mine...)
	}
	slices.Sort(all)
	require.Len(t, slices.Compact(all), 8*each)
}

func TestNoTimeMakesAnIDPanic(t *testing.T) {
	var g models.IDs
	for _, at := range []time.Time{{}, time.Unix(-1, 0), time.UnixMilli(1 << 48), time.Unix(1<<60, 0), time.Now()} {
		require.NotPanics(t, func() {
			require.Len(t, g.Next("", at), ulid.EncodedSize)
			first := g.Next("", at)
			require.Greater(t, g.Next("", at.Add(-time.Hour)), first)
		})
	}
}

func TestAllWhoKeepACanaryAgreeOnTheFirst(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		_, err := f.Canary(t.Context())
		require.ErrorIs(t, err, models.ErrNotFound)
		type kept struct {
			canary models.Canary
			err    error
		}
		answers := together(16, func(i int) (k kept) {
			k.err = f.Transact(t.Context(), func(tx *models.Tx) (err error) {
				k.canary, err = tx.KeepCanary(models.Canary{Envelope: []byte{0, byte(i)}, KEKID: string(rune('a' + i))})
				return err
			})
			return k
		})
		stands, err := f.Canary(t.Context())
		require.NoError(t, err)
		require.NotZero(t, stands.CreatedAt)
		for _, a := range answers {
			require.NoError(t, a.err)
			require.Equal(t, stands, a.canary)
		}
		require.Equal(t, string(rune('a'+stands.Envelope[1])), stands.KEKID, "its fields are of one canary")
	})
}

func TestTheCanaryIsRewrappedOnceOnly(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		next := models.Canary{Envelope: []byte("re-wrapped"), KEKID: "kek-2"}
		stored, err := f.RewrapCanary(t.Context(), []byte("sealed"), next)
		require.NoError(t, err)
		require.False(t, stored, "there is none")
		f.transact(func(tx *models.Tx) error {
			_, err := tx.KeepCanary(models.Canary{Envelope: []byte("sealed"), KEKID: "kek-1"})
			return err
		})
		for i, want := range []bool{true, false} {
			stored, err := f.RewrapCanary(t.Context(), []byte("sealed"), next)
			require.NoError(t, err)
			require.Equal(t, want, stored, "time %d", i+1)
		}
		got, err := f.Canary(t.Context())
		require.NoError(t, err)
		require.Equal(t, []any{next.Envelope, next.KEKID}, []any{got.Envelope, got.KEKID})
		require.NotZero(t, got.CreatedAt)
	})
}

func TestKEKsAreKeptOnce(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		found, err := f.HasKEK(t.Context(), "kek-1")
		require.NoError(t, err)
		require.False(t, found)
		for _, err := range together(16, func(int) error { return f.AddKEKs(t.Context(), []string{"kek-1", "kek-2"}) }) {
			require.NoError(t, err)
		}
		require.NoError(t, f.AddKEKs(t.Context(), []string{"kek-2", "kek-3"}))
		require.Equal(t, 3, f.count("keks"))
		for id, want := range map[string]bool{"kek-1": true, "kek-2": true, "kek-3": true, "kek": false, "": false} {
			found, err = f.HasKEK(t.Context(), id)
			require.NoError(t, err)
			require.Equal(t, want, found, id)
		}
	})
}
