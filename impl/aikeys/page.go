package aikeys

import (
	"encoding/base64"
	"strings"

	"github.com/agentrouter/aikeys/internal/problem"
	"github.com/agentrouter/aikeys/models"
)

// page is a stretch of a list. size zero is everything.
type page struct {
	after string
	size  int
}

// limit is one row more than the page holds, to see whether another page follows.
func (p page) limit() int {
	if p.size == 0 {
		return 0
	}
	return p.size + 1
}

// defaultPage is the size of a page whose token is given without a size.
const defaultPage = 100

// newPage reads page_size and page_token. A token is the last id of the page before, in base64url.
func newPage(size *int, token *string, valid func(string) bool) (page, error) {
	var p page
	if size != nil {
		p.size = *size
	}
	if token == nil {
		return p, nil
	}
	after, err := base64.RawURLEncoding.DecodeString(*token)
	if err != nil || !valid(string(after)) {
		return p, problem.Invalid("page_token", "is not a token that this list gave out")
	}
	p.after = string(after)
	if p.size == 0 {
		p.size = defaultPage
	}
	return p, nil
}

func keyPage(size *int, token *string) (page, error) {
	return newPage(size, token, func(id string) bool { return strings.HasPrefix(id, models.KeyIDPrefix) && models.ValidID(id) })
}

func eventPage(size *int, token *string) (page, error) {
	p, err := newPage(size, token, func(id string) bool { return strings.HasPrefix(id, models.EventIDPrefix) && models.ValidID(id) })
	if p.size == 0 {
		p.size = defaultEvents
	}
	return p, err
}

// defaultEvents is the document's default of page_size for events.
const defaultEvents = 50

func memberPage(size *int, token *string) (page, error) {
	return newPage(size, token, models.ValidID)
}

// cut drops the row that was read to look ahead, and makes the token for the page that it begins.
func cut[Row any](rows []Row, p page, id func(Row) string) ([]Row, *string) {
	if p.size == 0 || len(rows) <= p.size {
		return rows, nil
	}
	rows = rows[:p.size]
	token := base64.RawURLEncoding.EncodeToString([]byte(id(rows[p.size-1])))
	return rows, &token
}
