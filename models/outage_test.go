package models_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
)

const (
	// outageTimeout is the store's timeout in tests of outages, and slack what a busy machine may add to it.
	outageTimeout = time.Second
	slack         = 2 * time.Second
)

// requireUnavailable checks that every method says ErrUnavailable, and in time.
func requireUnavailable(t *testing.T, f *fixture, except ...string) {
	t.Helper()
	type result struct {
		name string
		err  error
		took time.Duration
	}
	all := methods(f)
	for _, name := range except {
		delete(all, name)
	}
	results := make(chan result, len(all))
	for name, call := range all {
		go func() {
			began := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), outageTimeout) // Migrate has no timeout of its own
			defer cancel()
			results <- result{name, call(ctx), time.Since(began)}
		}()
	}
	for range all {
		r := <-results
		require.ErrorIs(t, r.err, models.ErrUnavailable, r.name)
		require.Less(t, r.took, outageTimeout+slack, r.name)
	}
}

func requireRecovers(t *testing.T, f *fixture) {
	t.Helper()
	require.Eventually(t, func() bool { return f.Ping(t.Context()) == nil }, 10*time.Second, 20*time.Millisecond)
	r := f.shared(olga)
	require.Equal(t, r.Key.ID, f.register(r).ID)
}

func openForOutage(t *testing.T, url string) *models.Store {
	t.Helper()
	return modelstest.OpenStore(t, url, models.Options{Timeout: outageTimeout, MaxConns: 8})
}

// A store opens without its server and works once that is there. Whichever way the server then goes down under load, calls
// end in time with ErrUnavailable, what was acknowledged is there when it is back, and the store recovers by itself.
func TestPostgresMayComeLateAndGoAwayAndComeBack(t *testing.T) {
	t.Parallel()
	cluster := modelstest.StartCluster(t)
	require.NoError(t, cluster.Stop(modelstest.Fast))
	store := openForOutage(t, cluster.URL("postgres"))
	requireUnavailable(t, &fixture{Store: store, t: t})
	require.NoError(t, cluster.Start())
	_, err := store.Migrate(t.Context())
	require.NoError(t, err)
	f := newFixture(t, store)

	var acknowledged []string
	for name, down := range map[string]func() error{
		"killed":          cluster.Kill,
		"stopped fast":    func() error { return cluster.Stop(modelstest.Fast) },
		"stopped at once": func() error { return cluster.Stop(modelstest.Immediate) },
	} {
		t.Run(name, func(t *testing.T) {
			ids, errs := loadUntilUnavailable(f, 16, func() {
				time.Sleep(200 * time.Millisecond)
				require.NoError(t, down())
			})
			require.NotEmpty(t, ids)
			acknowledged = append(acknowledged, ids...)
			for _, err := range errs {
				require.ErrorIs(t, err, models.ErrUnavailable)
			}
			requireUnavailable(t, f)
			require.NoError(t, cluster.Start())
			requireRecovers(t, f)
			requireAcknowledged(t, f, acknowledged)
		})
	}
}

func TestANetworkThatDropsEverythingHangsNoCall(t *testing.T) {
	t.Parallel()
	proxy := newWireProxy(t, modelstest.EnginePostgres.URL(t))
	store := openForOutage(t, proxy.url)
	_, err := store.Migrate(t.Context())
	require.NoError(t, err)
	f := newFixture(t, store)
	for _, err := range together(8, func(int) error { return f.Ping(t.Context()) }) { // connections in the pool
		require.NoError(t, err)
	}
	proxy.freeze()
	requireUnavailable(t, f)
	requireUnavailable(t, f)
	proxy.thaw()
	requireRecovers(t, f)
}

