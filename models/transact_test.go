package models_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
)

var errRefused = errors.New("refused")

func (f *fixture) count(table string) int {
	f.t.Helper()
	n, err := models.Count(f.t.Context(), f.Store, table)
	require.NoError(f.t, err)
	return n
}

func TestAnErrorUndoesTheWholeTransaction(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		key := f.register(f.shared(olga))
		before := f.size()
		err := f.Transact(t.Context(), func(tx *models.Tx) error {
			policy := models.DefaultPolicy(acme, web)
			_, revokeErr := tx.RevokeKey(&key, "olga", f.event(models.EventKeyRevoked))
			return errors.Join(revokeErr,
				tx.SetPolicy(&policy, "olga", f.event(models.EventPolicySet)),
				tx.EnsureProject(acme, "ios"),
				tx.AppendEvent(models.Event{CustomerID: acme, ProjectID: web, ID: "evt_1"}),
				errRefused)
		})
		require.ErrorIs(t, err, errRefused)
		require.Equal(t, before, f.size())
		require.Equal(t, 1, f.count("projects"))
		require.Equal(t, 0, f.count("project_policies"))
		stands, err := f.GetKey(t.Context(), olga, key.ID, now())
		require.NoError(t, err)
		require.Zero(t, stands.RevokedAt)
	})
}

func TestATransactionReadsItsOwnWritesAndHasOneTime(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		key := f.register(f.shared(olga))
		var read models.Key
		var then int64
		f.transact(func(tx *models.Tx) error {
			then = tx.Now
			if _, err := tx.RevokeKey(&key, "olga", f.event(models.EventKeyRevoked)); err != nil {
				return err
			}
			var err error
			read, err = tx.Key(olga, key.ID)
			return err
		})
		require.Equal(t, then, read.RevokedAt)
		require.Equal(t, then, key.RevokedAt)
		require.InDelta(t, now(), then, 60e6)
	})
}

func TestAPanicWritesNothingAndLeavesTheStoreUsable(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		explode := func() (err error) {
			defer func() {
				if p := recover(); p != nil {
					err = fmt.Errorf("panicked: %v", p)
				}
			}()
			return f.Transact(t.Context(), func(tx *models.Tx) error {
				if err := tx.EnsureProject(acme, "ios"); err != nil {
					return err
				}
				panic("boom")
			})
		}
		require.ErrorContains(t, explode(), "panicked")
		require.Equal(t, 1, f.count("projects"))
		f.register(f.shared(olga))
	})
}

func TestAPanicBecomesAnErrorOnSQLiteAndCarriesNoValue(t *testing.T) {
	f := newFixture(t, modelstest.NewStore(t, modelstest.EngineSQLite))
	err := f.Transact(t.Context(), func(*models.Tx) error { panic("sk-ant-secret") })
	require.ErrorContains(t, err, "panicked")
	require.NotContains(t, err.Error(), "secret")
}

func TestAContextThatIsCancelledBeforeTheStartWritesNothing(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		var ran atomic.Bool
		err := f.Transact(ctx, func(tx *models.Tx) error {
			ran.Store(true)
			return tx.EnsureProject(acme, "ios")
		})
		require.ErrorIs(t, err, context.Canceled)
		require.False(t, ran.Load())
		require.Equal(t, 1, f.count("projects"))
	})
}

func TestEveryMethodReturnsTheErrorOfACancelledContext(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for name, call := range methods(f) {
			require.ErrorIs(t, call(ctx), context.Canceled, name)
		}
	})
}

