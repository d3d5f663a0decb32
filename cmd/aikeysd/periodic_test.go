package main

import (
	"io"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"
)

// After a full batch has failed, the next attempt waits for the next tick. Otherwise, the service would query a
// read-only database without a pause.
func TestFailedBatchesWait(t *testing.T) {
	t.Parallel()
	warnings := 0
	warn := func(slog.Attr) { warnings++ }
	for _, tc := range []struct {
		name  string
		done  []int
		fails bool
		calls int
	}{
		{"less than a batch", []int{9}, false, 1},
		{"two batches and a part", []int{10, 10, 0}, false, 3},
		{"a batch that fails", []int{10, 10}, true, 1},
	} {
		calls := 0
		run := inBatches(t.Context(), 10, warn, func(int64) (int, error) {
			calls++
			if tc.fails {
				return tc.done[calls-1], io.ErrUnexpectedEOF
			}
			return tc.done[calls-1], nil
		})
		run()
		require.Equal(t, tc.calls, calls, tc.name)
		if tc.fails {
			calls = 0
			run()
			require.Equal(t, 1, warnings, "one warning for failures in a row")
		}
	}
}
