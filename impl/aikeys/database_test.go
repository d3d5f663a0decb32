package aikeys_test

import (
	"database/sql"
	"strings"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib" // the drivers that tests look at tables by
	"github.com/stretchr/testify/require"
	_ "modernc.org/sqlite"

	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
)

// database is a migrated database, and the way past the store to what is in it.
type database struct {
	url   string
	store *models.Store
}

func newDatabase(t *testing.T, e modelstest.Engine) *database {
	t.Helper()
	url := e.URL(t)
	store := modelstest.OpenStore(t, url, models.Options{})
	_, err := store.Migrate(t.Context())
	require.NoError(t, err)
	return &database{url: url, store: store}
}

// open returns connections of the test's own.
func (d *database) open(t *testing.T) *sql.DB {
	t.Helper()
	driver, source := "pgx", d.url
	if path, ok := strings.CutPrefix(d.url, "sqlite:"); ok {
		driver, source = "sqlite", "file:"+path
	}
	db, err := sql.Open(driver, source)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db
}

// value returns the one value that a query finds.
func value[T any](t *testing.T, db *sql.DB, query string, args ...any) T {
	t.Helper()
	var v T
	require.NoError(t, db.QueryRowContext(t.Context(), query, args...).Scan(&v))
	return v
}
