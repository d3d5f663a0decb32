package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/impl/keysetcheck"
	"github.com/agentrouter/aikeys/impl/telemetry"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/kms"
	"github.com/agentrouter/aikeys/sealer/kmsurl"
	"github.com/agentrouter/aikeys/sealer/remote"
)

// The pauses between attempts to become ready grow from firstRetry to lastRetry.
const (
	firstRetry = 100 * time.Millisecond
	lastRetry  = 2 * time.Second
)

// The checks that readiness depends on.
const (
	checkService  = "service"
	checkDatabase = "database"
	checkSchema   = "schema"
	checkKeyset   = "keyset"
)

// checkPermission is what a start waits for if secrets-svc answers but refuses this client.
const checkPermission = "secrets-svc's permission"

// checkKMSRefusal is what a start waits for if the key management service answers but refuses. The error says what the
// service refuses, and why.
const checkKMSRefusal = "the key management service's permission"

// state is how far the service has come. The zero value is a service that has just started.
type state struct {
	ready, draining, schema, keyset atomic.Bool
}

// service returns the state of the service as a whole. Draining wins over the rest.
func (s *state) service(context.Context) telemetry.State {
	switch {
	case s.draining.Load():
		return telemetry.Draining
	case !s.ready.Load():
		return telemetry.Starting
	}
	return telemetry.OK
}

// once returns a probe of a condition. When the condition has been met, it stays met until the process ends.
func once(done *atomic.Bool) telemetry.Probe {
	return func(context.Context) telemetry.State {
		if done.Load() {
			return telemetry.OK
		}
		return telemetry.Pending
	}
}

// keysetProbe returns a probe that reports whether the keyset belongs to this database. The start makes the first
// check, and the probe then repeats the check.
func (s *service) keysetProbe() telemetry.Probe {
	atStart := once(&s.state.keyset)
	still := telemetry.Cached(func(ctx context.Context) telemetry.State {
		if err := s.keyset.Recheck(ctx); err != nil {
			return telemetry.Unavailable
		}
		return telemetry.OK
	}, pingTimeout, pingInterval)
	return func(ctx context.Context) telemetry.State {
		if state := atStart(ctx); state != telemetry.OK {
			return state
		}
		return still(ctx)
	}
}

// start waits until the service is ready, however long the database takes, and then deletes old records until ctx is done.
func (s *service) start(ctx context.Context) error {
	began := time.Now()
	if err := s.becomeReady(ctx); err != nil || ctx.Err() != nil {
		return err
	}
	close(s.prepared)
	s.state.ready.Store(true)
	s.log.InfoContext(ctx, "ready", slog.Duration("after", time.Since(began).Round(time.Millisecond)))
	if err := s.keyset.Recheck(ctx); errors.Is(err, kms.ErrRefused) { // envelopes still open, so fetches are served
		s.log.WarnContext(ctx, "new secrets can't be sealed", slog.String("error", cli.OneLine(err.Error())))
	}
	return s.deleteOldRecords(ctx)
}

