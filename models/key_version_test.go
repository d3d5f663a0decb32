package models_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
)

type newEvent = func(models.EventType) models.Event

const quarter = int64(15 * time.Minute / time.Microsecond)

// change changes a key as olga, unless it is revoked.
func (f *fixture) change(id string, change func(tx *models.Tx, k models.Key, newEvent newEvent) error) error {
	return f.Transact(f.t.Context(), func(tx *models.Tx) error {
		if _, err := tx.LockKey(olga, id); err != nil {
			return err
		}
		k, err := tx.KeyToOpen(id)
		if err != nil {
			return err
		}
		if k.RevokedAt != 0 {
			return errIsRevoked
		}
		return change(tx, k, func(kind models.EventType) models.Event { return f.event(kind, about(id)) })
	})
}

// rotate adds a version with an overlap. If the overlap is negative, the version stays pending.
func (f *fixture) rotate(id string, number uint32, overlap int64) error {
	return f.change(id, func(tx *models.Tx, k models.Key, newEvent newEvent) error {
		return tx.AddVersion(k, models.NewVersion{KeyVersion: models.KeyVersion{
			KeyID: id, Version: number, DisplaySuffix: "abcd", Envelope: sealedAs(id, number), KEKID: "kek-1", CreatedAt: tx.Now, CreatedBy: "olga",
			Overlap: max(overlap, -overlap), ExpiresAt: models.KeepExpiry,
		}, Activate: overlap >= 0}, "olga", newEvent)
	})
}

func sealedAs(id string, number uint32) []byte {
	if number == 1 {
		return []byte("sealed " + id)
	}
	return fmt.Appendf(nil, "sealed %s %d", id, number)
}

func (f *fixture) activate(id string, number uint32) error {
	return f.change(id, func(tx *models.Tx, k models.Key, newEvent newEvent) error {
		return tx.ActivateVersion(k, number, "olga", newEvent)
	})
}

func (f *fixture) rollBack(id string) error {
	return f.change(id, func(tx *models.Tx, k models.Key, newEvent newEvent) error { return tx.RollBack(k, "olga", newEvent) })
}

// requireVersions checks the state of each version, from the first. It also checks that the destroyed versions have no
// envelope, and the others have one.
func (f *fixture) requireVersions(id string, want ...models.VersionState) {
	f.t.Helper()
	var got []models.VersionState
	f.transact(func(tx *models.Tx) error {
		k, err := tx.KeyToOpen(id)
		require.NoError(f.t, err)
		kept, err := tx.KeptVersions(id)
		require.NoError(f.t, err)
		all, err := tx.Versions(id)
		require.NoError(f.t, err)
		active := k.ActiveVersion()
		for _, v := range append(kept, active) {
			require.Equal(f.t, sealedAs(id, v.Version), v.Envelope)
		}
		all = append(all, active)
		slices.SortFunc(all, func(a, b models.KeyVersion) int { return int(a.Version) - int(b.Version) })
		for i, v := range all {
			require.Equal(f.t, uint32(i+1), v.Version, "each version is there once")
			require.Equal(f.t, v.State == models.VersionDestroyed, v.KEKID == "" && v.DestroyedAt != 0)
			got = append(got, v.State)
		}
		return nil
	})
	require.Equal(f.t, want, got)
}

// destroyDue destroys the versions that are due at a time, as a process does.
func (f *fixture) destroyDue(at int64) error {
	return failure(f.DestroyRetired(f.t.Context(), at, 10, f.keyEvent))
}

const (
	pending   = models.VersionPending
	active    = models.VersionActive
	retiring  = models.VersionRetiring
	destroyed = models.VersionDestroyed
)

