package httpapi

import (
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// decodeJSON reads exactly one JSON value: duplicate members, invalid UTF-8 and bytes after the value are errors.
// The error can hold what was sent: it is for errors.Is only.
func decodeJSON(r io.Reader) (any, error) {
	var value any
	err := json.UnmarshalRead(r, &value)
	return value, err
}

// complaint says what is wrong with a body that did not decode, and where, without a word of it.
func complaint(err error) string {
	var at *jsontext.SyntacticError
	switch {
	case errors.Is(err, jsontext.ErrDuplicateName):
		return "has a member twice"
	case errors.As(err, &at):
		if at.ByteOffset == 0 && errors.Is(err, io.ErrUnexpectedEOF) {
			return "is empty; send a JSON object"
		}
		return fmt.Sprintf("is not one well-formed JSON document in UTF-8; it goes wrong at byte %d", at.ByteOffset)
	}
	return "is not one well-formed JSON document in UTF-8"
}

// validatedBody is an emptied request body that carries the value which was validated; the generated handler binds that
// value instead of reading the body again.
type validatedBody struct {
	io.ReadCloser
	value any
}

// ValidatedValue is the method that the generated code looks for.
func (b validatedBody) ValidatedValue() any { return wholeNumbers(b.value) }

// wholeNumbers makes integers of the numbers that are whole, in place. The generated code writes a float64 out to read it
// as an integer, and from a million on that would be 1e+06, which is none.
func wholeNumbers(value any) any {
	switch v := value.(type) {
	case float64:
		if v == math.Trunc(v) && math.Abs(v) < 1<<53 {
			return int64(v)
		}
	case map[string]any:
		for name, member := range v {
			v[name] = wholeNumbers(member)
		}
	case []any:
		for i, item := range v {
			v[i] = wholeNumbers(item)
		}
	}
	return value
}
