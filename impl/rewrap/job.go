// Package rewrap moves every envelope to the primary key-encryption key (KEK), after another KEK was made primary or when an
// installation moves to another sealer. The service keeps running during a move.
//
// There is no table of jobs: each row names the KEK of its envelope, so the rows that do not name the primary KEK are the
// remaining work. A job can be killed at any point and started again, and several can run at once. Each batch takes four steps:
//
//  1. The sealer re-wraps the envelopes: the data key alone or, between two sealers, by opening and sealing the secret.
//  2. The new envelopes are verified, before anything is written.
//  3. One short transaction writes the envelopes whose row still has the old envelope and version. The next pass comes back to
//     rows that have changed.
//  4. A sample is read back and must be sound.
//
// Besides its active version, a key may have a pending and a retiring version. A job treats each version like a key.
//
// The canary (see impl/keysetcheck) goes last: while it needs an old KEK, other envelopes may need that KEK too. Unreadable
// envelopes are listed and never written. Revoked keys are re-wrapped like all others, so that the old KEK can be retired.
//
// A sealer without the right to open secrets is enough, unless secrets have to move from one sealer to another.
//
// The package imports impl/keysetcheck, models and sealer, and errors of sealer/remote and sealer/kms.
package rewrap

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"
	"golang.org/x/time/rate"

	"github.com/agentrouter/aikeys/impl/keysetcheck"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/kms"
	"github.com/agentrouter/aikeys/sealer/remote"
)

var (
	// ErrUnsound says that the sealer returned an envelope that failed verification. It was not written.
	ErrUnsound = errors.New("the sealer returned an envelope that is not sound; it was not written, and the job was stopped")
	// ErrNotStored says that the database returned an envelope other than the one written.
	ErrNotStored = errors.New("the database returned another envelope than the job had written; the job was stopped")
	// ErrBusy says that rows stayed locked or kept changing until the job gave up.
	ErrBusy = errors.New("keys kept changing until the job gave up; run it again")
	// ErrStillSealing says that new envelopes under old KEKs kept appearing until the job gave up.
	ErrStillSealing = errors.New("keys are still being sealed under an old key-encryption key: has every process that seals " +
		"the new one as its primary?")
)

// Store has the methods of models.Store that the job needs.
type Store interface {
	KeysByKEK(ctx context.Context) (map[string]int64, error)
	SealedVersion(ctx context.Context, id string, version uint32) (models.Key, error)
	SealedKeys(ctx context.Context, after string, limit int) ([]models.Key, error)
	Rewrap(ctx context.Context, batch []models.Rewrapping) ([]string, error)
	Canary(ctx context.Context) (models.Canary, error)
	RewrapCanary(ctx context.Context, old []byte, c models.Canary) (bool, error)
}

// Config is what a job works with.
type Config struct {
	Store Store
	// Sealer re-wraps with its primary KEK. If secrets move from other sealers, it is a sealer.Migrating.
	Sealer sealer.Sealer
	// Rate is the maximum number of keys to re-wrap per second; zero sets no limit.
	Rate float64
	// Report is called after each batch; it may be nil.
	Report func(Progress)
	// Settle is the shortest duration of a job, even if it finds nothing more to do: a sealer may take a second to notice a
	// new primary KEK.
	Settle time.Duration
}

// Progress counts what a job has done.
type Progress struct {
	// Total is how many keys were not under the primary KEK when the job began.
	Total int64
	// Rewrapped counts the keys that this job has re-wrapped, Elsewhere the keys that another job has re-wrapped first.
	Rewrapped, Elsewhere int64
	// Unreadable counts the keys that can't be re-wrapped.
	Unreadable int64
}

// Done returns how many keys need no further work.
func (p Progress) Done() int64 { return p.Rewrapped + p.Elsewhere + p.Unreadable }

// Result is the outcome of a job.
type Result struct {
	Progress
	// Primary is the KEK that now wraps everything readable.
	Primary string
	// Canary reports whether the database has a canary. If so, Primary wraps it too.
	Canary bool
	// Unreadable lists the keys that were left unchanged, sorted by id.
	Unreadable []Unreadable
}

const (
	// windowSize is how many rows are read at once, maxBatch how many are written at once. One transaction locks a batch, and
	// requests for its keys wait.
	windowSize = 500
	maxBatch   = 100
	// batchesASecond spreads the work: the slower the rate, the smaller the batches.
	batchesASecond = 20
	// maxPasses bounds how often the table is scanned.
	maxPasses = 12
	// firstPause is the pause after the first pass. It lets transactions end that lock rows. It doubles with each pass.
	firstPause = 50 * time.Millisecond
	maxPause   = 5 * time.Second
)

