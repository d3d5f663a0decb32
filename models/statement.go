package models

import (
	"strconv"
	"strings"
)

// Row is one row of a statement's result.
type Row interface{ Scan(dest ...any) error }

// Params collects the parameters of a hand-written statement.
type Params []any

// Add appends values, and returns their placeholders: "$3, $4".
func (p *Params) Add(values ...any) string {
	var places []byte
	for i := range values {
		if i > 0 {
			places = append(places, ", "...)
		}
		places = strconv.AppendInt(append(places, '$'), int64(len(*p)+1+i), 10)
	}
	*p = append(*p, values...)
	return string(places)
}

// Insert is a row for a hand-written statement to store. It pairs columns with values, so that a column is added in one place.
type Insert struct {
	Table   string
	Columns []string
	Values  []any
}

func (i *Insert) set(column string, value any) *Insert {
	i.Columns, i.Values = append(i.Columns, column), append(i.Values, value)
	return i
}

// Into returns "INSERT INTO table (columns) ". The caller adds VALUES or a SELECT. The further columns, which have no
// value here, come first.
func (i *Insert) Into(further ...string) string {
	return "INSERT INTO " + i.Table + " (" + strings.Join(append(further, i.Columns...), ", ") + ") "
}
