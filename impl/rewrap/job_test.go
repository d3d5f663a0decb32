package rewrap

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	awskms "github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/agentrouter/aikeys/impl/keysetcheck"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/awskms/awskmstest"
	"github.com/agentrouter/aikeys/sealer/kms"
	"github.com/agentrouter/aikeys/sealer/kmsurl"
	"github.com/agentrouter/aikeys/sealer/local"
	"github.com/agentrouter/aikeys/sealer/remote"
	"github.com/agentrouter/aikeys/sealer/sealertest"
	"github.com/agentrouter/aikeys/sealer/vault/vaulttest"
)

func TestRunMovesEverythingToThePrimaryKEK(t *testing.T) {
	each(t, 503, func(t *testing.T, env *env) {
		require.NoError(t, env.revoke(t.Context(), env.rows()[7].ID))
		env.rotate()
		before := env.rows()
		result := env.run(env.sealer)
		require.Equal(t, Progress{Total: 503, Rewrapped: 503}, result.Progress)
		require.True(t, result.Canary)
		require.Empty(t, result.Unreadable)
		require.Zero(t, env.requireOpens(env.sealer))
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
	each(t, 110, func(t *testing.T, env *env) {
		old, next := env.sealer, sealertest.New(t)
		env.sealer = next
		env.registerMany(1) // registered by a service that already has the new sealer
		both := sealer.Migrating(next, old)
		env.requireOpens(both)
		require.Equal(t, Progress{Total: 110, Rewrapped: 110}, env.run(both).Progress)
		require.Zero(t, env.requireOpens(next))
	})
}

func TestRunOnAnEmptyDatabase(t *testing.T) {
	each(t, 0, func(t *testing.T, env *env) {
		require.Zero(t, env.run(env.sealer).Progress)
	})
}

func TestRunWithoutTheRightToOpen(t *testing.T) {
	each(t, 10, func(t *testing.T, env *env) {
		env.rotate()
		require.EqualValues(t, 10, env.run(withoutOpen(env.sealer)).Rewrapped)
		require.Zero(t, env.requireOpens(env.sealer))
	})
}

func TestRunMovesNoSecretUnverified(t *testing.T) {
	each(t, 3, func(t *testing.T, env *env) {
		before := env.rows()
		both := sealer.Migrating(sealertest.New(t), env.sealer)
		_, err := New(Config{Store: env.Store, Sealer: withoutOpen(both)}).Run(t.Context())
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
		require.Equal(t, Progress{Total: 6, Rewrapped: 2, Unreadable: 4}, result.Progress)
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
		require.Zero(t, env.requireOpens(env.sealer, unreadable...))
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
		require.Zero(t, env.requireOpens(env.sealer))
	})
}

func TestRunRefusesAWrongKeyset(t *testing.T) {
	each(t, 3, func(t *testing.T, env *env) {
		before := env.rows()
		_, err := New(Config{Store: env.Store, Sealer: sealertest.New(t)}).Run(t.Context())
		require.ErrorIs(t, err, keysetcheck.ErrWrongKEK)
		require.Equal(t, before, env.rows())
	})
}

func TestConcurrentJobs(t *testing.T) {
	each(t, 210, func(t *testing.T, env *env) {
		env.rotate()
		const jobs = 4
		results, errs := make([]Result, jobs), make([]error, jobs)
		var wg sync.WaitGroup
		for i := range jobs {
			wg.Go(func() {
				results[i], errs[i] = New(Config{Store: env.Store, Sealer: env.sealer}).Run(t.Context())
			})
		}
		wg.Wait()
		var rewrapped int64
		for i := range jobs {
			require.NoError(t, errs[i])
			rewrapped += results[i].Rewrapped
		}
		require.EqualValues(t, 210, rewrapped, "each key once")
		require.Zero(t, env.requireOpens(env.sealer))
	})
}

func TestRate(t *testing.T) {
	env := newEnv(t, modelstest.EngineSQLite, 60)
	env.rotate()
	var reports []Progress
	began := time.Now()
	_, err := New(Config{Store: env.Store, Sealer: env.sealer, Rate: 100, Report: func(p Progress) {
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
		job := New(Config{Store: env.Store, Sealer: env.sealer, Report: func(p Progress) {
			if p.Done() == 20 {
				cancel()
			}
		}})
		job.batch = 5
		result, err := job.Run(ctx)
		require.ErrorIs(t, err, context.Canceled)
		require.Equal(t, Progress{Total: 30, Rewrapped: 20}, result.Progress)
		env.requireOpens(env.sealer)
		require.Equal(t, Progress{Total: 10, Rewrapped: 10}, env.run(env.sealer).Progress, "the next job continues where it stopped")
		require.Zero(t, env.requireOpens(env.sealer))
	})
}

func TestRunRetriesDuringAnOutage(t *testing.T) {
	each(t, 20, func(t *testing.T, env *env) {
		env.rotate()
		away := sealertest.NewUnavailable(env.sealer)
		timer := time.AfterFunc(100*time.Millisecond, func() { away.SetAvailable(true) })
		defer timer.Stop()
		calls := 0
		store := fakeStore{env.Store, func(batch []models.Rewrapping) ([]string, error) {
			switch calls++; calls {
			case 1, 3:
				_, _ = env.Rewrap(t.Context(), batch) // the store commits, but the answer is lost
				return nil, models.ErrUnavailable
			case 2:
				return nil, models.ErrUnavailable
			}
			return env.Rewrap(t.Context(), batch)
		}}
		result, err := New(Config{Store: store, Sealer: away}).Run(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, 20, result.Done())
		require.Zero(t, env.requireOpens(env.sealer))
		t.Run("but only for as long as its patience", func(t *testing.T) {
			away.SetAvailable(false)
			job := New(Config{Store: env.Store, Sealer: away})
			job.patience = 50 * time.Millisecond
			_, err := job.Run(t.Context())
			require.ErrorIs(t, err, sealer.ErrUnavailable)
		})
	})
}

// The column can hold numbers that are not valid versions. One such row must not make the others unreadable.
func TestInvalidVersionIsUnreadable(t *testing.T) {
	each(t, 3, func(t *testing.T, env *env) {
		damaged := env.rows()[1].ID
		_, err := env.db.ExecContext(t.Context(), `UPDATE ai_keys SET version = -1 WHERE id = $1`, damaged)
		require.NoError(t, err)
		env.rotate()
		result := env.run(env.sealer)
		require.Equal(t, Progress{Total: 3, Rewrapped: 2, Unreadable: 1}, result.Progress)
		require.Equal(t, damaged, result.Unreadable[0].KeyID)
		require.Equal(t, "its row has no valid ids", result.Unreadable[0].Reason)
		require.Zero(t, env.requireOpens(env.sealer, damaged))
	})
}

// While two jobs run, keys are registered, revoked, rotated and opened.
func TestRunDuringTraffic(t *testing.T) {
	each(t, 200, func(t *testing.T, env *env) {
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
		newSecret := func(k models.Key) error { // like a rotation
			k.Version++
			secret := fmt.Sprintf("%s-%d", secretOf(k.ID), k.Version)
			envelope, err := env.sealer.Seal(ctx, bindingOf(k), sealer.NewSecret([]byte(secret)))
			if err != nil {
				return err
			}
			env.secrets[k.ID] = secret // only this goroutine uses the map
			_, err = env.db.ExecContext(ctx, `UPDATE ai_keys SET version = $1, envelope = $2, kek_id = $3 WHERE id = $4`,
				k.Version, envelope.Bytes, envelope.KEKID, k.ID)
			return err
		}
		for range 2 {
			job := New(Config{Store: env.Store, Sealer: env.sealer})
			job.batch, job.at = 10, func(string) {
				select {
				case <-step:
				case <-ctx.Done():
				}
			}
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
					keep(newSecret(env.row(k.ID)))
				case 2:
					keep(env.revoke(ctx, k.ID))
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
		require.Zero(t, env.requireOpens(env.sealer))
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

// The primary KEK changes at each kind of step, twice.
func TestRunFollowsANewPrimaryKEK(t *testing.T) {
	for _, at := range []string{"read", "rewrapped", "verified", "stored", "read back", "canary verified", "canary stored"} {
		t.Run(at, func(t *testing.T) {
			t.Parallel()
			env := newEnv(t, modelstest.EngineSQLite, 9)
			env.rotate()
			backend := &struct{ sealer.Sealer }{env.sealer}
			times := 0
			job := New(Config{Store: env.Store, Sealer: backend})
			job.batch, job.pause, job.at = 4, time.Microsecond, func(step string) {
				if step == at && times < 2 {
					times++
					env.rotate()
					backend.Sealer = env.sealer
				}
			}
			_, err := job.Run(t.Context())
			require.NoError(t, err)
			require.Positive(t, times)
			env.requireOpens(env.sealer)
			if at == "canary stored" || at == "canary verified" { // the next job does the keys again
				env.run(env.sealer)
			}
			require.Zero(t, env.requireOpens(env.sealer))
		})
	}
}

func TestRunGivesUp(t *testing.T) {
	for _, c := range []struct {
		name  string
		store func(*models.Store) Store
		want  error
	}{
		{"another transaction locks all rows", func(s *models.Store) Store {
			return fakeStore{s, func([]models.Rewrapping) ([]string, error) { return nil, nil }}
		}, ErrBusy},
		{"another process keeps sealing with an old KEK", func(s *models.Store) Store {
			return fakeCounts{s, func() (map[string]int64, error) {
				counts, err := s.KeysByKEK(t.Context())
				counts["local:0ldkek00"]++
				return counts, err
			}}
		}, ErrStillSealing},
	} {
		t.Run(c.name, func(t *testing.T) {
			env := newEnv(t, modelstest.EngineSQLite, 3)
			env.rotate()
			job := New(Config{Store: c.store(env.Store), Sealer: env.sealer})
			job.pause = time.Microsecond
			_, err := job.Run(t.Context())
			require.ErrorIs(t, err, c.want)
			env.requireOpens(env.sealer)
			row, err := env.Canary(t.Context())
			require.NoError(t, err)
			primary, err := env.sealer.PrimaryKEK(t.Context())
			require.NoError(t, err)
			require.NotEqual(t, primary, row.KEKID, "the canary goes last")
		})
	}
}

// A sealer in another process may take a second to learn of a new primary KEK: here, it learns of it after the first pass.
func TestRunWaitsForALatePrimaryKEK(t *testing.T) {
	env := newEnv(t, modelstest.EngineSQLite, 3)
	backend, passes := &struct{ sealer.Sealer }{env.sealer}, 0
	env.rotate()
	store := fakeCounts{env.Store, func() (map[string]int64, error) {
		counts, err := env.KeysByKEK(t.Context())
		if passes++; passes == 2 { // the job counts once before the first pass
			backend.Sealer = env.sealer
		}
		return counts, err
	}}
	result, err := New(Config{Store: store, Sealer: backend, Settle: 100 * time.Millisecond}).Run(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 3, result.Rewrapped)
	require.Zero(t, env.requireOpens(env.sealer))
}

func TestRunBesideAJobWithMoreSealers(t *testing.T) {
	each(t, 3, func(t *testing.T, env *env) {
		elsewhere := openKeyset(t, filepath.Join(t.TempDir(), "elsewhere.json"))
		require.NoError(t, env.register(elsewhere))
		env.rotate()
		both := sealer.Migrating(env.sealer, elsewhere)
		var once sync.Once
		result, err := New(Config{Store: env.Store, Sealer: env.sealer, Report: func(Progress) {
			once.Do(func() { env.run(both) })
		}}).Run(t.Context())
		require.NoError(t, err)
		require.Equal(t, Progress{Total: 4, Rewrapped: 3, Elsewhere: 1}, result.Progress)
		require.Empty(t, result.Unreadable)
		require.Zero(t, env.requireOpens(env.sealer))
	})
}

// A job is stopped at its first step, the next job at its second step, and so on, until a job ends. Before each job,
// the keys get a new primary KEK or another sealer. After each stop, all keys open, and another job does the rest.
func TestJobStoppedAtEveryStep(t *testing.T) {
	for name, next := range map[string]func(t *testing.T, env *env) sealer.Sealer{
		"new KEK": func(_ *testing.T, env *env) sealer.Sealer {
			env.rotate()
			return env.sealer
		},
		"another sealer": func(t *testing.T, env *env) sealer.Sealer {
			before := env.sealer
			env.sealer = openKeyset(t, filepath.Join(t.TempDir(), "keyset.json"))
			return sealer.Migrating(env.sealer, before)
		},
	} {
		t.Run(name, func(t *testing.T) {
			each(t, 5, func(t *testing.T, env *env) {
				require.NoError(t, env.revoke(t.Context(), env.rows()[1].ID))
				seen, done := map[string]bool{}, false
				for last := 1; !done; last++ {
					both, count := next(t, env), 0
					job := New(Config{Store: env.Store, Sealer: both})
					job.batch, job.at = 3, func(step string) {
						if count++; count == last {
							seen[step] = true
							runtime.Goexit() // the job gets no further, as after a kill
						}
					}
					var running sync.WaitGroup
					running.Go(func() {
						_, err := job.Run(t.Context())
						done = assert.NoError(t, err)
					})
					running.Wait()
					env.requireOpens(both)
					env.run(both)
					require.Zero(t, env.requireOpens(env.sealer))
				}
				require.Len(t, seen, 7, "every step")
			})
		})
	}
}

// A kill can also hit the process between steps, for example within a transaction.
func TestKillAtRandomTimes(t *testing.T) {
	const envURL, envKeyset = "REWRAP_TEST_URL", "REWRAP_TEST_KEYSET"
	if url := os.Getenv(envURL); url != "" { // this is the process to kill
		job := New(Config{Store: modelstest.OpenStore(t, url, models.Options{}), Sealer: openKeyset(t, os.Getenv(envKeyset))})
		job.batch, job.at = 3, func(step string) { fmt.Println(step) }
		_, err := job.Run(t.Context())
		require.NoError(t, err)
		return
	}
	each(t, 60, func(t *testing.T, env *env) {
		for range 6 {
			env.rotate()
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKillAtRandomTimes$")
			cmd.Env = append(os.Environ(), envURL+"="+env.url, envKeyset+"="+env.keyset)
			stdout, err := cmd.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			scanner := bufio.NewScanner(stdout)
			require.True(t, scanner.Scan(), "the job has begun")
			for range rand.IntN(30) {
				scanner.Scan()
			}
			pause := time.NewTimer(time.Duration(rand.IntN(3000)) * time.Microsecond)
			<-pause.C
			_ = cmd.Process.Kill() // unless it has ended
			_ = cmd.Wait()
			env.requireOpens(env.sealer)
			env.run(env.sealer)
			require.Zero(t, env.requireOpens(env.sealer))
		}
	})
}

func TestUnsoundEnvelopeIsNeverWritten(t *testing.T) {
	env := newEnv(t, modelstest.EngineSQLite, 5)
	env.rotate()
	other := sealertest.New(t)
	seal := func(s sealer.Sealer, b sealer.Binding, secret string) sealer.Envelope {
		envelope, err := s.Seal(t.Context(), b, sealer.NewSecret([]byte(secret)))
		require.NoError(t, err)
		return envelope
	}
	flip := func(envelope sealer.Envelope, at int) sealer.Envelope {
		envelope.Bytes[at] ^= 1
		return envelope
	}
	for name, falsify := range map[string]func(b sealer.Binding, old []byte, sound sealer.Envelope) sealer.Envelope{
		"no envelope": func(sealer.Binding, []byte, sealer.Envelope) sealer.Envelope {
			return sealer.Envelope{KEKID: "local:00000000", Bytes: []byte("rubbish")}
		},
		"nothing": func(sealer.Binding, []byte, sealer.Envelope) sealer.Envelope { return sealer.Envelope{} },
		"the name of another KEK": func(_ sealer.Binding, _ []byte, sound sealer.Envelope) sealer.Envelope {
			return sealer.Envelope{KEKID: "local:00000000", Bytes: sound.Bytes}
		},
		"a data key that does not unwrap": func(_ sealer.Binding, _ []byte, sound sealer.Envelope) sealer.Envelope { return flip(sound, 40) },
		"another ciphertext": func(_ sealer.Binding, _ []byte, sound sealer.Envelope) sealer.Envelope {
			return flip(sound, len(sound.Bytes)-1)
		},
		"another secret": func(b sealer.Binding, _ []byte, _ sealer.Envelope) sealer.Envelope {
			return seal(env.sealer, b, "another")
		},
		"another key's": func(b sealer.Binding, _ []byte, _ sealer.Envelope) sealer.Envelope {
			b.KeyID = "byok_another"
			return seal(env.sealer, b, secretOf(b.KeyID))
		},
		"sealed by a stranger": func(b sealer.Binding, _ []byte, _ sealer.Envelope) sealer.Envelope {
			return seal(other, b, secretOf(b.KeyID))
		},
		"another data key to the same ciphertext": func(b sealer.Binding, old []byte, sound sealer.Envelope) sealer.Envelope {
			stranger := seal(env.sealer, b, secretOf(b.KeyID))
			payload := len(secretOf(b.KeyID)) + 12 + 16
			grafted := append(bytes.Clone(stranger.Bytes[:len(stranger.Bytes)-payload]), old[len(old)-payload:]...)
			require.True(t, sealer.SamePayload(grafted, sound.Bytes))
			return sealer.Envelope{KEKID: sound.KEKID, Bytes: grafted}
		},
	} {
		t.Run(name, func(t *testing.T) {
			before := env.rows()
			bad := sealertest.Fake{Sealer: env.sealer, RewrapFunc: func(ctx context.Context, b sealer.Binding, old []byte) (sealer.Envelope, error) {
				sound, err := env.sealer.Rewrap(ctx, b, old)
				if err != nil || bytes.Equal(sound.Bytes, old) || b == sealer.CanaryBinding() {
					return sound, err
				}
				return falsify(b, old, sound), nil
			}}
			_, err := New(Config{Store: env.Store, Sealer: bad}).Run(t.Context())
			require.ErrorIs(t, err, ErrUnsound)
			require.NotContains(t, err.Error(), "sk-secret")
			require.Equal(t, before, env.rows())
		})
	}
	env.requireOpens(env.sealer)
}

func TestReadBackMismatchStopsTheJob(t *testing.T) {
	each(t, 20, func(t *testing.T, env *env) {
		env.rotate()
		for name, alter := range map[string]func(*models.Rewrapping){
			"an envelope that was cut off": func(r *models.Rewrapping) { r.New = r.New[:len(r.New)-5] },
			"another KEK":                  func(r *models.Rewrapping) { r.KEKID = "local:00000000" },
		} {
			job := New(Config{Sealer: env.sealer, Store: fakeStore{env.Store, func(batch []models.Rewrapping) ([]string, error) {
				alter(&batch[0])
				return env.Rewrap(t.Context(), batch)
			}}})
			job.batch = 5
			result, err := job.Run(t.Context())
			require.ErrorIs(t, err, ErrNotStored, name)
			require.EqualValues(t, 5, result.Rewrapped, "the first batch was the last")
		}
	})
}

func TestMain(m *testing.M) { modelstest.Main(m) }

var olga = models.Caller{CustomerID: "acme", ProjectID: "web", UserID: "olga"}

// env is an installation: a database with keys, and the keyset that opens them.
type env struct {
	*models.Store
	t       *testing.T
	url     string
	db      *sql.DB // bypasses the store
	keyset  string
	sealer  sealer.Sealer
	ids     models.IDs
	canary  []byte
	mu      sync.Mutex
	secrets map[string]string // by key id
}

// each runs a test on both databases, in parallel with other tests, with the given number of keys.
func each(t *testing.T, keys int, test func(t *testing.T, env *env)) {
	t.Helper()
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		t.Parallel()
		test(t, newEnv(t, e, keys))
	})
}

func newEnv(t *testing.T, e modelstest.Engine, keys int) *env {
	t.Helper()
	url := e.MigratedURL(t)
	env := &env{t: t, url: url, Store: modelstest.OpenStore(t, url, models.Options{}), db: modelstest.Open(t, url),
		keyset: filepath.Join(t.TempDir(), "keyset.json"), secrets: map[string]string{}}
	env.sealer = openKeyset(t, env.keyset)
	require.NoError(t, keysetcheck.New(env.Store, env.sealer, keysetcheck.SealAndOpen).Check(t.Context()))
	env.canary = env.openCanary(env.sealer)
	modelstest.SetMember(t, env.Store, olga, models.RoleOwner)
	env.registerMany(keys)
	return env
}

// openCanary returns the canary's value.
func (env *env) openCanary(s sealer.Sealer) []byte {
	env.t.Helper()
	row, err := env.Canary(env.t.Context())
	require.NoError(env.t, err)
	opened, err := s.Open(env.t.Context(), sealer.CanaryBinding(), row.Envelope)
	require.NoError(env.t, err)
	return opened.Reveal()
}

func openKeyset(t *testing.T, path string) sealer.Sealer {
	t.Helper()
	s, err := local.Open(path)
	require.NoError(t, err)
	return s
}

// rotate adds a new primary KEK to the keyset and reopens it.
func (env *env) rotate() {
	env.t.Helper()
	id, err := local.AddKEK(env.keyset)
	require.NoError(env.t, err)
	require.NoError(env.t, local.SetPrimary(env.keyset, id))
	env.sealer = openKeyset(env.t, env.keyset)
}

// registerMany registers keys as the service does.
func (env *env) registerMany(keys int) {
	env.t.Helper()
	var group errgroup.Group
	group.SetLimit(16)
	for range keys {
		group.Go(func() error { return env.register(env.sealer) })
	}
	require.NoError(env.t, group.Wait())
}

func secretOf(id string) string { return "sk-secret-of-" + id }

// register registers one key. It is safe for concurrent use.
func (env *env) register(s sealer.Sealer) error {
	now := time.Now()
	k := models.Key{ID: env.ids.Next(models.KeyIDPrefix, now), CustomerID: olga.CustomerID, ProjectID: olga.ProjectID, Provider: "openai",
		DisplaySuffix: "wxyz", Version: 1, CreatedAt: now.UnixMicro(), CreatedBy: olga.UserID}
	k.Name = k.ID
	envelope, err := s.Seal(env.t.Context(), bindingOf(k), sealer.NewSecret([]byte(secretOf(k.ID))))
	if err != nil {
		return err
	}
	k.Envelope, k.KEKID = envelope.Bytes, envelope.KEKID
	_, err = env.RegisterKey(env.t.Context(), olga, models.RoleOwner, models.Registration{
		Key: k, Event: env.event(models.EventKeyRegistered, k.ID, k.CreatedAt)}, k.CreatedAt)
	env.mu.Lock()
	defer env.mu.Unlock()
	env.secrets[k.ID] = secretOf(k.ID)
	return err
}

// revoke revokes a key and records the event. It is safe for concurrent use.
func (env *env) revoke(ctx context.Context, id string) error {
	return env.Transact(ctx, func(tx *models.Tx) error {
		_, err := tx.RevokeKey(&models.Key{ID: id}, olga.UserID, env.event(models.EventKeyRevoked, id, tx.Now))
		return err
	})
}

func (env *env) event(kind models.EventType, keyID string, at int64) models.Event {
	return models.Event{CustomerID: olga.CustomerID, ProjectID: olga.ProjectID, ID: env.ids.Next(models.EventIDPrefix, time.UnixMicro(at)),
		Type: kind, Outcome: models.OutcomeAllowed, At: at, ActorUserID: olga.UserID, KeyID: keyID}
}

// replace overwrites the envelope of a row.
func (env *env) replace(id string, envelope []byte, kekID string) {
	env.t.Helper()
	k := env.row(id)
	stored, err := env.Rewrap(env.t.Context(), []models.Rewrapping{{KeyID: id, Version: k.Version, Old: k.Envelope, New: envelope, KEKID: kekID}})
	require.NoError(env.t, err)
	require.Len(env.t, stored, 1)
}

func (env *env) row(id string) models.Key {
	env.t.Helper()
	k, err := env.SealedVersion(env.t.Context(), id, 0)
	require.NoError(env.t, err)
	return k
}

func (env *env) rows() []models.Key {
	env.t.Helper()
	keys, err := env.SealedKeys(env.t.Context(), "", 100_000)
	require.NoError(env.t, err)
	return keys
}

// requireOpens checks that every readable key opens to its own secret and the canary to its value, and that each row
// names the KEK of its envelope. It returns how many envelopes, including the canary's, are not under the sealer's
// primary KEK.
func (env *env) requireOpens(s sealer.Sealer, unreadable ...string) (left int) {
	env.t.Helper()
	primary, err := s.PrimaryKEK(env.t.Context())
	require.NoError(env.t, err)
	rows := env.rows()
	require.Len(env.t, rows, len(env.secrets))
	for _, k := range rows {
		if slices.Contains(unreadable, k.ID) {
			continue
		}
		secret, err := s.Open(env.t.Context(), bindingOf(k), k.Envelope)
		require.NoError(env.t, err, k.ID)
		require.Equal(env.t, env.secrets[k.ID], string(secret.Reveal()))
		require.Equal(env.t, k.KEKID, kekOf(k))
		if k.KEKID != primary {
			left++
		}
	}
	require.Equal(env.t, env.canary, env.openCanary(s))
	if row, err := env.Canary(env.t.Context()); err != nil || row.KEKID != primary {
		left++
	}
	return left
}

// run runs a job to completion.
func (env *env) run(s sealer.Sealer) Result {
	env.t.Helper()
	result, err := New(Config{Store: env.Store, Sealer: s}).Run(env.t.Context())
	require.NoError(env.t, err)
	return result
}

// errDenied is the error that secrets-svc's client returns for a refused call.
var errDenied = fmt.Errorf("%w: %w", sealer.ErrUnavailable, remote.ErrNotAllowed)

// withoutOpen returns a sealer that has the right to re-wrap, but not the right to open.
func withoutOpen(s sealer.Sealer) sealer.Sealer {
	return sealertest.Fake{Sealer: s, OpenFunc: func(context.Context, sealer.Binding, []byte) (sealer.Secret, error) {
		return sealer.Secret{}, errDenied
	}}
}

// fakeStore is a store with another Rewrap, and fakeCounts one with another KeysByKEK.
type (
	fakeStore struct {
		Store
		rewrap func([]models.Rewrapping) ([]string, error)
	}
	fakeCounts struct {
		Store
		keysByKEK func() (map[string]int64, error)
	}
)

func (s fakeStore) Rewrap(_ context.Context, batch []models.Rewrapping) ([]string, error) {
	return s.rewrap(batch)
}
func (s fakeCounts) KeysByKEK(context.Context) (map[string]int64, error) { return s.keysByKEK() }

// The keys move from a keyset file to OpenBao, to AWS KMS, and all the way back. The job of each move is stopped at a
// different step, and another job does the rest. In between, all keys open. During the moves, a reader keeps opening
// the canary.
func TestMoveThroughServicesStoppedAtEveryStep(t *testing.T) {
	awskmstest.SetCredentials()
	bao, aws := vaulttest.Start(t), awskmstest.Start(t, "local-kms")
	vaultURL, _ := bao.Sealer(t)
	open := func(url string) sealer.Sealer {
		s, err := kmsurl.Open(t.Context(), url, kms.Options{Timeout: 30 * time.Second}, nil)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, s.Close()) })
		return s
	}
	inVault, inAWS := open(vaultURL), open(aws.Sealer(aws.NewKey(t, &awskms.CreateKeyInput{})))
	t.Run("move", func(t *testing.T) { // the services stop after this
		each(t, 5, func(t *testing.T, env *env) {
			inFile := env.sealer
			legs := []sealer.Sealer{inVault, inAWS, inVault, inFile}
			for last := 1; last <= 2*len(legs); last++ {
				before := env.sealer
				env.sealer = legs[(last-1)%len(legs)]
				both, count := sealer.Migrating(env.sealer, before), 0
				job := New(Config{Store: env.Store, Sealer: both})
				job.batch, job.at = 3, func(string) {
					if count++; count == last {
						runtime.Goexit() // the job gets no further, as after a kill
					}
				}
				ctx, cancel := context.WithCancel(t.Context())
				var readers, running sync.WaitGroup
				readers.Go(func() {
					for ctx.Err() == nil {
						row, err := env.Canary(ctx)
						if err != nil {
							continue // it ends
						}
						_, err = both.Open(ctx, sealer.CanaryBinding(), row.Envelope)
						assert.True(t, err == nil || ctx.Err() != nil, "%v", err)
					}
				})
				running.Go(func() { _, _ = job.Run(t.Context()) })
				running.Wait()
				env.requireOpens(both)
				env.run(both)
				cancel()
				readers.Wait()
				require.Zero(t, env.requireOpens(env.sealer))
			}
		})
	})
}

func inspect(t *testing.T, env *env, s sealer.Sealer) *Inspector {
	t.Helper()
	i, err := NewInspector(t.Context(), env.Store, s)
	require.NoError(t, err)
	return i
}

func TestCountAndSample(t *testing.T) {
	each(t, 2, func(t *testing.T, env *env) {
		retired := inspect(t, env, env.sealer).Primary()
		env.rotate()
		enabled := inspect(t, env, env.sealer).Primary()
		env.registerMany(3)
		env.rotate()
		env.registerMany(4)
		foreign := sealertest.New(t)
		row := env.rows()[8]
		envelope, err := foreign.Seal(t.Context(), bindingOf(row), sealer.NewSecret([]byte("x")))
		require.NoError(t, err)
		env.replace(row.ID, envelope.Bytes, envelope.KEKID)
		require.NoError(t, local.Retire(env.keyset, retired))
		env.sealer = openKeyset(t, env.keyset)

		i := inspect(t, env, env.sealer)
		primary, err := env.sealer.PrimaryKEK(t.Context())
		require.NoError(t, err)
		require.Equal(t, primary, i.Primary())
		want := []KEKKeys{
			{KEK: sealer.KEK{ID: i.Primary(), State: sealer.KEKPrimary}, Current: 3},
			{KEK: sealer.KEK{ID: enabled, State: sealer.KEKEnabled}, OldKEK: 3},
			{KEK: sealer.KEK{ID: retired, State: sealer.KEKRetired}, Unreadable: 2},
			{KEK: sealer.KEK{ID: envelope.KEKID, State: KEKUnknown}, Unreadable: 1},
		}
		counts, err := i.Count(t.Context())
		require.NoError(t, err)
		require.Equal(t, want, counts)

		before := env.rows()
		tried, unreadable, err := i.Sample(t.Context(), 0)
		require.NoError(t, err)
		require.Equal(t, want, tried, "an attempt comes to the same while nothing is damaged")
		require.Equal(t, []string{before[0].ID, before[1].ID, before[8].ID},
			[]string{unreadable[0].KeyID, unreadable[1].KeyID, unreadable[2].KeyID})
		require.Len(t, unreadable, 3)
		require.Equal(t, before, env.rows(), "and writes nothing")

		sample, unreadable, err := i.Sample(t.Context(), 1)
		require.NoError(t, err)
		require.Len(t, unreadable, 2)
		for _, kek := range sample {
			require.EqualValues(t, 1, kek.All(), kek.ID)
		}
	})
}

func TestCheckFindsDamageWithoutOpening(t *testing.T) {
	each(t, 3, func(t *testing.T, env *env) {
		keys := env.rows()
		env.replace(keys[1].ID, keys[0].Envelope, keys[1].KEKID)
		env.replace(keys[2].ID, []byte("rubbish"), keys[2].KEKID)
		i := inspect(t, env, withoutOpen(env.sealer))
		counts, err := i.Count(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, 3, counts[0].Current)
		_, unreadable, err := i.Sample(t.Context(), 0)
		require.NoError(t, err)
		require.Equal(t, []string{"it was changed, or belongs to another row", "it is not an envelope"},
			[]string{unreadable[0].Reason, unreadable[1].Reason})
		require.Equal(t, []string{keys[1].ID, keys[2].ID}, []string{unreadable[0].KeyID, unreadable[1].KeyID})

		for n, want := range []State{StateCurrent, StateCurrent, StateUnreadable} {
			require.Equal(t, want, i.Classify(env.rows()[n]).State)
		}
		seals, err := i.Check(t.Context(), env.rows())
		require.NoError(t, err)
		for n, want := range []State{StateCurrent, StateUnreadable, StateUnreadable} {
			require.Equal(t, want, seals[n].State)
			require.Equal(t, n > 0, seals[n].Reason() != "")
		}
	})
}

func TestCountWithAKEKInTwoSealers(t *testing.T) {
	env := newEnv(t, modelstest.EngineSQLite, 1)
	i := inspect(t, env, sealer.Migrating(env.sealer, openKeyset(t, env.keyset), sealertest.New(t)))
	counts, err := i.Count(t.Context())
	require.NoError(t, err)
	require.Len(t, counts, 2)
	require.Equal(t, sealer.KEKPrimary, counts[0].State)
	require.EqualValues(t, 1, counts[0].Current)
	require.Equal(t, StateUnreadable, i.Classify(models.Key{Envelope: []byte("x"), KEKID: i.Primary()}).State)
}

func TestInspectorUnavailableSealer(t *testing.T) {
	env := newEnv(t, modelstest.EngineSQLite, 1)
	away := sealertest.NewUnavailable(env.sealer)
	_, err := NewInspector(t.Context(), env.Store, away)
	require.ErrorIs(t, err, sealer.ErrUnavailable)
	away.SetAvailable(true)
	i := inspect(t, env, away)
	away.SetAvailable(false)
	_, _, err = i.Sample(t.Context(), 0)
	require.ErrorIs(t, err, sealer.ErrUnavailable)
}
