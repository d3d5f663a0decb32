package rewrap

import (
	"bytes"
	"context"
	"crypto/subtle"
	"fmt"

	"github.com/agentrouter/aikeys/sealer"
)

// verified returns the changes whose new envelope is as good as the old one: its data key unwraps under the new KEK and
// the binding, and its ciphertext is the old one's, byte for byte; or, where the secret was sealed anew, both open to
// the same. A change that is left out comes again: the primary KEK became another one meanwhile. Of what was only
// re-wrapped one sample is opened, where the sealer may. ErrUnsound.
func (j *Job) verified(ctx context.Context, changes []change) ([]change, error) {
	items := make([]sealer.Item, len(changes))
	for i, c := range changes {
		items[i] = sealer.Item{Binding: c.binding, Envelope: c.envelope.Bytes}
	}
	results, err := insist(ctx, j, func() ([]sealer.Result, error) { return sealer.RewrapAll(ctx, j.Sealer, items) })
	if err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	sound := make([]change, 0, len(changes))
	for i, c := range changes {
		named, err := sealer.KEKIDOf(c.envelope.Bytes)
		switch {
		case err != nil || results[i].Err != nil:
			return nil, fmt.Errorf("%w: %s: %w", ErrUnsound, c.name, cause(results[i].Err, err))
		case named != c.envelope.KEKID:
			return nil, fmt.Errorf("%w: %s: it names another key-encryption key than it was said to", ErrUnsound, c.name)
		case !bytes.Equal(results[i].Envelope.Bytes, c.envelope.Bytes):
			continue
		}
		if err := j.holdsTheSame(ctx, c, len(sound) == 0); err != nil {
			return nil, err
		}
		sound = append(sound, c)
	}
	return sound, nil
}

func (j *Job) holdsTheSame(ctx context.Context, c change, sample bool) error {
	switch {
	case !sealer.SamePayload(c.old, c.envelope.Bytes):
		return j.opensAlike(ctx, c)
	case sample:
		return j.sampleOpens(ctx, c)
	}
	return nil
}

// opensAlike requires that both envelopes of a change open, and to the same secret. The plaintexts are wiped.
func (j *Job) opensAlike(ctx context.Context, c change) error {
	before, err := j.open(ctx, c.binding, c.old)
	if err != nil {
		return fmt.Errorf("verify %s: open the old envelope: %w", c.name, err)
	}
	defer before.Wipe()
	return j.opensTo(ctx, c, before)
}

// sampleOpens is opensAlike for what may not open at all: by damage that a re-wrap neither sees nor mends, or because
// this sealer may not.
func (j *Job) sampleOpens(ctx context.Context, c change) error {
	if j.cantOpen {
		return nil
	}
	before, err := j.open(ctx, c.binding, c.old)
	if err != nil {
		j.cantOpen = !isUnreadable(err)
		return ctx.Err()
	}
	defer before.Wipe()
	return j.opensTo(ctx, c, before)
}

func (j *Job) opensTo(ctx context.Context, c change, before sealer.Secret) error {
	after, err := j.open(ctx, c.binding, c.envelope.Bytes)
	if isUnreadable(err) {
		return fmt.Errorf("%w: %s: %w", ErrUnsound, c.name, err)
	}
	if err != nil {
		return fmt.Errorf("verify %s: open the new envelope: %w", c.name, err)
	}
	defer after.Wipe()
	if subtle.ConstantTimeCompare(before.Reveal(), after.Reveal()) != 1 {
		return fmt.Errorf("%w: %s: it opens to another secret", ErrUnsound, c.name)
	}
	return nil
}

func (j *Job) open(ctx context.Context, binding sealer.Binding, envelope []byte) (sealer.Secret, error) {
	return insist(ctx, j, func() (sealer.Secret, error) { return j.Sealer.Open(ctx, binding, envelope) })
}

// cause is the first of the errors that is one.
func cause(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
