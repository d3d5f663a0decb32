package main

import (
	"errors"
	"strconv"
	"strings"
	"time"
)

// lifetime parses how long a credential is good for: a duration, or whole days. Zero is for good.
func lifetime(text string) (time.Duration, error) {
	if d, ok := hoursOrDays(text); ok {
		return d, nil
	}
	return 0, errors.New("must be hours or days above zero, such as 720h or 30d; leave it out for one that does not expire")
}

// retention takes how long to keep something: a duration, or whole days. Zero is for good.
func retention(to *time.Duration) func(string) error {
	return func(text string) error {
		d, ok := hoursOrDays(text)
		if !ok {
			return errors.New("must be hours or days, such as 720h or 30d; 0 keeps them for good")
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
