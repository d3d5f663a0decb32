package main

import (
	"errors"
	"strconv"
	"strings"
	"time"
)

// lifetime parses the lifetime of a credential: a duration, or whole days. 0 does not expire.
func lifetime(text string) (time.Duration, error) {
	if d, ok := hoursOrDays(text); ok {
		return d, nil
	}
	return 0, errors.New("must be hours or days above zero, such as 720h or 30d; leave it out for a credential that does not expire")
}

// retention parses how long records are kept: a duration, or whole days. 0 keeps them forever.
func retention(to *time.Duration) func(string) error {
	return func(text string) error {
		d, ok := hoursOrDays(text)
		if !ok {
			return errors.New("must be hours or days, such as 720h or 30d; 0 keeps them forever")
		}
		*to = d
		return nil
	}
}

func hoursOrDays(text string) (time.Duration, bool) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil {
			return time.Duration(n) * 24 * time.Hour, true
		}
	} else if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return d, true
	}
	return 0, false
}
