package dataplane_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane"
)

func TestAPositionHoldsWhatItSays(t *testing.T) {
	p, err := dataplane.ParsePosition("5012:5015:5013")
	require.NoError(t, err)
	held := map[uint64]bool{0: true, 5011: true, 5012: true, 5013: false, 5014: true, 5015: false, 1 << 63: false}
	for tx, want := range held {
		require.Equal(t, want, p.Contains(tx), tx)
	}
	require.Equal(t, "5012:5015:5013", p.String())
	require.False(t, dataplane.Position{}.Contains(0), "the zero position holds nothing")
}

func TestWhatIsNoPositionIsRefused(t *testing.T) {
	for _, text := range []string{
		"", ":", "::", "1", "1:2", "1::", ":2:", "a:2:", "1:b:", "2:1:", "1:2:c", "1:3:,", "1:3:2,", "1:3:,2", "1:3:4",
		"1:3:0", "-1:2:", "+1:2:", "1:2: ", " 1:2:", "1:2:3:4", "99999999999999999999:99999999999999999999:",
		"1:99999:" + strings.Repeat("2,", 8000) + "2",
	} {
		_, err := dataplane.ParsePosition(text)
		require.ErrorIs(t, err, dataplane.ErrPosition, text)
	}
}

func FuzzParsePosition(f *testing.F) {
	for _, text := range []string{"5012:5015:5013", "1:1:", "1:9:8,3,5,3", "0:9999999999999999999:7", "::", "1:2:a"} {
		f.Add(text, uint64(5))
	}
	f.Fuzz(func(t *testing.T, text string, tx uint64) {
		p, err := dataplane.ParsePosition(text)
		if err != nil {
			require.ErrorIs(t, err, dataplane.ErrPosition)
			return
		}
		again, err := dataplane.ParsePosition(p.String())
		if len(p.String()) <= len(text) {
			require.NoError(t, err)
			require.Equal(t, p, again)
			require.Equal(t, p.Contains(tx), again.Contains(tx))
		}
	})
}
