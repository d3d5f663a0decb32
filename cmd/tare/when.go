package main

import (
	"fmt"
	"time"
)

// since tells how far a time is from now, as people say it; nothing for no time.
func since(t, now time.Time) string {
	if t.IsZero() {
		return ""
	}
	d := now.Sub(t)
	switch {
	case d < -time.Second:
		return "in " + span(-d)
	case d < time.Second:
		return "just now"
	default:
		return span(d) + " ago"
	}
}

// span is a length of time in its largest unit: 42s, 3m, 5h, 12d, 4mo, 2y.
func span(d time.Duration) string {
	const day = 24 * time.Hour
	for _, unit := range []struct {
		below, one time.Duration
		name       string
	}{
		{time.Minute, time.Second, "s"}, {time.Hour, time.Minute, "m"}, {day, time.Hour, "h"},
		{60 * day, day, "d"}, {730 * day, 30 * day, "mo"},
	} {
		if d < unit.below {
			return fmt.Sprintf("%d%s", d/unit.one, unit.name)
		}
	}
	return fmt.Sprintf("%dy", d/(365*day))
}

// stamp is a time in full, and how far from now.
func stamp(t, now time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05 UTC") + " (" + since(t, now) + ")"
}