// Job re-wraps every envelope that is not under the primary KEK.
type Job struct {
	Config
	limiter *rate.Limiter
	batch   int
	// The goroutine of Run owns these fields.
	progress   Progress
	unreadable map[string]Unreadable // :: nameOf a key → why it can't be read
	postponed  map[string]bool       // :: nameOf a key whose row changed during its batch; the next pass comes back to it
	// unseen has the unreadable and postponed keys that the current pass has not reached.
	unseen map[string]bool
	// cantOpen is set once the sealer has refused to open an envelope. No more samples are opened then.
	cantOpen bool
	// pause is the time between the first two passes.
	pause time.Duration
	// patience is how long to retry while the database or the sealer is unavailable.
	patience time.Duration
	// at is called with the name of each step. Tests end the process there.
	at func(step string)
}

// New returns a job; it does nothing yet.
func New(c Config) *Job {
	j := &Job{Config: c, batch: maxBatch, limiter: rate.NewLimiter(rate.Inf, 0), pause: firstPause, patience: time.Minute, at: func(string) {}}
	if c.Rate > 0 {
		j.batch = max(1, min(maxBatch, int(c.Rate/batchesASecond)))
		j.limiter = rate.NewLimiter(rate.Limit(c.Rate), j.batch)
	}
	return j
}

// Run re-wraps until every readable envelope, including the canary's, is under the primary KEK. It may be called only
// once. Its result counts what was done even if it fails. Errors: keysetcheck.ErrWrongKEK before anything is written,
// ErrUnsound, ErrNotStored, ErrBusy, ErrStillSealing, models.ErrUnavailable, sealer.ErrUnavailable, and ctx's.
func (j *Job) Run(ctx context.Context) (Result, error) {
	j.unreadable, j.postponed = map[string]Unreadable{}, map[string]bool{}
	result, err := j.run(ctx)
	result.Progress, result.Unreadable = j.currentProgress(), sortedByKey(j.unreadable)
	return result, err
}

func (j *Job) run(ctx context.Context) (result Result, err error) {
	if err := j.CheckKeyset(ctx); err != nil {
		return Result{}, err
	}
	if j.progress.Total, err = j.countLeft(ctx); err != nil {
		return Result{}, err
	}
	if err := j.runPasses(ctx); err != nil {
		return Result{}, err
	}
	if result.Canary, err = j.rewrapCanary(ctx); err != nil {
		return Result{}, err
	}
	result.Primary, err = j.primaryKEK(ctx)
	return result, err
}

