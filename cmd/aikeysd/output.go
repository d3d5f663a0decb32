package main

import "time"

// moment shows a time in microseconds, never when it is zero.
func moment(micros int64) string {
	if micros == 0 {
		return "never"
	}
	return time.UnixMicro(micros).UTC().Format(time.RFC3339)
}
