package main

import (
	"cmp"
	"strconv"
	"time"
)

// formatTime shows a time in microseconds since 1970 to the second, and 0 as "never".
func formatTime(micros int64) string {
	if micros == 0 {
		return "never"
	}
	return time.UnixMicro(micros).UTC().Format(time.RFC3339)
}

// formatMillis shows a time in microseconds since 1970 to the millisecond.
func formatMillis(micros int64) string {
	return time.UnixMicro(micros).UTC().Format("2006-01-02T15:04:05.000Z07:00")
}

// formatCount shows a number in a table.
func formatCount(n int64) string { return strconv.FormatInt(n, 10) }

// formatKeys is a number of keys in words.
func formatKeys(n int64) string {
	if n == 1 {
		return "1 key"
	}
	return formatCount(n) + " keys"
}

// orDash returns the text, or a dash if it is empty.
func orDash(text string) string { return cmp.Or(text, "-") }
