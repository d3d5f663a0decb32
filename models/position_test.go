package models_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
)

// randomPosition is a position over a few numbers, so that each edge is met.
func randomPosition() models.Position {
	p := models.Position{Xmin: 1 + rand.Int64N(5)}
	p.Xmax = p.Xmin + rand.Int64N(12)
	for tx := p.Xmin; tx < p.Xmax; tx++ {
		if rand.IntN(3) == 0 {
			p.Open = append(p.Open, tx)
		}
	}
	return p
}

func TestAPositionIsReadAsItWasPrinted(t *testing.T) {
	positions := []models.Position{
		{}, {Xmin: 7, Xmax: 7}, {Xmin: 7, Xmax: 9, Open: []int64{7, 8}}, {Xmin: math.MaxInt64 - 1, Xmax: math.MaxInt64, Open: []int64{math.MaxInt64 - 1}},
	}
	for range 200 {
		positions = append(positions, randomPosition())
	}
	for _, p := range positions {
		again, err := models.ParsePosition(p.String())
		require.NoError(t, err, p)
		require.Equal(t, p, again)
	}
	require.Equal(t, "10:20:10,14,15", models.Position{Xmin: 10, Xmax: 20, Open: []int64{10, 14, 15}}.String())
}

func TestAPositionHoldsWhatEndedBeforeIt(t *testing.T) {
	p := models.Position{Xmin: 10, Xmax: 20, Open: []int64{10, 14}}
	for tx, held := range map[int64]bool{0: true, 9: true, 10: false, 11: true, 13: true, 14: false, 15: true, 19: true, 20: false, 21: false, math.MaxInt64: false} {
		require.Equal(t, held, p.Holds(tx), tx)
	}
	require.False(t, models.Position{}.Holds(0), "the zero position holds nothing")
}

func TestWhatIsNoPositionIsRefused(t *testing.T) {
	numbers := func(n int) string { return strings.TrimSuffix(strings.Repeat("5,", n), ",") }
	for _, text := range []string{
		"", ":", "::", ":::", "1", "1:2", "1:2:3:4", "1:2::", "a:2:", "1:b:", "1:2:c", "-1:2:", "+1:2:", "1:+2:", "1:3:+2", " 1:2:", "1:2: ", "2:1:",
		"1:2:0", "1:2:2", "1:9:2,", "1:9:,2", "1:9:2,,3", "1:9:2;3", "0x1:2:", "1_0:20:", "1:9223372036854775808:", "99999999999999999999:1:",
		"1:2:\x00", "1:2:\n", "١:٢:", "1:9:" + numbers(10_001), strings.Repeat(":", 1<<20), strings.Repeat("9", 1<<20),
	} {
		_, err := models.ParsePosition(text)
		require.ErrorIs(t, err, models.ErrBadPosition, "%.40q", text)
	}
	largest, err := models.ParsePosition("1:9:" + numbers(10_000))
	require.NoError(t, err)
	require.Len(t, largest.Open, 10_000)
}

func FuzzParsePosition(f *testing.F) {
	for _, seed := range []string{"1:1:", "10:20:10,14,15", "1:2", "::", "-1:5:", "1:9223372036854775807:2", "5:1:", "007:8:"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := models.ParsePosition(text)
		if err != nil {
			require.ErrorIs(t, err, models.ErrBadPosition)
			require.Zero(t, p)
			return
		}
		require.True(t, 0 <= p.Xmin && p.Xmin <= p.Xmax)
		require.LessOrEqual(t, len(p.Open), len(text))
		again, err := models.ParsePosition(p.String())
		require.NoError(t, err)
		require.Equal(t, p, again)
		require.False(t, p.Holds(p.Xmax))
		require.Equal(t, p.Xmin > 0, p.Holds(p.Xmin-1) && p.Xmin > 0)
		for _, tx := range p.Open {
			require.False(t, p.Holds(tx))
		}
	})
}

func TestAPositionHoldsWhatPostgresCallsVisible(t *testing.T) {
	t.Parallel()
	conn := models.Conn(modelstest.OpenStore(t, modelstest.EnginePostgres.URL(t), models.Options{}))
	for range 100 {
		p := randomPosition()
		rows, err := conn.QueryContext(t.Context(), `SELECT $1::pg_snapshot::text, tx, pg_visible_in_snapshot(tx::text::xid8, $1::pg_snapshot)
FROM generate_series(1, 20) AS tx`, p.String())
		require.NoError(t, err)
		for rows.Next() {
			var text string
			var tx int64
			var visible bool
			require.NoError(t, rows.Scan(&text, &tx, &visible))
			require.Equal(t, p.String(), text)
			require.Equal(t, visible, p.Holds(tx), "%d in %s", tx, p)
		}
		require.NoError(t, rows.Err())
		require.NoError(t, rows.Close())
	}
}

// The newest event ends a position, so that a server which crashes and gives later numbers out again makes no gap.
func TestAPositionEndsWithTheNewestEvent(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		at := f.position()
		f.addMember(moe, models.RoleOwner) // a transaction without an event
		require.Equal(t, at.Xmax, f.position().Xmax)
		k := f.register(f.shared(olga))
		f.revokeNoted(&k)
		after := f.position()
		require.Equal(t, k.RevocationTx+1, after.Xmax)
		require.True(t, after.Holds(k.RevocationTx))
		require.False(t, at.Holds(k.RevocationTx))
		require.False(t, slices.ContainsFunc(after.Open, func(tx int64) bool { return tx >= after.Xmax }), fmt.Sprint(after))
	})
}
