package models

import (
	"context"

	"gorm.io/gorm"
)

// Removal records that a member was removed from a project. The removal suspends the member's own keys in the project,
// and sets their RemovalID to its ID. It bars the member's API keys from the project. It can be undone until
// RestoreUntil.
type Removal struct {
	// ID is a ULID.
	ID         string `gorm:"primaryKey"`
	CustomerID string
	ProjectID  string
	UserID     string
	Role       Role
	RemovedAt  int64
	RemovedBy  string
	// Tx is the number of the transaction.
	Tx int64
	// Tokens are the ids of the API keys that may act in the project again when the removal is undone.
	Tokens       IDSet
	RestoreUntil int64
	// ClosedAt is when the removal was undone or the keys were destroyed; zero until then.
	ClosedAt int64
	// Keys counts the keys that SuspendMember suspended, or that RestoreMember enabled again. It is not a column.
	Keys int64 `gorm:"-"`
}

// TableName is the table's name.
func (Removal) TableName() string { return "member_removals" }

// Stop returns the removal as a stop.
func (r Removal) Stop() Stop { return Stop{EventMemberRemoved, r.UserID, r.CustomerID, r.Tx} }

// SuspendMember removes a member, and suspends their own keys and API keys in the project. If the member is added
// again, these stay suspended. The event tells data planes. The caller sets r's ID, its member, and RestoreUntil. If
// RestoreUntil is zero, SuspendMember uses the grace period of the project's policy. Errors: ErrNotFound, ErrLastOwner.
func (tx *Tx) SuspendMember(r Removal, event Event) (Removal, error) {
	if err := tx.lockProject(r.CustomerID, r.ProjectID); err != nil {
		return r, err
	}
	before, err := tx.roleState(r.CustomerID, r.ProjectID, r.UserID)
	if err != nil {
		return r, err
	}
	if before == nil {
		return r, ErrNotFound
	}
	r.Role, r.RemovedAt, r.RemovedBy = before.Role, tx.Now, event.ActorUserID
	if r.RestoreUntil == 0 {
		policy, err := findPolicy(tx.db, r.CustomerID, r.ProjectID)
		if err != nil {
			return r, err
		}
		r.RestoreUntil = tx.Now + policy.removalGrace().Microseconds()
	}
	if err := tx.queryRow(`SELECT `+tx.number, nil, &r.Tx); err != nil {
		return r, err
	}
	// The membership goes first: transactions that make an API key or register a key lock it, so this waits for them.
	if err := tx.RemoveMember(r.CustomerID, r.ProjectID, r.UserID, event); err != nil {
		return r, err
	}
	if r.Keys, err = tx.suspendKeys(r); err != nil {
		return r, err
	}
	if r.Tokens, err = tx.suspendTokens(r); err != nil {
		return r, err
	}
	// Earlier removals may have suspended keys that nobody has restored. These keys are destroyed no later than the
	// keys of this removal.
	err = tx.openRemovals(r.CustomerID, r.ProjectID, r.UserID).Model(&Removal{}).Where("restore_until > ?", r.RestoreUntil).
		Update("restore_until", r.RestoreUntil).Error
	if err != nil {
		return r, err
	}
	return r, tx.db.Create(&r).Error
}

func (tx *Tx) suspendKeys(r Removal) (int64, error) {
	const scope = ` WHERE customer_id = $2 AND project_id = $3 AND user_id = $4 AND revoked_at = 0 AND removal_id = ''`
	of := []any{r.ID, r.CustomerID, r.ProjectID, r.UserID}
	_, err := tx.exec(`UPDATE ai_keys SET disabled_at = $5, disabled_by = $6, disabled_tx = $7, revision = revision + 1`+scope+` AND disabled_at = 0`+
		` AND $1 <> ''`, append(of, r.RemovedAt, r.RemovedBy, r.Tx))
	if err != nil {
		return 0, err
	}
	return tx.exec(`UPDATE ai_keys SET removal_id = $1`+scope, of)
}

// suspendTokens bars the user's API keys from the project, and returns the ids of those that could act there.
func (tx *Tx) suspendTokens(r Removal) (IDSet, error) {
	var tokens []Token
	err := tx.locking().Omit("hash").Where("customer_id = ? AND user_id = ?", r.CustomerID, r.UserID).
		Where(whereLive, tx.Now).Order("id").Find(&tokens).Error
	if err != nil {
		return "", err
	}
	var ids []string
	for _, t := range tokens {
		if !t.Reaches(r.ProjectID) {
			continue
		}
		ids = append(ids, t.ID)
		columns := map[string]any{"barred": t.Barred.With(r.ProjectID), "barred_at": r.RemovedAt, "barred_by": r.RemovedBy, "bar_tx": r.Tx}
		if err := tx.db.Model(&Token{}).Where("id = ?", t.ID).Updates(columns).Error; err != nil {
			return "", err
		}
	}
	return NewIDSet(ids...), nil
}

