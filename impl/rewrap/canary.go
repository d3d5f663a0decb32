package rewrap

import (
	"context"
	"errors"
	"fmt"

	"github.com/agentrouter/aikeys/impl/keysetcheck"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/sealer"
)

// Check refuses a sealer that can't read the canary, since it can't read the keys either: canary.ErrWrongKEK. Run does
// so too.
func (j *Job) Check(ctx context.Context) error {
	row, there, err := j.canary(ctx)
	if err != nil || !there {
		return err
	}
	_, err = insist(ctx, j, func() (sealer.Envelope, error) { return j.Sealer.Rewrap(ctx, keysetcheck.Binding(), row.Envelope) })
	if isUnreadable(err) {
		return fmt.Errorf("%w (sealed with %s)", keysetcheck.ErrWrongKEK, row.KEKID)
	}
	return err
}

// rewrapCanary does for the canary what a batch does for keys, and tells whether there is one.
func (j *Job) rewrapCanary(ctx context.Context) (there bool, err error) {
	for range maxPasses {
		row, there, err := j.canary(ctx)
		if err != nil || !there {
			return false, err
		}
		primary, err := j.primary(ctx)
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
	envelope, err := insist(ctx, j, func() (sealer.Envelope, error) { return j.Sealer.Rewrap(ctx, keysetcheck.Binding(), row.Envelope) })
	if err != nil {
		return fmt.Errorf("re-wrap the canary: %w", err)
	}
	sound, err := j.verified(ctx, []change{{"the canary", keysetcheck.Binding(), row.Envelope, envelope}})
	if err != nil || len(sound) == 0 {
		return err
	}
	j.at("canary verified")
	_, err = insist(ctx, j, func() (bool, error) {
		return j.Store.RewrapCanary(ctx, row.Envelope, models.Canary{Envelope: envelope.Bytes, KEKID: envelope.KEKID})
	})
	j.at("canary stored")
	return err
}

func (j *Job) canary(ctx context.Context) (row models.Canary, there bool, err error) {
	row, err = insist(ctx, j, func() (models.Canary, error) { return j.Store.Canary(ctx) })
	if errors.Is(err, models.ErrNotFound) {
		return row, false, nil
	}
	return row, err == nil, err
}
