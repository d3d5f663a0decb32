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

	"github.com/agentrouter/aikeys/impl/keysetcheck"
	"github.com/agentrouter/aikeys/impl/rewrap"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/remote"
	"github.com/agentrouter/aikeys/sealer/sealertest"
)

func TestRunMovesEverythingToThePrimaryKEK(t *testing.T) {
	each(t, 503, func(t *testing.T, env *env) {
		env.revoke(env.rows()[7].ID)
		env.rotate()
		before := env.rows()
		result := env.run(env.sealer)
		require.Equal(t, rewrap.Progress{Total: 503, Rewrapped: 503}, result.Progress)
		require.True(t, result.Canary)
		require.Empty(t, result.Unreadable)
		env.requireDone(env.sealer)
		env.requireAllOpen(env.sealer)
		for i, k := range env.rows() {
			require.True(t, sealer.SamePayload(before[i].Envelope, k.Envelope), "secrets were not touched")
			require.Equal(t, before[i].RevokedAt, k.RevokedAt)
		}
		after := env.rows()
		require.Zero(t, env.run(env.sealer).Progress, "there is nothing left to do")
		require.Equal(t, after, env.rows())
	})
}

func TestRunMovesSecretsToAnotherSealer(t *testing.T) {
	each(t, 150, func(t *testing.T, env *env) {
		old, next := env.sealer, sealertest.New(t)
		env.sealer = next
		env.registerMany(1) // registered by a service that already has the new sealer
		both := sealer.Migrating(next, old)
		env.requireAllOpen(both)
		require.Equal(t, rewrap.Progress{Total: 150, Rewrapped: 150}, env.run(both).Progress)
		env.requireAllOpen(next)
		env.requireDone(next)
	})
}

func TestRunOnAnEmptyDatabase(t *testing.T) {
	each(t, 0, func(t *testing.T, env *env) {
		require.Zero(t, env.run(env.sealer).Progress)
	})
}

// noOpenSealer has the right to re-wrap but not to open.
type noOpenSealer struct{ sealer.Sealer }

// errDenied is the error that secrets-svc's client returns for a refused call.
var errDenied = fmt.Errorf("%w: %w", sealer.ErrUnavailable, remote.ErrNotAllowed)

func (noOpenSealer) Open(context.Context, sealer.Binding, []byte) (sealer.Secret, error) {
	return sealer.Secret{}, errDenied
}

func TestRunWithoutTheRightToOpen(t *testing.T) {
	each(t, 120, func(t *testing.T, env *env) {
		env.rotate()
		require.EqualValues(t, 120, env.run(noOpenSealer{env.sealer}).Rewrapped)
		env.requireDone(env.sealer)
		env.requireAllOpen(env.sealer)
	})
}

func TestRunMovesNoSecretUnverified(t *testing.T) {
	each(t, 3, func(t *testing.T, env *env) {
		before := env.rows()
		both := sealer.Migrating(sealertest.New(t), env.sealer)
		_, err := rewrap.New(rewrap.Config{Store: env.Store, Sealer: noOpenSealer{both}}).Run(t.Context())
		require.ErrorIs(t, err, errDenied)
		require.Equal(t, before, env.rows())
	})
}

func TestUnreadableIsListedAndLeftAlone(t *testing.T) {
	each(t, 6, func(t *testing.T, env *env) {
		keys := env.rows()
		changed := append([]byte{}, keys[0].Envelope...)
		changed[20] ^= 1
		foreign, err := sealertest.New(t).Seal(t.Context(), bindingOf(keys[3]), sealer.NewSecret([]byte("x")))
		require.NoError(t, err)
		env.replace(keys[0].ID, changed, keys[0].KEKID)
		env.replace(keys[1].ID, keys[2].Envelope, keys[1].KEKID)
		env.replace(keys[3].ID, foreign.Bytes, foreign.KEKID)
		env.replace(keys[4].ID, []byte("no envelope"), keys[4].KEKID)
		env.rotate()
		before := env.rows()
		result := env.run(env.sealer)
		require.Equal(t, rewrap.Progress{Total: 6, Rewrapped: 2, Unreadable: 4}, result.Progress)
		unreadable := []string{}
		for i, u := range result.Unreadable {
			unreadable = append(unreadable, u.KeyID)
			require.Equal(t, []string{"acme", "web"}, []string{u.CustomerID, u.ProjectID})
			require.Equal(t, []string{"it was changed, or belongs to another row", "it was changed, or belongs to another row",
				"its key-encryption key is unknown or retired", "it is not an envelope"}[i], u.Reason)
		}
		require.Equal(t, []string{keys[0].ID, keys[1].ID, keys[3].ID, keys[4].ID}, unreadable)
		after := env.rows()
		for _, i := range []int{0, 1, 3, 4} {
			require.Equal(t, before[i], after[i])
		}
		env.requireDone(env.sealer, unreadable...)
	})
}

