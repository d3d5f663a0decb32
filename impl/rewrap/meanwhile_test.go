package rewrap_test

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/rewrap"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
	"github.com/agentrouter/aikeys/sealer"
)

// newSecret gives a key its next version, as a service would that rotates it.
func (w *world) newSecret(k models.Key, s sealer.Sealer) error {
	next := k
	next.Version++
	secret := fmt.Sprintf("%s-%d", secretOf(k.ID), next.Version)
	envelope, err := s.Seal(w.t.Context(), bindingOf(next), sealer.NewSecret([]byte(secret)))
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.secrets[k.ID] = secret
	w.mu.Unlock()
	_, err = w.database().ExecContext(w.t.Context(), `UPDATE ai_keys SET version = $1, envelope = $2, kek_id = $3 WHERE id = $4`,
		next.Version, envelope.Bytes, envelope.KEKID, k.ID)
	return err
}

// While a job runs at full speed, and another with it, keys are registered, revoked, given new secrets, and opened.
func TestWhatHappensToAKeyMeanwhileIsRight(t *testing.T) {
	each(t, 400, func(t *testing.T, w *world) {
		before := w.rows()
		w.rotate()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var (
			jobs, others sync.WaitGroup
			over         atomic.Bool
			errs         = make(chan error, 16)
			keep         = func(err error) {
				if err != nil {
					errs <- err
				}
			}
			step = make(chan struct{})
		)
		for range 2 {
			job := rewrap.AtEachStep(rewrap.New(rewrap.Config{Store: w.Store, Sealer: w.sealer}), 10, func(string) {
				select {
				case <-step:
				case <-ctx.Done():
				}
			})
			jobs.Go(func() {
				_, err := job.Run(ctx)
				keep(err)
			})
		}
		others.Go(func() { // one act of each kind at each step of a job
			for i := 0; !over.Load() && ctx.Err() == nil; i++ {
				k := before[(i*37)%len(before)]
				switch i % 4 {
				case 0:
					keep(w.register(w.sealer))
				case 1:
					keep(w.newSecret(w.row(k.ID), w.sealer))
				case 2:
					keep(w.tryRevoke(ctx, k.ID))
				default:
					row := w.row(k.ID)
					_, err := w.sealer.Open(ctx, bindingOf(row), row.Envelope)
					keep(err)
				}
				select {
				case step <- struct{}{}:
				case <-time.After(time.Millisecond):
				}
			}
		})
		jobs.Wait()
		over.Store(true)
		others.Wait()
		close(errs)
		for err := range errs {
			require.NoError(t, err)
		}
		w.requireDone(w.sealer)
		w.requireAllOpen(w.sealer)
		revoked, renewed := 0, 0
		for _, k := range w.rows() {
			revoked += min(1, int(k.RevokedAt))
			renewed += min(1, int(k.Version-1))
		}
		require.Positive(t, revoked)
		require.Positive(t, renewed)
		require.Greater(t, len(w.rows()), len(before))
	})
}

// changing is a sealer that gets another keyset.
type changing struct{ atomic.Pointer[sealer.Sealer] }

func (c *changing) now() sealer.Sealer { return *c.Load() }

func (c *changing) Seal(ctx context.Context, b sealer.Binding, secret sealer.Secret) (sealer.Envelope, error) {
	return c.now().Seal(ctx, b, secret)
}

func (c *changing) Open(ctx context.Context, b sealer.Binding, envelope []byte) (sealer.Secret, error) {
	return c.now().Open(ctx, b, envelope)
}

func (c *changing) Rewrap(ctx context.Context, b sealer.Binding, envelope []byte) (sealer.Envelope, error) {
	return c.now().Rewrap(ctx, b, envelope)
}

func (c *changing) PrimaryKEK(ctx context.Context) (string, error) { return c.now().PrimaryKEK(ctx) }

