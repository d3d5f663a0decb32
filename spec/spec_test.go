package spec_test

import (
	"context"
	"encoding/json"
	"fmt"
	"go/format"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

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
	// samples are the sources of x-codeSamples by their labels, which kinds lists in order with their languages.
	samples map[string]string
	kinds   []string
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
			entry := operation{Operation: op, method: method, path: path, samples: map[string]string{}}
			list, _ := op.Extensions["x-codeSamples"].([]any)
			for _, each := range list {
				sample, _ := each.(map[string]any)
				entry.samples[fmt.Sprint(sample["label"])] = fmt.Sprint(sample["source"])
				entry.kinds = append(entry.kinds, fmt.Sprint(sample["label"], " in ", sample["lang"]))
			}
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

// If a secret field lost its mark, its value would be written to logs. This test makes every change of the marks
// visible in review.
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

// The document must say in words what it requires of a request, because the validator's refusals quote the document.
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

func TestDocumentKnowsTheCatalogue(t *testing.T) {
	var catalogue struct {
		Providers []struct { // the part of an entry that the document repeats
			Slug         string `yaml:"slug"`
			DisplayName  string `yaml:"display_name"`
			BaseURL      string `yaml:"base_url"`
			AuthStyle    string `yaml:"auth_style"`
			SecretFormat string `yaml:"secret_format"`
			KeyPage      string `yaml:"key_page"`
			Prefixes     []struct {
				Value string `yaml:"value"`
			} `yaml:"prefixes"`
		} `yaml:"providers"`
	}
	require.NoError(t, yaml.Unmarshal(read(t, "providers.yaml"), &catalogue))
	doc, slugs := load(t, publicDocument), []any{}
	for _, entry := range catalogue.Providers {
		slugs = append(slugs, entry.Slug)
	}
	require.Equal(t, slugs, doc.Components.Schemas["ProviderSlug"].Value.Extensions["x-extensible-enum"])

	entry, prefixes := catalogue.Providers[0], []any{}
	for _, prefix := range entry.Prefixes {
		prefixes = append(prefixes, prefix.Value)
	}
	media := operations(doc)["listProviders"].Responses.Value("200").Value.Content.Get("application/json")
	require.Equal(t, map[string]any{"providers": []any{map[string]any{
		"slug": entry.Slug, "display_name": entry.DisplayName, "base_url": entry.BaseURL, "auth_style": entry.AuthStyle,
		"secret_format": entry.SecretFormat, "prefixes": prefixes, "required_fields": []any{}, "key_page_url": entry.KeyPage,
	}}}, media.Examples["one"].Value.Value)
}

func TestExamplesFitTheirSchemas(t *testing.T) {
	type example struct {
		place     string
		schema    *openapi3.Schema
		value     any
		direction openapi3.SchemaValidationOption
	}
	doc := load(t, publicDocument)
	// Close the schemas. Readers must accept members that the document does not name, and values that its growing lists
	// lack. Examples must have neither.
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
	walkFile(t, "providers.yaml", func(place string, object map[string]any) {
		if strings.Contains(place, ".prefixes[") {
			prefixes = append(prefixes, regexp.QuoteMeta(fmt.Sprint(object["value"])))
		}
	})
	require.Greater(t, len(prefixes), 10)
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

func TestEveryOperationHasFiveSamples(t *testing.T) {
	for id, op := range operations(load(t, publicDocument)) {
		require.Equal(t, []string{"curl in Shell", "Go in Go", "Python in Python", "TypeScript in TypeScript", "CLI in Shell"}, op.kinds, id)
		for label, source := range op.samples {
			require.NotEmpty(t, strings.TrimSpace(source), "%s %s", id, label)
		}
	}
}

func TestSamplesCallThePublishedNames(t *testing.T) {
	// want shows how each operation is called in Go, Python, TypeScript and on the command line. Programs are written
	// against these names, so names may be added but must never change.
	want := map[string][4]string{
		"registerKey":          {"client.AIKeys().Register(ctx, ", "client.aikeys.register(", "client.aikeys.register(", "tare api byok add "},
		"getKey":               {"client.AIKeys().Get(ctx, ", "client.aikeys.get(", "client.aikeys.get(", "tare api byok get byok_"},
		"listKeys":             {"client.AIKeys().List(ctx, ", "client.aikeys.list(", "client.aikeys.list(", "tare api byok list\n"},
		"revokeKey":            {"client.AIKeys().Revoke(ctx, ", "client.aikeys.revoke(", "client.aikeys.revoke(", "tare api byok remove byok_"},
		"updateKey":            {"client.AIKeys().Update(ctx, ", "client.aikeys.update(", "client.aikeys.update(", "tare api byok disable byok_"},
		"verifyKey":            {"client.AIKeys().Verify(ctx, ", "client.aikeys.verify(", "client.aikeys.verify(", "tare api byok verify byok_"},
		"rotateKey":            {"client.AIKeys().Rotate(ctx, ", "client.aikeys.rotate(", "client.aikeys.rotate(", "tare api byok rotate byok_"},
		"rollbackKey":          {"client.AIKeys().Rollback(ctx, ", "client.aikeys.rollback(", "client.aikeys.rollback(", "tare api byok rollback byok_"},
		"listKeyVersions":      {"client.AIKeys().Versions(ctx, ", "client.aikeys.versions(", "client.aikeys.versions(", "tare api byok versions byok_"},
		"activateKeyVersion":   {"client.AIKeys().ActivateVersion(ctx, ", "client.aikeys.activate_version(", "client.aikeys.activateVersion(", "tare api byok activate byok_"},
		"destroyKeyVersion":    {"client.AIKeys().DestroyVersion(ctx, ", "client.aikeys.destroy_version(", "client.aikeys.destroyVersion(", "tare api byok destroy byok_"},
		"resolveKey":           {"client.AIKeys().Resolve(ctx, ", "client.aikeys.resolve(", "client.aikeys.resolve(", "tare api byok resolve "},
		"listFetches":          {"client.Fetches().List(ctx, ", "client.fetches.list(", "client.fetches.list(", "tare api byok fetches\n"},
		"listUsage":            {"client.Usage().List(ctx, ", "client.usage.list(", "client.usage.list(", "tare api byok usage\n"},
		"listEvents":           {"client.Events().List(ctx, ", "client.events.list(", "client.events.list(", "tare api byok events\n"},
		"getPolicy":            {"client.Policy().Get(ctx, ", "client.policy.get(", "client.policy.get(", "tare api policy get\n"},
		"setPolicy":            {"client.Policy().Set(ctx, ", "client.policy.set(", "client.policy.set(", "tare api policy set "},
		"listMembers":          {"client.Members().List(ctx, ", "client.members.list(", "client.members.list(", "tare api members list\n"},
		"setMember":            {"client.Members().Set(ctx, ", "client.members.set(", "client.members.set(", "tare api members set bob "},
		"removeMember":         {"client.Members().Remove(ctx, ", "client.members.remove(", "client.members.remove(", "tare api members remove bob\n"},
		"getMemberImpact":      {"client.Members().Impact(ctx, ", "client.members.impact(", "client.members.impact(", "tare api members impact bob\n"},
		"restoreMember":        {"client.Members().Restore(ctx, ", "client.members.restore(", "client.members.restore(", "tare api members restore bob\n"},
		"findLeaks":            {"client.Leaks().Find(ctx, ", "client.leaks.find(", "client.leaks.find(", "tare leaks\n"},
		"listProjects":         {"client.Projects().List(ctx)", "client.projects.list()", "client.projects.list()", "tare api projects\n"},
		"listTokens":           {"client.Tokens().List(ctx)", "client.tokens.list()", "client.tokens.list()", "tare api tokens list\n"},
		"createToken":          {".Create(ctx, ", "client.tokens.create(", "client.tokens.create(", "tare api tokens create "},
		"revokeToken":          {"client.Tokens().Revoke(ctx, ", "client.tokens.revoke(", "client.tokens.revoke(", "tare api tokens revoke "},
		"listProjectTokens":    {"client.Tokens().ListInProject(ctx, ", "client.tokens.list_in_project(", "client.tokens.listInProject(", "tare api tokens list --in-project\n"},
		"revokeProjectToken":   {"client.Tokens().RevokeInProject(ctx, ", "client.tokens.revoke_in_project(", "client.tokens.revokeInProject(", "tare api tokens revoke "},
		"listProviders":        {"client.Providers().List(ctx)", "client.providers.list()", "client.providers.list()", "tare api providers\n"},
		"listCustomProviders":  {"client.Providers().ListCustom(ctx, ", "client.providers.list_custom(", "client.providers.listCustom(", "tare api providers list --custom\n"},
		"addCustomProvider":    {"client.Providers().AddCustom(ctx, ", "client.providers.add_custom(", "client.providers.addCustom(", "tare api providers add x-vllm "},
		"removeCustomProvider": {"client.Providers().RemoveCustom(ctx, ", "client.providers.remove_custom(", "client.providers.removeCustom(", "tare api providers remove x-vllm\n"},
		"getSignInOptions":     {"client.SignInOptions(ctx)", "client.sign_in_options()", "client.signInOptions()", "tare api sign-in\n"},
		"whoAmI":               {"client.WhoAmI(ctx)", "client.whoami()", "client.whoAmI()", "tare api whoami\n"},
	}
	all := operations(load(t, publicDocument))
	require.Len(t, all, len(want))
	for id, op := range all {
		require.Contains(t, want, id)
		for i, label := range []string{"Go", "Python", "TypeScript", "CLI"} {
			require.Contains(t, op.samples[label], want[id][i], "%s in %s", id, label)
		}
	}
}

func TestGoSamplesAreFormatted(t *testing.T) {
	for id, op := range operations(load(t, publicDocument)) {
		formatted, err := format.Source([]byte(op.samples["Go"]))
		require.NoError(t, err, id)
		require.Equal(t, string(formatted), op.samples["Go"], id)
	}
}

// Command lines are visible in process lists and in the shell's history.
func TestSamplesKeepSecretsOffCommandLines(t *testing.T) {
	for id, op := range operations(load(t, publicDocument)) {
		require.NotContains(t, op.samples["CLI"], "--secret", id)
		curl := op.samples["curl"]
		if op.Security == nil {
			require.Contains(t, curl, `--oauth2-bearer "$AGENTROUTER_API_KEY"`, id)
		}
		require.NotContains(t, curl, "Authorization", id)
		if op.RequestBody == nil {
			continue
		}
		for _, p := range op.RequestBody.Value.Content.Get("application/json").Schema.Value.Properties {
			if p.Value.Extensions["x-secret"] == true {
				require.Contains(t, curl, " -d @- <<EOF\n", "the body of %s comes from standard input", id)
			}
		}
	}
}

func TestCurlSamplesCallTheirOperation(t *testing.T) {
	curlURL := regexp.MustCompile(`"\$AGENTROUTER_BASE_URL(/[^"]*)"`)
	curlMethod := regexp.MustCompile(` -X (\S+)`)
	curlHeader := regexp.MustCompile(` -H "([^":]+): ([^"]*)"`)
	curlBody := regexp.MustCompile(`(?s) -d (?:'([^']*)'|@- <<EOF\n(.*)\nEOF\n)`)
	check := func(t *testing.T, op operation, source string) {
		method := http.MethodGet
		if found := curlMethod.FindStringSubmatch(source); found != nil {
			method = found[1]
		}
		require.Equal(t, op.method, method)
		addresses := curlURL.FindAllStringSubmatch(source, -1)
		require.Len(t, addresses, 1)
		address, err := url.Parse(addresses[0][1])
		require.NoError(t, err)
		query, header, body := address.Query(), http.Header{}, ""
		for _, found := range curlHeader.FindAllStringSubmatch(source, -1) {
			header.Add(found[1], found[2])
		}
		if found := curlBody.FindStringSubmatch(source); found != nil {
			body = found[1] + found[2]
		}
		want, got := strings.Split(op.path, "/"), strings.Split(address.Path, "/")
		require.Len(t, got, len(want), "%s is not %s", address.Path, op.path)
		inPath := map[string]string{}
		for i, part := range want {
			if name, isName := strings.CutPrefix(part, "{"); isName {
				inPath[strings.TrimSuffix(name, "}")] = got[i]
			} else {
				require.Equal(t, part, got[i], "%s is not %s", address.Path, op.path)
			}
		}
		for _, p := range op.parameters {
			var text string
			var given bool
			switch p.In {
			case openapi3.ParameterInPath:
				text, given = inPath[p.Name]
			case openapi3.ParameterInQuery:
				text, given = query.Get(p.Name), query.Has(p.Name)
			case openapi3.ParameterInHeader:
				text = header.Get(p.Name)
				given = text != ""
			}
			if !given {
				require.False(t, p.Required, "parameter %s is missing", p.Name)
				continue
			}
			var value any = text
			if p.Schema.Value.Type.Is("integer") {
				require.NoError(t, json.Unmarshal([]byte(text), &value))
			}
			require.NoError(t, p.Schema.Value.VisitJSON(value, openapi3.VisitAsRequest()), "parameter %s", p.Name)
			query.Del(p.Name)
			header.Del(p.Name)
		}
		require.Empty(t, query, "parameters that the operation does not have")
		if op.RequestBody == nil {
			require.Empty(t, body)
			require.Empty(t, header, "headers that the operation does not have")
			return
		}
		require.Equal(t, http.Header{"Content-Type": {"application/json"}}, header, "the operation's headers")
		var value any
		require.NoError(t, json.Unmarshal([]byte(body), &value))
		schema := op.RequestBody.Value.Content.Get("application/json").Schema.Value
		require.NoError(t, schema.VisitJSON(value, openapi3.VisitAsRequest()))
	}
	for id, op := range operations(load(t, publicDocument)) {
		t.Run(id, func(t *testing.T) { check(t, op, op.samples["curl"]) })
	}
}

// tree is an object of a decoded document.
type tree map[string]any

// in returns the object at a place, or nil.
func (t tree) in(place ...string) tree {
	for _, name := range place {
		t, _ = t[name].(tree)
	}
	return t
}

func (t tree) schema(name string) tree    { return t.in("components", "schemas", name) }
func (t tree) parameter(name string) tree { return t.in("components", "parameters", name) }

func (t tree) list(name string) []any {
	list, _ := t[name].([]any)
	return list
}

func (t tree) rename(from, to string) {
	t[to] = t[from]
	delete(t, from)
}

func TestBreakingChanges(t *testing.T) {
	const (
		project  = "/v1/customers/{customer_id}/projects/{project_id}"
		keysPath = project + "/aikeys"
		keyPath  = keysPath + "/{id}"
	)
	// edit is a change of a document and the rule that it breaks; the rule is empty if the change is allowed.
	type edit struct {
		rule string
		// before changes both documents, after only the new one.
		before, after func(doc tree)
	}
	without := func(list []any, value any) []any {
		return slices.DeleteFunc(slices.Clone(list), func(each any) bool { return each == value })
	}

	// It is the pinned program, as "make bin/oasdiff" builds it.
	oasdiff := filepath.Join(t.TempDir(), "oasdiff")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", oasdiff, "github.com/oasdiff/oasdiff")
	build.Dir = "../tools"
	text, err := build.CombinedOutput()
	require.NoError(t, err, "%s", text)
	compare := func(t *testing.T, documents ...string) (output string, err error) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		script := exec.CommandContext(ctx, "../tools/breaking.sh", documents...)
		script.Env = append(os.Environ(), "OASDIFF="+oasdiff)
		text, err := script.CombinedOutput()
		return string(text), err
	}
	compareEdit := func(t *testing.T, e edit) (output string, err error) {
		t.Helper()
		folder := t.TempDir()
		save := func(name string, edits ...func(tree)) string {
			var doc tree
			require.NoError(t, yaml.Unmarshal(read(t, publicDocument), &doc))
			for _, edit := range edits {
				if edit != nil {
					edit(doc)
				}
			}
			text, err := json.Marshal(doc)
			require.NoError(t, err)
			path := filepath.Join(folder, name)
			require.NoError(t, os.WriteFile(path, text, 0o600))
			return path
		}
		before, after := save("before.yaml", e.before), save("after.yaml", e.before, e.after)
		if e.after != nil {
			require.NotEqual(t, string(read(t, before)), string(read(t, after)), "the edit changes nothing")
		}
		return compare(t, before, after)
	}
	requireRefused := func(t *testing.T, output string, err error) {
		t.Helper()
		var exit *exec.ExitError
		require.ErrorAs(t, err, &exit, "%s", output)
		require.Positive(t, exit.ExitCode(), "%s", output)
	}
	refused := map[string]edit{
		"remove an operation": {"api-removed-without-deprecation", nil, func(doc tree) {
			delete(doc.in("paths", keyPath), "delete")
		}},
		"remove an operation after its sunset": {"api-removed-with-deprecation", func(doc tree) {
			op := doc.in("paths", keyPath, "delete")
			op["deprecated"], op["x-sunset"] = true, "2020-01-01"
		}, func(doc tree) {
			delete(doc.in("paths", keyPath), "delete")
		}},
		"remove a path after its sunset": {"api-path-removed-with-deprecation", func(doc tree) {
			op := doc.in("paths", "/v1/whoami", "get")
			op["deprecated"], op["x-sunset"] = true, "2020-01-01"
		}, func(doc tree) {
			delete(doc.in("paths"), "/v1/whoami")
		}},
		"remove a deprecated parameter": {"request-parameter-removed-with-deprecation", func(doc tree) {
			doc.parameter("Wait")["deprecated"] = true
		}, func(doc tree) {
			delete(doc.in("paths", keyPath, "delete"), "parameters")
		}},
		"remove a deprecated request field": {"request-property-removed-with-deprecation", func(doc tree) {
			doc.schema("RegisterRequest").in("properties", "user_scope")["deprecated"] = true
		}, func(doc tree) {
			delete(doc.schema("RegisterRequest").in("properties"), "user_scope")
		}},
		"remove a deprecated response field": {"response-required-property-removed-with-deprecation",
			func(doc tree) {
				doc.schema("Key").in("properties", "display_suffix")["deprecated"] = true
			}, func(doc tree) {
				key := doc.schema("Key")
				delete(key.in("properties"), "display_suffix")
				key["required"] = without(key.list("required"), "display_suffix")
			}},
		"remove an alpha path": {"api-path-removed-without-deprecation", func(doc tree) {
			doc.in("paths", "/v1/whoami", "get")["x-stability-level"] = "alpha"
		}, func(doc tree) {
			delete(doc.in("paths"), "/v1/whoami")
		}},
		"rename a path": {"api-path-removed-without-deprecation", nil, func(doc tree) {
			doc.in("paths").rename("/v1/whoami", "/v1/session")
		}},
		"rename an operation": {"api-operation-id-removed", nil, func(doc tree) {
			doc.in("paths", "/v1/whoami", "get")["operationId"] = "showSession"
		}},
		"rename a schema": {"api-schema-removed", nil, func(doc tree) {
			doc.in("components", "schemas").rename("RemoveMemberResponse", "MemberRemoved")
			doc.in("paths", project+"/members/{user_id}", "delete", "responses", "200", "content", "application/json",
				"schema")["$ref"] = "#/components/schemas/MemberRemoved"
		}},
		"move an operation to another tag": {"api-tag-removed", nil, func(doc tree) {
			doc.in("paths", "/v1/whoami", "get")["tags"] = []any{"Project"}
		}},
		"remove a response": {"response-success-status-removed", nil, func(doc tree) {
			doc.in("paths", keysPath, "post", "responses").rename("201", "200")
		}},
		"remove a failure": {"response-non-success-status-removed", nil, func(doc tree) {
			delete(doc.in("paths", keyPath, "get", "responses"), "404")
		}},
		"remove a response header": {"optional-response-header-removed", nil, func(doc tree) {
			delete(doc.in("paths", keysPath, "post", "responses", "201", "headers"), "Location")
		}},
		"change a response's content type": {"response-media-type-removed", nil, func(doc tree) {
			doc.in("paths", keyPath, "get", "responses", "200", "content").rename("application/json", "text/plain")
		}},
		"remove a required response field": {"response-required-property-removed", nil, func(doc tree) {
			key := doc.schema("Key")
			delete(key.in("properties"), "display_suffix")
			key["required"] = without(key.list("required"), "display_suffix")
		}},
		"remove an optional response field": {"response-optional-property-removed", nil, func(doc tree) {
			delete(doc.schema("Key").in("properties"), "last_used_at")
		}},
		"rename a response field": {"response-required-property-removed", nil, func(doc tree) {
			key := doc.schema("Key")
			key.in("properties").rename("created_by", "owner")
			key["required"] = append(without(key.list("required"), "created_by"), "owner")
		}},
		"make a required response field optional": {"response-property-became-optional", nil, func(doc tree) {
			key := doc.schema("Key")
			key["required"] = without(key.list("required"), "state")
		}},
		"let a response field be null": {"response-property-became-nullable", nil, func(doc tree) {
			doc.schema("Key").in("properties", "revoked_by")["nullable"] = true
		}},
		"change the type of a response field": {"response-property-type-changed", nil, func(doc tree) {
			doc.schema("Key").in("properties", "user_scope")["type"] = "string"
		}},
		"add to a closed list of responses": {"response-property-enum-value-added", nil, func(doc tree) {
			role := doc.schema("Role")
			role["enum"] = append(role.list("enum"), "auditor")
		}},
		"make an optional request field required": {"request-property-became-required", nil, func(doc tree) {
			request := doc.schema("RegisterRequest")
			delete(request.in("properties", "user_scope"), "default")
			request["required"] = append(request.list("required"), "user_scope")
		}},
		"add a required request field": {"new-required-request-property", nil, func(doc tree) {
			request := doc.schema("SetMemberRequest")
			request.in("properties")["reason"] = tree{"type": "string", "maxLength": 64}
			request["required"] = append(request.list("required"), "reason")
		}},
		"remove a request field": {"request-property-removed", nil, func(doc tree) {
			delete(doc.schema("PolicyRequest").in("properties"), "on_bad_key")
		}},
		"change the type of a request field": {"request-property-type-changed", nil, func(doc tree) {
			field := doc.schema("RegisterRequest").in("properties", "user_scope")
			field["type"] = "integer"
			delete(field, "default")
		}},
		"narrow a closed list of a request": {"request-property-enum-value-removed", nil, func(doc tree) {
			policy := doc.schema("OnBadKey")
			policy["enum"] = without(policy.list("enum"), "next_key")
		}},
		"remove a value from a growing list": {"request-property-x-extensible-enum-value-removed", nil, func(doc tree) {
			slug := doc.schema("ProviderSlug")
			slug["x-extensible-enum"] = without(slug.list("x-extensible-enum"), "openai")
		}},
		"tighten a limit of a request": {"request-property-max-length-decreased", nil, func(doc tree) {
			doc.schema("RegisterRequest").in("properties", "name")["maxLength"] = 64
		}},
		"change a pattern of a request": {"request-property-pattern-changed", nil, func(doc tree) {
			doc.schema("RegisterRequest").in("properties", "name")["pattern"] = "^[a-z]+$"
		}},
		"remove a parameter": {"request-parameter-removed", nil, func(doc tree) {
			delete(doc.in("paths", keyPath, "delete"), "parameters")
		}},
		"rename a parameter": {"request-parameter-removed", nil, func(doc tree) {
			doc.parameter("PageToken")["name"] = "cursor"
		}},
		"make a parameter required": {"request-parameter-became-required", nil, func(doc tree) {
			doc.parameter("ProviderFilter")["required"] = true
		}},
		"tighten a limit of a parameter": {"request-parameter-max-decreased", nil, func(doc tree) {
			doc.parameter("PageSize").in("schema")["maximum"] = 100
		}},
		"narrow a closed list of a parameter": {"request-parameter-enum-value-removed", nil, func(doc tree) {
			doc.parameter("StateFilter").in("schema")["enum"] = []any{"active"}
		}},
		"change a pattern of a parameter": {"request-parameter-pattern-changed", nil, func(doc tree) {
			doc.parameter("KeyID").in("schema")["pattern"] = "^byok_[0-9A-Z]{26}$"
		}},
		"ask for another credential": {"api-security-component-type-changed", nil, func(doc tree) {
			doc.in("components", "securitySchemes")["bearer"] = tree{"type": "apiKey", "in": "header", "name": "X-Api-Key"}
		}},
	}
	for name, e := range refused {
		t.Run("refused/"+name, func(t *testing.T) {
			t.Parallel()
			output, err := compareEdit(t, e)
			requireRefused(t, output, err)
			require.Contains(t, output, "["+e.rule+"]")
		})
	}
	// All at once: an output names the places that it refuses.
	accepted := map[string]func(doc tree){
		"add an operation": func(doc tree) {
			doc.in("paths")["/v1/version"] = tree{"get": tree{"operationId": "getVersion", "tags": []any{"Catalogue"},
				"responses": tree{"200": tree{"description": "The version."}}}}
		},
		"add a response field": func(doc tree) {
			doc.schema("Key").in("properties")["note"] = tree{"type": "string", "maxLength": 64}
		},
		"add an optional request field": func(doc tree) {
			doc.schema("RegisterRequest").in("properties")["note"] = tree{"type": "string", "maxLength": 64}
		},
		"add an optional parameter": func(doc tree) {
			op := doc.in("paths", "/v1/providers", "get")
			op["parameters"] = []any{tree{"name": "auth_style", "in": "query", "schema": tree{"type": "string", "maxLength": 8}}}
		},
		"add a failure": func(doc tree) {
			responses := doc.in("paths", "/v1/providers", "get", "responses")
			responses["403"] = tree{"$ref": "#/components/responses/PermissionDenied"}
		},
		"add a response header": func(doc tree) {
			headers := doc.in("paths", keysPath, "post", "responses", "201", "headers")
			headers["Server-Timing"] = tree{"schema": tree{"type": "string", "maxLength": 64}}
		},
		"add to a growing list": func(doc tree) {
			slug := doc.schema("ProviderSlug")
			slug["x-extensible-enum"] = append(slug.list("x-extensible-enum"), "newcomer")
		},
		"make an optional response field required": func(doc tree) {
			actor := doc.schema("Actor")
			actor["required"] = append(actor.list("required"), "token_id")
		},
		"make a required request field optional": func(doc tree) {
			request := doc.schema("RegisterRequest")
			request["required"] = without(request.list("required"), "name")
		},
		"loosen a limit of a request": func(doc tree) {
			doc.schema("RegisterRequest").in("properties", "name")["maxLength"] = 256
		},
		"change texts and examples": func(doc tree) {
			op := doc.in("paths", "/v1/whoami", "get")
			op["summary"], op["description"] = "Another summary", "Another description."
			doc.schema("Key")["description"] = "Another description."
			doc.parameter("CustomerID")["example"] = "globex"
		},
		"deprecate an operation": func(doc tree) {
			op := doc.in("paths", keyPath, "delete")
			op["deprecated"], op["x-sunset"] = true, time.Now().AddDate(1, 0, 0).Format(time.DateOnly)
		},
	}
	t.Run("accepted", func(t *testing.T) {
		t.Parallel()
		output, err := compareEdit(t, edit{after: func(doc tree) {
			for name, change := range accepted {
				before := fmt.Sprint(doc)
				change(doc)
				require.NotEqual(t, before, fmt.Sprint(doc), name)
			}
		}})
		require.NoError(t, err, "%s", output)
	})
	for name, documents := range map[string][]string{
		"a document that is not there": {publicDocument, filepath.Join(t.TempDir(), "none.yaml")},
		"an empty document":            {publicDocument, os.DevNull},
		"one document alone":           {publicDocument},
	} {
		t.Run("refused/"+name, func(t *testing.T) {
			t.Parallel()
			output, err := compare(t, documents...)
			requireRefused(t, output, err)
		})
	}
}