func TestARotatedKeyServesItsNewVersion(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		d, key := f.dataPlane("all", nil), f.register(f.shared(olga))
		f.requireVersions(key.ID, active)
		at := f.position()
		require.NoError(t, f.rotate(key.ID, 2, quarter))
		f.requireVersions(key.ID, retiring, active)
		changes := f.changes(&at)
		require.Len(t, changes, 1)
		stop, ok := changes[0].Stop()
		require.True(t, ok)
		require.Equal(t, uint32(1), changes[0].Version, "it names the version before")
		require.InDelta(t, now()+quarter, changes[0].RetireAt, float64(time.Minute.Microseconds()))
		fetched, err := f.Fetch(t.Context(), d.ID, olga, "openai", now())
		require.NoError(t, err)
		byID, _, err := f.FetchByID(t.Context(), d.ID, key.ID, now())
		require.NoError(t, err)
		for _, k := range append(fetched.Project, byID) {
			require.Equal(t, []any{uint32(2), sealedAs(key.ID, 2)}, []any{k.Version, k.Envelope})
		}
		f.transact(func(tx *models.Tx) error {
			k, err := tx.LockKey(olga, key.ID)
			require.NoError(t, err)
			require.Equal(t, stop.ID(), k.Rotation().ID(), "the row has the number of its event")
			require.Equal(t, []any{uint32(1), "olga", int64(2), "abcd"}, []any{k.ReplacedVersion, k.RotatedBy, k.Revision, k.DisplaySuffix})
			return nil
		})
		require.ErrorIs(t, f.rotate(key.ID, 2, quarter), models.ErrVersionTaken)
		require.NoError(t, f.rotate(key.ID, 3, -quarter))
		f.requireVersions(key.ID, retiring, active, pending)
		require.NoError(t, f.rotate(key.ID, 4, -quarter))
		f.requireVersions(key.ID, retiring, active, destroyed, pending)
		require.NoError(t, f.activate(key.ID, 4))
		f.requireVersions(key.ID, destroyed, retiring, destroyed, active)
		require.NoError(t, f.activate(key.ID, 4), "it is active")
		require.ErrorIs(t, f.activate(key.ID, 3), models.ErrVersionGone)
		require.ErrorIs(t, f.activate(key.ID, 9), models.ErrNotFound)
		f.changes(&at)
		require.NoError(t, f.rotate(key.ID, 5, 0))
		f.requireVersions(key.ID, destroyed, destroyed, destroyed, destroyed, active)
		var gone []uint32
		for _, change := range f.changes(&at) {
			require.Zero(t, change.RetireAt, "nothing is kept")
			gone = append(gone, change.Version)
		}
		require.Equal(t, []uint32{4, 2, 4}, gone, "replaced, destroyed before it, destroyed")
		require.ErrorIs(t, f.rollBack(key.ID), models.ErrNoRollback)
	})
}

func TestARollbackHasTheEarlierVersionServe(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		key := f.register(f.shared(olga))
		require.NoError(t, f.rotate(key.ID, 2, quarter))
		for range 2 { // the second time changes nothing
			require.NoError(t, f.rollBack(key.ID))
			f.requireVersions(key.ID, active, retiring)
		}
		require.NoError(t, f.activate(key.ID, 2))
		f.requireVersions(key.ID, retiring, active)
		require.NoError(t, f.activate(key.ID, 1), "that is a rollback, too")
		require.NoError(t, f.rotate(key.ID, 3, quarter))
		f.requireVersions(key.ID, retiring, destroyed, active)
		require.Equal(t, []models.EventType{models.EventKeyRegistered, models.EventKeyRotated, models.EventKeyRotationRolledBack, models.EventKeyRotated,
			models.EventKeyRotationRolledBack, models.EventKeyRotated, models.EventKeyVersionDestroyed}, f.kinds(key.ID))
	})
}

func TestARetiringVersionIsDestroyedWhenItIsDue(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		key, other := f.register(f.shared(olga)), f.register(f.shared(olga))
		require.NoError(t, f.rotate(key.ID, 2, quarter))
		require.NoError(t, f.rotate(other.ID, 2, -1))
		require.NoError(t, f.destroyDue(now()))
		f.requireVersions(key.ID, retiring, active)
		var together sync.WaitGroup
		for range 4 { // processes
			together.Go(func() { require.NoError(t, f.destroyDue(now()+quarter)) })
		}
		together.Wait()
		f.requireVersions(key.ID, destroyed, active)
		f.requireVersions(other.ID, active, pending)
		require.Equal(t, []models.EventType{models.EventKeyRegistered, models.EventKeyRotated, models.EventKeyVersionDestroyed}, f.kinds(key.ID))
		require.ErrorIs(t, f.rollBack(key.ID), models.ErrNoRollback)
	})
}

func TestARevokedKeysVersionsAreErased(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		key := f.register(f.shared(olga))
		require.NoError(t, f.rotate(key.ID, 2, quarter))
		require.NoError(t, f.rotate(key.ID, 3, -quarter))
		f.revoke(&key)
		f.requireVersions(key.ID, destroyed, active, destroyed)
		require.ErrorIs(t, f.rotate(key.ID, 4, 0), errIsRevoked)
		if !f.isSQLite() { // a replica of an earlier release erases nothing
			_, err := f.past().ExecContext(t.Context(), "UPDATE key_versions SET state = 'pending', kek_id = 'k', envelope = 'e', destroyed_at = 0 WHERE version = 3")
			require.NoError(t, err)
			require.NoError(t, f.destroyDue(1))
			f.requireVersions(key.ID, destroyed, active, destroyed)
		}
	})
}

