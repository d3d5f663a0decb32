package models

import (
	"context"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"
)

// The types of events about custom providers: system events for what an operator did, project events for what an owner did.
const (
	EventProviderCreated EventType = "provider.created"
	EventProviderDeleted EventType = "provider.deleted"
)

// CustomProvider is a customer's own server. It never changes, because keys are sealed for its Digest.
type CustomProvider struct {
	CustomerID string `gorm:"primaryKey" json:"-"`
	Slug       string `gorm:"primaryKey" json:"slug"`
	// ProjectID is the project whose owners added the provider; only that project can use the provider. It is empty if
	// an operator added the provider for all of the customer's projects.
	ProjectID string `json:"project_id,omitempty"`
	Name      string `json:"name"`
	BaseURL   string `gorm:"column:base_url" json:"base_url"`
	Dialect   string `json:"dialect"`
	Auth      string `json:"auth"`
	// Header is the header that carries the key; empty unless Auth names one.
	Header    string `json:"header,omitempty"`
	Digest    string `json:"-"`
	CreatedAt int64  `gorm:"autoCreateTime:false" json:"-"`
	CreatedBy string `json:"-"`
}

// state returns the provider in the form that project events hold.
func (p CustomProvider) state() *EventState { return &EventState{Name: p.Name, BaseURL: p.BaseURL} }

// usableProviders selects the custom providers that a project can use.
const usableProviders = "customer_id = ? AND project_id IN ('', ?)"

// CustomProvider returns a provider that a project can use. Errors: ErrNotFound.
func (s *Store) CustomProvider(ctx context.Context, customerID, projectID, slug string) (CustomProvider, error) {
	return take[CustomProvider](ctx, s, func(db *gorm.DB) *gorm.DB {
		return db.Where(usableProviders, customerID, projectID).Where("slug = ?", slug)
	})
}

// ListCustomProviders returns a customer's providers in the order of their slugs. With a projectID, it returns only those that
// the project can use.
func (s *Store) ListCustomProviders(ctx context.Context, customerID, projectID string) ([]CustomProvider, error) {
	return find[CustomProvider](ctx, s, func(db *gorm.DB) *gorm.DB {
		if projectID != "" {
			return db.Where(usableProviders, customerID, projectID).Order("slug")
		}
		return db.Where("customer_id = ?", customerID).Order("slug")
	})
}

// CreateCustomProvider stores an operator's provider, with a system event. Errors: ErrAlreadyExists if the slug is
// taken.
func (tx *Tx) CreateCustomProvider(p CustomProvider) error {
	p.CreatedAt = tx.Now
	if err := tx.db.Create(&p).Error; err != nil {
		return err
	}
	return tx.AppendSystemEvent(SystemEvent{Type: EventProviderCreated, CustomerID: p.CustomerID, Subject: p.Slug, After: StateInJSON(p)})
}

// AddProjectProvider stores a project's provider. The project may have at most quota providers. The caller must have
// locked the project with Tx.Role. Errors: ErrQuotaExceeded, ErrAlreadyExists.
func (tx *Tx) AddProjectProvider(p *CustomProvider, quota int64, event Event) error {
	var count int64
	err := tx.db.Model(&CustomProvider{}).Where("customer_id = ? AND project_id = ?", p.CustomerID, p.ProjectID).Count(&count).Error
	if err != nil {
		return err
	}
	if count >= quota {
		return ErrQuotaExceeded
	}
	p.CreatedAt = tx.Now
	if err := tx.db.Create(p).Error; err != nil {
		return err
	}
	event.After = p.state()
	return tx.AppendEvent(event)
}

// DeleteCustomProvider deletes a provider, and stores a system event. It also stores newEvent's event in each project
// that loses the provider. If a project's owners added the provider, only their project loses it. If an operator added
// it, each project that has had keys for it loses it. Errors: ErrNotFound, and ErrInUse if a key for the provider is
// not revoked.
func (tx *Tx) DeleteCustomProvider(customerID, slug string, newEvent func(projectID string) Event) error {
	p, err := tx.dropProvider(tx.db.Where("customer_id = ? AND slug = ?", customerID, slug))
	if err != nil {
		return err
	}
	projects := []string{p.ProjectID}
	if p.ProjectID == "" {
		projects = nil
		err := tx.db.Model(&Key{}).Where("customer_id = ? AND provider = ?", customerID, slug).Distinct("project_id").Order("project_id").
			Pluck("project_id", &projects).Error
		if err != nil {
			return err
		}
	}
	for _, project := range projects {
		event := newEvent(project)
		event.Provider, event.Before = slug, p.state()
		if err := tx.appendToProject(event); err != nil {
			return err
		}
	}
	return tx.AppendSystemEvent(SystemEvent{Type: EventProviderDeleted, CustomerID: customerID, ProjectID: p.ProjectID, Subject: slug, Before: StateInJSON(p)})
}

// RemoveProjectProvider deletes a project's provider and returns it. Errors: ErrNotFound, ErrInUse.
func (tx *Tx) RemoveProjectProvider(c Caller, slug string, event Event) (CustomProvider, error) {
	p, err := tx.dropProvider(tx.db.Where("customer_id = ? AND project_id = ? AND slug = ?", c.CustomerID, c.ProjectID, slug))
	if err != nil {
		return p, err
	}
	event.Before = p.state()
	return p, tx.AppendEvent(event)
}

// dropProvider deletes the provider that db selects, and returns it. Deletions of a provider and registrations of keys
// for it take turns.
func (tx *Tx) dropProvider(db *gorm.DB) (p CustomProvider, err error) {
	if err := db.Clauses(clause.Locking{Strength: "UPDATE"}).Take(&p).Error; err != nil {
		return p, err
	}
	var keys int64
	err = tx.db.Model(&Key{}).Where("customer_id = ? AND provider = ? AND revoked_at = 0", p.CustomerID, p.Slug).Count(&keys).Error
	if err != nil {
		return p, err
	}
	if keys > 0 {
		return p, ErrInUse
	}
	return p, tx.db.Delete(&p).Error
}

// IsDestinationKept returns an SQL expression that reports whether the custom provider that the new key was sealed for still
// exists. lock is the clause that locks its row.
func (r Registration) IsDestinationKept(params *Params, lock string) string {
	if r.Key.Destination == "" {
		return "true"
	}
	return `EXISTS (SELECT 1 FROM custom_providers WHERE (customer_id, slug, digest) = (` +
		params.Add(r.Key.CustomerID, r.Key.Provider, r.Key.Destination) + `) AND project_id IN ('', ` + params.Add(r.Key.ProjectID) + `)` + lock + `)`
}
