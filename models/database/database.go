// Package database opens a models.Store on the database that a URL names.
package database

import (
	"errors"
	"fmt"
	"strings"

	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/postgres"
	"github.com/agentrouter/aikeys/models/sqlite"
)

// Open returns the Store for url, "sqlite:<path>" or "postgres://…". It does not connect to PostgreSQL: the Store
// connects when its first method is called. No error contains url, because url may have a password.
func Open(url string, opts models.Options) (*models.Store, error) {
	opts = opts.WithDefaults()
	var (
		engine models.Engine
		err    error
	)
	switch scheme, rest, _ := strings.Cut(url, ":"); scheme {
	case "sqlite":
		engine, err = sqlite.Open(rest)
	case "postgres", "postgresql":
		engine, err = postgres.Open(url, opts)
	default:
		return nil, errors.New("database URL: want sqlite:<path> or postgres://<user>@<host>/<database>")
	}
	if err != nil {
		return nil, fmt.Errorf("database: %w", err)
	}
	return models.NewStore(engine, opts), nil
}

// Name is postgres.Name.
func Name(url string) string { return postgres.Name(url) }