func TestARefusalOnProbationRollsBack(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		d := f.dataPlane("all", nil)
		for name, c := range map[string]struct {
			overlap  int64
			before   models.KeyReport // a report of the first version
			report   models.KeyReport
			wantBack bool
		}{
			"refused": {quarter, models.KeyReport{}, models.KeyReport{FailedVersion: 2}, true},
			"refused, of a release that does not say which": {quarter, models.KeyReport{}, models.KeyReport{}, false},
			"the version before, late":                      {quarter, models.KeyReport{}, models.KeyReport{FailedVersion: 1}, false},
			"without an overlap":                            {0, models.KeyReport{}, models.KeyReport{FailedVersion: 2}, false},
			"both refused":                                  {quarter, models.KeyReport{FailedAt: now(), FailureStatus: 401}, models.KeyReport{FailedVersion: 2}, false},
		} {
			t.Run(name, func(t *testing.T) {
				key := f.register(f.shared(olga))
				c.before.KeyID = key.ID
				require.NoError(t, f.report(d, c.before))
				require.NoError(t, f.rotate(key.ID, 2, c.overlap))
				c.report.KeyID, c.report.FailedAt, c.report.FailureStatus, c.report.FailureReason = key.ID, now()+1, 401, "rejected"
				for range 2 { // two data planes
					require.NoError(t, f.report(d, c.report))
				}
				got, err := f.GetKey(t.Context(), olga, key.ID, now())
				require.NoError(t, err)
				require.Equal(t, c.wantBack, got.Version == 1)
				require.Equal(t, c.wantBack, slices.Contains(f.kinds(key.ID), models.EventKeyRotationRolledBack))
				require.Equal(t, !c.wantBack && c.report.FailedVersion != 1, got.LastFailureAt != 0, "of the version that serves")
			})
		}
	})
}

func TestARolledBackVersionIsOnProbationOnce(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		d, key := f.dataPlane("all", nil), f.register(f.shared(olga))
		refused := func(number uint32) {
			t.Helper()
			require.NoError(t, f.report(d, models.KeyReport{KeyID: key.ID, FailedAt: now() + 1, FailureStatus: 401, FailedVersion: number}))
		}
		require.NoError(t, f.rotate(key.ID, 2, quarter))
		refused(2)
		f.requireVersions(key.ID, active, retiring)
		refused(1)
		f.requireVersions(key.ID, active, retiring)
		require.NoError(t, f.activate(key.ID, 2))
		refused(2)
		f.requireVersions(key.ID, retiring, active)
		require.NoError(t, f.rotate(key.ID, 3, quarter))
		refused(2)
		refused(3)
		f.requireVersions(key.ID, destroyed, retiring, active)
	})
}

func TestVersionsKeepTheirExpiry(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		end := now() + day
		key := f.register(f.shared(olga, func(r *models.Registration) { r.Key.ExpiresAt = end }))
		expiry := func() int64 {
			k, err := f.GetKey(t.Context(), olga, key.ID, now())
			require.NoError(t, err)
			return k.ExpiresAt
		}
		require.NoError(t, f.rotate(key.ID, 2, quarter))
		require.Equal(t, end, expiry(), "kept")
		require.NoError(t, failure(f.update(key.ID, expireAt(0))))
		require.NoError(t, f.rollBack(key.ID))
		require.Equal(t, end, expiry(), "that of the version")
		require.NoError(t, failure(f.update(key.ID, expireAt(1))), "it has expired meanwhile")
		require.NoError(t, f.activate(key.ID, 2))
		require.Zero(t, expiry())
		require.ErrorIs(t, f.activate(key.ID, 1), models.ErrVersionGone)
		require.ErrorIs(t, f.change(key.ID, func(tx *models.Tx, k models.Key, _ newEvent) error {
			return tx.DestroyVersion(k, 2, nil)
		}), models.ErrVersionActive)
	})
}

