// Package position says which transactions have been seen. The control plane and data planes exchange positions as text.
package position

import (
	"errors"
	"slices"
	"strconv"
	"strings"
)

// Position is a set of transactions: all below Xmin, none from Xmax on, and all in between except the ones in Open. A
// single number is not enough, since transactions commit out of order.
type Position struct {
	Xmin, Xmax int64
	// Open holds the transactions that were still running, in no particular order.
	Open []int64
}

// timelineBit is the first bit of the timeline in a transaction's number; below it is room for a trillion transactions. A PostgreSQL
// server begins a new timeline when it is promoted, and may reuse numbers that the former primary has given out. So a transaction's
// own number does not identify it.
const timelineBit = 40

// OnTimeline adds a timeline (1, 2, …) to the numbers of a position, so that they are unique among all timelines.
func (p Position) OnTimeline(timeline int64) Position {
	base := (timeline - 1) << timelineBit
	moved := Position{Xmin: p.Xmin + base, Xmax: p.Xmax + base, Open: slices.Clone(p.Open)}
	for i := range moved.Open {
		moved.Open[i] += base
	}
	return moved
}

// SameTimeline reports whether the newest transactions of two positions are on the same timeline. If not, each position
// may hold transactions that the other position's server never had.
func (p Position) SameTimeline(q Position) bool {
	return (p.Xmax-1)>>timelineBit == (q.Xmax-1)>>timelineBit
}

// ErrInvalid says that a text is not a position.
var ErrInvalid = errors.New("not a position")

// maxOpen bounds Position.Open. A server runs at most as many transactions as it has connections.
const maxOpen = 10_000

// Parse reads the text of a PostgreSQL pg_snapshot, <xmin>:<xmax>:<open>,<open>…
// (https://www.postgresql.org/docs/15/functions-info.html#FUNCTIONS-PG-SNAPSHOT). Errors are ErrInvalid.
func Parse(text string) (Position, error) {
	parts := strings.SplitN(text, ":", 4)
	if len(parts) != 3 {
		return Position{}, ErrInvalid
	}
	xmin, ok := ParseTx(parts[0])
	xmax, ok2 := ParseTx(parts[1])
	if !ok || !ok2 || xmax < xmin || strings.Count(parts[2], ",") >= maxOpen {
		return Position{}, ErrInvalid
	}
	p := Position{Xmin: xmin, Xmax: xmax}
	if parts[2] == "" {
		return p, nil
	}
	p.Open = make([]int64, 0, 1+strings.Count(parts[2], ","))
	for text := range strings.SplitSeq(parts[2], ",") {
		tx, ok := ParseTx(text)
		if !ok || tx < xmin || tx >= xmax {
			return Position{}, ErrInvalid
		}
		p.Open = append(p.Open, tx)
	}
	return p, nil
}

// ParseTx reads a transaction's number.
func ParseTx(text string) (int64, bool) {
	tx, err := strconv.ParseUint(text, 10, 63)
	return int64(tx), err == nil
}

// String returns the text that Parse reads.
func (p Position) String() string {
	text := strconv.AppendInt(nil, p.Xmin, 10)
	text = strconv.AppendInt(append(text, ':'), p.Xmax, 10)
	text = append(text, ':')
	for i, tx := range p.Open {
		if i > 0 {
			text = append(text, ',')
		}
		text = strconv.AppendInt(text, tx, 10)
	}
	return string(text)
}

// Contains reports whether the transaction is in the set.
func (p Position) Contains(tx int64) bool {
	return tx < p.Xmin || (tx < p.Xmax && !slices.Contains(p.Open, tx))
}

// Before returns the transactions of the set that are below tx.
func (p Position) Before(tx int64) Position {
	if tx >= p.Xmax {
		return p
	}
	open := slices.DeleteFunc(slices.Clone(p.Open), func(open int64) bool { return open >= tx })
	return Position{Xmin: min(p.Xmin, tx), Xmax: tx, Open: open}
}

// Without returns the set without tx.
func (p Position) Without(tx int64) Position {
	if !p.Contains(tx) {
		return p
	}
	return Position{Xmin: min(p.Xmin, tx), Xmax: p.Xmax, Open: append(slices.Clone(p.Open), tx)}
}
