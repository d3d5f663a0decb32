package models

import (
	"context"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"
)

// The types of events about custom providers: system events of what an operator did, and events of projects of what an owner did.
const (
	EventProviderCreated EventType = "provider.created"
	EventProviderDeleted EventType = "provider.deleted"
)

// CustomProvider is a server of a customer's own. It never changes: keys are sealed for its Digest.
type CustomProvider struct {
	CustomerID string `gorm:"primaryKey" json:"-"`
	Slug       string `gorm:"primaryKey" json:"slug"`
	// ProjectID is the project whose owners added it, and which alone can use it; empty if an operator added it for all of the customer's.
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

// State returns what events of projects say of the provider.
func (p CustomProvider) State() *EventState { return &EventState{Name: p.Name, BaseURL: p.BaseURL} }

// usableProviders selects the custom providers that a project can use.
const usableProviders = "customer_id = ? AND project_id IN ('', ?)"

// CustomProvider returns a provider that a project can use: ErrNotFound.
func (s *Store) CustomProvider(ctx context.Context, customerID, projectID, slug string) (CustomProvider, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	var p CustomProvider
	err := s.orm(ctx).Where(usableProviders, customerID, projectID).Where("slug = ?", slug).Take(&p).Error
	return p, s.classify(err)
}

// ListCustomProviders returns the providers of a customer by their slugs, those that one project can use unless projectID is empty.
func (s *Store) ListCustomProviders(ctx context.Context, customerID, projectID string) ([]CustomProvider, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	db := s.orm(ctx).Where("customer_id = ?", customerID)
	if projectID != "" {
		db = s.orm(ctx).Where(usableProviders, customerID, projectID)
	}
	var all []CustomProvider
	err := db.Order("slug").Find(&all).Error
	return all, s.classify(err)
}

// CreateCustomProvider stores a provider of an operator's, with a system event: ErrAlreadyExists where the customer has one with that slug.
func (tx *Tx) CreateCustomProvider(p CustomProvider) error {
	p.CreatedAt = tx.Now
	if err := tx.db.Create(&p).Error; err != nil {
		return err
	}
	return tx.AppendSystemEvent(SystemEvent{Type: EventProviderCreated, CustomerID: p.CustomerID, Subject: p.Slug, After: StateInJSON(p)})
}

// AddProjectProvider stores a provider of a project's, of which there may be quota: ErrQuotaExceeded, ErrAlreadyExists as for
// CreateCustomProvider. Tx.Role must have locked the project.
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
	event.After = p.State()
	return tx.AppendEvent(event)
}

// DeleteCustomProvider deletes a provider, with a system event, and with the event that newEvent makes in each project that it is taken
// from: the one whose owners added it, or those that had keys for it. Errors: ErrNotFound, and ErrInUse while it has keys that are not revoked.
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
		event.Provider, event.Before = slug, p.State()
		if err := tx.appendToProject(event); err != nil {
			return err
		}
	}
	return tx.AppendSystemEvent(SystemEvent{Type: EventProviderDeleted, CustomerID: customerID, ProjectID: p.ProjectID, Subject: slug, Before: StateInJSON(p)})
}

// RemoveProjectProvider deletes a provider of a project's and returns it. Errors are those of DeleteCustomProvider.
func (tx *Tx) RemoveProjectProvider(c Caller, slug string, event Event) (CustomProvider, error) {
	p, err := tx.dropProvider(tx.db.Where("customer_id = ? AND project_id = ? AND slug = ?", c.CustomerID, c.ProjectID, slug))
	if err != nil {
		return p, err
	}
	event.Before = p.State()
	return p, tx.AppendEvent(event)
}

// dropProvider deletes the provider that db selects, and returns it. Registers wait for it, or it for them.
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

// IsDestinationKept returns an expression that reports whether the custom provider of the new key is still the one that the key was
// sealed for. lock goes behind the row that it reads.
func (r Registration) IsDestinationKept(params *Params, lock string) string {
	if r.Key.Destination == "" {
		return "true"
	}
	return `EXISTS (SELECT 1 FROM custom_providers WHERE (customer_id, slug, digest) = (` +
		params.Add(r.Key.CustomerID, r.Key.Provider, r.Key.Destination) + `) AND project_id IN ('', ` + params.Add(r.Key.ProjectID) + `)` + lock + `)`
}
