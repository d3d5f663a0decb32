package spec_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

const publicDocument = "aikeys.yaml"

// operation is one method of a document, with its place.
type operation struct {
	*openapi3.Operation
	method, path string
	// parameters are the path's and the operation's own.
	parameters []*openapi3.Parameter
}

func load(t *testing.T, file string) *openapi3.T {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromData(read(t, file))
	require.NoError(t, err)
	return doc
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	return text
}

// operations returns a document's operations by operationId.
func operations(doc *openapi3.T) map[string]operation {
	found := map[string]operation{}
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			entry := operation{Operation: op, method: method, path: path}
			for _, ref := range slices.Concat(item.Parameters, op.Parameters) {
				entry.parameters = append(entry.parameters, ref.Value)
			}
			found[op.OperationID] = entry
		}
	}
	return found
}

// walk visits every object of a decoded document and passes its place.
func walk(value any, place string, visit func(place string, object map[string]any)) {
	switch v := value.(type) {
	case map[string]any:
		visit(place, v)
		for _, name := range slices.Sorted(maps.Keys(v)) {
			walk(v[name], place+"."+name, visit)
		}
	case []any:
		for i, item := range v {
			walk(item, fmt.Sprintf("%s[%d]", place, i), visit)
		}
	}
}

func walkFile(t *testing.T, file string, visit func(place string, object map[string]any)) {
	t.Helper()
	var tree any
	require.NoError(t, yaml.Unmarshal(read(t, file), &tree))
	walk(tree, "$", visit)
}

func TestDocumentsAreValidOpenAPI(t *testing.T) {
	files, err := filepath.Glob("*.yaml")
	require.NoError(t, err)
	require.Contains(t, files, publicDocument)
	for _, file := range files {
		if !strings.HasPrefix(string(read(t, file)), "openapi:") {
			continue // the catalogue and the linter's settings
		}
		t.Run(file, func(t *testing.T) {
			doc := load(t, file)
			require.Equal(t, "3.0.3", doc.OpenAPI)
			require.NoError(t, doc.Validate(context.Background()))
			for id, op := range operations(doc) {
				require.NotNil(t, op.Responses.Default(), id)
			}
		})
	}
}

// A secret field that loses its mark would be written to logs, so a change must show in review.
func TestSecretFieldsArePinned(t *testing.T) {
	var marked, uses, shown []string
	walkFile(t, publicDocument, func(place string, object map[string]any) {
		if _, ok := object["x-secret"]; ok {
			marked = append(marked, place)
		}
		if object["$ref"] == "#/components/schemas/Secret" {
			uses = append(uses, place)
		}
		if object["$ref"] == "#/components/schemas/TokenSecret" {
			shown = append(shown, place)
		}
	})
	require.ElementsMatch(t, []string{"$.components.schemas.Secret", "$.components.schemas.TokenSecret"}, marked)
	require.Equal(t, []string{"$.components.schemas.CreateTokenResponse.properties.api_key"}, shown)
	require.Equal(t, []string{"$.components.schemas.LeaksRequest.properties.values.items", "$.components.schemas.RegisterRequest.properties.secret", "$.components.schemas.RotateRequest.properties.secret"}, uses)
	require.Equal(t, true, load(t, publicDocument).Components.Schemas["Secret"].Value.Extensions["x-secret"])
}

func TestGrowingListsHaveEachValueOnce(t *testing.T) {
	lists := 0
	walkFile(t, publicDocument, func(place string, object map[string]any) {
		list, ok := object["x-extensible-enum"]
		if !ok {
			return
		}
		lists++
		values, ok := list.([]any)
		require.True(t, ok, place)
		require.NotEmpty(t, values, place)
		seen := map[any]bool{}
		for _, value := range values {
			require.IsType(t, "", value, place)
			require.False(t, seen[value], "%s has %v twice", place, value)
			seen[value] = true
		}
	})
	require.NotZero(t, lists)
}

