package rewrap

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/time/rate"

	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/sealer"
)

var (
	// ErrUnsound says that the sealer returned an envelope that does not stand up to its verification. It was not written.
	ErrUnsound = errors.New("the sealer returned an envelope that is not sound; it was not written, and the job was stopped")
	// ErrNotStored says that the database returned something else than was written.
	ErrNotStored = errors.New("an envelope that was written can't be read back as it was; the job was stopped")
	// ErrBusy says that rows were locked, or kept changing, for as long as the job tried.
	ErrBusy = errors.New("keys were being changed for as long as the job tried; run it again")
	// ErrStillSealing says that new envelopes came up under old KEKs for as long as the job tried.
	ErrStillSealing = errors.New("keys are still being sealed under an old key-encryption key: has every process that seals " +
		"the new one as its primary?")
)

// Store is what the job needs of models.Store.
type Store interface {
	KeysByKEK(ctx context.Context) (map[string]int64, error)
	SealedKey(ctx context.Context, id string) (models.Key, error)
	SealedKeys(ctx context.Context, after string, limit int) ([]models.Key, error)
	Rewrap(ctx context.Context, batch []models.Rewrapping) ([]string, error)
	Canary(ctx context.Context) (models.Canary, error)
	RewrapCanary(ctx context.Context, old []byte, c models.Canary) (bool, error)
}

// Config is what a job works with.
type Config struct {
	Store Store
	// Sealer re-wraps with its primary KEK; sealer.Migrating where secrets move from other sealers.
	Sealer sealer.Sealer
	// Rate is how many keys a second to re-wrap at the most; zero sets no limit.
	Rate float64
	// Report is called after each batch; nil calls nothing.
	Report func(Progress)
	// Patience is how long to wait for a database or sealer that is unavailable; zero is a minute.
	Patience time.Duration
	// Settle is how long a job lasts at the least, if it finds nothing more to do: a sealer may take a second to learn
	// of a new primary KEK.
	Settle time.Duration
}

// Progress is how far a job is.
type Progress struct {
	// Total is how many keys were not under the primary KEK when the job began.
	Total int64
	// Rewrapped were re-wrapped by this job, Elsewhere by others while this one was at them.
	Rewrapped, Elsewhere int64
	// Unreadable can't be re-wrapped.
	Unreadable int64
}

// Done is how many keys have been dealt with.
func (p Progress) Done() int64 { return p.Rewrapped + p.Elsewhere + p.Unreadable }

// Result is what a job came to.
type Result struct {
	Progress
	// Primary is the KEK that everything readable is under.
	Primary string
	// Canary tells whether there is a canary, which is under Primary too.
	Canary bool
	// Unreadable are the keys that were left as they are, by id.
	Unreadable []Unreadable
}

const (
	// windowSize is how many rows are read at once, and maxBatch how many are written: what one transaction locks, and how
	// long a request may wait for it.
	windowSize = 500
	maxBatch   = 100
	// batchesASecond spreads the work: the slower the rate, the smaller the batches.
	batchesASecond = 20
	// maxPasses is how often the table is gone over in search of what is left.
	maxPasses = 12
	// firstPause lets transactions end that held rows; it doubles from pass to pass.
	firstPause = 50 * time.Millisecond
	maxPause   = 5 * time.Second
)

// Job re-wraps what is not under the primary KEK.
type Job struct {
	Config
	limiter *rate.Limiter
	batch   int
	// progress, unreadable and postponed belong to the goroutine of Run.
	progress   Progress
	unreadable map[string]Unreadable
	postponed  map[string]bool
	// cantOpen is set once the sealer has refused to open at all: there are no more samples then.
	cantOpen bool
	// pause is between the first two passes.
	pause time.Duration
	// at is told of each step; tests end the process there.
	at func(step string)
}

// New returns a job; it does nothing yet.
func New(c Config) *Job {
	j := &Job{Config: c, batch: maxBatch, limiter: rate.NewLimiter(rate.Inf, 0), pause: firstPause, at: func(string) {}}
	if c.Rate > 0 {
		j.batch = max(1, min(maxBatch, int(c.Rate/batchesASecond)))
		j.limiter = rate.NewLimiter(rate.Limit(c.Rate), j.batch)
	}
	if j.Patience == 0 {
		j.Patience = time.Minute
	}
	return j
}

// Run re-wraps until all that is readable is under the primary KEK, and the canary too. It may be called once. Its
// result says how far it came even if it fails. Errors: canary.ErrWrongKEK before anything is touched, ErrUnsound,
// ErrNotStored, ErrBusy, ErrStillSealing, models.ErrUnavailable, sealer.ErrUnavailable, and ctx's.
func (j *Job) Run(ctx context.Context) (Result, error) {
	j.unreadable, j.postponed = map[string]Unreadable{}, map[string]bool{}
	result, err := j.run(ctx)
	result.Progress, result.Unreadable = j.count(), sorted(j.unreadable)
	return result, err
}

func (j *Job) run(ctx context.Context) (Result, error) {
	if err := j.Check(ctx); err != nil {
		return Result{}, err
	}
	var err error
	if j.progress.Total, err = j.left(ctx); err != nil {
		return Result{}, err
	}
	if err := j.passes(ctx); err != nil {
		return Result{}, err
	}
	there, err := j.rewrapCanary(ctx)
	if err != nil {
		return Result{}, err
	}
	primary, err := j.primary(ctx)
	return Result{Primary: primary, Canary: there}, err
}

// passes goes over the table until nothing is left that could be re-wrapped.
func (j *Job) passes(ctx context.Context) error {
	pause, settled := j.pause, time.Now().Add(j.Settle)
	for range maxPasses {
		if err := j.pass(ctx); err != nil {
			return err
		}
		left, err := j.left(ctx)
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

// pass goes over the table once, in the order of ids: a key that is registered meanwhile has a later one.
func (j *Job) pass(ctx context.Context) error {
	for after := ""; ; {
		keys, err := insist(ctx, j, func() ([]models.Key, error) { return j.Store.SealedKeys(ctx, after, windowSize) })
		if err != nil {
			return err
		}
		j.at("read")
		todo, err := j.outdated(ctx, keys)
		if err != nil {
			return err
		}
		if err := j.batches(ctx, todo); err != nil {
			return err
		}
		if len(keys) < windowSize {
			return nil
		}
		after = keys[len(keys)-1].ID
	}
}
