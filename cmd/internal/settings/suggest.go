package settings

import (
	"fmt"
	"slices"
)

// maxTypos is how many edits a suggestion may be away: two letters that changed places are two.
const maxTypos = 2

// suggestion says which variable a mistyped one was meant to be, or where they all are.
func (s *Set) suggestion(variable string) string {
	nearest := slices.MinFunc(s.declared, func(a, b *Setting) int {
		return editDistance(variable, a.Variable()) - editDistance(variable, b.Variable())
	})
	if editDistance(variable, nearest.Variable()) > maxTypos {
		return s.names.List + " lists them all"
	}
	return fmt.Sprintf("did you mean %s?", nearest.Variable())
}

// editDistance is Levenshtein's: how many characters to insert, delete or replace.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(diagonal+cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