// runPasses scans the table until nothing is left to re-wrap.
func (j *Job) runPasses(ctx context.Context) error {
	pause, settled := j.pause, time.Now().Add(j.Settle)
	for range maxPasses {
		if err := j.runPass(ctx); err != nil {
			return err
		}
		left, err := j.countLeft(ctx)
		if err != nil {
			return err
		}
		if len(j.postponed) == 0 && left == 0 {
			rest := time.Until(settled)
			if rest <= 0 {
				return nil
			}
			if err := sleep(ctx, rest); err != nil {
				return err
			}
			continue
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
		pause = min(2*pause, maxPause)
	}
	if len(j.postponed) > 0 {
		return fmt.Errorf("%w (%d left)", ErrBusy, len(j.postponed))
	}
	return ErrStillSealing
}

// runPass scans the table once, in the order of ids. A key that is registered during the scan has a later id, so it is seen.
func (j *Job) runPass(ctx context.Context) error {
	j.unseen = map[string]bool{}
	for name := range j.postponed {
		j.unseen[name] = true
	}
	for name := range j.unreadable {
		j.unseen[name] = true
	}
	for after := ""; ; {
		keys, err := retryUnavailable(ctx, j, func() ([]models.Key, error) { return j.Store.SealedKeys(ctx, after, windowSize) })
		if err != nil {
			return err
		}
		j.at("read")
		todo, err := j.selectOutdated(ctx, keys)
		if err != nil {
			return err
		}
		if err := j.rewrapInBatches(ctx, todo); err != nil {
			return err
		}
		if len(keys) < windowSize {
			for name := range j.unseen { // versions that were destroyed since
				delete(j.postponed, name)
				delete(j.unreadable, name)
			}
			return nil
		}
		after = keys[len(keys)-1].ID
	}
}

// CheckKeyset returns keysetcheck.ErrWrongKEK if the sealer can't read the canary, and so can't read the keys either. Run starts with
// this check.
func (j *Job) CheckKeyset(ctx context.Context) error {
	row, found, err := j.findCanary(ctx)
	if err != nil || !found {
		return err
	}
	_, err = retryUnavailable(ctx, j, func() (sealer.Envelope, error) { return j.Sealer.Rewrap(ctx, sealer.CanaryBinding(), row.Envelope) })
	if isUnreadable(err) {
		return fmt.Errorf("%w (sealed with %s)", keysetcheck.ErrWrongKEK, row.KEKID)
	}
	return err
}

// rewrapCanary re-wraps the canary in the steps of a batch, and reports whether the database has one.
func (j *Job) rewrapCanary(ctx context.Context) (found bool, err error) {
	for range maxPasses {
		row, found, err := j.findCanary(ctx)
		if err != nil || !found {
			return false, err
		}
		primary, err := j.primaryKEK(ctx)
		if err != nil {
			return true, err
		}
		if row.KEKID == primary {
			return true, nil
		}
		if err := j.moveCanary(ctx, row); err != nil {
			return true, err
		}
	}
	return true, ErrBusy
}

func (j *Job) moveCanary(ctx context.Context, row models.Canary) error {
	envelope, err := retryUnavailable(ctx, j, func() (sealer.Envelope, error) { return j.Sealer.Rewrap(ctx, sealer.CanaryBinding(), row.Envelope) })
	if err != nil {
		return fmt.Errorf("re-wrap the canary: %w", err)
	}
	sound, err := j.verify(ctx, []change{{"the canary", sealer.CanaryBinding(), row.Envelope, envelope}})
	if err != nil || len(sound) == 0 {
		return err
	}
	j.at("canary verified")
	_, err = retryUnavailable(ctx, j, func() (bool, error) {
		return j.Store.RewrapCanary(ctx, row.Envelope, models.Canary{Envelope: envelope.Bytes, KEKID: envelope.KEKID})
	})
	j.at("canary stored")
	return err
}

func (j *Job) findCanary(ctx context.Context) (row models.Canary, found bool, err error) {
	row, err = retryUnavailable(ctx, j, func() (models.Canary, error) { return j.Store.Canary(ctx) })
	if errors.Is(err, models.ErrNotFound) {
		return row, false, nil
	}
	return row, err == nil, err
}

func (j *Job) currentProgress() Progress {
	p := j.progress
	p.Unreadable = int64(len(j.unreadable))
	return p
}

func (j *Job) primaryKEK(ctx context.Context) (string, error) {
	return retryUnavailable(ctx, j, func() (string, error) { return j.Sealer.PrimaryKEK(ctx) })
}

// countLeft returns how many readable keys are not yet under the primary KEK according to their rows.
func (j *Job) countLeft(ctx context.Context) (int64, error) {
	primary, err := j.primaryKEK(ctx)
	if err != nil {
		return 0, err
	}
	counts, err := retryUnavailable(ctx, j, func() (map[string]int64, error) { return j.Store.KeysByKEK(ctx) })
	if err != nil {
		return 0, err
	}
	var left int64
	for kek, keys := range counts {
		if kek != primary {
			left += keys
		}
	}
	for _, u := range j.unreadable {
		if u.KEKID != primary {
			left--
		}
	}
	return left, nil
}

// retryUnavailable repeats a call while the database or the sealer is unavailable, for at most the job's patience. Every call of the
// job is safe to repeat. A refusal by secrets-svc or a key management service wraps sealer.ErrUnavailable too, but is not retried: only
// an operator can lift it.
func retryUnavailable[T any](ctx context.Context, j *Job, call func() (T, error)) (T, error) {
	return backoff.Retry(ctx, func() (T, error) {
		got, err := call()
		unavailable := errors.Is(err, models.ErrUnavailable) || errors.Is(err, sealer.ErrUnavailable)
		if err != nil && (!unavailable || errors.Is(err, remote.ErrNotAllowed) || errors.Is(err, kms.ErrRefused)) {
			err = backoff.Permanent(err)
		}
		return got, err
	}, backoff.WithBackOff(&backoff.ExponentialBackOff{
		InitialInterval: 50 * time.Millisecond, RandomizationFactor: 0.5, Multiplier: 2, MaxInterval: 5 * time.Second,
	}), backoff.WithMaxElapsedTime(j.patience))
}

// sleep waits for d, or returns ctx's error if ctx ends first.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("re-wrap: %w", ctx.Err())
	}
}