// The validator's refusals come from the document, so what a request may be must be said there in words.
func TestRequestsAreDescribedInWords(t *testing.T) {
	for _, file := range []string{publicDocument, "dataplane.yaml", "secrets.yaml"} {
		for id, op := range operations(load(t, file)) {
			for _, parameter := range op.parameters {
				requireWords(t, file+" "+id+" "+parameter.Name, parameter.Schema.Value)
			}
			if op.RequestBody != nil {
				requireWords(t, file+" "+id+" body", op.RequestBody.Value.Content.Get("application/json").Schema.Value)
			}
		}
	}
}

func requireWords(t *testing.T, place string, schema *openapi3.Schema) {
	t.Helper()
	isText := schema.Format != "" && schema.Format != "password" && schema.Type.Is("string")
	if schema.Pattern != "" || isText {
		require.IsType(t, "", schema.Extensions["x-message"], "%s: a pattern or format needs an x-message", place)
	}
	require.Empty(t, slices.Concat(schema.OneOf, schema.AnyOf, schema.AllOf), place)
	require.True(t, schema.Not == nil && schema.MultipleOf == nil && !schema.UniqueItems, place)
	for name, member := range schema.Properties {
		requireWords(t, place+"."+name, member.Value)
	}
	if schema.Items != nil {
		requireWords(t, place+"[]", schema.Items.Value)
	}
}

// A client may ask for each type of event that there is, and for no other.
func TestEventsCanBeFilteredByEachType(t *testing.T) {
	doc := load(t, publicDocument)
	types := doc.Components.Schemas["Event"].Value.Properties["type"].Value.Extensions["x-extensible-enum"]
	require.Equal(t, types, doc.Components.Parameters["EventTypeFilter"].Value.Schema.Value.Enum)
}

func TestFailuresAnswerWithAProblem(t *testing.T) {
	for id, op := range operations(load(t, publicDocument)) {
		t.Run(id, func(t *testing.T) {
			failures := 0
			for status, response := range op.Responses.Map() {
				if strings.HasPrefix(status, "2") {
					continue
				}
				failures++
				require.Len(t, response.Value.Content, 1, status)
				media := response.Value.Content.Get("application/problem+json")
				require.NotNil(t, media, status)
				require.Equal(t, "#/components/schemas/Problem", media.Schema.Ref, status)
			}
			require.NotZero(t, failures)
		})
	}
}

// catalogueEntry is the part of an entry of providers.yaml that the document repeats.
type catalogueEntry struct {
	Slug         string `yaml:"slug"`
	DisplayName  string `yaml:"display_name"`
	BaseURL      string `yaml:"base_url"`
	AuthStyle    string `yaml:"auth_style"`
	SecretFormat string `yaml:"secret_format"`
	KeyPage      string `yaml:"key_page"`
	Prefixes     []struct {
		Value string `yaml:"value"`
	} `yaml:"prefixes"`
}

func catalogue(t *testing.T) []catalogueEntry {
	t.Helper()
	var file struct {
		Providers []catalogueEntry `yaml:"providers"`
	}
	require.NoError(t, yaml.Unmarshal(read(t, "providers.yaml"), &file))
	require.NotEmpty(t, file.Providers)
	return file.Providers
}

func TestDocumentKnowsTheCatalogue(t *testing.T) {
	doc, entries := load(t, publicDocument), catalogue(t)

	slugs := []any{}
	for _, entry := range entries {
		slugs = append(slugs, entry.Slug)
	}
	require.Equal(t, slugs, doc.Components.Schemas["ProviderSlug"].Value.Extensions["x-extensible-enum"])

	entry, prefixes := entries[0], []any{}
	for _, prefix := range entry.Prefixes {
		prefixes = append(prefixes, prefix.Value)
	}
	media := operations(doc)["listProviders"].Responses.Value("200").Value.Content.Get("application/json")
	require.Equal(t, map[string]any{"providers": []any{map[string]any{
		"slug": entry.Slug, "display_name": entry.DisplayName, "base_url": entry.BaseURL, "auth_style": entry.AuthStyle,
		"secret_format": entry.SecretFormat, "prefixes": prefixes, "required_fields": []any{}, "key_page_url": entry.KeyPage,
	}}}, media.Examples["one"].Value.Value)
}
