package models_test

import (
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
)

func TestMigrationsArePendingThenApplied(t *testing.T) {
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		store := modelstest.OpenStore(t, e.URL(t), models.Options{})
		pending, err := store.Migrations(t.Context())
		require.NoError(t, err)
		require.NotEmpty(t, pending)
		for i, step := range pending {
			require.EqualValues(t, i+1, step.Version)
			require.NotEmpty(t, step.Name)
			require.Zero(t, step.AppliedAt)
		}
		applied, err := store.Migrate(t.Context())
		require.NoError(t, err)
		require.Equal(t, len(pending), applied)
		again, err := store.Migrate(t.Context())
		require.NoError(t, err)
		require.Zero(t, again)
		done, err := store.Migrations(t.Context())
		require.NoError(t, err)
		require.Len(t, done, len(pending))
		for _, step := range done {
			require.WithinDuration(t, time.Now(), step.AppliedAt, time.Minute)
		}
	})
}

func TestManyReplicasMigrateAtOnceAndEachStepIsAppliedOnce(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		url := e.URL(t)
		stores := make([]*models.Store, 8)
		for i := range stores {
			stores[i] = modelstest.OpenStore(t, url, models.Options{})
		}
		type migrated struct {
			applied int
			err     error
		}
		began := time.Now()
		total := 0
		for _, m := range together(len(stores), func(i int) (m migrated) {
			m.applied, m.err = stores[i].Migrate(t.Context())
			return m
		}) {
			require.NoError(t, m.err)
			total += m.applied
		}
		require.Less(t, time.Since(began), 8*time.Second, "a replica's start waits for the others' migrations, not for a poll")
		requireAppliedOnce(t, stores[0])
		steps, err := stores[0].Migrations(t.Context())
		require.NoError(t, err)
		require.Equal(t, len(steps), total)
		newFixture(t, stores[7])
	})
}

// Processes share a file in other ways than one process's connections do.
func TestManyProcessesMigrateOneFile(t *testing.T) {
	t.Parallel()
	url := modelstest.EngineSQLite.URL(t)
	children := make([]*exec.Cmd, 4)
	for i := range children {
		children[i], _ = startChild(t, taskMigrate, url)
	}
	for _, child := range children {
		require.NoError(t, child.Wait())
	}
	store := modelstest.OpenStore(t, url, models.Options{})
	requireAppliedOnce(t, store)
	newFixture(t, store)
}

func TestAMigrationMayTakeLongerThanAMethod(t *testing.T) {
	t.Parallel()
	url := modelstest.EnginePostgres.URL(t)
	store := modelstest.OpenStore(t, url, models.Options{})
	_, err := store.Migrate(t.Context())
	require.NoError(t, err)
	lock, err := models.Conn(store).BeginTx(t.Context(), nil)
	require.NoError(t, err)
	_, err = lock.ExecContext(t.Context(), "LOCK TABLE goose_db_version")
	require.NoError(t, err)
	released := time.AfterFunc(time.Second, func() { _ = lock.Rollback() })
	defer released.Stop()
	hasty := modelstest.OpenStore(t, url, models.Options{Timeout: 300 * time.Millisecond})
	_, err = hasty.Migrate(t.Context())
	require.NoError(t, err)
}

func requireAppliedOnce(t *testing.T, s *models.Store) {
	t.Helper()
	rows, err := models.Conn(s).QueryContext(t.Context(),
		"SELECT version_id, count(*) FROM goose_db_version GROUP BY version_id ORDER BY version_id")
	require.NoError(t, err)
	defer func() { require.NoError(t, rows.Close()) }()
	next := 0
	for rows.Next() {
		var version, times int
		require.NoError(t, rows.Scan(&version, &times))
		require.Equal(t, next, version)
		require.Equal(t, 1, times, "step %d", version)
		next++
	}
	require.NoError(t, rows.Err())
	require.Greater(t, next, 1)
}

func TestMigrationsGoDownAndUpAgain(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.register(f.shared(olga))
		first := schemaOf(t, f)
		goose, err := models.EngineOf(f.Store).Migrator()
		require.NoError(t, err)
		_, err = goose.DownTo(t.Context(), 0)
		require.NoError(t, err)
		require.Empty(t, schemaOf(t, f), "down leaves nothing behind")
		_, err = f.Migrate(t.Context())
		require.NoError(t, err)
		require.Equal(t, first, schemaOf(t, f))
		newFixture(t, f.Store).register(f.shared(olga))
	})
}