func TestARollbackByAReportGivesNoLaterEnd(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		d := f.dataPlane("all", nil)
		for name, c := range map[string]struct{ before, after, want int64 }{
			"never, then an end":      {0, day, day},
			"an end, then an earlier": {2 * day, day, day},
			"an end, then a later":    {day, 2 * day, day},
			"an end, then never":      {day, 0, day},
		} {
			t.Run(name, func(t *testing.T) {
				began := now()
				at := func(span int64) int64 { return min(span, 1) * (began + span) } // zero is never
				key := f.register(f.shared(olga, func(r *models.Registration) { r.Key.ExpiresAt = at(c.before) }))
				require.NoError(t, f.rotate(key.ID, 2, quarter))
				require.NoError(t, failure(f.update(key.ID, expireAt(at(c.after)))))
				require.NoError(t, f.report(d, models.KeyReport{KeyID: key.ID, FailedVersion: 2, FailedAt: now() + 1, FailureStatus: 401}))
				got, err := f.GetKey(t.Context(), olga, key.ID, now())
				require.NoError(t, err)
				require.Equal(t, uint32(1), got.Version)
				require.Equal(t, at(c.want), got.ExpiresAt)
			})
		}
	})
}

func TestRacesOfRotationsLeaveOneOfEach(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		d, key := f.dataPlane("all", nil), f.register(f.shared(olga))
		stopped := make(chan struct{})
		var writers, rewraps sync.WaitGroup
		rewraps.Go(func() {
			for {
				select {
				case <-stopped:
					return
				default:
				}
				keys, err := f.SealedKeys(context.WithoutCancel(t.Context()), "", 10)
				if err != nil {
					t.Error(err)
					return
				}
				for _, k := range keys {
					_, err := f.Rewrap(context.WithoutCancel(t.Context()), []models.Rewrapping{{KeyID: k.ID, Version: k.Version, Old: k.Envelope, New: k.Envelope, KEKID: "kek-2"}})
					if err != nil {
						t.Error(err)
					}
				}
			}
		})
		for writer := range 4 {
			writers.Go(func() {
				for i := range 12 {
					var next uint32
					_ = f.change(key.ID, func(_ *models.Tx, k models.Key, _ newEvent) error {
						next = k.LastVersion
						return nil
					})
					switch (i + writer) % 6 {
					case 0, 1:
						_ = f.rotate(key.ID, next+1, quarter)
					case 2:
						_ = f.rotate(key.ID, next+1, -quarter)
					case 3:
						_ = f.activate(key.ID, next)
					case 4:
						_ = f.rollBack(key.ID)
					default:
						_ = f.report(d, models.KeyReport{KeyID: key.ID, FailedAt: now() + 1, FailureStatus: 401, FailedVersion: next})
						_ = f.destroyDue(now() + 2*quarter)
					}
				}
			})
		}
		writers.Wait()
		close(stopped)
		rewraps.Wait()
		states := map[models.VersionState]int{}
		f.transact(func(tx *models.Tx) error {
			kept, err := tx.KeptVersions(key.ID)
			for _, v := range kept {
				states[v.State]++
				require.Equal(t, sealedAs(key.ID, v.Version), v.Envelope)
			}
			return err
		})
		require.LessOrEqual(t, states[pending], 1)
		require.LessOrEqual(t, states[retiring], 1)
		sealed, err := f.SealedVersion(t.Context(), key.ID, 0)
		require.NoError(t, err)
		require.Equal(t, sealedAs(key.ID, sealed.Version), sealed.Envelope)
		f.revoke(&key)
		counts, err := f.KeysByKEK(t.Context())
		require.NoError(t, err)
		require.Equal(t, int64(1), counts["kek-1"]+counts["kek-2"], "the active version's alone")
	})
}

func TestRewrapCoversAllEnvelopes(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		key, other := f.register(f.shared(olga)), f.register(f.shared(olga))
		for number := uint32(2); number <= 4; number++ {
			require.NoError(t, f.rotate(key.ID, number, []int64{quarter, quarter, -quarter}[number-2]))
		}
		counts, err := f.KeysByKEK(t.Context())
		require.NoError(t, err)
		require.Equal(t, map[string]int64{"kek-1": 4}, counts)
		page, err := f.SealedKeys(t.Context(), "", 1)
		require.NoError(t, err)
		var batch []models.Rewrapping
		for i, k := range page {
			require.Equal(t, []any{key.ID, acme, []uint32{3, 2, 4}[i], sealedAs(key.ID, k.Version)}, []any{k.ID, k.CustomerID, k.Version, k.Envelope})
			batch = append(batch, models.Rewrapping{KeyID: k.ID, Version: k.Version, Old: k.Envelope, New: []byte("new"), KEKID: "kek-2"})
		}
		stale := batch[0]
		stale.Version = 2 // version 2 has another envelope
		stored, err := f.Rewrap(t.Context(), append(batch, stale))
		require.NoError(t, err)
		require.ElementsMatch(t, []string{key.ID + "/2", key.ID + "/3", key.ID + "/4"}, stored)
		counts, err = f.KeysByKEK(t.Context())
		require.NoError(t, err)
		require.Equal(t, map[string]int64{"kek-1": 1, "kek-2": 3}, counts)
		next, err := f.SealedKeys(t.Context(), page[len(page)-1].ID, 10)
		require.NoError(t, err)
		require.Equal(t, []string{other.ID}, ids(next))
		moved, err := f.SealedVersion(t.Context(), key.ID, 4)
		require.NoError(t, err)
		require.Equal(t, []any{"new", "kek-2"}, []any{string(moved.Envelope), moved.KEKID})
		_, err = f.SealedVersion(t.Context(), key.ID, 1)
		require.ErrorIs(t, err, models.ErrNotFound)
	})
}

