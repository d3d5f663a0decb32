package models

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"gorm.io/gorm/clause"
)

// DataPlane is a gateway's credential, and the customers that it may serve.
type DataPlane struct {
	ID   string `gorm:"primaryKey"`
	Name string
	// Hash is the SHA-256 of its token's secret part, Certificate the name in client certificates that stands for it, such
	// as dns:edge-1.internal. It has one of the two, and the other is empty.
	Hash        []byte
	Certificate string
	// Customers are the customers that it may serve. Nil is all of them.
	Customers []string `gorm:"serializer:json"`
	CreatedAt int64    `gorm:"autoCreateTime:false"`
	// ExpiresAt is zero for a credential that does not expire, RevokedAt is zero while it is active.
	ExpiresAt int64
	RevokedAt int64
	// CreatedBy and RevokedBy are the operators who did it, as they gave their names; empty where they did not.
	CreatedBy string
	RevokedBy string
}

// Serves reports whether the data plane may serve a customer.
func (d DataPlane) Serves(customerID string) bool {
	return d.Customers == nil || slices.Contains(d.Customers, customerID)
}

// Live reports whether the credential is good at a time.
func (d DataPlane) Live(now int64) bool {
	return d.RevokedAt == 0 && (d.ExpiresAt == 0 || d.ExpiresAt > now)
}

// CreateDataPlane stores a data plane: ErrAlreadyExists when an active one has its name, or its certificate.
func (tx *Tx) CreateDataPlane(d DataPlane) error {
	customers, err := json.Marshal(d.Customers) // by hand, as GORM's serializer makes NULL of nil
	if err != nil {
		return err
	}
	if d.Hash == nil {
		d.Hash = []byte{} // no NULL
	}
	err = tx.db.Model(&DataPlane{}).Create(map[string]any{
		"id": d.ID, "name": d.Name, "hash": d.Hash, "certificate": d.Certificate, "customers": string(customers),
		"created_at": d.CreatedAt, "expires_at": d.ExpiresAt, "revoked_at": d.RevokedAt, "created_by": d.CreatedBy, "revoked_by": d.RevokedBy,
	}).Error
	if err != nil {
		return err
	}
	return tx.AppendSystemEvent(SystemEvent{Type: EventDataPlaneCreated, Subject: d.ID, After: d.state()})
}

// state returns what system events say of the data plane, in JSON.
func (d DataPlane) state() string {
	var expires time.Time
	if d.ExpiresAt != 0 {
		expires = time.UnixMicro(d.ExpiresAt).UTC()
	}
	return StateInJSON(struct {
		Name         string    `json:"name"`
		Certificate  string    `json:"certificate,omitempty"`
		AllCustomers bool      `json:"all_customers,omitempty"`
		Customers    []string  `json:"customers,omitempty"`
		ExpiresAt    time.Time `json:"expires_at,omitzero"`
	}{d.Name, d.Certificate, d.Customers == nil, d.Customers, expires})
}

// RevokeDataPlane ends the active data plane of a name and returns it: ErrNotFound. by is the operator who does it.
func (tx *Tx) RevokeDataPlane(name, by string) (DataPlane, error) {
	var d DataPlane
	err := tx.db.Clauses(clause.Locking{Strength: "UPDATE"}).Where("name = ? AND revoked_at = 0", name).Take(&d).Error
	if err != nil {
		return d, err
	}
	d.RevokedAt, d.RevokedBy = tx.Now, by
	err = tx.db.Model(&DataPlane{}).Where("id = ?", d.ID).
		Updates(map[string]any{"revoked_at": d.RevokedAt, "revoked_by": d.RevokedBy}).Error
	if err != nil {
		return d, err
	}
	return d, tx.AppendSystemEvent(SystemEvent{Type: EventDataPlaneRevoked, Subject: d.ID, Before: d.state()})
}

// FindDataPlane returns the data plane with that id, revoked or not: ErrNotFound.
func (s *Store) FindDataPlane(ctx context.Context, id string) (DataPlane, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	var d DataPlane
	err := s.orm(ctx).Where("id = ?", id).Take(&d).Error
	return d, s.classify(err)
}

// FindDataPlanesByCertificate returns the active data planes of the names in a certificate, expired ones included.
func (s *Store) FindDataPlanesByCertificate(ctx context.Context, names []string) ([]DataPlane, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	var found []DataPlane
	err := s.orm(ctx).Where("certificate IN ? AND certificate <> '' AND revoked_at = 0", names).Find(&found).Error
	return found, s.classify(err)
}

// DataPlaneNames returns the names of data planes by their ids, of revoked ones too.
func (s *Store) DataPlaneNames(ctx context.Context, ids []string) (map[string]string, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	var found []DataPlane
	if err := s.orm(ctx).Select("id, name").Where("id IN ?", ids).Find(&found).Error; err != nil {
		return nil, s.classify(err)
	}
	names := make(map[string]string, len(found))
	for _, d := range found {
		names[d.ID] = d.Name
	}
	return names, nil
}

// ListDataPlanes returns all data planes by age, revoked ones included.
func (s *Store) ListDataPlanes(ctx context.Context) ([]DataPlane, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	var all []DataPlane
	err := s.orm(ctx).Order("id").Find(&all).Error
	return all, s.classify(err)
}

// UnknownCustomers returns those of the customers that have no project.
func (s *Store) UnknownCustomers(ctx context.Context, customers []string) ([]string, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	var known []string
	err := s.orm(ctx).Model(&Project{}).Where("customer_id IN ?", customers).Distinct().Pluck("customer_id", &known).Error
	unknown := slices.DeleteFunc(slices.Clone(customers), func(id string) bool { return slices.Contains(known, id) })
	return unknown, s.classify(err)
}

// LiveDataPlanes returns those of the ids whose credential is good at a time.
func (s *Store) LiveDataPlanes(ctx context.Context, ids []string, now int64) ([]string, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	var live []string
	err := s.background(ctx).Model(&DataPlane{}).
		Where("id IN ? AND revoked_at = 0 AND (expires_at = 0 OR expires_at > ?)", ids, now).Pluck("id", &live).Error
	return live, s.classify(err)
}
