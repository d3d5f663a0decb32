package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/agentrouter/aikeys/cmd/internal/settings"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/database"
)

const sqlitePrefix = "sqlite:"

func isSQLite(databaseURL string) bool { return strings.HasPrefix(databaseURL, sqlitePrefix) }

// databaseName is a database's URL without user, password and options, and with a file's whole path.
func databaseName(databaseURL string) string {
	if path, ok := strings.CutPrefix(databaseURL, sqlitePrefix); ok {
		return sqlitePrefix + absolute(path)
	}
	return cmp.Or(database.Name(databaseURL), "the database")
}

// storeOptions returns the options that the settings give for opening the database.
func (s *config) storeOptions() models.Options {
	return models.Options{MaxConns: s.DBMaxConns, DirectURL: s.DatabaseDirectURL, Plaintext: s.Insecure}
}

// unreachable adds a hint to err if it says that the database does not answer.
func unreachable(cfg *config, err error) error {
	if !errors.Is(err, models.ErrUnavailable) {
		return err
	}
	return fmt.Errorf("%w; check that %s can be reached, and %s", err, databaseName(cfg.DatabaseURL), cfg.Of("database-url").Variable())
}

// migrations is a number of migrations in words.
func migrations(n int) string {
	if n == 1 {
		return "1 migration"
	}
	return fmt.Sprintf("%d migrations", n)
}

// requireSchema brings the schema of a SQLite database up to date. It does not change a Postgres database, because
// other processes may use the database too. If that schema is not up to date, it returns an error.
func requireSchema(ctx context.Context, cfg *config, store *models.Store) error {
	if isSQLite(cfg.DatabaseURL) {
		_, err := store.Migrate(ctx)
		return err
	}
	steps, err := store.Migrations(ctx)
	if err != nil {
		return err
	}
	if pending := pendingOf(steps); pending > 0 {
		return fmt.Errorf("%w: %s lacks %s; run: aikeysd migrate up%s",
			errPending, databaseName(cfg.DatabaseURL), migrations(pending), cfg.databaseFlags())
	}
	return nil
}

// databaseFlags repeats the flags that named the database, with a space before each, for commands that the user may paste.
func (s *config) databaseFlags() string {
	var flags strings.Builder
	for _, name := range databaseSettings() {
		if d := s.Of(name); d.Origin() == settings.FromFlag {
			flags.WriteString(" --" + name + " " + shellQuote(d.String()))
		}
	}
	return flags.String()
}

// databaseMissing reports whether the URL names a SQLite database that does not exist. It checks the file, because
// opening the database would create it.
func databaseMissing(databaseURL string) (bool, error) {
	path, ok := strings.CutPrefix(databaseURL, sqlitePrefix)
	if !ok {
		return false, nil
	}
	missing, err := fileMissing(path)
	if err != nil {
		return false, fmt.Errorf("database: %w", err)
	}
	return missing, nil
}

func fileMissing(path string) (bool, error) {
	_, err := os.Stat(filepath.Clean(path))
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	return false, err
}

// absolute returns the absolute path of a file, so that a message is clear in any folder.
func absolute(path string) string {
	if whole, err := filepath.Abs(path); err == nil {
		return whole
	}
	return path
}