func TestARepeatedRotationFindsItsVersion(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		key := f.register(f.shared(olga))
		record := models.IdempotencyRecord{CustomerID: acme, ProjectID: web, UserID: "olga", KeyHash: []byte("k"), Fingerprint: []byte("f"),
			KeyID: key.ID, Version: 2, CreatedAt: now()}
		claim := func(r models.IdempotencyRecord) (made uint32, err error) {
			err = f.Transact(t.Context(), func(tx *models.Tx) error {
				made, err = tx.ClaimIdempotency(r)
				return err
			})
			return made, err
		}
		for _, want := range []uint32{0, 2, 2} {
			made, err := claim(record)
			require.NoError(t, err)
			require.Equal(t, want, made)
			record.Version = 3
		}
		record.Fingerprint = []byte("other")
		require.ErrorIs(t, failure(claim(record)), models.ErrIdempotencyReuse)
		_, err := f.RegisterKey(t.Context(), olga, models.RoleOwner, f.shared(olga, retryable("k", "g")), now())
		require.ErrorIs(t, err, models.ErrIdempotencyReuse, "nor does it serve for a registration")
	})
}

// sealed returns a key with its envelope.
func (f *fixture) sealed(id string) models.Key {
	f.t.Helper()
	k, err := f.SealedVersion(f.t.Context(), id, 0)
	require.NoError(f.t, err)
	return k
}

// rewrapping returns a new envelope for a key under another KEK.
func rewrapping(k models.Key) models.Rewrapping {
	return models.Rewrapping{KeyID: k.ID, Version: k.Version, Old: k.Envelope, New: []byte("re-wrapped " + k.ID), KEKID: "kek-2"}
}

func TestARewrapChangesTheEnvelopeAndNothingElse(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		wholeRow := func(id string) models.Key {
			sealed := f.sealed(id)
			whole, err := f.GetKey(t.Context(), mia, id, now())
			require.NoError(t, err)
			whole.Envelope, whole.KEKID = sealed.Envelope, sealed.KEKID
			return whole
		}
		active, revoked, own := f.register(f.shared(olga)), f.register(f.shared(olga)), f.register(f.own(mia))
		f.revoke(&revoked)
		keys := []models.Key{active, revoked, own}
		var before []models.Key
		var batch []models.Rewrapping
		for _, k := range keys {
			before = append(before, wholeRow(k.ID))
			batch = append(batch, rewrapping(f.sealed(k.ID)))
		}
		events := f.size().events
		stored, err := f.Rewrap(t.Context(), batch)
		require.NoError(t, err)
		require.ElementsMatch(t, ids(keys), stored)
		for i, k := range keys {
			want := before[i]
			want.Envelope, want.KEKID = batch[i].New, "kek-2"
			require.Equal(t, want, wholeRow(k.ID))
		}
		require.Equal(t, events, f.size().events)
		none, err := f.Rewrap(t.Context(), nil)
		require.NoError(t, err)
		require.Empty(t, none)
	})
}

