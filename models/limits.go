package models

import (
	"database/sql/driver"
	"encoding/json"
)

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
	text, err := json.Marshal(l)
	return string(text), err
}

// LimitsChange is a change of a key's limits. Nil keeps a limit; zero removes it.
type LimitsChange struct{ RequestsPerMinute, RequestsPerDay, Concurrent *int }

// apply returns the limits after the change; a nil change changes nothing.
func (c *LimitsChange) apply(l Limits) Limits {
	if c == nil {
		return l
	}
	for _, change := range []struct{ from, to *int }{
		{c.RequestsPerMinute, &l.RequestsPerMinute}, {c.RequestsPerDay, &l.RequestsPerDay}, {c.Concurrent, &l.Concurrent},
	} {
		if change.from != nil {
			*change.to = *change.from
		}
	}
	return l
}
