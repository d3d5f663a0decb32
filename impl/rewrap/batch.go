package rewrap

import (
	"bytes"
	"cmp"
	"context"
	"crypto/subtle"
	"errors"
	"fmt"

	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/sealer"
)

// selectOutdated returns the keys whose envelope or row does not name the primary KEK.
func (j *Job) selectOutdated(ctx context.Context, keys []models.Key) ([]models.Key, error) {
	primary, err := j.primaryKEK(ctx)
	if err != nil {
		return nil, err
	}
	var todo []models.Key
	for _, k := range keys {
		delete(j.unseen, nameOf(k))
		if named, err := sealer.KEKIDOf(k.Envelope); err != nil || named != primary || k.KEKID != primary {
			todo = append(todo, k)
			continue
		}
		// Another job, with another sealer, may have re-wrapped a key that this job could not read.
		if _, unreadable := j.unreadable[nameOf(k)]; unreadable || j.postponed[nameOf(k)] {
			delete(j.unreadable, nameOf(k))
			delete(j.postponed, nameOf(k))
			j.progress.Elsewhere++
		}
	}
	return todo, nil
}

func (j *Job) rewrapInBatches(ctx context.Context, todo []models.Key) error {
	for len(todo) > 0 {
		batch := todo[:min(j.batch, len(todo))]
		todo = todo[len(batch):]
		if err := j.limiter.WaitN(ctx, len(batch)); err != nil {
			return fmt.Errorf("re-wrap: %w", err)
		}
		if err := j.rewrapBatch(ctx, batch); err != nil {
			return err
		}
		if j.Report != nil {
			j.Report(j.currentProgress())
		}
	}
	return nil
}

// change replaces one envelope by another.
type change struct {
	name     string // nameOf a key, or "the canary"
	binding  sealer.Binding
	old      []byte
	envelope sealer.Envelope
}

// rewrapBatch takes one batch through all steps.
func (j *Job) rewrapBatch(ctx context.Context, keys []models.Key) error {
	changes, err := j.askSealer(ctx, keys)
	if err != nil {
		return err
	}
	j.at("rewrapped")
	if changes, err = j.verify(ctx, changes); err != nil {
		return err
	}
	j.at("verified")
	stored, err := j.store(ctx, changes)
	if err != nil {
		return err
	}
	j.at("stored")
	j.recordBatch(keys, stored)
	if len(changes) == 0 || !stored[changes[0].name] {
		return nil
	}
	err = j.readBack(ctx, changes[0])
	j.at("read back")
	return err
}

// askSealer has the sealer re-wrap the keys' envelopes. It records unreadable keys and returns no change for them.
func (j *Job) askSealer(ctx context.Context, keys []models.Key) ([]change, error) {
	items := make([]sealer.Item, len(keys))
	for i, k := range keys {
		items[i] = sealer.Item{Binding: bindingOf(k), Envelope: k.Envelope}
	}
	results, err := retryUnavailable(ctx, j, func() ([]sealer.Result, error) { return sealer.RewrapAll(ctx, j.Sealer, items) })
	if err != nil {
		return nil, fmt.Errorf("re-wrap: %w", err)
	}
	changes := make([]change, 0, len(keys))
	for i, result := range results {
		name := nameOf(keys[i])
		delete(j.unreadable, name)
		switch {
		case isUnreadable(result.Err):
			j.unreadable[name] = unreadableFor(keys[i], result.Err)
			delete(j.postponed, name)
		case result.Err != nil:
			return nil, fmt.Errorf("key %s: %w", name, result.Err)
		default:
			changes = append(changes, change{name, items[i].Binding, keys[i].Envelope, result.Envelope})
		}
	}
	return changes, nil
}

// store writes the changes whose rows have not changed since they were read, and returns their names.
func (j *Job) store(ctx context.Context, changes []change) (map[string]bool, error) {
	batch := make([]models.Rewrapping, len(changes))
	for i, c := range changes {
		batch[i] = models.Rewrapping{
			KeyID: c.binding.KeyID, Version: c.binding.Version, Old: c.old, New: c.envelope.Bytes, KEKID: c.envelope.KEKID,
		}
	}
	names, err := retryUnavailable(ctx, j, func() ([]string, error) { return j.Store.Rewrap(ctx, batch) })
	if err != nil {
		return nil, err
	}
	stored := make(map[string]bool, len(names))
	for _, name := range names {
		stored[name] = true
	}
	return stored, nil
}

// recordBatch records the outcome of a batch. Keys that were neither stored nor unreadable are left to the next pass.
func (j *Job) recordBatch(keys []models.Key, stored map[string]bool) {
	for _, k := range keys {
		name := nameOf(k)
		_, unreadable := j.unreadable[name]
		switch {
		case stored[name]:
			delete(j.postponed, name)
			j.progress.Rewrapped++
		case !unreadable:
			j.postponed[name] = true
		}
	}
}

