package httpapi

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/agentrouter/aikeys/internal/problem"
)

// violations checks a value against its schema, and returns the fields at fault. The name is that of the parameter, or empty for
// a body.
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

// describe names only members that the document defines: another member's name may itself be a secret.
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

func members(schema *openapi3.Schema) string {
	names := make([]string, 0, len(schema.Properties))
	for name := range schema.Properties {
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// message returns what the schema asks for.
func message(err *openapi3.SchemaError) string {
	s := err.Schema
	switch err.SchemaField {
	case "required":
		return "is required"
	case "properties":
		return "has a member that this method does not know; it knows " + members(s)
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
	case "maxProperties":
		return fmt.Sprintf("must have at most %d members", *s.MaxProps)
	case "pattern":
		if said, ok := s.Extensions["x-message"].(string); ok {
			return said
		}
		return "must match " + s.Pattern
	default:
		return "is not as described"
	}
}

func article(kind string) string {
	if strings.ContainsAny(kind[:1], "aeiou") {
		return "an " + kind
	}
	return "a " + kind
}
