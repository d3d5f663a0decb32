package models

import (
	"context"

	"gorm.io/gorm/clause"
)

// The types of system events about custom providers.
const (
	EventProviderCreated EventType = "provider.created"
	EventProviderDeleted EventType = "provider.deleted"
)

// CustomProvider is a server of a customer's own, as an operator has added it. It never changes: keys are sealed for its Digest.
type CustomProvider struct {
	CustomerID string `gorm:"primaryKey" json:"-"`
	Slug       string `gorm:"primaryKey" json:"slug"`
	Name       string `json:"name"`
	BaseURL    string `gorm:"column:base_url" json:"base_url"`
	Dialect    string `json:"dialect"`
	Auth       string `json:"auth"`
	// Header is the header that carries the key; empty unless Auth names one.
	Header    string `json:"header,omitempty"`
	Digest    string `json:"-"`
	CreatedAt int64  `gorm:"autoCreateTime:false" json:"-"`
	CreatedBy string `json:"-"`
}

// CustomProvider returns a customer's provider: ErrNotFound.
func (s *Store) CustomProvider(ctx context.Context, customerID, slug string) (CustomProvider, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	var p CustomProvider
	err := s.orm(ctx).Where("customer_id = ? AND slug = ?", customerID, slug).Take(&p).Error
	return p, s.classify(err)
}

// ListCustomProviders returns the providers of a customer by their slugs.
func (s *Store) ListCustomProviders(ctx context.Context, customerID string) ([]CustomProvider, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	var all []CustomProvider
	err := s.orm(ctx).Where("customer_id = ?", customerID).Order("slug").Find(&all).Error
	return all, s.classify(err)
}

// CreateCustomProvider stores a provider, with a system event: ErrAlreadyExists where the customer has one with that slug.
func (tx *Tx) CreateCustomProvider(p CustomProvider) error {
	p.CreatedAt = tx.Now
	if err := tx.db.Create(&p).Error; err != nil {
		return err
	}
	return tx.AppendSystemEvent(SystemEvent{Type: EventProviderCreated, CustomerID: p.CustomerID, Subject: p.Slug, After: StateInJSON(p)})
}

// DeleteCustomProvider deletes a provider, with a system event: ErrNotFound, and ErrInUse while it has keys that are not revoked.
// Registers wait for it, or it for them.
func (tx *Tx) DeleteCustomProvider(customerID, slug string) error {
	var p CustomProvider
	err := tx.db.Clauses(clause.Locking{Strength: "UPDATE"}).Where("customer_id = ? AND slug = ?", customerID, slug).Take(&p).Error
	if err != nil {
		return err
	}
	var keys int64
	err = tx.db.Model(&Key{}).Where("customer_id = ? AND provider = ? AND revoked_at = 0", customerID, slug).Count(&keys).Error
	if err != nil {
		return err
	}
	if keys > 0 {
		return ErrInUse
	}
	if err := tx.db.Delete(&p).Error; err != nil {
		return err
	}
	return tx.AppendSystemEvent(SystemEvent{Type: EventProviderDeleted, CustomerID: customerID, Subject: slug, Before: StateInJSON(p)})
}

// IsDestinationKept returns an expression that reports whether the custom provider of the new key is still the one that the key was
// sealed for. lock goes behind the row that it reads.
func (r Registration) IsDestinationKept(params *Params, lock string) string {
	if r.Key.Destination == "" {
		return "true"
	}
	return `EXISTS (SELECT 1 FROM custom_providers WHERE (customer_id, slug, digest) = (` +
		params.Add(r.Key.CustomerID, r.Key.Provider, r.Key.Destination) + `)` + lock + `)`
}
