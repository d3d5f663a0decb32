package aikeys

import (
	"encoding/base64"

	"github.com/agentrouter/aikeys/internal/problem"
)

// page is a part of a list.
type page struct {
	after string // the id after which it begins; empty for the first page
	size  int    // the number of rows; 0 for the whole list
}

// defaultPageSize is the size of a page whose token is given without a size.
const defaultPageSize = 100

// parsePage parses page_size and page_token. A token is the last id of the previous page, in base64url.
func parsePage(size *int, token *string, isValid func(id string) bool) (page, error) {
	var p page
	if size != nil {
		p.size = *size
	}
	if token == nil {
		return p, nil
	}
	after, err := base64.RawURLEncoding.DecodeString(*token)
	if err != nil || !isValid(string(after)) {
		return p, problem.Invalid("page_token", "is not a token that this list gave out")
	}
	p.after = string(after)
	if p.size == 0 {
		p.size = defaultPageSize
	}
	return p, nil
}

// limit returns how many rows to read: one more than the page holds, to see whether another page follows. 0 means all.
func (p page) limit() int {
	if p.size == 0 {
		return 0
	}
	return p.size + 1
}

// cut removes the extra row that limit asked for, and returns the token of the next page if there was such a row.
func cut[Row any](p page, rows []Row, id func(Row) string) ([]Row, *string) {
	if p.size == 0 || len(rows) <= p.size {
		return rows, nil
	}
	rows = rows[:p.size]
	return rows, new(base64.RawURLEncoding.EncodeToString([]byte(id(rows[p.size-1]))))
}
