package models_test

import (
	"context"
	"database/sql"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
)

// On PostgreSQL, a caller that waits for a lock holds a connection; these tests are about how many may.

// atOnce is how long a call may take, on a busy machine, that waits for nobody. It is less than any lock is held here.
const atOnce = 500 * time.Millisecond

// lanes is a fixture on Postgres, and connections to its database past its store.
type lanes struct {
	*fixture
	past *sql.DB
}

func newLanes(t *testing.T, opts models.Options) *lanes {
	t.Helper()
	url := modelstest.EnginePostgres.URL(t)
	store := modelstest.OpenStore(t, url, opts)
	_, err := store.Migrate(t.Context())
	require.NoError(t, err)
	return &lanes{newFixture(t, store), models.Conn(modelstest.OpenStore(t, url, models.Options{Timeout: time.Minute}))}
}

// hold takes a lock in a session of its own, until the test ends or calls release.
func (l *lanes) hold(statement string, args ...any) (release func()) {
	l.t.Helper()
	tx, err := l.past.BeginTx(context.WithoutCancel(l.t.Context()), nil)
	require.NoError(l.t, err)
	release = sync.OnceFunc(func() { require.NoError(l.t, tx.Rollback()) })
	l.t.Cleanup(release)
	_, err = tx.ExecContext(l.t.Context(), statement, args...)
	require.NoError(l.t, err)
	return release
}

// waiting is how many sessions wait for a lock.
func (l *lanes) waiting() int {
	l.t.Helper()
	var n int
	require.NoError(l.t, l.past.QueryRowContext(l.t.Context(), "SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted").Scan(&n))
	return n
}

func (l *lanes) awaitWaiting(n int) {
	l.t.Helper()
	require.Eventually(l.t, func() bool { return l.waiting() >= n }, 5*time.Second, 5*time.Millisecond)
}

// requireAtOnce checks that a call succeeds without waiting for anybody.
func requireAtOnce(t *testing.T, name string, call func(ctx context.Context) error) {
	t.Helper()
	began := time.Now()
	require.NoError(t, call(t.Context()), name)
	require.Less(t, time.Since(began), atOnce, name)
}

func TestWaitingWritersLeaveHalfOfTheConnections(t *testing.T) {
	const conns, writers = 8, 64
	l := newLanes(t, models.Options{MaxConns: conns, Timeout: 20 * time.Second})
	ana := models.Caller{CustomerID: acme, ProjectID: "ops", UserID: "ana"}
	l.addMember(ana, models.RoleOwner)
	key := l.register(l.shared(ana))

	release := l.hold("SELECT 1 FROM projects WHERE customer_id = $1 AND project_id = $2 FOR UPDATE", acme, web)
	written := make(chan error, writers)
	for range writers {
		go func() {
			written <- l.Transact(t.Context(), func(tx *models.Tx) error {
				_, err := tx.Role(olga)
				return err
			})
		}()
	}
	l.awaitWaiting(conns / 2)
	for range 10 {
		requireAtOnce(t, "GetKey", func(ctx context.Context) error { _, err := l.GetKey(ctx, ana, key.ID, now()); return err })
		requireAtOnce(t, "Role", func(ctx context.Context) error { _, err := l.Role(ctx, ana, now()); return err })
		requireAtOnce(t, "ListKeys", func(ctx context.Context) error { _, err := l.ListKeys(ctx, ana, models.KeyFilter{}, now()); return err })
		requireAtOnce(t, "RegisterKey", func(ctx context.Context) error {
			_, err := l.RegisterKey(ctx, ana, models.RoleOwner, l.shared(ana), now())
			return err
		})
	}
	require.Equal(t, conns/2, l.waiting())
	t.Run("a writer who leaves the queue has not written", func(t *testing.T) {
		ctx, leave := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer leave()
		err := l.Transact(ctx, func(*models.Tx) error { panic("begun") })
		require.ErrorIs(t, err, models.ErrUnavailable)
	})
	require.Empty(t, written)
	release()
	for range writers {
		require.NoError(t, <-written)
	}
}