// RestoreMember undoes a user's latest removal among those that can still be undone. Keys and API keys work again
// unless people have revoked, disabled or barred them since. A user who is not a member becomes one again, in their
// former role. Errors: ErrNotFound.
func (tx *Tx) RestoreMember(customerID, projectID, userID string, event Event) (m Member, r Removal, err error) {
	if err := tx.lockProject(customerID, projectID); err != nil {
		return m, r, err
	}
	err = tx.openRemovals(customerID, projectID, userID).Where("restore_until > ?", tx.Now).Order("id DESC").Take(&r).Error
	if err != nil {
		return m, r, err
	}
	before, err := tx.roleState(customerID, projectID, userID)
	if err != nil {
		return m, r, err
	}
	role := r.Role
	if before != nil {
		role = before.Role
	}
	if m, err = tx.SetMember(customerID, projectID, userID, role); err != nil {
		return m, r, err
	}
	if err := tx.restoreSuspended(&r); err != nil {
		return m, r, err
	}
	event.Role, event.Before, event.After = m.Role, before, &EventState{Role: m.Role}
	return m, r, tx.AppendEvent(event)
}

// restoreSuspended enables what a removal has suspended, and closes the removal.
func (tx *Tx) restoreSuspended(r *Removal) (err error) {
	r.Keys, err = tx.exec(`UPDATE ai_keys SET disabled_at = 0, disabled_by = '', disabled_tx = 0, revision = revision + 1
WHERE customer_id = $3 AND project_id = $4 AND user_id = $5 AND removal_id = $1 AND revoked_at = 0 AND disabled_tx = $2`,
		[]any{r.ID, r.Tx, r.CustomerID, r.ProjectID, r.UserID})
	if err == nil {
		_, err = tx.exec(`UPDATE ai_keys SET removal_id = '' WHERE customer_id = $2 AND project_id = $3 AND user_id = $4 AND removal_id = $1`,
			[]any{r.ID, r.CustomerID, r.ProjectID, r.UserID})
	}
	for _, id := range r.Tokens.List() {
		if err != nil {
			return err
		}
		var t Token
		if t, err = tx.lockToken(r.CustomerID, id); err == nil {
			err = tx.db.Model(&Token{}).Where("id = ?", id).Update("barred", t.Barred.Without(r.ProjectID)).Error
		}
	}
	if err != nil {
		return err
	}
	return tx.closeRemoval(r)
}

// openRemovals selects and locks the removals of a user that are not closed.
func (tx *Tx) openRemovals(customerID, projectID, userID string) *gorm.DB {
	return tx.locking().Where("customer_id = ? AND project_id = ? AND user_id = ? AND closed_at = 0", customerID, projectID, userID)
}

func (tx *Tx) closeRemoval(r *Removal) error {
	r.ClosedAt = tx.Now
	return tx.db.Model(&Removal{}).Where("id = ?", r.ID).Update("closed_at", tx.Now).Error
}

// keepBarred removes an API key from the removals that would let it act in the project again when they are undone.
func (tx *Tx) keepBarred(t Token, projectID string) error {
	var open []Removal
	if err := tx.openRemovals(t.CustomerID, projectID, t.UserID).Find(&open).Error; err != nil {
		return err
	}
	for _, r := range open {
		if err := tx.db.Model(&Removal{}).Where("id = ?", r.ID).Update("tokens", r.Tokens.Without(t.ID)).Error; err != nil {
			return err
		}
	}
	return nil
}

// DestroyRemoved destroys the suspended keys of up to limit removals that can no longer be undone: it revokes the keys
// and empties their envelopes. It returns how many removals it found. Even if several processes do so at the same time,
// each key is destroyed once.
func (s *Store) DestroyRemoved(ctx context.Context, now int64, limit int, newEvent func(EventType, Key) Event) (int, error) {
	return s.eachDue(ctx, func(db *gorm.DB) *gorm.DB {
		return db.Model(&Removal{}).Select("id").Where("closed_at = 0 AND restore_until <= ?", now).
			Order("restore_until").Limit(limit)
	}, func(tx *Tx, id string) error { return tx.destroyRemoved(id, now, newEvent) })
}

