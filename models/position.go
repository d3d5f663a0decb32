package models

import (
	"errors"
	"slices"
	"strconv"
	"strings"
)

// Position is a set of transactions: every one below Xmin, none from Xmax on, and of those between all but the Open. It is
// what a statement saw of the events. Transactions commit out of order, so that one number would not say it: Open are those
// that were still at work.
type Position struct {
	Xmin, Xmax int64
	Open       []int64
}

// ErrBadPosition says that a text is no position.
var ErrBadPosition = errors.New("not a position")

// maxOpen bounds the list in a position's text: a server has no more transactions at work than connections.
const maxOpen = 10_000

// ParsePosition reads the text of a pg_snapshot, <xmin>:<xmax>:<list>
// (https://www.postgresql.org/docs/15/functions-info.html#FUNCTIONS-PG-SNAPSHOT).
func ParsePosition(text string) (Position, error) {
	parts := strings.SplitN(text, ":", 4)
	if len(parts) != 3 {
		return Position{}, ErrBadPosition
	}
	p := Position{Xmin: number(parts[0]), Xmax: number(parts[1])}
	if p.Xmin < 0 || p.Xmax < p.Xmin || strings.Count(parts[2], ",") >= maxOpen {
		return Position{}, ErrBadPosition
	}
	if parts[2] == "" {
		return p, nil
	}
	for open := range strings.SplitSeq(parts[2], ",") {
		tx := number(open)
		if tx < p.Xmin || tx >= p.Xmax {
			return Position{}, ErrBadPosition
		}
		p.Open = append(p.Open, tx)
	}
	return p, nil
}

// number reads a transaction's number; -1 for a text that is none.
func number(text string) int64 {
	n, err := strconv.ParseUint(text, 10, 63)
	if err != nil {
		return -1
	}
	return int64(n)
}

// String returns the text that ParsePosition reads.
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

// below returns what of the set is below a transaction.
func (p Position) below(tx int64) Position {
	if tx >= p.Xmax {
		return p
	}
	open := slices.DeleteFunc(slices.Clone(p.Open), func(open int64) bool { return open >= tx })
	return Position{Xmin: min(p.Xmin, tx), Xmax: tx, Open: open}
}

// Holds tells whether the transaction is in the set.
func (p Position) Holds(tx int64) bool {
	return tx < p.Xmin || (tx < p.Xmax && !slices.Contains(p.Open, tx))
}

// contains tells whether the set has all of another.
func (p Position) contains(q Position) bool {
	return q.Xmax <= p.Xmax && !slices.ContainsFunc(p.Open, q.Holds)
}
