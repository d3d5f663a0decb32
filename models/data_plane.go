package models

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"gorm.io/gorm"
)

// DataPlane is the credential of a data plane, with the customers that it may serve.
type DataPlane struct {
	ID   string `gorm:"primaryKey"`
	Name string
	// Hash is the SHA-256 of the secret part of the data plane's token. Certificate is the name that identifies the
	// data plane in its client certificates, such as dns:edge-1.internal. One of the two is empty.
	Hash        []byte
	Certificate string
	// Customers are the customers that it may serve. Nil means all of them.
	Customers []string `gorm:"serializer:json"`
	CreatedAt int64    `gorm:"autoCreateTime:false"`
	// ExpiresAt is zero if the credential never expires. RevokedAt is zero while it is active.
	ExpiresAt int64
	RevokedAt int64
	// CreatedBy and RevokedBy are the names that the operators gave; empty if they gave none.
	CreatedBy string
	RevokedBy string
}

// Serves reports whether the data plane may serve a customer.
func (d DataPlane) Serves(customerID string) bool {
	return d.Customers == nil || slices.Contains(d.Customers, customerID)
}

// Live reports whether the credential is neither revoked nor expired at a time.
func (d DataPlane) Live(now int64) bool {
	return d.RevokedAt == 0 && (d.ExpiresAt == 0 || d.ExpiresAt > now)
}

// CreateDataPlane stores a data plane. Errors: ErrAlreadyExists if an active one has its name or its certificate.
func (tx *Tx) CreateDataPlane(d DataPlane) error {
	customers, err := json.Marshal(d.Customers) // by hand, because GORM's serializer stores nil as NULL
	if err != nil {
		return err
	}
	if d.Hash == nil {
		d.Hash = []byte{} // not NULL
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

// state returns the data plane in the JSON form that system events hold.
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

// RevokeDataPlane revokes the active data plane of that name and returns it. by is the operator. Errors: ErrNotFound.
func (tx *Tx) RevokeDataPlane(name, by string) (d DataPlane, err error) {
	if err := tx.locking().Where("name = ? AND revoked_at = 0", name).Take(&d).Error; err != nil {
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

// FindDataPlane returns the data plane with that id, revoked or not. Errors: ErrNotFound.
func (s *Store) FindDataPlane(ctx context.Context, id string) (DataPlane, error) {
	return take[DataPlane](ctx, s, func(db *gorm.DB) *gorm.DB { return db.Where("id = ?", id) })
}

// FindDataPlanesByCertificate returns the data planes that have one of the names in a certificate and are not revoked.
// Some may have expired.
func (s *Store) FindDataPlanesByCertificate(ctx context.Context, names []string) ([]DataPlane, error) {
	return find[DataPlane](ctx, s, func(db *gorm.DB) *gorm.DB {
		return db.Where("certificate IN ? AND certificate <> '' AND revoked_at = 0", names)
	})
}

// DataPlaneNames returns the names of data planes by their ids, including revoked ones.
func (s *Store) DataPlaneNames(ctx context.Context, ids []string) (map[string]string, error) {
	found, err := find[DataPlane](ctx, s, func(db *gorm.DB) *gorm.DB { return db.Select("id, name").Where("id IN ?", ids) })
	names := make(map[string]string, len(found))
	for _, d := range found {
		names[d.ID] = d.Name
	}
	return names, err
}

// ListDataPlanes returns all data planes, oldest first, including revoked ones.
func (s *Store) ListDataPlanes(ctx context.Context) ([]DataPlane, error) {
	return find[DataPlane](ctx, s, func(db *gorm.DB) *gorm.DB { return db.Order("id") })
}

// UnknownCustomers returns the customers in the list that have no project.
func (s *Store) UnknownCustomers(ctx context.Context, customers []string) ([]string, error) {
	var known []string
	err := s.read(ctx, func(db *gorm.DB) error {
		return db.Model(&Project{}).Where("customer_id IN ?", customers).Distinct().Pluck("customer_id", &known).Error
	})
	return slices.DeleteFunc(slices.Clone(customers), func(id string) bool { return slices.Contains(known, id) }), err
}

// LiveDataPlanes returns the ids in the list whose credentials are live at a time.
func (s *Store) LiveDataPlanes(ctx context.Context, ids []string, now int64) (live []string, err error) {
	err = s.readFrom(ctx, BackgroundPool, func(db *gorm.DB) error {
		return db.Model(&DataPlane{}).Where("id IN ?", ids).Where(whereLive, now).Pluck("id", &live).Error
	})
	return live, err
}
