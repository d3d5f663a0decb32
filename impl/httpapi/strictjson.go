package httpapi

import (
	"io"

	"github.com/go-json-experiment/json"
)

// decodeJSON reads exactly one JSON value: duplicate members, invalid UTF-8 and bytes after the value are errors.
// The error can hold what was sent: it is for errors.Is only.
func decodeJSON(r io.Reader) (any, error) {
	var value any
	err := json.UnmarshalRead(r, &value)
	return value, err
}

// validatedBody is an emptied request body that carries the value which was validated; the generated handler binds that
// value instead of reading the body again.
type validatedBody struct {
	io.ReadCloser
	value any
}

// ValidatedValue is the method that the generated code looks for.
func (b validatedBody) ValidatedValue() any { return b.value }
