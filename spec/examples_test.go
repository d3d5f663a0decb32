package spec_test

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/stretchr/testify/require"
)

// example is a value that the document shows to its readers, with the schema that it must fit.
type example struct {
	place     string
	schema    *openapi3.Schema
	value     any
	direction openapi3.SchemaValidationOption
}

func examplesOf(doc *openapi3.T) []example {
	var found []example
	body := func(place string, content openapi3.Content, direction openapi3.SchemaValidationOption) {
		for _, media := range content {
			if media.Example != nil {
				found = append(found, example{place, media.Schema.Value, media.Example, direction})
			}
			for name, ref := range media.Examples {
				found = append(found, example{place + " " + name, media.Schema.Value, ref.Value.Value, direction})
			}
		}
	}
	for id, op := range operations(doc) {
		for _, p := range op.parameters {
			found = append(found, example{id + " " + p.Name, p.Schema.Value, p.Example, openapi3.VisitAsRequest()})
		}
		if op.RequestBody != nil {
			body(id+" request", op.RequestBody.Value.Content, openapi3.VisitAsRequest())
		}
		for status, response := range op.Responses.Map() {
			body(id+" "+status, response.Value.Content, openapi3.VisitAsResponse())
			for name, header := range response.Value.Headers {
				found = append(found, example{id + " " + status + " " + name, header.Value.Schema.Value, header.Value.Example, openapi3.VisitAsResponse()})
			}
		}
	}
	return found
}

// closeSchemas makes a document refuse what its readers must accept: members that it does not name, and values that its
// growing lists do not have yet. An example has neither.
func closeSchemas(doc *openapi3.T) {
	seen := map[*openapi3.Schema]bool{}
	var visit func(ref *openapi3.SchemaRef)
	visit = func(ref *openapi3.SchemaRef) {
		if ref == nil || seen[ref.Value] {
			return
		}
		s := ref.Value
		seen[s] = true
		if known, ok := s.Extensions["x-extensible-enum"].([]any); ok {
			s.Enum = known
		}
		if s.Type.Is("object") && s.AdditionalProperties.Schema == nil {
			none := false
			s.AdditionalProperties.Has = &none
		}
		visit(s.Items)
		visit(s.AdditionalProperties.Schema)
		for _, property := range s.Properties {
			visit(property)
		}
	}
	for _, ref := range doc.Components.Schemas {
		visit(ref)
	}
}

func TestExamplesFitTheirSchemas(t *testing.T) {
	doc := load(t, publicDocument)
	closeSchemas(doc)
	for _, e := range examplesOf(doc) {
		t.Run(e.place, func(t *testing.T) {
			require.NotNil(t, e.value, "has no example")
			require.NoError(t, e.schema.VisitJSON(e.value, e.direction, openapi3.EnableFormatValidation()))
		})
	}
}

func TestProblemExamplesAreOfTheirStatus(t *testing.T) {
	shown := 0
	for id, op := range operations(load(t, publicDocument)) {
		for status, response := range op.Responses.Map() {
			media := response.Value.Content.Get("application/problem+json")
			if media == nil {
				continue
			}
			values := []any{media.Example}
			for _, ref := range media.Examples {
				values = append(values, ref.Value.Value)
			}
			for _, value := range values {
				problem, ok := value.(map[string]any)
				if !ok {
					continue // it has examples rather than an example
				}
				shown++
				where := id + " " + status
				require.Equal(t, status, fmt.Sprint(problem["status"]), where)
				require.Equal(t, "urn:request:"+fmt.Sprint(problem["request_id"]), problem["instance"], where)
				require.Regexp(t, `^/problems/[a-z-]+$`, problem["type"], where)
			}
		}
	}
	require.NotZero(t, shown)
}

// A ULID is 26 digits of Crockford's base 32, which lacks I, L, O and U; the first is at most 7 (github.com/ulid/spec).
var (
	idLike  = regexp.MustCompile(`\b(?:byok|evt)_\w+|\b[0-9A-Z]{26}\b`)
	idExact = regexp.MustCompile(`^(?:byok_|evt_)?[0-7][0-9A-HJKMNP-TV-Z]{25}$`)
)

func TestIDsAreULIDs(t *testing.T) {
	ids := idLike.FindAllString(string(read(t, publicDocument)), -1)
	require.NotEmpty(t, ids)
	for _, id := range ids {
		require.Regexp(t, idExact, id)
	}
	t.Run("the check notices", func(t *testing.T) {
		for _, bad := range []string{"byok_01JD8Q6Z3VOM2T5K7N9R4W1XYZ", "byok_01JD8Q6Z3V", "evt_81JD8Q6Z3V8M2T5K7N9R4W1XYZ", "01JD8Q6Z3V8M2T5K7N9R4U1XYZ"} {
			require.Equal(t, bad, idLike.FindString("id: "+bad))
			require.NotRegexp(t, idExact, bad)
		}
	})
}

// credential finds what a secret scanner takes for a key: a provider's prefix, or one of ours, and then enough of a key.
func credential(t *testing.T) *regexp.Regexp {
	t.Helper()
	prefixes := []string{"ak_", "dp_", "AKIA", "eyJ", "-----BEGIN [A-Z ]*KEY-----"}
	for _, entry := range catalogue(t) {
		for _, prefix := range entry.Prefixes {
			prefixes = append(prefixes, regexp.QuoteMeta(prefix.Value))
		}
	}
	return regexp.MustCompile(`\b(?:` + strings.Join(prefixes, "|") + `)[\w\\/+-]{12,}`)
}

func TestNothingLooksLikeARealSecret(t *testing.T) {
	pattern := credential(t)
	files, err := filepath.Glob("*.yaml")
	require.NoError(t, err)
	for _, file := range files {
		for i, line := range strings.Split(string(read(t, file)), "\n") {
			for _, found := range pattern.FindAllString(line, -1) {
				require.Contains(t, found, "EXAMPLE", file+":"+strconv.Itoa(i+1))
			}
		}
	}
	t.Run("the check notices", func(t *testing.T) {
		for _, prefix := range []string{"sk-proj-", "sk-ant-", "ak_", "AKIA", "gsk_"} {
			require.Regexp(t, pattern, `secret: "`+prefix+strings.Repeat("Ab3", 8)+`"`)
		}
	})
	t.Run("secrets in request bodies are marked", func(t *testing.T) {
		bodies := operations(load(t, publicDocument))["registerKey"].RequestBody.Value.Content.Get("application/json").Examples
		require.NotEmpty(t, bodies)
		for name, ref := range bodies {
			body, ok := ref.Value.Value.(map[string]any)
			require.True(t, ok, name)
			require.Contains(t, body["secret"], "EXAMPLE", name)
		}
	})
}
