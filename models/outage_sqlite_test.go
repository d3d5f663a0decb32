package models_test

import (
	"context"
	"database/sql"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/database"
	"github.com/agentrouter/aikeys/models/modelstest"
)

func TestSQLiteFileThatCannotBeOpened(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	store := modelstest.OpenStore(t, "sqlite:"+filepath.Join(dir, "aikeys.db"), models.Options{})
	idle, err := models.Conn(store).Conn(t.Context()) // which GORM opened; it would read on
	require.NoError(t, err)
	defer func() { require.NoError(t, idle.Close()) }()
	require.NoError(t, os.RemoveAll(dir))
	all := methods(&fixture{Store: store, t: t})
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
	store := modelstest.OpenStore(t, "sqlite:"+path, models.Options{})
	_, err := store.Migrate(t.Context())
	require.NoError(t, err)
	newFixture(t, store)
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

// SQLite rolls the whole transaction back when the disk is full, and with it the group's savepoints.
func TestAFullDiskFailsTheWholeGroupAndLeavesNothingOfIt(t *testing.T) {
	f := newFixture(t, modelstest.NewStore(t, modelstest.EngineSQLite))
	limit := func(pages string) {
		require.NoError(t, models.Exec(t.Context(), f.Store, "PRAGMA max_page_count = "+pages))
	}
	limit("1") // SQLite takes it for the present size
	requests := make([]models.Registration, 200)
	for i := range requests {
		requests[i] = f.shared(olga, func(r *models.Registration) { r.Key.Envelope = make([]byte, 1000) })
	}
	answers := f.registerTogether(requests)
	stored := map[string]bool{}
	for _, k := range f.list(olga, models.KeyFilter{}) {
		stored[k.ID] = true
	}
	failures := 0
	for i, a := range answers {
		if a.err != nil {
			require.ErrorIs(t, a.err, models.ErrUnavailable)
			failures++
		}
		require.Equal(t, a.err == nil, stored[requests[i].Key.ID], "an error means not stored: %v", a.err)
	}
	require.Positive(t, failures)
	require.Equal(t, f.size().keys, f.size().events)
	limit("1000000")
	requireRecovers(t, f)
}

func TestSQLiteFileLockedByAnotherProcess(t *testing.T) {
	t.Parallel()
	url := modelstest.EngineSQLite.URL(t)
	store := openForOutage(t, url)
	_, err := store.Migrate(t.Context())
	require.NoError(t, err)
	f := newFixture(t, store)
	other, err := sql.Open("sqlite", "file:"+strings.TrimPrefix(url, "sqlite:")+"?_txlock=immediate")
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
	requireRecovers(t, f)
	require.Equal(t, 1, f.size().keys, "what was refused was not carried out later")
}
