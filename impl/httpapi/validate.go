package httpapi

import (
	"bytes"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/labstack/echo/v4"

	"github.com/agentrouter/aikeys/internal/problem"
)

// DefaultMaxBody is the most that a request body may hold where nothing else is said, in bytes: a 16 KiB secret of which
// every byte is escaped, and room.
const DefaultMaxBody = 64 << 10

// LargeBody is the other limit that there is, in bytes: the secrets service's, whose envelopes come in batches.
const LargeBody = 1 << 20

// validator checks the requests of one operation. It tells which field is at fault and what the document asks of it, never
// what was sent: the texts come from the document and from this package alone.
type validator struct {
	path   []parameter
	query  map[string]parameter
	header []parameter
	body   *openapi3.Schema
	// secrets are the members of the body that are cut out where it is held.
	secrets map[string]bool
	maxBody int
}

type parameter struct {
	name     string
	required bool
	schema   *openapi3.Schema
}

func newValidator(item *openapi3.PathItem, op *openapi3.Operation) (*validator, error) {
	v := &validator{query: map[string]parameter{}}
	for _, ref := range slices.Concat(item.Parameters, op.Parameters) {
		p := parameter{name: ref.Value.Name, required: ref.Value.Required, schema: ref.Value.Schema.Value}
		if !p.schema.Type.Is("string") && !p.schema.Type.Is("integer") {
			return nil, fmt.Errorf("operation %s: parameter %s: only strings and integers are supported", op.OperationID, p.name)
		}
		switch ref.Value.In {
		case openapi3.ParameterInPath:
			v.path = append(v.path, p)
		case openapi3.ParameterInQuery:
			v.query[p.name] = p
		case openapi3.ParameterInHeader:
			v.header = append(v.header, p)
		default:
			return nil, fmt.Errorf("operation %s: parameter %s: unsupported place %q", op.OperationID, p.name, ref.Value.In)
		}
	}
	if op.RequestBody != nil {
		media := op.RequestBody.Value.Content["application/json"]
		if media == nil || !op.RequestBody.Value.Required {
			return nil, fmt.Errorf("operation %s: only required application/json bodies are supported", op.OperationID)
		}
		v.body = media.Schema.Value
		v.secrets = secretMembers(v.body)
	}
	return v, nil
}

func (v *validator) middleware(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		fields := v.checkParameters(c)
		if v.body != nil {
			found, err := v.checkBody(c)
			if err != nil {
				return err
			}
			fields = append(fields, found...)
		}
		if len(fields) > 0 {
			return &problem.Error{Kind: problem.ErrInvalid, Fields: fields}
		}
		CallFrom(c.Request().Context()).checked = true
		return next(c)
	}
}

func (v *validator) checkParameters(c echo.Context) []problem.Field {
	var fields []problem.Field
	for _, p := range v.path {
		fields = append(fields, p.check(c.Param(p.name))...)
	}
	for _, p := range v.header {
		switch values := c.Request().Header.Values(p.name); {
		case len(values) > 1:
			fields = append(fields, problem.Field{Field: p.name, Message: "is given more than once"})
		case len(values) == 1:
			fields = append(fields, p.check(values[0])...)
		case p.required:
			fields = append(fields, problem.Field{Field: p.name, Message: "is required"})
		}
	}
	return append(fields, v.checkQuery(c.Request().URL.RawQuery)...)
}

func (v *validator) checkQuery(raw string) []problem.Field {
	if raw == "" && len(v.query) == 0 {
		return nil
	}
	values, err := url.ParseQuery(raw)
	if err != nil {
		return []problem.Field{{Field: "query", Message: "is not a well-formed query string"}}
	}
	var fields []problem.Field
	for name, given := range values {
		p, known := v.query[name]
		switch {
		case !known:
			fields = append(fields, problem.Field{Field: "query", Message: "has a parameter that this method does not know; " + v.knownQuery()})
		case len(given) > 1:
			fields = append(fields, problem.Field{Field: name, Message: "is given more than once"})
		default:
			fields = append(fields, p.check(given[0])...)
		}
	}
	for name, p := range v.query {
		if p.required && !values.Has(name) {
			fields = append(fields, problem.Field{Field: name, Message: "is required"})
		}
	}
	return oneEach(fields)
}

func (v *validator) knownQuery() string {
	if len(v.query) == 0 {
		return "it takes none"
	}
	names := make([]string, 0, len(v.query))
	for name := range v.query {
		names = append(names, name)
	}
	slices.Sort(names)
	return "it knows " + strings.Join(names, ", ")
}

func (p parameter) check(text string) []problem.Field {
	var value any = text
	if p.schema.Type.Is("integer") {
		n, err := strconv.ParseInt(text, 10, 32)
		if err != nil || strconv.FormatInt(n, 10) != text {
			return []problem.Field{{Field: p.name, Message: "must be a whole number"}}
		}
		value = float64(n)
	}
	return violations(p.name, p.schema, value)
}

func (v *validator) checkBody(c echo.Context) ([]problem.Field, error) {
	req := c.Request()
	if err := checkMediaType(req.Header); err != nil {
		return nil, err
	}
	value, err := v.decodeBody(c)
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return nil, v.tooLarge()
	}
	if err != nil {
		return nil, problem.Invalid("body", complaint(err))
	}
	req.Body = validatedBody{ReadCloser: req.Body, value: value}
	return violations("", v.body, value), nil
}

func (v *validator) decodeBody(c echo.Context) (any, error) {
	req := c.Request()
	if held, ok := req.Body.(*heldBody); ok {
		held.cut(v.secrets)
		return decodeJSON(bytes.NewBuffer(held.text))
	}
	req.Body = http.MaxBytesReader(c.Response(), req.Body, int64(v.maxBody))
	return decodeJSON(req.Body)
}

// tooLarge is the refusal of a body over the limit, whose text names that limit.
func (v *validator) tooLarge() error {
	if v.maxBody == DefaultMaxBody {
		return ErrTooLarge
	}
	return ErrOverMiB
}

// checkMediaType wants one Content-Type, as two would let a proxy and us read the same body differently.
func checkMediaType(h http.Header) error {
	given := h.Values("Content-Type")
	if len(given) != 1 {
		return ErrMediaType
	}
	media, params, err := mime.ParseMediaType(given[0])
	charset := params["charset"]
	if err != nil || media != "application/json" || (charset != "" && !strings.EqualFold(charset, "utf-8")) {
		return ErrMediaType
	}
	for _, encoding := range h.Values("Content-Encoding") {
		if encoding != "" && !strings.EqualFold(encoding, "identity") {
			return ErrMediaType
		}
	}
	return nil
}
