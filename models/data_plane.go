package models

import (
	"context"
	"encoding/json"
	"slices"

	"gorm.io/gorm/clause"
)

// DataPlane is a gateway's credential, and what it may serve.
type DataPlane struct {
	ID   string `gorm:"primaryKey"`
	Name string
	// Hash is the SHA-256 of its token's secret part.
	Hash []byte
	// Customers are those that it may serve. Nil is all of them.
	Customers []string `gorm:"serializer:json"`
	CreatedAt int64    `gorm:"autoCreateTime:false"`
	// ExpiresAt is zero for one that does not expire, RevokedAt while it is active.
	ExpiresAt int64
	RevokedAt int64
}

// Serves tells whether the data plane may serve a customer.
func (d DataPlane) Serves(customerID string) bool {
	return d.Customers == nil || slices.Contains(d.Customers, customerID)
}

// Live tells whether the credential is good at a time.
func (d DataPlane) Live(now int64) bool {
	return d.RevokedAt == 0 && (d.ExpiresAt == 0 || d.ExpiresAt > now)
}

// CreateDataPlane stores a data plane: ErrAlreadyExists when an active one has its name.
func (tx *Tx) CreateDataPlane(d DataPlane) error {
	customers, err := json.Marshal(d.Customers) // by hand, as GORM's serializer makes NULL of nil
	if err != nil {
		return err
	}
	_, err = tx.exec(`INSERT INTO data_planes (id, name, hash, customers, created_at, expires_at, revoked_at)
VALUES (`+params(1, 7)+`)`, []any{d.ID, d.Name, d.Hash, string(customers), d.CreatedAt, d.ExpiresAt, d.RevokedAt})
	return err
}

// RevokeDataPlane ends the active data plane of a name for good and returns it: ErrNotFound.
func (tx *Tx) RevokeDataPlane(name string) (DataPlane, error) {
	var d DataPlane
	err := tx.db.Clauses(clause.Locking{Strength: "UPDATE"}).Where("name = ? AND revoked_at = 0", name).Take(&d).Error
	if err != nil {
		return d, err
	}
	d.RevokedAt = tx.Now
	return d, tx.db.Model(&DataPlane{}).Where("id = ?", d.ID).Update("revoked_at", tx.Now).Error
}

// FindDataPlane returns the data plane with that id, revoked or not: ErrNotFound.
func (s *Store) FindDataPlane(ctx context.Context, id string) (DataPlane, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	var d DataPlane
	err := s.orm().WithContext(ctx).Where("id = ?", id).Take(&d).Error
	return d, s.classify(err)
}

// ListDataPlanes returns all data planes by age, revoked ones included.
func (s *Store) ListDataPlanes(ctx context.Context) ([]DataPlane, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	var all []DataPlane
	err := s.orm().WithContext(ctx).Order("id").Find(&all).Error
	return all, s.classify(err)
}

// UnknownCustomers returns those of the customers that have no project.
func (s *Store) UnknownCustomers(ctx context.Context, customers []string) ([]string, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	var known []string
	err := s.orm().WithContext(ctx).Model(&Project{}).Where("customer_id IN ?", customers).Distinct().Pluck("customer_id", &known).Error
	unknown := slices.DeleteFunc(slices.Clone(customers), func(id string) bool { return slices.Contains(known, id) })
	return unknown, s.classify(err)
}

// LiveDataPlanes returns those of the ids whose credential is good at a time.
func (s *Store) LiveDataPlanes(ctx context.Context, ids []string, now int64) ([]string, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	var live []string
	err := s.orm().WithContext(ctx).Model(&DataPlane{}).
		Where("id IN ? AND revoked_at = 0 AND (expires_at = 0 OR expires_at > ?)", ids, now).Pluck("id", &live).Error
	return live, s.classify(err)
}
