package aikeys_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/stretchr/testify/require"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/aikeys/aikeystest"
	"github.com/agentrouter/aikeys/impl/providers"
	gensecret "github.com/agentrouter/aikeys/internal/secret"
)

func document(t *testing.T) *openapi3.T {
	t.Helper()
	doc, err := gen.GetSpec()
	require.NoError(t, err)
	return doc
}

func TestDocumentIsValid(t *testing.T) {
	require.NoError(t, document(t).Validate(t.Context(), openapi3.EnableExamplesValidation(), openapi3.EnableSchemaFormatValidation()))
}

func TestDocumentListsStatuses(t *testing.T) {
	for _, o := range aikeystest.Operations(t) {
		t.Run(o.OperationID, func(t *testing.T) {
			want := []int{400, 401, 429, 500, 503}
			if o.RequestBody != nil {
				want = append(want, 413, 415)
			}
			if strings.Contains(o.Path, "/projects/") {
				want = append(want, 403)
			}
			for _, status := range want {
				response := o.Responses.Status(status)
				require.NotNil(t, response, "status %d", status)
				require.NotNil(t, response.Value.Content.Get("application/problem+json"), "status %d", status)
			}
			require.Nil(t, o.Responses.Default(), "a default would let undocumented statuses pass the tests")
			require.Nil(t, o.Security, "an operation's own security could leave it open")
		})
	}
}

// The catalogue and the document name the same providers: a new provider must be added to both.
func TestDocumentListsProviders(t *testing.T) {
	catalogue, err := providers.Load()
	require.NoError(t, err)
	var slugs []any
	for _, slug := range catalogue.Slugs() {
		slugs = append(slugs, slug)
	}
	require.Equal(t, slugs, document(t).Components.Schemas["ProviderSlug"].Value.Extensions["x-extensible-enum"])
}

// Fields marked as secret are the ones that nothing may show. This list changes under a reviewer's eyes only.
func TestDocumentSecretFields(t *testing.T) {
	var found []string
	for _, o := range aikeystest.Operations(t) {
		if o.RequestBody != nil {
			walk(o.RequestBody.Value.Content["application/json"].Schema, func(path string) {
				found = append(found, "request "+o.OperationID+path)
			})
		}
		for _, ref := range o.Parameters {
			walk(ref.Value.Schema, func(string) { found = append(found, "parameter "+o.OperationID+" "+ref.Value.Name) })
		}
		for status, response := range o.Responses.Map() {
			for _, media := range response.Value.Content {
				walk(media.Schema, func(path string) { found = append(found, "response "+o.OperationID+" "+status+path) })
			}
		}
	}
	slices.Sort(found)
	require.Equal(t, []string{"request registerKey.secret"}, found)
}

// walk calls secret with the path of each secret schema within a schema.
func walk(ref *openapi3.SchemaRef, secret func(path string)) {
	if marked, _ := ref.Value.Extensions["x-secret"].(bool); marked {
		secret("")
	}
	for name, property := range ref.Value.Properties {
		walk(property, func(path string) { secret("." + name + path) })
	}
	if ref.Value.Items != nil {
		walk(ref.Value.Items, func(path string) { secret("[]" + path) })
	}
	if extra := ref.Value.AdditionalProperties.Schema; extra != nil {
		walk(extra, func(path string) { secret("{}" + path) })
	}
}

// Every field that the document marks secret has a type that prints nothing.
func TestDocumentSecretsAreRedacted(t *testing.T) {
	const plain = "sk-0123456789abcdef"
	req := gen.RegisterRequest{Provider: "openai", Name: "n", Secret: gensecret.New(plain)}
	printed := map[string]string{}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		printed[verb] = fmt.Sprintf(verb, req)
		printed["pointer "+verb] = fmt.Sprintf(verb, &req)
		printed["alone "+verb] = fmt.Sprintf(verb, req.Secret)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		printed["wrapped "+verb] = fmt.Sprintf(verb, gen.RegisterKeyRequestObject{Body: &req})
	}
	printed["error"] = fmt.Errorf("refused: %v", req).Error()
	for name, newHandler := range map[string]func(w *strings.Builder) slog.Handler{
		"text log": func(w *strings.Builder) slog.Handler { return slog.NewTextHandler(w, nil) },
		"JSON log": func(w *strings.Builder) slog.Handler { return slog.NewJSONHandler(w, nil) },
	} {
		var line strings.Builder
		slog.New(newHandler(&line)).Info("request", slog.Any("secret", req.Secret))
		printed[name] = line.String()
	}
	for name, text := range printed {
		t.Run(name, func(t *testing.T) {
			require.Empty(t, aikeystest.FindIn([]byte(text), plain))
			if !strings.HasPrefix(name, "wrapped") { // which prints a pointer's address
				require.Contains(t, text, "[redacted]")
			}
		})
	}
	t.Run("and yet goes over the wire", func(t *testing.T) {
		text, err := json.Marshal(req)
		require.NoError(t, err)
		require.Contains(t, string(text), strconv.Quote(plain))
	})
}
