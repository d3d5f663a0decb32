package httpapi

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/labstack/echo/v4"

	"github.com/agentrouter/aikeys/internal/problem"
)

// DefaultMaxBody is the limit on a request body, in bytes. It has room for a secret of 16 KiB with every byte escaped,
// and more.
const DefaultMaxBody = 64 << 10

// validator checks the requests of one operation. Its refusals name the field at fault and the document's rule for it.
// They never quote what was sent: the texts come only from the document and from this package.
type validator struct {
	path   []parameter
	query  map[string]parameter
	header []parameter
	body   *openapi3.Schema // nil for an operation without a body

	maxBody int // in bytes
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
		if !p.schema.Type.Is("string") && !p.schema.Type.Is("integer") && !p.schema.Type.Is("boolean") {
			return nil, fmt.Errorf("operation %s: parameter %s: only strings, integers and booleans are supported", op.OperationID, p.name)
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
	return "it knows " + listNames(v.query)
}

// listNames returns the sorted names of a map's members as one text.
func listNames[V any](members map[string]V) string {
	return strings.Join(slices.Sorted(maps.Keys(members)), ", ")
}

func (p parameter) check(text string) []problem.Field {
	var value any = text
	switch {
	case p.schema.Type.Is("boolean"):
		if text != "true" && text != "false" {
			return []problem.Field{{Field: p.name, Message: "must be true or false"}}
		}
		value = text == "true"
	case p.schema.Type.Is("integer"):
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
	if err := CheckMediaType(req.Header); err != nil {
		return nil, err
	}
	req.Body = http.MaxBytesReader(c.Response(), req.Body, int64(v.maxBody))
	// Exactly one JSON value: duplicate members, invalid UTF-8 and bytes after the value are errors. The texts of these
	// errors may quote the body.
	var value any
	body, err := readAll(req.Body, req.ContentLength)
	defer clear(body[:cap(body)]) // a refused body may have bytes beyond its length
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return nil, ErrTooLarge
	}
	if err == nil {
		err = json.Unmarshal(body, &value)
	}
	if err != nil {
		return nil, problem.Invalid("body", complaint(err))
	}
	req.Body = validatedBody{ReadCloser: req.Body, value: value}
	return violations("", v.body, value), nil
}

// minBuffer and maxBuffer bound the first capacity of a buffer for a body, in bytes. Most bodies are shorter than
// maxBuffer. A sender gets no larger buffer by announcing a long body.
const minBuffer, maxBuffer = 512, 4 << 10

// readAll reads a body; announced is its Content-Length in bytes, or -1 if it has none. A body may hold a secret, so
// readAll leaves no other copy, and the caller zeroes everything that it returns, even with an error.
func readAll(body io.Reader, announced int64) ([]byte, error) {
	read := make([]byte, 0, 1+min(max(announced, minBuffer), maxBuffer)) // one more, to find the end without growing
	for {
		n, err := body.Read(read[len(read):cap(read)])
		read = read[:len(read)+n]
		if errors.Is(err, io.EOF) {
			return read, nil
		}
		if err != nil {
			return read, err
		}
		if len(read) == cap(read) {
			longer := append(make([]byte, 0, 2*cap(read)), read...)
			clear(read)
			read = longer
		}
	}
}

// CheckMediaType accepts exactly one Content-Type, JSON in UTF-8. With two headers, a proxy and this service could read
// the same body differently. Its error is ErrMediaType.
func CheckMediaType(h http.Header) error {
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

// complaint returns a text that says where and why a body did not decode, without quoting the body.
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

// validatedBody is a request body that was read, with its validated value. The generated code binds that value instead
// of reading the body again.
type validatedBody struct {
	io.ReadCloser
	value any
}

// ValidatedValue returns the value. The generated code looks for this method.
func (b validatedBody) ValidatedValue() any { return wholeNumbers(b.value) }

// wholeNumbers turns the numbers without a fraction into integers, in place. The generated code reads an integer from
// the text of a float64. From a million on, this text is like 1e+06, which does not parse as an integer.
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

// violations checks a value against its schema, and returns the fields at fault. name is the parameter's name, or empty
// for a body.
func violations(name string, schema *openapi3.Schema, value any) []problem.Field {
	err := schema.VisitJSON(value, openapi3.VisitAsRequest(), openapi3.MultiErrors(), openapi3.DisableSchemaErrorDetails())
	if err == nil {
		return nil
	}
	var fields []problem.Field
	for _, found := range flatten(err) {
		fields = append(fields, describe(name, schema, found))
	}
	return oneEach(fields)
}

// oneEach keeps the first complaint about each field, sorted by the fields' names.
func oneEach(fields []problem.Field) []problem.Field {
	slices.SortStableFunc(fields, func(a, b problem.Field) int { return strings.Compare(a.Field, b.Field) })
	return slices.CompactFunc(fields, func(a, b problem.Field) bool { return a.Field == b.Field })
}

func flatten(err error) []*openapi3.SchemaError {
	var many openapi3.MultiError
	if errors.As(err, &many) {
		var all []*openapi3.SchemaError
		for _, one := range many {
			all = append(all, flatten(one)...)
		}
		return all
	}
	var one *openapi3.SchemaError
	if errors.As(err, &one) {
		return []*openapi3.SchemaError{one}
	}
	return []*openapi3.SchemaError{nil}
}

// describe returns the field at fault. It names only members that the document defines: the name of any other member
// may be a secret.
func describe(name string, schema *openapi3.Schema, err *openapi3.SchemaError) problem.Field {
	if err == nil {
		return problem.Field{Field: cmp.Or(name, "body"), Message: "is not as described"}
	}
	at := schema
	for _, step := range err.JSONPointer() {
		next := at.Properties[step]
		if next == nil {
			break
		}
		name = strings.TrimPrefix(name+"."+step, ".")
		at = next.Value
	}
	return problem.Field{Field: cmp.Or(name, "body"), Message: message(err)}
}

// message returns a text that says what the schema requires.
func message(err *openapi3.SchemaError) string {
	s := err.Schema
	switch err.SchemaField {
	case "required":
		return "is required"
	case "properties":
		return "has a member that this method does not know; it knows " + listNames(s.Properties)
	case "type":
		return "must be " + article(strings.Join(s.Type.Slice(), " or "))
	case "nullable":
		return "must not be null"
	case "enum":
		choices := make([]string, len(s.Enum))
		for i, choice := range s.Enum {
			choices[i] = fmt.Sprint(choice)
		}
		return "must be one of " + strings.Join(choices, ", ")
	case "pattern", "format":
		if said, ok := s.Extensions["x-message"].(string); ok {
			return said
		}
		if err.SchemaField == "format" {
			return "must be a " + s.Format
		}
		return "must match " + s.Pattern
	default:
		return boundMessage(s, err.SchemaField)
	}
}

// boundMessage returns a text that says what a bound of the schema requires.
func boundMessage(s *openapi3.Schema, field string) string {
	switch field {
	case "minLength":
		if s.MinLength == 1 {
			return "must not be empty"
		}
		return fmt.Sprintf("must have at least %d characters", s.MinLength)
	case "maxLength":
		return fmt.Sprintf("must have at most %d characters", *s.MaxLength)
	case "minimum":
		return "must be at least " + strconv.FormatFloat(*s.Min, 'f', -1, 64)
	case "maximum":
		return "must be at most " + strconv.FormatFloat(*s.Max, 'f', -1, 64)
	case "minProperties":
		return "must have at least " + count(s.MinProps, "member")
	case "maxProperties":
		return fmt.Sprintf("must have at most %d members", *s.MaxProps)
	case "minItems":
		return "must have at least " + count(s.MinItems, "item")
	case "maxItems":
		return "must have at most " + count(*s.MaxItems, "item")
	default:
		return "is not as described"
	}
}

func count(n uint64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func article(kind string) string {
	if strings.ContainsAny(kind[:1], "aeiou") {
		return "an " + kind
	}
	return "a " + kind
}
