package sealer

import (
	"context"
	"errors"

	"golang.org/x/sync/errgroup"
)

// Migrating returns a Sealer to use while envelopes move from old sealers to the current one. It seals only with the
// current sealer. It opens with all of them: if the current sealer does not know the KEK of an envelope, it tries the
// old sealers in turn. Re-wrapping such an envelope opens it, seals its secret with the current sealer, and wipes the
// plaintext.
//
// If an old sealer is unavailable, only the envelopes with a KEK that no other sealer knows are unavailable.
func Migrating(current Sealer, old ...Sealer) Sealer {
	if len(old) == 0 {
		return current
	}
	return &migrating{current: current, old: old}
}

type migrating struct {
	current Sealer
	old     []Sealer
}

// Seal implements Sealer.
func (m *migrating) Seal(ctx context.Context, binding Binding, secret Secret) (Envelope, error) {
	return m.current.Seal(ctx, binding, secret)
}

// PrimaryKEK implements Sealer.
func (m *migrating) PrimaryKEK(ctx context.Context) (string, error) { return m.current.PrimaryKEK(ctx) }

// Open implements Sealer.
func (m *migrating) Open(ctx context.Context, binding Binding, envelope []byte) (Secret, error) {
	secret, err := m.current.Open(ctx, binding, envelope)
	if !errors.Is(err, ErrUnknownKEK) {
		return secret, err
	}
	return m.openOld(ctx, binding, envelope, err)
}

// openOld tries the old sealers in turn. It returns unknown, the current sealer's error, if none of them knows the KEK.
func (m *migrating) openOld(ctx context.Context, binding Binding, envelope []byte, unknown error) (Secret, error) {
	var unavailable error
	for _, s := range m.old {
		secret, err := s.Open(ctx, binding, envelope)
		switch {
		case errors.Is(err, ErrUnknownKEK):
		case ctx.Err() == nil && errors.Is(err, ErrUnavailable):
			unavailable = err
		default:
			return secret, err
		}
	}
	if unavailable != nil {
		return Secret{}, unavailable // the unavailable sealer may know the KEK
	}
	return Secret{}, unknown
}

// Rewrap implements Sealer.
func (m *migrating) Rewrap(ctx context.Context, binding Binding, envelope []byte) (Envelope, error) {
	rewrapped, err := m.current.Rewrap(ctx, binding, envelope)
	if !errors.Is(err, ErrUnknownKEK) {
		return rewrapped, err
	}
	return m.moveOld(ctx, binding, envelope, err)
}

// moveOld opens an envelope with an old sealer and seals its secret with the current one.
func (m *migrating) moveOld(ctx context.Context, binding Binding, envelope []byte, unknown error) (moved Envelope, err error) {
	defer wrap(&err, "re-wrap from an old sealer")
	secret, err := m.openOld(ctx, binding, envelope, unknown)
	if err != nil {
		return Envelope{}, err
	}
	defer secret.Wipe()
	return m.current.Seal(ctx, binding, secret)
}

// movesAtOnce bounds how many secrets RewrapAll moves from an old sealer concurrently. Each move calls both sealers.
const movesAtOnce = 16

// RewrapAll implements BatchRewrapper.
func (m *migrating) RewrapAll(ctx context.Context, items []Item) ([]Result, error) {
	results, err := RewrapAll(ctx, m.current, items)
	if err != nil {
		return nil, err
	}
	group, limited := errgroup.WithContext(ctx)
	group.SetLimit(movesAtOnce)
	for i, result := range results {
		if !errors.Is(result.Err, ErrUnknownKEK) {
			continue
		}
		group.Go(func() error {
			envelope, err := m.moveOld(limited, items[i].Binding, items[i].Envelope, result.Err)
			if limited.Err() != nil || errors.Is(err, ErrUnavailable) {
				return errors.Join(limited.Err(), err)
			}
			results[i] = Result{Envelope: envelope, Err: err}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return results, nil
}

// KEKs implements Sealer. It lists the primary KEKs of old sealers as enabled, since they wrap nothing new.
func (m *migrating) KEKs(ctx context.Context) ([]KEK, error) {
	keks, err := m.current.KEKs(ctx)
	if err != nil {
		return nil, err
	}
	for _, s := range m.old {
		old, err := s.KEKs(ctx)
		if err != nil {
			return nil, err
		}
		for _, kek := range old {
			if kek.State == KEKPrimary {
				kek.State = KEKEnabled
			}
			keks = append(keks, kek)
		}
	}
	return keks, nil
}