// At each kind of step, and again at the next such step.
func TestAPrimaryKEKThatChangesMeanwhileIsFollowed(t *testing.T) {
	for _, at := range rewrap.Steps() {
		t.Run(at, func(t *testing.T) {
			w := newWorld(t, modelstest.EngineSQLite, 9)
			w.rotate()
			backend := &changing{}
			backend.Store(&w.sealer)
			times := 0
			job := rewrap.New(rewrap.Config{Store: w.Store, Sealer: backend})
			_, err := rewrap.Hasten(rewrap.AtEachStep(job, 4, func(step string) {
				if step == at && times < 2 {
					times++
					w.rotate()
					next := w.sealer
					backend.Store(&next)
				}
			})).Run(t.Context())
			require.NoError(t, err)
			require.Positive(t, times)
			w.requireAllOpen(w.sealer)
			if at == "canary stored" || at == "canary verified" { // the keys were done by then, and are again by the next job
				w.run(w.sealer)
			}
			w.requireDone(w.sealer)
		})
	}
}

// held is a store whose keys another transaction has, all the time.
type held struct{ rewrap.Store }

func (held) Rewrap(context.Context, []models.Rewrapping) ([]string, error) { return nil, nil }

// stale is a store in which somebody seals with an old KEK, all the time.
type stale struct{ rewrap.Store }

func (s stale) KeysByKEK(ctx context.Context) (map[string]int64, error) {
	counts, err := s.Store.KeysByKEK(ctx)
	counts["local:0ldkek00"]++
	return counts, err
}

func TestAJobThatCantComeToAnEndSaysWhy(t *testing.T) {
	w := newWorld(t, modelstest.EngineSQLite, 3)
	w.rotate()
	for _, tc := range []struct {
		store rewrap.Store
		want  error
	}{{held{w.Store}, rewrap.ErrBusy}, {stale{w.Store}, rewrap.ErrStillSealing}} {
		_, err := rewrap.Hasten(rewrap.New(rewrap.Config{Store: tc.store, Sealer: w.sealer})).Run(t.Context())
		require.ErrorIs(t, err, tc.want)
		w.requireAllOpen(w.sealer)
		row, err := w.Canary(t.Context())
		require.NoError(t, err)
		primary, err := w.sealer.PrimaryKEK(t.Context())
		require.NoError(t, err)
		require.NotEqual(t, primary, row.KEKID, "the canary goes last")
	}
}

// A sealer in another process may take a second to learn of a new primary KEK.
func TestAPrimaryKEKThatShowsLateIsWaitedFor(t *testing.T) {
	w := newWorld(t, modelstest.EngineSQLite, 3)
	backend, before := &changing{}, w.sealer
	backend.Store(&before)
	w.rotate()
	late := time.AfterFunc(100*time.Millisecond, func() { backend.Store(&w.sealer) })
	defer late.Stop()
	result, err := rewrap.New(rewrap.Config{Store: w.Store, Sealer: backend, Settle: 500 * time.Millisecond}).Run(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 3, result.Rewrapped)
	w.requireDone(w.sealer)
}

func TestAKeyThatAnotherJobCouldReadIsNoLongerUnreadable(t *testing.T) {
	each(t, 3, func(t *testing.T, w *world) {
		elsewhere := open(t, filepath.Join(t.TempDir(), "elsewhere.json"))
		require.NoError(t, w.register(elsewhere))
		w.rotate()
		both := sealer.Migrating(w.sealer, elsewhere)
		var once sync.Once
		result, err := rewrap.New(rewrap.Config{Store: w.Store, Sealer: w.sealer, Report: func(rewrap.Progress) {
			once.Do(func() { w.run(both) })
		}}).Run(t.Context())
		require.NoError(t, err)
		require.Equal(t, rewrap.Progress{Total: 4, Rewrapped: 3, Elsewhere: 1}, result.Progress)
		require.Empty(t, result.Unreadable)
		w.requireAllOpen(w.sealer)
		w.requireDone(w.sealer)
	})
}
