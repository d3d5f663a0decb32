package models

import (
	"context"
	"errors"
	"time"

	"gorm.io/gorm"
)

// KeyTest is a test of a key that a data plane is to make: of a stored one, or of a secret that is not a key's yet.
type KeyTest struct {
	// ID is a ULID.
	ID         string `gorm:"primaryKey"`
	CustomerID string
	ProjectID  string
	// UserID and TokenID are whose request has the key tested; empty for none.
	UserID, TokenID string
	Provider        string
	// KeyID and Version are those of a stored key; empty and zero for a secret.
	KeyID   string
	Version uint32
	// Envelope holds the secret, bound to ID; empty for a stored key, and as soon as the test is claimed.
	Envelope []byte
	// WaitUntil is until when a request waits for the test, by the clock of its replica. It deletes the test then, or others do after
	// keptTests.
	WaitUntil int64
	// ClaimedBy is the data plane that makes the test, since ClaimedAt; empty and zero until then.
	ClaimedBy string
	ClaimedAt int64
	// Verdict and Reason are what it found; empty until then.
	Verdict, Reason string
}

// keptTests is how much longer than anybody waits for it a test is kept, should the process have died that would delete it. It is far more
// than the clocks of replicas differ by.
const keptTests = time.Minute

// claimableLate is how long after anybody waits for it a test can still be claimed, because clocks of replicas differ.
const claimableLate = 10 * time.Second

// isOver reports whether it is too late to claim the test.
func (t KeyTest) isOver(now int64) bool { return t.WaitUntil+claimableLate.Microseconds() <= now }

// AddKeyTest stores a test for data planes to make: ErrNoDataPlane.
func (s *Store) AddKeyTest(ctx context.Context, t KeyTest) error {
	able, err := s.countTestingStreams(ctx, t.CustomerID)
	if err != nil {
		return err
	}
	if able == 0 {
		return ErrNoDataPlane
	}
	if t.Envelope == nil {
		t.Envelope = []byte{} // no NULL
	}
	return s.Transact(ctx, func(tx *Tx) error { return tx.db.Create(&t).Error })
}

// countTestingStreams returns how many streams there are of data planes that test keys and may serve a customer.
func (s *Store) countTestingStreams(ctx context.Context, customerID string) (n int64, err error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	err = s.servedStreams(ctx, customerID).Where("streams.tests_keys").Count(&n).Error
	return n, s.classify(err)
}

// WaitingKeyTests returns the tests that no data plane has claimed, without their envelopes. Those that have been kept too long it deletes.
func (s *Store) WaitingKeyTests(ctx context.Context, now int64) (waiting []KeyTest, err error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	var all []KeyTest
	if err := s.background(ctx).Omit("envelope").Find(&all).Error; err != nil {
		return nil, s.classify(err)
	}
	var expired []string
	for _, t := range all {
		switch {
		case t.WaitUntil+keptTests.Microseconds() <= now:
			expired = append(expired, t.ID)
		case t.ClaimedBy == "" && !t.isOver(now):
			waiting = append(waiting, t)
		}
	}
	if len(expired) == 0 {
		return waiting, nil
	}
	return waiting, s.transact(ctx, BackgroundPool, func(tx *Tx) error {
		return tx.db.Where("id IN ?", expired).Delete(&KeyTest{}).Error
	})
}

// ClaimKeyTest gives a test to a data plane that has a stream on which it says that it tests keys: once, with the envelope, which then is no
// longer in the database. Errors: ErrDataPlaneEnded, and ErrNotFound also for a test of another customer, one that a data plane has, or
// one that nobody waits for any more.
func (s *Store) ClaimKeyTest(ctx context.Context, dataPlaneID, id string, now int64) (t KeyTest, err error) {
	err = s.Transact(ctx, func(tx *Tx) error {
		var d DataPlane
		err := tx.db.Where("id = ?", dataPlaneID).Take(&d).Error
		if errors.Is(err, gorm.ErrRecordNotFound) || err == nil && !d.Live(now) {
			return ErrDataPlaneEnded
		}
		if err != nil {
			return err
		}
		if err := tx.db.Where("id = ?", id).Take(&t).Error; err != nil {
			return err
		}
		if !d.Serves(t.CustomerID) || t.ClaimedBy != "" || t.isOver(now) {
			return ErrNotFound
		}
		t.ClaimedBy, t.ClaimedAt = dataPlaneID, now
		claimed := tx.db.Model(&KeyTest{}).
			Where("id = ? AND claimed_by = '' AND EXISTS (SELECT 1 FROM streams WHERE data_plane_id = ? AND tests_keys)", id, dataPlaneID).
			Updates(map[string]any{"claimed_by": dataPlaneID, "claimed_at": now, "envelope": []byte{}})
		if claimed.Error == nil && claimed.RowsAffected == 0 {
			return ErrNotFound
		}
		return claimed.Error
	})
	return t, err
}

// AnswerKeyTest stores what a data plane found by a test that it has claimed, once: ErrNotFound.
func (s *Store) AnswerKeyTest(ctx context.Context, dataPlaneID, id, verdict, reason string) error {
	return s.Transact(ctx, func(tx *Tx) error {
		stored := tx.db.Model(&KeyTest{}).Where("id = ? AND claimed_by = ? AND verdict = ''", id, dataPlaneID).
			Updates(map[string]any{"verdict": verdict, "reason": reason})
		if stored.Error == nil && stored.RowsAffected == 0 {
			return ErrNotFound
		}
		return stored.Error
	})
}

// FindKeyTest returns a test as it stands, without its envelope: ErrNotFound.
func (s *Store) FindKeyTest(ctx context.Context, id string) (t KeyTest, err error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	err = s.orm(ctx).Omit("envelope").Where("id = ?", id).Take(&t).Error
	return t, s.classify(err)
}

// DropKeyTest deletes a test for which nobody waits any more.
func (s *Store) DropKeyTest(ctx context.Context, id string) error {
	return s.Transact(ctx, func(tx *Tx) error { return tx.db.Where("id = ?", id).Delete(&KeyTest{}).Error })
}