func (tx *Tx) destroyRemoved(id string, now int64, newEvent func(EventType, Key) Event) error {
	var found Removal
	if err := tx.db.Where("id = ?", id).Take(&found).Error; err != nil {
		return err
	}
	// The project is locked first, as in RestoreMember.
	if err := tx.lockProject(found.CustomerID, found.ProjectID); err != nil {
		return err
	}
	var open []Removal
	err := tx.openRemovals(found.CustomerID, found.ProjectID, found.UserID).Where("id = ? AND restore_until <= ?", id, now).Find(&open).Error
	if err != nil || len(open) == 0 { // another process was faster
		return err
	}
	var keys []Key
	err = tx.locking().Omit("envelope").
		Where("customer_id = ? AND project_id = ? AND user_id = ? AND removal_id = ?", found.CustomerID, found.ProjectID, found.UserID, id).
		Order("id").Find(&keys).Error
	if err != nil {
		return err
	}
	for i := range keys {
		if _, err := tx.RevokeKey(&keys[i], "", newEvent(EventKeyRevoked, keys[i])); err != nil {
			return err
		}
	}
	_, err = tx.exec(`UPDATE ai_keys SET envelope = $1, kek_id = ''
WHERE customer_id = $3 AND project_id = $4 AND user_id = $5 AND removal_id = $2`,
		[]any{[]byte{}, id, found.CustomerID, found.ProjectID, found.UserID})
	if err != nil {
		return err
	}
	return tx.closeRemoval(&open[0])
}

// Impact describes what the removal of a member would do.
type Impact struct {
	Member    Member
	LastOwner bool
	// TokensHere counts the member's live API keys that act in this project only, and TokensElsewhere those that also
	// act in others.
	TokensHere, TokensElsewhere int
	// OwnKeys counts the member's own keys by provider.
	OwnKeys map[string]int
	// RegisteredKeys counts the project-level keys that the member registered, and whose secrets the member may know.
	// Registered has the ids and providers of the first of them.
	Registered     []Key
	RegisteredKeys int64
}

// maxListed bounds the keys that an Impact lists.
const maxListed = 1000

// RemovalImpact returns what the removal of a member would do. The caller must check that the user is an owner. Errors:
// ErrNotFound.
func (s *Store) RemovalImpact(ctx context.Context, customerID, projectID, userID string, now int64) (i Impact, err error) {
	err = s.read(ctx, func(db *gorm.DB) error {
		i, err = removalImpact(db, customerID, projectID, userID, now)
		return err
	})
	return i, err
}

func removalImpact(db *gorm.DB, customerID, projectID, userID string, now int64) (Impact, error) {
	i := Impact{OwnKeys: map[string]int{}}
	project := func() *gorm.DB { return db.Where("customer_id = ? AND project_id = ?", customerID, projectID) }
	if err := project().Where("user_id = ?", userID).Take(&i.Member).Error; err != nil {
		return i, err
	}
	var owners int64
	if err := project().Model(&Member{}).Where("role = ?", RoleOwner).Count(&owners).Error; err != nil {
		return i, err
	}
	i.LastOwner = i.Member.Role == RoleOwner && owners == 1
	var tokens []Token
	err := db.Omit("hash").Where("customer_id = ? AND user_id = ?", customerID, userID).Where(whereLive, now).Find(&tokens).Error
	if err != nil {
		return i, err
	}
	for _, t := range tokens {
		switch {
		case !t.Reaches(projectID):
		case t.Projects == NewIDSet(projectID):
			i.TokensHere++
		default:
			i.TokensElsewhere++
		}
	}
	var own []struct {
		Provider string
		Keys     int
	}
	err = project().Model(&Key{}).Where("user_id = ? AND revoked_at = 0", userID).
		Select("provider, COUNT(*) AS keys").Group("provider").Find(&own).Error
	if err != nil {
		return i, err
	}
	for _, k := range own {
		i.OwnKeys[k.Provider] = k.Keys
	}
	registered := project().Model(&Key{}).Where("user_id = '' AND created_by = ? AND revoked_at = 0", userID)
	if err := registered.Session(&gorm.Session{}).Count(&i.RegisteredKeys).Error; err != nil {
		return i, err
	}
	err = registered.Select("id", "provider").Order("id").Limit(maxListed).Find(&i.Registered).Error
	return i, err
}
