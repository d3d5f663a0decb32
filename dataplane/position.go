package dataplane

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// maxPosition is the length of the longest position that the contract allows.
const maxPosition = 8192

// ErrPosition is returned for a text that is no position.
var ErrPosition = errors.New("not a position")

// Position is a set of transactions: those that have been seen.
type Position struct {
	xmin, xmax uint64
	without    []uint64 // of those from xmin on, ascending
}

// ParsePosition reads a position as the control plane writes it: <xmin>:<xmax>:<list>. Errors wrap ErrPosition.
func ParsePosition(text string) (Position, error) {
	if len(text) > maxPosition {
		return Position{}, fmt.Errorf("%w: longer than %d characters", ErrPosition, maxPosition)
	}
	first, rest, ok := strings.Cut(text, ":")
	second, list, ok2 := strings.Cut(rest, ":")
	xmin, err := parseTx(first)
	xmax, err2 := parseTx(second)
	if !ok || !ok2 || err != nil || err2 != nil || xmin > xmax {
		return Position{}, fmt.Errorf("%w: must be xmin:xmax:list", ErrPosition)
	}
	p := Position{xmin: xmin, xmax: xmax}
	if list == "" {
		return p, nil
	}
	p.without = make([]uint64, 0, 1+strings.Count(list, ","))
	for item := range strings.SplitSeq(list, ",") {
		tx, err := parseTx(item)
		if err != nil || tx < xmin || tx >= xmax {
			return Position{}, fmt.Errorf("%w: its list must be of numbers from xmin to xmax", ErrPosition)
		}
		p.without = append(p.without, tx)
	}
	slices.Sort(p.without)
	return p, nil
}

// parseTx takes digits alone, where strconv would take a sign too.
func parseTx(text string) (uint64, error) {
	if text == "" || len(text) > 19 || strings.Trim(text, "0123456789") != "" {
		return 0, ErrPosition
	}
	return strconv.ParseUint(text, 10, 64)
}

// Contains tells whether a transaction has been seen.
func (p Position) Contains(tx uint64) bool {
	if tx < p.xmin {
		return true
	}
	if tx >= p.xmax {
		return false
	}
	_, missing := slices.BinarySearch(p.without, tx)
	return !missing
}

// String writes the position as ParsePosition reads it.
func (p Position) String() string {
	b := strconv.AppendUint(nil, p.xmin, 10)
	b = strconv.AppendUint(append(b, ':'), p.xmax, 10)
	b = append(b, ':')
	for i, tx := range p.without {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendUint(b, tx, 10)
	}
	return string(b)
}
