package rewrap

import (
	"bytes"
	"context"
	"fmt"

	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/sealer"
)

// outdated are the keys whose envelope is not under the primary KEK, by what the envelope itself says and by its
// column.
func (j *Job) outdated(ctx context.Context, keys []models.Key) ([]models.Key, error) {
	primary, err := j.primary(ctx)
	if err != nil {
		return nil, err
	}
	var todo []models.Key
	for _, k := range keys {
		if named, err := sealer.KEKIDOf(k.Envelope); err != nil || named != primary || k.KEKID != primary {
			todo = append(todo, k)
			continue
		}
		// Another job may have sealers that this one lacks, and have read what is unreadable here.
		if _, unreadable := j.unreadable[k.ID]; unreadable || j.postponed[k.ID] {
			delete(j.unreadable, k.ID)
			delete(j.postponed, k.ID)
			j.progress.Elsewhere++
		}
	}
	return todo, nil
}

func (j *Job) batches(ctx context.Context, todo []models.Key) error {
	for len(todo) > 0 {
		batch := todo[:min(j.batch, len(todo))]
		todo = todo[len(batch):]
		if err := j.limiter.WaitN(ctx, len(batch)); err != nil {
			return fmt.Errorf("re-wrap: %w", err)
		}
		if err := j.rewrap(ctx, batch); err != nil {
			return err
		}
		if j.Report != nil {
			j.Report(j.count())
		}
	}
	return nil
}

// change is an envelope and the one to put in its place.
type change struct {
	name     string // of what it is, for errors
	binding  sealer.Binding
	old      []byte
	envelope sealer.Envelope
}

// rewrap takes one batch through all steps.
func (j *Job) rewrap(ctx context.Context, keys []models.Key) error {
	changes, err := j.rewrapped(ctx, keys)
	if err != nil {
		return err
	}
	j.at("rewrapped")
	if changes, err = j.verified(ctx, changes); err != nil {
		return err
	}
	j.at("verified")
	stored, err := j.store(ctx, keys, changes)
	if err != nil {
		return err
	}
	j.at("stored")
	j.settle(keys, stored)
	if len(changes) == 0 || !stored[changes[0].name] {
		return nil
	}
	err = j.readBack(ctx, changes[0])
	j.at("read back")
	return err
}

// rewrapped asks the sealer. What can't be read is taken down, and has no change.
func (j *Job) rewrapped(ctx context.Context, keys []models.Key) ([]change, error) {
	items := make([]sealer.Item, len(keys))
	for i, k := range keys {
		items[i] = sealer.Item{Binding: bindingOf(k), Envelope: k.Envelope}
	}
	results, err := insist(ctx, j, func() ([]sealer.Result, error) { return sealer.RewrapAll(ctx, j.Sealer, items) })
	if err != nil {
		return nil, fmt.Errorf("re-wrap: %w", err)
	}
	changes := make([]change, 0, len(keys))
	for i, result := range results {
		delete(j.unreadable, keys[i].ID)
		switch {
		case isUnreadable(result.Err):
			j.unreadable[keys[i].ID] = unreadableFor(keys[i], result.Err)
			delete(j.postponed, keys[i].ID)
		case result.Err != nil:
			return nil, fmt.Errorf("key %s: %w", keys[i].ID, result.Err)
		default:
			changes = append(changes, change{keys[i].ID, items[i].Binding, keys[i].Envelope, result.Envelope})
		}
	}
	return changes, nil
}

// store writes the changes whose row is as it was read, and returns the ids of those.
func (j *Job) store(ctx context.Context, keys []models.Key, changes []change) (map[string]bool, error) {
	versions := make(map[string]uint32, len(keys))
	for _, k := range keys {
		versions[k.ID] = k.Version
	}
	batch := make([]models.Rewrapping, len(changes))
	for i, c := range changes {
		batch[i] = models.Rewrapping{KeyID: c.name, Version: versions[c.name], Old: c.old, New: c.envelope.Bytes, KEKID: c.envelope.KEKID}
	}
	ids, err := insist(ctx, j, func() ([]string, error) { return j.Store.Rewrap(ctx, batch) })
	if err != nil {
		return nil, err
	}
	stored := make(map[string]bool, len(ids))
	for _, id := range ids {
		stored[id] = true
	}
	return stored, nil
}

// settle takes down what became of a batch: what was neither stored nor unreadable comes again in the next pass.
func (j *Job) settle(keys []models.Key, stored map[string]bool) {
	for _, k := range keys {
		_, unreadable := j.unreadable[k.ID]
		switch {
		case stored[k.ID]:
			delete(j.postponed, k.ID)
			j.progress.Rewrapped++
		case !unreadable:
			j.postponed[k.ID] = true
		}
	}
}

// readBack looks at what the database has now, which must be sound whoever wrote it.
func (j *Job) readBack(ctx context.Context, c change) error {
	k, err := insist(ctx, j, func() (models.Key, error) { return j.Store.SealedKey(ctx, c.name) })
	if err != nil {
		return err
	}
	now := change{c.name, bindingOf(k), c.old, sealer.Envelope{KEKID: k.KEKID, Bytes: k.Envelope}}
	_, err = insist(ctx, j, func() (sealer.Envelope, error) { return j.Sealer.Rewrap(ctx, now.binding, now.envelope.Bytes) })
	if isUnreadable(err) {
		return fmt.Errorf("%w: key %s: %w", ErrNotStored, c.name, err)
	}
	if err != nil {
		return err
	}
	same, sameKEK := bytes.Equal(k.Envelope, c.envelope.Bytes), k.KEKID == c.envelope.KEKID
	switch {
	case same != sameKEK && k.Version == c.binding.Version:
		return fmt.Errorf("%w: key %s", ErrNotStored, c.name)
	case !same:
		return nil // it has another secret by now, or was re-wrapped again
	}
	return j.sampleOpens(ctx, now)
}

func bindingOf(k models.Key) sealer.Binding {
	return sealer.Binding{CustomerID: k.CustomerID, ProjectID: k.ProjectID, KeyID: k.ID, Provider: k.Provider, Version: k.Version}
}