// A re-wrap neither notices nor repairs a damaged ciphertext, which must not end the job.
func TestDamagedCiphertextIsRewrapped(t *testing.T) {
	each(t, 3, func(t *testing.T, env *env) {
		first := env.rows()[0]
		damaged := append([]byte{}, first.Envelope...)
		damaged[len(damaged)-1] ^= 1
		env.replace(first.ID, damaged, first.KEKID)
		env.rotate()
		require.EqualValues(t, 3, env.run(env.sealer).Rewrapped)
		require.True(t, sealer.SamePayload(damaged, env.row(first.ID).Envelope))
	})
}

func TestRowNamingTheWrongKEKIsRepaired(t *testing.T) {
	each(t, 3, func(t *testing.T, env *env) {
		keys := env.rows()
		env.rotate()
		primary, err := env.sealer.PrimaryKEK(t.Context())
		require.NoError(t, err)
		env.replace(keys[0].ID, keys[0].Envelope, primary)
		env.run(env.sealer)
		current := env.row(keys[1].ID)
		env.replace(keys[1].ID, current.Envelope, "local:00000000")
		env.run(env.sealer)
		env.requireAllOpen(env.sealer)
		env.requireDone(env.sealer)
	})
}

func TestRunRefusesAWrongKeyset(t *testing.T) {
	each(t, 3, func(t *testing.T, env *env) {
		before := env.rows()
		_, err := rewrap.New(rewrap.Config{Store: env.Store, Sealer: sealertest.New(t)}).Run(t.Context())
		require.ErrorIs(t, err, keysetcheck.ErrWrongKEK)
		require.Equal(t, before, env.rows())
	})
}

func TestConcurrentJobs(t *testing.T) {
	each(t, 300, func(t *testing.T, env *env) {
		env.rotate()
		const jobs = 4
		results, errs := make([]rewrap.Result, jobs), make([]error, jobs)
		var wg sync.WaitGroup
		for i := range jobs {
			wg.Go(func() {
				results[i], errs[i] = rewrap.New(rewrap.Config{Store: env.Store, Sealer: env.sealer}).Run(t.Context())
			})
		}
		wg.Wait()
		var rewrapped int64
		for i := range jobs {
			require.NoError(t, errs[i])
			rewrapped += results[i].Rewrapped
		}
		require.EqualValues(t, 300, rewrapped, "each key once")
		env.requireDone(env.sealer)
		env.requireAllOpen(env.sealer)
	})
}

func TestRate(t *testing.T) {
	env := newEnv(t, modelstest.EngineSQLite, 60)
	env.rotate()
	var reports []rewrap.Progress
	began := time.Now()
	_, err := rewrap.New(rewrap.Config{Store: env.Store, Sealer: env.sealer, Rate: 100, Report: func(p rewrap.Progress) {
		reports = append(reports, p)
	}}).Run(t.Context())
	require.NoError(t, err)
	require.GreaterOrEqual(t, time.Since(began), 500*time.Millisecond, "60 keys at 100 a second, the first few at once")
	require.GreaterOrEqual(t, len(reports), 10, "in small batches")
	for i, p := range reports {
		require.EqualValues(t, 60, p.Total)
		if i > 0 {
			require.Greater(t, p.Done(), reports[i-1].Done())
		}
	}
	require.EqualValues(t, 60, reports[len(reports)-1].Done())
}