func TestARewrapOfWhatHasChangedWritesNothing(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		key, other := f.sealed(f.register(f.shared(olga)).ID), f.sealed(f.register(f.shared(olga)).ID)
		for name, change := range map[string]func(*models.Rewrapping){
			"another version":  func(r *models.Rewrapping) { r.Version++ },
			"another envelope": func(r *models.Rewrapping) { r.Old = []byte("older") },
			"a longer one":     func(r *models.Rewrapping) { r.Old = append(bytes.Clone(r.Old), 0) },
			"no such key":      func(r *models.Rewrapping) { r.KeyID = "byok_absent" },
		} {
			t.Run(name, func(t *testing.T) {
				stale, sound := rewrapping(key), rewrapping(f.sealed(other.ID))
				change(&stale)
				stored, err := f.Rewrap(t.Context(), []models.Rewrapping{stale, sound})
				require.NoError(t, err)
				require.Equal(t, []string{other.ID}, stored, "its neighbours are stored")
				require.Equal(t, key, f.sealed(key.ID))
			})
		}
	})
}

func TestOfManyRewrapsOfTheSameKeysOneStores(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		const jobs, keys = 8, 40
		var batch []models.Rewrapping
		for range keys {
			batch = append(batch, rewrapping(f.sealed(f.register(f.shared(olga)).ID)))
		}
		stored := map[string]int{}
		for _, ids := range together(jobs, func(job int) []string {
			own := make([]models.Rewrapping, keys)
			for i, r := range batch {
				r.New = fmt.Appendf(nil, "%s by %d", r.New, job)
				own[(i*7+job*5)%keys] = r // each in a different order
			}
			ids, err := f.Rewrap(t.Context(), own)
			require.NoError(t, err)
			return ids
		}) {
			for _, id := range ids {
				stored[id]++
			}
		}
		for _, r := range batch {
			require.LessOrEqual(t, stored[r.KeyID], 1)
			require.Equal(t, stored[r.KeyID] == 1, f.sealed(r.KeyID).KEKID == "kek-2")
		}
		require.NotEmpty(t, stored)
	})
}

func TestARewrapWaitsForNoTransactionThatHoldsAKey(t *testing.T) {
	f := newFixture(t, modelstest.EnginePostgres.MigratedURL(t), models.Options{})
	held, free := f.sealed(f.register(f.shared(olga)).ID), f.sealed(f.register(f.shared(olga)).ID)
	batch := []models.Rewrapping{rewrapping(held), rewrapping(free)}
	f.transact(func(tx *models.Tx) error {
		if _, err := tx.RevokeKey(&models.Key{ID: held.ID}, "olga", f.event(models.EventKeyRevoked)); err != nil {
			return err
		}
		stored, err := f.Rewrap(t.Context(), batch)
		require.NoError(t, err)
		require.Equal(t, []string{free.ID}, stored)
		return nil
	})
	stored, err := f.Rewrap(t.Context(), batch)
	require.NoError(t, err)
	require.Equal(t, []string{held.ID}, stored, "what was revoked meanwhile is re-wrapped later, and stays revoked")
	require.NotZero(t, f.sealed(held.ID).RevokedAt)
}

func TestSealedKeysComeOfAllCustomersInTheOrderOfTheirIDs(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		all := func(page int) (all []models.Key) { // read in pages
			for after := ""; ; after = all[len(all)-1].ID {
				keys, err := f.SealedKeys(t.Context(), after, page)
				require.NoError(t, err)
				if all = append(all, keys...); len(keys) < page {
					return all
				}
			}
		}
		require.Empty(t, all(3))
		globex := models.Caller{CustomerID: "globex", ProjectID: web, UserID: "gus"}
		f.addMember(globex, models.RoleOwner)
		want := []models.Key{f.register(f.shared(olga)), f.register(f.own(mia)), f.register(f.shared(globex)), f.register(f.own(moe)),
			f.register(f.shared(olga)), f.register(f.shared(globex))}
		f.revoke(&want[3])
		for page := 1; page < 8; page++ {
			require.Equal(t, ids(want), ids(all(page)), "%d a page", page)
		}
		got := all(10)
		require.NotZero(t, got[3].RevokedAt)
		require.Equal(t, []any{want[1].Envelope, "kek-1", uint32(1), "mia", "openai", acme}, []any{got[1].Envelope, got[1].KEKID,
			got[1].Version, got[1].UserID, got[1].Provider, got[1].CustomerID})

		theirs, err := f.SealedKeysOf(t.Context(), "globex", web, "", 10)
		require.NoError(t, err)
		require.Equal(t, []string{want[2].ID, want[5].ID}, ids(theirs))
		theirs, err = f.SealedKeysOf(t.Context(), "globex", web, want[2].ID, 10)
		require.NoError(t, err)
		require.Equal(t, []string{want[5].ID}, ids(theirs))
		_, err = f.SealedVersion(t.Context(), "byok_absent", 0)
		require.ErrorIs(t, err, models.ErrNotFound)
	})
}