// methods are all methods of the store but Close.
func methods(f *fixture) map[string]func(context.Context) error {
	key := "byok_absent"
	all := map[string]func(context.Context) error{
		"Ping": func(ctx context.Context) error { return f.Ping(ctx) },
		"Transact": func(ctx context.Context) error {
			return f.Transact(ctx, func(tx *models.Tx) error { return tx.EnsureProject(acme, "ios") })
		},
		"Policy":      func(ctx context.Context) error { _, err := f.Policy(ctx, mia); return err },
		"Canary":      func(ctx context.Context) error { _, err := f.Canary(ctx); return err },
		"FindToken":   func(ctx context.Context) error { _, err := f.FindToken(ctx, "01A"); return err },
		"ListTokens":  func(ctx context.Context) error { _, err := f.ListTokens(ctx, acme, web, ""); return err },
		"ListMembers": func(ctx context.Context) error { _, err := f.ListMembers(ctx, mia, "", 0); return err },
		"ListEvents":  func(ctx context.Context) error { _, err := f.ListEvents(ctx, mia, "", 10); return err },
		"ServingKeys": func(ctx context.Context) error { _, err := f.ServingKeys(ctx, mia, "openai"); return err },
		"KeysByKEK":   func(ctx context.Context) error { _, err := f.KeysByKEK(ctx); return err },
		"Migrations":  func(ctx context.Context) error { _, err := f.Migrations(ctx); return err },
		"Migrate":     func(ctx context.Context) error { _, err := f.Migrate(ctx); return err },
	}
	for name, call := range guarded(f, key) {
		all[name] = func(ctx context.Context) error { return call(ctx, mia) }
	}
	maps.Copy(all, rewrapMethods(f))
	return all
}

func TestWhatFailsInParallelUndoesNothingOfItsNeighbours(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		const n = 200
		event := func(i int) string { return fmt.Sprintf("evt_%03d", i) }
		errs := together(n, func(i int) error {
			return f.Transact(t.Context(), func(tx *models.Tx) error {
				if err := tx.AppendEvent(models.Event{CustomerID: acme, ProjectID: web, ID: event(i)}); err != nil {
					return err
				}
				switch i % 9 {
				case 0:
					return errRefused
				case 3: // a statement that fails, not only the function
					return tx.AppendEvent(models.Event{CustomerID: acme, ProjectID: web, ID: event(i)})
				case 6:
					_, err := tx.SetMember(acme, "nowhere", "zoe", models.RoleOwner)
					return err
				}
				return nil
			})
		})
		var want, got []string
		for i, err := range errs {
			switch i % 9 {
			case 0:
				require.ErrorIs(t, err, errRefused)
			case 3:
				require.ErrorIs(t, err, models.ErrAlreadyExists)
			case 6:
				require.Error(t, err)
			default:
				require.NoError(t, err)
				want = append(want, event(i))
			}
		}
		events, err := f.ListEvents(t.Context(), olga, "", n)
		require.NoError(t, err)
		for _, e := range events {
			got = append(got, e.ID)
		}
		require.ElementsMatch(t, want, got)
	})
}

func TestPanicUndoesNoOtherWrite(t *testing.T) {
	f := newFixture(t, modelstest.NewStore(t, modelstest.EngineSQLite))
	for i, err := range together(64, func(i int) error {
		return f.Transact(t.Context(), func(tx *models.Tx) error {
			if err := tx.EnsureProject(acme, fmt.Sprintf("p%02d", i)); err != nil {
				return err
			}
			if i%4 == 0 {
				panic("boom")
			}
			return nil
		})
	}) {
		require.Equal(t, i%4 == 0, err != nil, "write %d: %v", i, err)
	}
	require.Equal(t, 1+48, f.count("projects"))
}

// A write that waits behind a long one is withdrawn in time, and then never carried out.
func TestAWriteThatGivesUpWaitingIsNeverCarriedOut(t *testing.T) {
	t.Parallel()
	f := newFixture(t, modelstest.NewStore(t, modelstest.EngineSQLite))
	holding, release, held := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		held <- f.Transact(context.WithoutCancel(t.Context()), func(*models.Tx) error {
			close(holding)
			<-release
			return nil
		})
	}()
	<-holding
	var released atomic.Bool
	time.AfterFunc(time.Second, func() {
		released.Store(true)
		close(release)
	})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := f.Transact(ctx, func(tx *models.Tx) error { return tx.EnsureProject(acme, "ios") })
	require.ErrorIs(t, err, models.ErrUnavailable)
	require.False(t, released.Load(), "it did not give up before its turn came")
	require.NoError(t, <-held)
	f.register(f.shared(olga))
	require.Equal(t, 1, f.count("projects"))
}
