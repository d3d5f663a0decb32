package models

import (
	"database/sql/driver"
	"encoding/json"
	"fmt"
	"slices"
)

// Restrictions say what a key may be used for. An empty list restricts nothing.
type Restrictions struct {
	// Users are the users whom a project-level key serves.
	Users []string `json:"users,omitempty"`
	// Models are names of models. A * at the end matches any suffix.
	Models []string `json:"models,omitempty"`
	// Operations are paths of the provider's API. Each includes the paths below it.
	Operations []string `json:"operations,omitempty"`
}

// IsZero reports whether nothing is restricted.
func (r Restrictions) IsZero() bool { return len(r.Users)+len(r.Models)+len(r.Operations) == 0 }

// NeedsDataPlane reports whether data planes have something to enforce. The resolution enforces Users.
func (r Restrictions) NeedsDataPlane() bool { return len(r.Models)+len(r.Operations) > 0 }

// Allows reports whether the key may serve a user; an empty id means no particular user.
func (r Restrictions) Allows(userID string) bool {
	return len(r.Users) == 0 || slices.Contains(r.Users, userID)
}

// Equal reports whether r and other are the same.
func (r Restrictions) Equal(other Restrictions) bool {
	return slices.Equal(r.Users, other.Users) && slices.Equal(r.Models, other.Models) && slices.Equal(r.Operations, other.Operations)
}

// Scan implements sql.Scanner.
func (r *Restrictions) Scan(value any) error {
	*r = Restrictions{}
	return scanJSON(value, r)
}

// scanJSON reads a column of JSON, which is empty for the zero value.
func scanJSON(value, into any) error {
	var text []byte
	switch v := value.(type) {
	case string:
		text = []byte(v)
	case []byte:
		text = v
	default:
		return fmt.Errorf("JSON in a %T", value)
	}
	if len(text) == 0 {
		return nil
	}
	return json.Unmarshal(text, into)
}

// Value implements driver.Valuer. It returns an empty text if nothing is restricted.
func (r Restrictions) Value() (driver.Value, error) {
	if r.IsZero() {
		return "", nil
	}
	return StateInJSON(r), nil
}

// RestrictionsChange is a change of a key's restrictions. Nil keeps a list; an empty list removes the restriction.
type RestrictionsChange struct{ Users, Models, Operations *[]string }

// apply returns the restrictions after the change; a nil change changes nothing.
func (c *RestrictionsChange) apply(r Restrictions) Restrictions {
	if c == nil {
		return r
	}
	set(&r.Users, c.Users)
	set(&r.Models, c.Models)
	set(&r.Operations, c.Operations)
	return r
}

// set sets a value unless the new one is nil.
func set[T any](to, from *T) {
	if from != nil {
		*to = *from
	}
}

// Limits bound how many requests a key serves. Zero means no limit.
type Limits struct {
	RequestsPerMinute int `json:"requests_per_minute,omitempty"`
	RequestsPerDay    int `json:"requests_per_day,omitempty"`
	Concurrent        int `json:"concurrent,omitempty"`
}

// IsZero reports whether nothing is limited.
func (l Limits) IsZero() bool { return l == Limits{} }

// Scan implements sql.Scanner.
func (l *Limits) Scan(value any) error {
	*l = Limits{}
	return scanJSON(value, l)
}

// Value implements driver.Valuer. It returns an empty text if there are no limits.
func (l Limits) Value() (driver.Value, error) {
	if l.IsZero() {
		return "", nil
	}
	return StateInJSON(l), nil
}

// LimitsChange is a change of a key's limits. Nil keeps a limit; zero removes it.
type LimitsChange struct{ RequestsPerMinute, RequestsPerDay, Concurrent *int }

// apply returns the limits after the change; a nil change changes nothing.
func (c *LimitsChange) apply(l Limits) Limits {
	if c == nil {
		return l
	}
	set(&l.RequestsPerMinute, c.RequestsPerMinute)
	set(&l.RequestsPerDay, c.RequestsPerDay)
	set(&l.Concurrent, c.Concurrent)
	return l
}