// readBack reads a stored envelope again. It must be sound, even if another job has written it in the meantime.
func (j *Job) readBack(ctx context.Context, c change) error {
	k, err := retryUnavailable(ctx, j, func() (models.Key, error) { return j.Store.SealedVersion(ctx, c.binding.KeyID, c.binding.Version) })
	if errors.Is(err, models.ErrNotFound) {
		return nil // the version was destroyed since
	}
	if err != nil {
		return err
	}
	now := change{c.name, bindingOf(k), c.old, sealer.Envelope{KEKID: k.KEKID, Bytes: k.Envelope}}
	_, err = retryUnavailable(ctx, j, func() (sealer.Envelope, error) { return j.Sealer.Rewrap(ctx, now.binding, now.envelope.Bytes) })
	if isUnreadable(err) {
		return fmt.Errorf("%w: key %s: %w", ErrNotStored, c.name, err)
	}
	if err != nil {
		return err
	}
	same, sameKEK := bytes.Equal(k.Envelope, c.envelope.Bytes), k.KEKID == c.envelope.KEKID
	switch {
	case same != sameKEK:
		return fmt.Errorf("%w: key %s", ErrNotStored, c.name)
	case !same:
		return nil // it was re-wrapped again
	}
	return j.checkSameSecret(ctx, now, true)
}

// nameOf returns the name of a key's envelope. It is unique within the job.
func nameOf(k models.Key) string { return models.SealedName(k.ID, k.Version) }

func bindingOf(k models.Key) sealer.Binding {
	return sealer.Binding{CustomerID: k.CustomerID, ProjectID: k.ProjectID, KeyID: k.ID, Provider: sealer.ProviderAt(k.Provider, k.Destination), Version: k.Version}
}

// verify returns the changes whose new envelope is as good as the old envelope, or ErrUnsound. The new data key must
// unwrap under the new KEK and the binding, and the ciphertext must be the old one, byte for byte. If the secret was
// sealed again, both envelopes must open to the same secret. If the sealer may open, one sample of the changes that
// only re-wrapped the data key is opened. If the primary KEK has changed since the re-wrap, verify leaves the change
// out, and the next pass comes back to its key.
func (j *Job) verify(ctx context.Context, changes []change) ([]change, error) {
	items := make([]sealer.Item, len(changes))
	for i, c := range changes {
		items[i] = sealer.Item{Binding: c.binding, Envelope: c.envelope.Bytes}
	}
	results, err := retryUnavailable(ctx, j, func() ([]sealer.Result, error) { return sealer.RewrapAll(ctx, j.Sealer, items) })
	if err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	sound := make([]change, 0, len(changes))
	for i, c := range changes {
		named, err := sealer.KEKIDOf(c.envelope.Bytes)
		switch {
		case err != nil || results[i].Err != nil:
			return nil, fmt.Errorf("%w: %s: %w", ErrUnsound, c.name, cmp.Or(results[i].Err, err))
		case named != c.envelope.KEKID:
			return nil, fmt.Errorf("%w: %s: it names another key-encryption key than the sealer said", ErrUnsound, c.name)
		case !bytes.Equal(results[i].Envelope.Bytes, c.envelope.Bytes):
			continue
		}
		if err := j.checkSameSecret(ctx, c, len(sound) == 0); err != nil {
			return nil, err
		}
		sound = append(sound, c)
	}
	return sound, nil
}

// checkSameSecret returns nil if both envelopes of a change open to the same secret, or if only the data key was
// re-wrapped and the change is not a sample. A sample passes even if its old envelope does not open: the sealer may
// lack the right, or the ciphertext may be damaged, and a re-wrap neither notices nor repairs damage. The plaintexts
// are wiped.
func (j *Job) checkSameSecret(ctx context.Context, c change, sample bool) error {
	resealed := !sealer.SamePayload(c.old, c.envelope.Bytes)
	if !resealed && (!sample || j.cantOpen) {
		return nil
	}
	before, err := j.open(ctx, c.binding, c.old)
	switch {
	case err != nil && resealed:
		return fmt.Errorf("verify %s: open the old envelope: %w", c.name, err)
	case err != nil:
		j.cantOpen = !isUnreadable(err)
		return ctx.Err()
	}
	defer before.Wipe()
	after, err := j.open(ctx, c.binding, c.envelope.Bytes)
	switch {
	case isUnreadable(err):
		return fmt.Errorf("%w: %s: %w", ErrUnsound, c.name, err)
	case err != nil:
		return fmt.Errorf("verify %s: open the new envelope: %w", c.name, err)
	}
	defer after.Wipe()
	if subtle.ConstantTimeCompare(before.Reveal(), after.Reveal()) != 1 {
		return fmt.Errorf("%w: %s: it opens to another secret", ErrUnsound, c.name)
	}
	return nil
}

func (j *Job) open(ctx context.Context, binding sealer.Binding, envelope []byte) (sealer.Secret, error) {
	return retryUnavailable(ctx, j, func() (sealer.Secret, error) { return j.Sealer.Open(ctx, binding, envelope) })
}
