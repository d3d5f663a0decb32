package models

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"
	"gorm.io/gorm"
)

// Migration is one step of the schema.
type Migration struct {
	Version int64
	Name    string
	// AppliedAt is zero while it is pending.
	AppliedAt time.Time
	// IsNewer reports whether a newer version of this program applied it. Its Name and AppliedAt are unknown.
	IsNewer bool
}

func (s *Store) migrator() (*goose.Provider, error) {
	return s.engine.Migrator(func(versions database.Store) database.Store { return versionStore{versions, s.trail} })
}

// Migrate applies the pending migrations, and returns how many it applied itself. Any number of replicas may call it at once:
// they take turns by an advisory lock on PostgreSQL, and by the write lock on SQLite.
func (s *Store) Migrate(ctx context.Context) (int, error) {
	m, err := s.migrator()
	if err != nil {
		return 0, s.classify(err)
	}
	const attempts = 5
	total := 0
	for attempt := 1; ; attempt++ {
		applied, err := m.Up(ctx)
		if partial, ok := errors.AsType[*goose.PartialError](err); ok {
			applied = partial.Applied
		}
		total += len(applied)
		if err != nil {
			if err := s.engine.CheckCreate(ctx); err != nil {
				return total, wrap("migrate", s.classify(err))
			}
		}
		if err == nil || attempt == attempts || ctx.Err() != nil {
			return total, wrap("migrate", s.classify(err))
		}
		// Another process may have applied the step: check whether any is left.
		if pending, pendErr := m.HasPending(ctx); pendErr == nil && !pending {
			return total, nil
		}
		time.Sleep(time.Duration(attempt) * 50 * time.Millisecond)
	}
}

// Migrations returns the steps of the schema in order: the steps of this program, and then the steps that a newer
// program has applied.
func (s *Store) Migrations(ctx context.Context) ([]Migration, error) {
	m, err := s.migrator()
	if err != nil {
		return nil, s.classify(err)
	}
	steps, err := m.Status(ctx)
	if err != nil {
		return nil, wrap("migration status", s.classify(err))
	}
	out := make([]Migration, 0, len(steps))
	for _, step := range steps {
		out = append(out, Migration{Version: step.Source.Version, Name: step.Source.Path, AppliedAt: step.AppliedAt})
	}
	var newer []int64
	err = s.read(ctx, func(db *gorm.DB) error {
		return db.Raw("SELECT DISTINCT version_id FROM goose_db_version WHERE version_id > ? AND is_applied ORDER BY version_id",
			out[len(out)-1].Version).Scan(&newer).Error
	})
	for _, version := range newer {
		out = append(out, Migration{Version: version, IsNewer: true})
	}
	return out, wrap("migration status", err)
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}
