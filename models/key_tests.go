package models

import (
	"context"
	"errors"
	"time"

	"gorm.io/gorm"
)

// KeyTest is a test for a data plane to run: of a stored key, or of a secret that no key has yet.
type KeyTest struct {
	// ID is a ULID.
	ID         string `gorm:"primaryKey"`
	CustomerID string
	ProjectID  string
	// UserID and TokenID identify the caller who requested the test; empty for none.
	UserID, TokenID string
	Provider        string
	// KeyID and Version identify a stored key; empty and zero for a secret.
	KeyID   string
	Version uint32
	// Envelope holds the secret, bound to ID. It is empty for a stored key, and once the test is claimed.
	Envelope []byte
	// WaitUntil is when the request that waits for the test gives up, by the clock of its replica.
	WaitUntil int64
	// ClaimedBy is the data plane that runs the test, and ClaimedAt is when it claimed the test; empty and zero before
	// that.
	ClaimedBy string
	ClaimedAt int64
	// Verdict and Reason are the result; empty until there is one.
	Verdict, Reason string
}

// keptTests is how long after WaitUntil any replica deletes a test that is still stored. The replica of the test
// usually deletes it earlier, but may have died. keptTests is much longer than the difference between the replicas'
// clocks.
const keptTests = time.Minute

// claimableLate is how long after WaitUntil a test can still be claimed, since the clocks of replicas differ.
const claimableLate = 10 * time.Second

// isOver reports whether it is too late to claim the test.
func (t KeyTest) isOver(now int64) bool { return t.WaitUntil+claimableLate.Microseconds() <= now }

// AddKeyTest stores a test for data planes to run. Errors: ErrNoDataPlane.
func (s *Store) AddKeyTest(ctx context.Context, t KeyTest) error {
	var able int64
	err := s.read(ctx, func(db *gorm.DB) error {
		return servedStreams(db, t.CustomerID).Where("streams.tests_keys").Count(&able).Error
	})
	if err != nil {
		return err
	}
	if able == 0 {
		return ErrNoDataPlane
	}
	if t.Envelope == nil {
		t.Envelope = []byte{} // not NULL
	}
	return s.Transact(ctx, func(tx *Tx) error { return tx.db.Create(&t).Error })
}

// WaitingKeyTests returns the tests that no data plane has claimed, without their envelopes, and deletes old ones.
func (s *Store) WaitingKeyTests(ctx context.Context, now int64) (waiting []KeyTest, err error) {
	var all []KeyTest
	err = s.readFrom(ctx, BackgroundPool, func(db *gorm.DB) error { return db.Omit("envelope").Find(&all).Error })
	if err != nil {
		return nil, err
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

// ClaimKeyTest claims a test for a data plane that has a stream and tests keys; a test can be claimed only once. It
// returns the test with its envelope, and removes the envelope from the database. Errors: ErrDataPlaneEnded, and
// ErrNotFound, also if the data plane does not serve the test's customer, the test is claimed, or no request waits for
// the test.
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

// AnswerKeyTest stores the result of a test that the data plane has claimed, once. Errors: ErrNotFound.
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

// FindKeyTest returns a test without its envelope. Errors: ErrNotFound.
func (s *Store) FindKeyTest(ctx context.Context, id string) (KeyTest, error) {
	return take[KeyTest](ctx, s, func(db *gorm.DB) *gorm.DB { return db.Omit("envelope").Where("id = ?", id) })
}

// DropKeyTest deletes a test for which no request waits any more.
func (s *Store) DropKeyTest(ctx context.Context, id string) error {
	return s.Transact(ctx, func(tx *Tx) error { return tx.db.Where("id = ?", id).Delete(&KeyTest{}).Error })
}
