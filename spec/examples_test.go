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

func TestExamplesFitTheirSchemas(t *testing.T) {
	type example struct {
		place     string
		schema    *openapi3.Schema
		value     any
		direction openapi3.SchemaValidationOption
	}
	doc := load(t, publicDocument)
	// Close the schemas: examples must have no members that the document does not name and no values that its growing lists
	// lack, although readers must accept both.
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
	var examples []example
	body := func(place string, content openapi3.Content, direction openapi3.SchemaValidationOption) {
		for _, media := range content {
			if media.Example != nil {
				examples = append(examples, example{place, media.Schema.Value, media.Example, direction})
			}
			for name, ref := range media.Examples {
				examples = append(examples, example{place + " " + name, media.Schema.Value, ref.Value.Value, direction})
			}
		}
	}
	for id, op := range operations(doc) {
		for _, p := range op.parameters {
			examples = append(examples, example{id + " " + p.Name, p.Schema.Value, p.Example, openapi3.VisitAsRequest()})
		}
		if op.RequestBody != nil {
			body(id+" request", op.RequestBody.Value.Content, openapi3.VisitAsRequest())
		}
		for status, response := range op.Responses.Map() {
			body(id+" "+status, response.Value.Content, openapi3.VisitAsResponse())
			for name, header := range response.Value.Headers {
				examples = append(examples, example{id + " " + status + " " + name, header.Value.Schema.Value, header.Value.Example, openapi3.VisitAsResponse()})
			}
		}
	}
	for _, e := range examples {
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
				if status == "default" { // stands for every status that the operation does not list
					require.Nil(t, op.Responses.Map()[fmt.Sprint(problem["status"])], where)
				} else {
					require.Equal(t, status, fmt.Sprint(problem["status"]), where)
				}
				require.Equal(t, "urn:request:"+fmt.Sprint(problem["request_id"]), problem["instance"], where)
				require.Regexp(t, `^/problems/[a-z-]+$`, problem["type"], where)
			}
		}
	}
	require.NotZero(t, shown)
}

func TestIDsAreULIDs(t *testing.T) {
	// A ULID is 26 digits of Crockford's base 32, which lacks I, L, O and U; the first is at most 7 (github.com/ulid/spec).
	idLike := regexp.MustCompile(`\b(?:byok|evt)_\w+|\b[0-9A-Z]{26}\b`)
	idExact := regexp.MustCompile(`^(?:byok_|evt_)?[0-7][0-9A-HJKMNP-TV-Z]{25}$`)
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

func TestNothingLooksLikeARealSecret(t *testing.T) {
	// The pattern finds what a secret scanner takes for a key: a known prefix and enough characters after it.
	prefixes := []string{"ak_", "dp_", "AKIA", "eyJ", "-----BEGIN [A-Z ]*KEY-----"}
	for _, entry := range catalogue(t) {
		for _, prefix := range entry.Prefixes {
			prefixes = append(prefixes, regexp.QuoteMeta(prefix.Value))
		}
	}
	pattern := regexp.MustCompile(`\b(?:` + strings.Join(prefixes, "|") + `)[\w\\/+-]{12,}`)
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