// becomeReady returns when the service is ready, when ctx is done, or with an error that waiting can't cure. It logs what it
// waits for whenever that changes.
func (s *service) becomeReady(ctx context.Context) error {
	var waitingFor string
	for pause := firstRetry; ctx.Err() == nil; pause = min(2*pause, lastRetry) {
		need, err := s.prepare(ctx)
		switch {
		case errors.Is(err, remote.ErrNotAllowed):
			need = checkPermission
		case errors.Is(err, kms.ErrRefused):
			need = checkKMSRefusal
		}
		switch {
		case err == nil:
			return nil
		case errors.Is(err, keysetcheck.ErrWrongKEK):
			return s.wrongKeyset(err)
		case ctx.Err() != nil: // the error may be a consequence
		case s.isPermanent(err):
			return err
		case need != waitingFor:
			waitingFor = need
			s.log.WarnContext(ctx, "not ready", slog.String("waiting_for", need), slog.String("error", cli.OneLine(err.Error())))
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
	return nil
}

// isPermanent reports whether an error can't be cured by waiting, such as a damaged SQLite file.
func (s *service) isPermanent(err error) bool {
	for _, temporary := range []error{models.ErrUnavailable, sealer.ErrUnavailable, errPending} {
		if errors.Is(err, temporary) {
			return false
		}
	}
	return isSQLite(s.cfg.DatabaseURL)
}

var errPending = errors.New("the database's schema is not up to date")

// prepare does what must be done before requests are served. If it fails, need is the check that failed.
func (s *service) prepare(ctx context.Context) (need string, err error) {
	if err := s.store.Ping(ctx); err != nil {
		return checkDatabase, err
	}
	steps, err := s.store.Migrations(ctx)
	if err != nil {
		return checkSchema, err
	}
	if pending := pendingOf(steps); pending > 0 {
		// If the keyset is wrong, not even the schema of a database in use may be changed.
		if pending < len(steps) && s.cfg.Role != rolePublic {
			if err := s.checkKeyset(ctx); err != nil {
				return checkKeyset, err
			}
		}
		if err := s.migrate(ctx, pending); err != nil {
			return checkSchema, err
		}
	}
	if steps[len(steps)-1].IsNewer {
		s.log.WarnContext(ctx, "the database's schema is newer than this program, which may not understand all of it; run the newer version")
	}
	s.state.schema.Store(true)
	return checkKeyset, s.checkKeyset(ctx)
}

func (s *service) migrate(ctx context.Context, pending int) error {
	if !s.cfg.mayMigrate() {
		because := s.cfg.Of("migrate").Variable() + "=" + migrateNever
		if s.cfg.Migrate != migrateNever {
			because = s.cfg.Of("role").Variable() + "=" + rolePublic
		}
		return fmt.Errorf("%w: it lacks %s and %s; run: aikeysd migrate up%s", errPending, migrations(pending), because, s.cfg.databaseFlags())
	}
	applied, err := s.store.Migrate(ctx)
	if err == nil && applied > 0 {
		s.log.InfoContext(ctx, "database schema brought up to date", slog.Int("migrations", applied))
	}
	return err
}

// mayMigrate reports whether the service brings the schema up to date. A process that serves only the public API does
// not, because it can't know whether its keyset belongs to the database before another process has checked that.
func (s *config) mayMigrate() bool { return s.Migrate != migrateNever && s.Role != rolePublic }

func pendingOf(steps []models.Migration) int {
	pending := 0
	for _, step := range steps {
		if step.AppliedAt.IsZero() && !step.IsNewer {
			pending++
		}
	}
	return pending
}

func (s *service) checkKeyset(ctx context.Context) error {
	if err := s.keyset.Check(ctx); err != nil {
		return unreachableSealer(s.cfg, err)
	}
	s.state.keyset.Store(true)
	return nil
}

// wrongKeyset adds advice to the error of a keyset that does not open the database.
func (s *service) wrongKeyset(err error) error {
	advice := fmt.Sprintf("check that %s=%s is the keyset that belongs to %s, or restore that keyset from its backup",
		s.cfg.Of("sealer").Variable(), s.cfg.Sealer, databaseName(s.cfg.DatabaseURL))
	if _, isFile := s.cfg.keysetPath(); !isFile {
		what := "secrets-svc that belongs to %s, and that this client has its own namespace there; "
		if kmsurl.Knows(s.cfg.Sealer) {
			what = "key that belongs to %s, also if an alias names it; "
		}
		advice = fmt.Sprintf("check that %s=%s is the "+what+
			"if the keys were sealed with another sealer, name that one in %s",
			s.cfg.Of("sealer").Variable(), s.cfg.Sealer, databaseName(s.cfg.DatabaseURL), s.cfg.Of("sealer-old").Variable())
	}
	if s.madeKeyset {
		advice += "; that file was missing, so a new keyset was made; you can replace it with the right one"
	}
	return fmt.Errorf("%w; %s; nothing was changed in the database", err, advice)
}