func TestCanceledJobReportsProgress(t *testing.T) {
	each(t, 30, func(t *testing.T, env *env) {
		env.rotate()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		job := rewrap.New(rewrap.Config{Store: env.Store, Sealer: env.sealer, Report: func(p rewrap.Progress) {
			if p.Done() == 20 {
				cancel()
			}
		}})
		result, err := rewrap.AtEachStep(job, 5, func(string) {}).Run(ctx)
		require.ErrorIs(t, err, context.Canceled)
		require.Equal(t, rewrap.Progress{Total: 30, Rewrapped: 20}, result.Progress)
		env.requireAllOpen(env.sealer)
		require.Equal(t, rewrap.Progress{Total: 10, Rewrapped: 10}, env.run(env.sealer).Progress, "the next job continues where it stopped")
		env.requireDone(env.sealer)
	})
}

// flakyStore returns ErrUnavailable a few times, in turn before and after the write.
type flakyStore struct {
	rewrap.Store
	times int
}

func (l *flakyStore) Rewrap(ctx context.Context, batch []models.Rewrapping) ([]string, error) {
	l.times--
	if l.times < 0 {
		return l.Store.Rewrap(ctx, batch)
	}
	if l.times%2 == 0 {
		_, _ = l.Store.Rewrap(ctx, batch) // it commits, and the answer is lost
	}
	return nil, models.ErrUnavailable
}

func TestRunRetriesDuringAnOutage(t *testing.T) {
	each(t, 20, func(t *testing.T, env *env) {
		env.rotate()
		away := sealertest.NewUnavailable(env.sealer)
		timer := time.AfterFunc(100*time.Millisecond, func() { away.SetAvailable(true) })
		defer timer.Stop()
		result, err := rewrap.New(rewrap.Config{Store: &flakyStore{env.Store, 3}, Sealer: away}).Run(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, 20, result.Done())
		env.requireDone(env.sealer)
		env.requireAllOpen(env.sealer)
		t.Run("but only for as long as its patience", func(t *testing.T) {
			away.SetAvailable(false)
			_, err := rewrap.New(rewrap.Config{Store: env.Store, Sealer: away, Patience: 50 * time.Millisecond}).Run(t.Context())
			require.ErrorIs(t, err, sealer.ErrUnavailable)
		})
	})
}

// The column can hold numbers that are not valid versions. One such row must not keep the others from being read.
func TestInvalidVersionIsUnreadable(t *testing.T) {
	each(t, 3, func(t *testing.T, env *env) {
		damaged := env.rows()[1].ID
		_, err := env.database().ExecContext(t.Context(), `UPDATE ai_keys SET version = -1 WHERE id = $1`, damaged)
		require.NoError(t, err)
		env.rotate()
		result := env.run(env.sealer)
		require.Equal(t, rewrap.Progress{Total: 3, Rewrapped: 2, Unreadable: 1}, result.Progress)
		require.Equal(t, damaged, result.Unreadable[0].KeyID)
		require.Equal(t, "its row has no valid ids", result.Unreadable[0].Reason)
		env.requireDone(env.sealer, damaged)
	})
}

// newSecret stores the next version of a key, as a rotation does.
func (env *env) newSecret(k models.Key, s sealer.Sealer) error {
	next := k
	next.Version++
	secret := fmt.Sprintf("%s-%d", secretOf(k.ID), next.Version)
	envelope, err := s.Seal(env.t.Context(), bindingOf(next), sealer.NewSecret([]byte(secret)))
	if err != nil {
		return err
	}
	env.mu.Lock()
	env.secrets[k.ID] = secret
	env.mu.Unlock()
	_, err = env.database().ExecContext(env.t.Context(), `UPDATE ai_keys SET version = $1, envelope = $2, kek_id = $3 WHERE id = $4`,
		next.Version, envelope.Bytes, envelope.KEKID, k.ID)
	return err
}

