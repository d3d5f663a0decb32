package rewrap

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/remote"
)

// Unreadable is a key whose envelope can't be read.
type Unreadable struct {
	KeyID, CustomerID, ProjectID string
	// KEKID is the key-encryption key that its row names.
	KEKID string
	// Reason says why, for people.
	Reason string
}

// reasons are the errors of an envelope that is unreadable, whoever tries, until an operator mends something.
func reasons() []struct {
	err  error
	text string
} {
	return []struct {
		err  error
		text string
	}{
		{sealer.ErrUnknownKEK, "its key-encryption key is unknown or retired"},
		{sealer.ErrBinding, "it was changed, or belongs to another row"},
		{sealer.ErrMalformed, "it is not an envelope"},
		{sealer.ErrInvalidBinding, "its row has no valid ids"},
		{sealer.ErrInvalidSecret, "it holds what is no secret"},
	}
}

func isUnreadable(err error) bool { return reasonFor(err) != "" }

func reasonFor(err error) string {
	for _, r := range reasons() {
		if errors.Is(err, r.err) {
			return r.text
		}
	}
	return ""
}

func unreadableFor(k models.Key, err error) Unreadable {
	return Unreadable{KeyID: k.ID, CustomerID: k.CustomerID, ProjectID: k.ProjectID, KEKID: k.KEKID, Reason: reasonFor(err)}
}

func sorted(unreadable map[string]Unreadable) []Unreadable {
	all := make([]Unreadable, 0, len(unreadable))
	for _, u := range unreadable {
		all = append(all, u)
	}
	slices.SortFunc(all, func(a, b Unreadable) int { return cmp.Compare(a.KeyID, b.KeyID) })
	return all
}

func (j *Job) count() Progress {
	p := j.progress
	p.Unreadable = int64(len(j.unreadable))
	return p
}

func (j *Job) primary(ctx context.Context) (string, error) {
	return insist(ctx, j, func() (string, error) { return j.Sealer.PrimaryKEK(ctx) })
}

// left is how many readable keys are not under the primary KEK yet, by what their rows say.
func (j *Job) left(ctx context.Context) (int64, error) {
	primary, err := j.primary(ctx)
	if err != nil {
		return 0, err
	}
	counts, err := insist(ctx, j, func() (map[string]int64, error) { return j.Store.KeysByKEK(ctx) })
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

// insist calls until something is no longer unavailable, or patience ends. Whatever the job does can be done twice.
// What secrets-svc does not allow counts as unavailable to requests, but does not mend by itself.
func insist[T any](ctx context.Context, j *Job, call func() (T, error)) (T, error) {
	return backoff.Retry(ctx, func() (T, error) {
		got, err := call()
		away := errors.Is(err, models.ErrUnavailable) || errors.Is(err, sealer.ErrUnavailable)
		if err != nil && (!away || errors.Is(err, remote.ErrNotAllowed)) {
			err = backoff.Permanent(err)
		}
		return got, err
	}, backoff.WithBackOff(&backoff.ExponentialBackOff{
		InitialInterval: 50 * time.Millisecond, RandomizationFactor: 0.5, Multiplier: 2, MaxInterval: 5 * time.Second,
	}), backoff.WithMaxElapsedTime(j.Patience))
}

// sleep waits, or returns why not.
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
