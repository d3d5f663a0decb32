package position_test

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/internal/position"
)

// random returns a position of few numbers, so that every edge case occurs.
func random() position.Position {
	p := position.Position{Xmin: 1 + rand.Int64N(5)}
	p.Xmax = p.Xmin + rand.Int64N(12)
	for tx := p.Xmin; tx < p.Xmax; tx++ {
		if rand.IntN(3) == 0 {
			p.Open = append(p.Open, tx)
		}
	}
	return p
}

func TestParseReadsWhatStringWrites(t *testing.T) {
	positions := []position.Position{
		{}, {Xmin: 7, Xmax: 7}, {Xmin: 7, Xmax: 9, Open: []int64{7, 8}}, {Xmin: math.MaxInt64 - 1, Xmax: math.MaxInt64, Open: []int64{math.MaxInt64 - 1}},
	}
	for range 200 {
		positions = append(positions, random())
	}
	for _, p := range positions {
		again, err := position.Parse(p.String())
		require.NoError(t, err, p)
		require.Equal(t, p, again)
	}
	require.Equal(t, "10:20:10,14,15", position.Position{Xmin: 10, Xmax: 20, Open: []int64{10, 14, 15}}.String())
}

func TestContains(t *testing.T) {
	p := position.Position{Xmin: 10, Xmax: 20, Open: []int64{14, 10}}
	for tx, want := range map[int64]bool{0: true, 9: true, 10: false, 11: true, 13: true, 14: false, 15: true, 19: true, 20: false, 21: false, math.MaxInt64: false} {
		require.Equal(t, want, p.Contains(tx), tx)
	}
	require.False(t, position.Position{}.Contains(0), "the zero position contains nothing")
}

func TestBefore(t *testing.T) {
	for range 200 {
		p := random()
		for tx := range int64(20) {
			before := p.Before(tx)
			for other := range int64(20) {
				require.Equal(t, other < tx && p.Contains(other), before.Contains(other), "%d in %s before %d", other, p, tx)
			}
		}
	}
}

func TestWithout(t *testing.T) {
	for range 200 {
		p := random()
		for tx := range int64(20) {
			without, err := position.Parse(p.Without(tx).String())
			require.NoError(t, err)
			for other := range int64(20) {
				require.Equal(t, other != tx && p.Contains(other), without.Contains(other), "%d in %s without %d", other, p, tx)
			}
		}
	}
}

func TestParseRefuses(t *testing.T) {
	numbers := func(n int) string { return strings.TrimSuffix(strings.Repeat("5,", n), ",") }
	for _, text := range []string{
		"", ":", "::", ":::", "1", "1:2", "1:2:3:4", "1:2::", "a:2:", "1:b:", "1:2:c", "-1:2:", "+1:2:", "1:+2:", "1:3:+2", " 1:2:", "1:2: ", "2:1:",
		"1:2:0", "1:2:2", "1:9:2,", "1:9:,2", "1:9:2,,3", "1:9:2;3", "0x1:2:", "1_0:20:", "1:9223372036854775808:", "99999999999999999999:1:",
		"1:2:\x00", "1:2:\n", "١:٢:", "1:9:" + numbers(10_001), strings.Repeat(":", 1<<20), strings.Repeat("9", 1<<20),
	} {
		_, err := position.Parse(text)
		require.ErrorIs(t, err, position.ErrInvalid, "%.40q", text)
	}
	largest, err := position.Parse("1:9:" + numbers(10_000))
	require.NoError(t, err)
	require.Len(t, largest.Open, 10_000)
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"1:1:", "10:20:10,14,15", "1:2", "::", "-1:5:", "1:9223372036854775807:2", "5:1:", "007:8:", "1:9:8,3,5,3"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := position.Parse(text)
		if err != nil {
			require.ErrorIs(t, err, position.ErrInvalid)
			require.Zero(t, p)
			return
		}
		require.True(t, 0 <= p.Xmin && p.Xmin <= p.Xmax)
		require.LessOrEqual(t, len(p.Open), len(text))
		again, err := position.Parse(p.String())
		require.NoError(t, err)
		require.Equal(t, p, again)
		require.False(t, p.Contains(p.Xmax))
		require.Equal(t, p.Xmin > 0, p.Xmin > 0 && p.Contains(p.Xmin-1))
		for _, tx := range p.Open {
			require.False(t, p.Contains(tx))
		}
	})
}
