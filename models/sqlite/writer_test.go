package sqlite

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models"
)

func open(t *testing.T) (*engine, *models.Store) {
	t.Helper()
	e, err := Open(filepath.Join(t.TempDir(), "aikeys.db"))
	require.NoError(t, err)
	store := models.NewStore(e, models.Options{})
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	_, err = store.Migrate(t.Context())
	require.NoError(t, err)
	return e.(*engine), store //nolint:forcetypeassert // Open returns no other
}

// Two writes of a group store the same event, and the group's commit fails. The event is not stored, so neither write may get
// ErrAlreadyExists.
func TestFailedCommitUndoesRefusals(t *testing.T) {
	e, store := open(t)
	write := func(errs chan error, fn func(tx *models.Tx) error) {
		go func() { errs <- store.Transact(context.WithoutCancel(t.Context()), fn) }()
	}
	holding, release, held, errs := make(chan struct{}), make(chan struct{}), make(chan error, 1), make(chan error, 3)
	write(held, func(*models.Tx) error {
		close(holding)
		<-release
		return nil
	})
	<-holding
	event := models.Event{CustomerID: "acme", ProjectID: "web", ID: "evt_1"}
	for range 2 {
		write(errs, func(tx *models.Tx) error { return tx.AppendEvent(event) })
	}
	write(errs, func(*models.Tx) error {
		if _, err := e.writer.exec("PRAGMA defer_foreign_keys = on"); err != nil {
			return err
		}
		_, err := e.writer.exec("INSERT INTO project_members VALUES ('acme', 'nowhere', 'zoe', 'owner', 0, 0)")
		return err
	})
	require.Eventually(t, func() bool { return e.writer.worker.Waiting() == 3 }, 10*time.Second, time.Millisecond)
	close(release)
	require.NoError(t, <-held)
	for range 3 {
		err := <-errs
		require.Error(t, err)
		require.NotErrorIs(t, err, models.ErrAlreadyExists)
	}
	require.NoError(t, store.Transact(t.Context(), func(tx *models.Tx) error { return tx.AppendEvent(event) }))
}

func TestReadOnlyFileIsUnavailableForWrites(t *testing.T) {
	e, store := open(t)
	ensure := func() error {
		return store.Transact(t.Context(), func(tx *models.Tx) error { return tx.EnsureProject("acme", "web") })
	}
	set := func(value string) {
		_, err := e.writer.exec("PRAGMA query_only = " + value)
		require.NoError(t, err)
	}
	set("on")
	require.ErrorIs(t, ensure(), models.ErrUnavailable)
	_, err := store.ListMembers(t.Context(), models.Caller{CustomerID: "acme", ProjectID: "web"}, "", 0)
	require.NoError(t, err, "reads go on")
	set("off")
	require.NoError(t, ensure())
}
