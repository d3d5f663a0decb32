package main

import (
	"errors"
	"strconv"
	"strings"
	"time"
)

// lifetime parses how long an API key is good for: a duration, or whole days. Zero is for good.
func lifetime(text string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil {
			return time.Duration(n) * 24 * time.Hour, nil
		}
	} else if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return d, nil
	}
	return 0, errors.New("must be hours or days above zero, such as 720h or 30d; leave it out for an API key that does not expire")
}