// While two jobs run, keys are registered, revoked, rotated and opened.
func TestRunDuringTraffic(t *testing.T) {
	each(t, 400, func(t *testing.T, env *env) {
		before := env.rows()
		env.rotate()
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
			job := rewrap.AtEachStep(rewrap.New(rewrap.Config{Store: env.Store, Sealer: env.sealer}), 10, func(string) {
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
					keep(env.register(env.sealer))
				case 1:
					keep(env.newSecret(env.row(k.ID), env.sealer))
				case 2:
					keep(env.tryRevoke(ctx, k.ID))
				default:
					row := env.row(k.ID)
					_, err := env.sealer.Open(ctx, bindingOf(row), row.Envelope)
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
		env.requireDone(env.sealer)
		env.requireAllOpen(env.sealer)
		revoked, renewed := 0, 0
		for _, k := range env.rows() {
			revoked += min(1, int(k.RevokedAt))
			renewed += min(1, int(k.Version-1))
		}
		require.Positive(t, revoked)
		require.Positive(t, renewed)
		require.Greater(t, len(env.rows()), len(before))
	})
}

// changing is a sealer whose keyset can be replaced.
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

// The primary KEK changes at each kind of step, twice.
func TestRunFollowsANewPrimaryKEK(t *testing.T) {
	for _, at := range rewrap.Steps() {
		t.Run(at, func(t *testing.T) {
			env := newEnv(t, modelstest.EngineSQLite, 9)
			env.rotate()
			backend := &changing{}
			backend.Store(&env.sealer)
			times := 0
			job := rewrap.New(rewrap.Config{Store: env.Store, Sealer: backend})
			_, err := rewrap.WithoutPauses(rewrap.AtEachStep(job, 4, func(step string) {
				if step == at && times < 2 {
					times++
					env.rotate()
					next := env.sealer
					backend.Store(&next)
				}
			})).Run(t.Context())
			require.NoError(t, err)
			require.Positive(t, times)
			env.requireAllOpen(env.sealer)
			if at == "canary stored" || at == "canary verified" { // the keys were done by then, and are again by the next job
				env.run(env.sealer)
			}
			env.requireDone(env.sealer)
		})
	}
}

// lockedStore is a store whose rows are always locked by another transaction.
type lockedStore struct{ rewrap.Store }

func (lockedStore) Rewrap(context.Context, []models.Rewrapping) ([]string, error) { return nil, nil }

// staleStore is a store in which another process keeps sealing with an old KEK.
type staleStore struct{ rewrap.Store }

func (s staleStore) KeysByKEK(ctx context.Context) (map[string]int64, error) {
	counts, err := s.Store.KeysByKEK(ctx)
	counts["local:0ldkek00"]++
	return counts, err
}

func TestRunGivesUp(t *testing.T) {
	env := newEnv(t, modelstest.EngineSQLite, 3)
	env.rotate()
	for _, tc := range []struct {
		store rewrap.Store
		want  error
	}{{lockedStore{env.Store}, rewrap.ErrBusy}, {staleStore{env.Store}, rewrap.ErrStillSealing}} {
		_, err := rewrap.WithoutPauses(rewrap.New(rewrap.Config{Store: tc.store, Sealer: env.sealer})).Run(t.Context())
		require.ErrorIs(t, err, tc.want)
		env.requireAllOpen(env.sealer)
		row, err := env.Canary(t.Context())
		require.NoError(t, err)
		primary, err := env.sealer.PrimaryKEK(t.Context())
		require.NoError(t, err)
		require.NotEqual(t, primary, row.KEKID, "the canary goes last")
	}
}

// A sealer in another process may take a second to learn of a new primary KEK.
func TestRunWaitsForALatePrimaryKEK(t *testing.T) {
	env := newEnv(t, modelstest.EngineSQLite, 3)
	backend, before := &changing{}, env.sealer
	backend.Store(&before)
	env.rotate()
	late := time.AfterFunc(100*time.Millisecond, func() { backend.Store(&env.sealer) })
	defer late.Stop()
	result, err := rewrap.New(rewrap.Config{Store: env.Store, Sealer: backend, Settle: 500 * time.Millisecond}).Run(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 3, result.Rewrapped)
	env.requireDone(env.sealer)
}

func TestRunBesideAJobWithMoreSealers(t *testing.T) {
	each(t, 3, func(t *testing.T, env *env) {
		elsewhere := open(t, filepath.Join(t.TempDir(), "elsewhere.json"))
		require.NoError(t, env.register(elsewhere))
		env.rotate()
		both := sealer.Migrating(env.sealer, elsewhere)
		var once sync.Once
		result, err := rewrap.New(rewrap.Config{Store: env.Store, Sealer: env.sealer, Report: func(rewrap.Progress) {
			once.Do(func() { env.run(both) })
		}}).Run(t.Context())
		require.NoError(t, err)
		require.Equal(t, rewrap.Progress{Total: 4, Rewrapped: 3, Elsewhere: 1}, result.Progress)
		require.Empty(t, result.Unreadable)
		env.requireAllOpen(env.sealer)
		env.requireDone(env.sealer)
	})
}
