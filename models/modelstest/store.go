package modelstest

import (
	"context"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/database"
)

// Engine is a kind of database that models runs on.
type Engine string

// The engines. The store guarantees the same on both.
const (
	EngineSQLite   Engine = "sqlite"
	EnginePostgres Engine = "postgres"
)

// Engines returns all engines.
func Engines() []Engine { return []Engine{EngineSQLite, EnginePostgres} }

// Each runs a test on every engine, in a subtest that has its name.
func Each(t *testing.T, test func(t *testing.T, e Engine)) {
	t.Helper()
	for _, e := range Engines() {
		t.Run(string(e), func(t *testing.T) { test(t, e) })
	}
}

// URL returns what models.Open takes for fresh, empty storage, which ends with the test: a file, or a schema of the cluster
// that the process shares. A schema takes a few milliseconds where a database (Postgres) takes hundreds.
func (e Engine) URL(t testing.TB) string {
	t.Helper()
	if e == EngineSQLite {
		return "sqlite:" + filepath.Join(t.TempDir(), "aikeys.db")
	}
	server, err := shared.url()
	require.NoError(t, err)
	u, err := url.Parse(server)
	require.NoError(t, err)
	name := "aikeys_test_" + randomHex(8)
	require.NoError(t, exec(t.Context(), server, "CREATE SCHEMA "+name))
	t.Cleanup(func() {
		// The test's own context has ended by now.
		require.NoError(t, exec(context.Background(), server, "DROP SCHEMA "+name+" CASCADE"))
	})
	query := u.Query()
	query.Set("search_path", name)
	u.RawQuery = query.Encode()
	return u.String()
}

// NewStore returns a store on fresh storage that is migrated. It is closed when the test ends.
func NewStore(t testing.TB, e Engine) *models.Store {
	t.Helper()
	url := e.URL(t)
	if path, ok := strings.CutPrefix(url, "sqlite:"); ok {
		file, err := migratedFile()
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path, file, 0o600))
		return OpenStore(t, url, models.Options{})
	}
	store := OpenStore(t, url, models.Options{})
	_, err := store.Migrate(t.Context())
	require.NoError(t, err)
	return store
}

// migratedFile returns a migrated SQLite database. Tests start with a copy, which takes much less time than to migrate.
var migratedFile = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "aikeys-sqlite-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	path := filepath.Join(dir, "aikeys.db")
	store, err := database.Open("sqlite:"+path, models.Options{})
	if err != nil {
		return nil, err
	}
	_, err = store.Migrate(context.Background())
	if err := errors.Join(err, store.Close()); err != nil {
		return nil, err
	}
	return os.ReadFile(path)
})

// OpenStore opens a store on a database as it is, and closes it when the test ends.
func OpenStore(t testing.TB, url string, opts models.Options) *models.Store {
	t.Helper()
	store, err := database.Open(url, opts)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	return store
}
