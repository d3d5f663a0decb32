package rewrap_test

import (
	"context"
	"fmt"
	"sync"
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

func TestAllIsUnderThePrimaryKEKAfterwardsRevokedKeysAndTheCanaryToo(t *testing.T) {
	each(t, 503, func(t *testing.T, w *world) {
		w.revoke(w.rows()[7].ID)
		w.rotate()
		before := w.rows()
		result := w.run(w.sealer)
		require.Equal(t, rewrap.Progress{Total: 503, Rewrapped: 503}, result.Progress)
		require.True(t, result.Canary)
		require.Empty(t, result.Unreadable)
		w.requireDone(w.sealer)
		w.requireAllOpen(w.sealer)
		for i, k := range w.rows() {
			require.True(t, sealer.SamePayload(before[i].Envelope, k.Envelope), "secrets were not touched")
			require.Equal(t, before[i].RevokedAt, k.RevokedAt)
		}
		after := w.rows()
		require.Zero(t, w.run(w.sealer).Progress, "there is nothing left to do")
		require.Equal(t, after, w.rows())
	})
}

func TestSecretsMoveToAnotherSealer(t *testing.T) {
	each(t, 150, func(t *testing.T, w *world) {
		old, next := w.sealer, sealertest.New(t)
		w.sealer = next
		w.registerMany(1) // by a service that has the new sealer already
		both := sealer.Migrating(next, old)
		w.requireAllOpen(both)
		require.Equal(t, rewrap.Progress{Total: 150, Rewrapped: 150}, w.run(both).Progress)
		w.requireAllOpen(next)
		w.requireDone(next)
	})
}

func TestAnEmptyDatabaseIsDone(t *testing.T) {
	each(t, 0, func(t *testing.T, w *world) {
		require.Zero(t, w.run(w.sealer).Progress)
	})
}

// closedSealer may re-wrap, and open nothing.
type closedSealer struct{ sealer.Sealer }

// errDenied is what secrets-svc's client returns.
var errDenied = fmt.Errorf("%w: %w", sealer.ErrUnavailable, remote.ErrNotAllowed)

func (closedSealer) Open(context.Context, sealer.Binding, []byte) (sealer.Secret, error) {
	return sealer.Secret{}, errDenied
}

func TestASealerThatMayNotOpenIsEnough(t *testing.T) {
	each(t, 120, func(t *testing.T, w *world) {
		w.rotate()
		require.EqualValues(t, 120, w.run(closedSealer{w.sealer}).Rewrapped)
		w.requireDone(w.sealer)
		w.requireAllOpen(w.sealer)
	})
}

func TestNothingMovesToAnotherSealerUnverified(t *testing.T) {
	each(t, 3, func(t *testing.T, w *world) {
		before := w.rows()
		both := sealer.Migrating(sealertest.New(t), w.sealer)
		_, err := rewrap.New(rewrap.Config{Store: w.Store, Sealer: closedSealer{both}}).Run(t.Context())
		require.ErrorIs(t, err, errDenied)
		require.Equal(t, before, w.rows())
	})
}

func TestWhatIsUnreadableIsListedAndLeftAsItIs(t *testing.T) {
	each(t, 6, func(t *testing.T, w *world) {
		keys := w.rows()
		changed := append([]byte{}, keys[0].Envelope...)
		changed[20] ^= 1
		foreign, err := sealertest.New(t).Seal(t.Context(), bindingOf(keys[3]), sealer.NewSecret([]byte("x")))
		require.NoError(t, err)
		w.replace(keys[0].ID, changed, keys[0].KEKID)
		w.replace(keys[1].ID, keys[2].Envelope, keys[1].KEKID)
		w.replace(keys[3].ID, foreign.Bytes, foreign.KEKID)
		w.replace(keys[4].ID, []byte("no envelope"), keys[4].KEKID)
		w.rotate()
		before := w.rows()
		result := w.run(w.sealer)
		require.Equal(t, rewrap.Progress{Total: 6, Rewrapped: 2, Unreadable: 4}, result.Progress)
		unreadable := []string{}
		for i, u := range result.Unreadable {
			unreadable = append(unreadable, u.KeyID)
			require.Equal(t, []string{"acme", "web"}, []string{u.CustomerID, u.ProjectID})
			require.Equal(t, []string{"it was changed, or belongs to another row", "it was changed, or belongs to another row",
				"its key-encryption key is unknown or retired", "it is not an envelope"}[i], u.Reason)
		}
		require.Equal(t, []string{keys[0].ID, keys[1].ID, keys[3].ID, keys[4].ID}, unreadable)
		after := w.rows()
		for _, i := range []int{0, 1, 3, 4} {
			require.Equal(t, before[i], after[i])
		}
		w.requireDone(w.sealer, unreadable...)
	})
}

// A re-wrap neither sees nor mends a ciphertext that is damaged: it must not end the job.
func TestADamagedCiphertextIsRewrappedAsItIs(t *testing.T) {
	each(t, 3, func(t *testing.T, w *world) {
		first := w.rows()[0]
		damaged := append([]byte{}, first.Envelope...)
		damaged[len(damaged)-1] ^= 1
		w.replace(first.ID, damaged, first.KEKID)
		w.rotate()
		require.EqualValues(t, 3, w.run(w.sealer).Rewrapped)
		require.True(t, sealer.SamePayload(damaged, w.row(first.ID).Envelope))
	})
}

func TestARowThatNamesAnotherKEKThanItsEnvelopeIsPutRight(t *testing.T) {
	each(t, 3, func(t *testing.T, w *world) {
		keys := w.rows()
		w.rotate()
		primary, err := w.sealer.PrimaryKEK(t.Context())
		require.NoError(t, err)
		w.replace(keys[0].ID, keys[0].Envelope, primary)
		w.run(w.sealer)
		current := w.row(keys[1].ID)
		w.replace(keys[1].ID, current.Envelope, "local:00000000")
		w.run(w.sealer)
		w.requireAllOpen(w.sealer)
		w.requireDone(w.sealer)
	})
}

func TestAWrongKeysetIsRefusedBeforeAnythingIsTouched(t *testing.T) {
	each(t, 3, func(t *testing.T, w *world) {
		before := w.rows()
		_, err := rewrap.New(rewrap.Config{Store: w.Store, Sealer: sealertest.New(t)}).Run(t.Context())
		require.ErrorIs(t, err, keysetcheck.ErrWrongKEK)
		require.Equal(t, before, w.rows())
	})
}

func TestSeveralJobsAtOnceAreHarmless(t *testing.T) {
	each(t, 300, func(t *testing.T, w *world) {
		w.rotate()
		const jobs = 4
		results, errs := make([]rewrap.Result, jobs), make([]error, jobs)
		var wg sync.WaitGroup
		for i := range jobs {
			wg.Go(func() {
				results[i], errs[i] = rewrap.New(rewrap.Config{Store: w.Store, Sealer: w.sealer}).Run(t.Context())
			})
		}
		wg.Wait()
		var rewrapped int64
		for i := range jobs {
			require.NoError(t, errs[i])
			rewrapped += results[i].Rewrapped
		}
		require.EqualValues(t, 300, rewrapped, "each key once")
		w.requireDone(w.sealer)
		w.requireAllOpen(w.sealer)
	})
}

func TestTheRateIsKept(t *testing.T) {
	w := newWorld(t, modelstest.EngineSQLite, 60)
	w.rotate()
	var reports []rewrap.Progress
	began := time.Now()
	_, err := rewrap.New(rewrap.Config{Store: w.Store, Sealer: w.sealer, Rate: 100, Report: func(p rewrap.Progress) {
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

func TestAJobThatIsStoppedSaysHowFarItCame(t *testing.T) {
	each(t, 30, func(t *testing.T, w *world) {
		w.rotate()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		job := rewrap.New(rewrap.Config{Store: w.Store, Sealer: w.sealer, Report: func(p rewrap.Progress) {
			if p.Done() == 20 {
				cancel()
			}
		}})
		result, err := rewrap.AtEachStep(job, 5, func(string) {}).Run(ctx)
		require.ErrorIs(t, err, context.Canceled)
		require.Equal(t, rewrap.Progress{Total: 30, Rewrapped: 20}, result.Progress)
		w.requireAllOpen(w.sealer)
		require.Equal(t, rewrap.Progress{Total: 10, Rewrapped: 10}, w.run(w.sealer).Progress, "and is taken up where it stopped")
		w.requireDone(w.sealer)
	})
}

// lost answers that it is unavailable a few times, before the store does what it is asked or after.
type lost struct {
	rewrap.Store
	times int
}

func (l *lost) Rewrap(ctx context.Context, batch []models.Rewrapping) ([]string, error) {
	l.times--
	if l.times < 0 {
		return l.Store.Rewrap(ctx, batch)
	}
	if l.times%2 == 0 {
		_, _ = l.Store.Rewrap(ctx, batch) // it commits, and the answer is lost
	}
	return nil, models.ErrUnavailable
}

func TestAnOutageIsWaitedFor(t *testing.T) {
	each(t, 20, func(t *testing.T, w *world) {
		w.rotate()
		away := sealertest.NewUnavailable(w.sealer)
		timer := time.AfterFunc(100*time.Millisecond, func() { away.SetAvailable(true) })
		defer timer.Stop()
		result, err := rewrap.New(rewrap.Config{Store: &lost{w.Store, 3}, Sealer: away}).Run(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, 20, result.Done())
		w.requireDone(w.sealer)
		w.requireAllOpen(w.sealer)
		t.Run("but not for ever", func(t *testing.T) {
			away.SetAvailable(false)
			_, err := rewrap.New(rewrap.Config{Store: w.Store, Sealer: away, Patience: 50 * time.Millisecond}).Run(t.Context())
			require.ErrorIs(t, err, sealer.ErrUnavailable)
		})
	})
}

// The columns hold numbers that no version is: one such row must not keep the others from being read.
func TestARowWhoseVersionIsNoneIsUnreadableAlone(t *testing.T) {
	each(t, 3, func(t *testing.T, w *world) {
		damaged := w.rows()[1].ID
		_, err := w.database().ExecContext(t.Context(), `UPDATE ai_keys SET version = -1 WHERE id = $1`, damaged)
		require.NoError(t, err)
		w.rotate()
		result := w.run(w.sealer)
		require.Equal(t, rewrap.Progress{Total: 3, Rewrapped: 2, Unreadable: 1}, result.Progress)
		require.Equal(t, damaged, result.Unreadable[0].KeyID)
		require.Equal(t, "its row has no valid ids", result.Unreadable[0].Reason)
		w.requireDone(w.sealer, damaged)
	})
}