// A firewall that forgets connections lets new ones through; the store finds out by its timeout and opens some.
func TestConnectionsThatTheNetworkForgotAreReplaced(t *testing.T) {
	t.Parallel()
	proxy := newWireProxy(t, modelstest.EnginePostgres.URL(t))
	store := modelstest.OpenStore(t, proxy.url, models.Options{Timeout: outageTimeout, MaxConns: 4})
	_, err := store.Migrate(t.Context())
	require.NoError(t, err)
	f := newFixture(t, store)
	key := f.register(f.shared(olga))
	look := func(int) error {
		_, err := f.GetKey(t.Context(), olga, key.ID, now())
		return err
	}
	for _, err := range together(32, look) { // by all of the pool's connections
		require.NoError(t, err)
	}
	proxy.strand()
	require.ErrorIs(t, look(0), models.ErrUnavailable)
	// pgx gives a dead connection's place in the pool back after 15 s.
	require.Eventually(t, func() bool { return errors.Join(together(8, look)...) == nil }, 40*time.Second, time.Millisecond)
	requireRecovers(t, f)
	proxy.thaw() // pgx takes leave of a dead connection for 15 s, and Close would wait for that
}

func TestAPoolWithoutAFreeConnectionIsUnavailableInTime(t *testing.T) {
	t.Parallel()
	store := modelstest.OpenStore(t, modelstest.EnginePostgres.URL(t), models.Options{Timeout: outageTimeout, MaxConns: 2})
	_, err := store.Migrate(t.Context())
	require.NoError(t, err)
	f := newFixture(t, store)
	for range 2 {
		tx, err := models.Conn(store).BeginTx(t.Context(), nil)
		require.NoError(t, err)
		t.Cleanup(func() { _ = tx.Rollback() })
	}
	requireUnavailable(t, f, "Migrate", "Migrations") // which have connections of their own
}

func TestATransactionThatWaitsForALockIsUnavailableInTime(t *testing.T) {
	t.Parallel()
	f := newFixture(t, modelstest.NewStore(t, modelstest.EnginePostgres))
	lock, err := models.Conn(f.Store).BeginTx(t.Context(), nil)
	require.NoError(t, err)
	defer func() { _ = lock.Rollback() }()
	_, err = lock.ExecContext(t.Context(), "LOCK TABLE ai_keys, project_members")
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), outageTimeout)
	defer cancel()
	for _, method := range []string{"Role", "GetKey", "RegisterKey", "Tx.Role"} {
		began := time.Now()
		require.ErrorIs(t, methods(f)[method](ctx), models.ErrUnavailable, method)
		require.Less(t, time.Since(began), outageTimeout+slack, method)
	}
}

func TestTransactTimeoutUndoes(t *testing.T) {
	t.Parallel()
	f := newFixture(t, modelstest.NewStore(t, modelstest.EnginePostgres))
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
		return &fixture{Store: openForOutage(t, u.String()), t: t}
	}
	store := openForOutage(t, database)
	execute := func(statement string) { require.NoError(t, models.Exec(t.Context(), store, statement)) }
	execute("CREATE ROLE " + name + " LOGIN PASSWORD 'right'")
	t.Cleanup(func() {
		require.NoError(t, models.Exec(context.Background(), store, "DROP ROLE "+name))
	})

	t.Run("not migrated", func(t *testing.T) {
		requireUnavailable(t, &fixture{Store: store, t: t}, "Ping", "Migrate", "Migrations")
	})
	t.Run("no such database", func(t *testing.T) { requireUnavailable(t, as(name, "right", "missing")) })
	t.Run("the password was changed", func(t *testing.T) {
		changed := as(name, "CANARY", name)
		requireUnavailable(t, changed)
		require.NotContains(t, fmt.Sprintf("%+v", changed.Ping(t.Context())), "CANARY")
	})
	_, err = store.Migrate(t.Context())
	require.NoError(t, err)
	f := newFixture(t, store)
	t.Run("a standby", func(t *testing.T) {
		execute("ALTER DATABASE " + name + " SET default_transaction_read_only = on")
		standby := &fixture{Store: openForOutage(t, database), t: t}
		_, err := standby.RegisterKey(t.Context(), olga, models.RoleOwner, f.shared(olga), now())
		require.ErrorIs(t, err, models.ErrReadOnly)
		require.ErrorIs(t, standby.setMember("zoe", models.RoleMember), models.ErrReadOnly)
	})
	t.Run("no connection is left", func(t *testing.T) {
		execute("ALTER DATABASE " + name + " WITH CONNECTION LIMIT 0")
		requireUnavailable(t, as(name, "right", name))
	})
}
