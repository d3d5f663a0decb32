package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/agentrouter/aikeys/models"
)

const sqlitePrefix = "sqlite:"

func isSQLite(databaseURL string) bool { return strings.HasPrefix(databaseURL, sqlitePrefix) }

// databaseName is a database's URL without user, password and options.
func databaseName(databaseURL string) string {
	if isSQLite(databaseURL) {
		return databaseURL
	}
	u, err := url.Parse(databaseURL)
	if err != nil {
		return "the database"
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

// withStore opens the database that the settings name, hands it to use, and closes it.
func (p *program) withStore(cfg *settings, use func(*models.Store) error) error {
	store, err := models.Open(cfg.DatabaseURL, models.Options{MaxConns: cfg.DBMaxConns})
	if err != nil {
		return err
	}
	err = unreachable(cfg, use(store))
	if closeErr := store.Close(); err == nil {
		err = closeErr
	}
	return err
}

// unreachable adds what to look at to an error that says that the database doesn't answer.
func unreachable(cfg *settings, err error) error {
	if !errors.Is(err, models.ErrUnavailable) {
		return err
	}
	return fmt.Errorf("%w; check that %s can be reached, and %s", err, databaseName(cfg.DatabaseURL), cfg.of("database-url").variable())
}

// migrations counts them in words.
func migrations(n int) string {
	if n == 1 {
		return "1 migration"
	}
	return fmt.Sprintf("%d migrations", n)
}

// requireSchema brings SQLite's schema up to date. A Postgres is shared with others, so there it must be so already.
func requireSchema(ctx context.Context, cfg *settings, store *models.Store) error {
	if isSQLite(cfg.DatabaseURL) {
		_, err := store.Migrate(ctx)
		return err
	}
	steps, err := store.Migrations(ctx)
	if err != nil {
		return err
	}
	if pending := pendingOf(steps); pending > 0 {
		return fmt.Errorf("%w: %s lacks %s; run: aikeysd migrate up",
			errPending, databaseName(cfg.DatabaseURL), migrations(pending))
	}
	return nil
}

// requireFile refuses a SQLite database that is not there: opening it would make it.
func requireFile(databaseURL string) error {
	path, ok := strings.CutPrefix(databaseURL, sqlitePrefix)
	if !ok {
		return nil
	}
	if _, err := os.Stat(filepath.Clean(path)); err != nil {
		return missing(err, "database", path)
	}
	return nil
}

// missing says of a file that is not there yet who makes it.
func missing(err error, what, path string) error {
	if os.IsNotExist(err) {
		return fmt.Errorf("there is no %s at %s yet; \"aikeysd serve\" makes it on its first start", what, path)
	}
	return fmt.Errorf("%s: %w", what, err)
}
