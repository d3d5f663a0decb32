package spec_test

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

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
	accepted := map[string]edit{
		"nothing": {},
		"add an operation": {after: func(doc tree) {
			doc.in("paths")["/v1/version"] = tree{"get": tree{"operationId": "getVersion", "tags": []any{"Catalogue"},
				"responses": tree{"200": tree{"description": "The version."}}}}
		}},
		"add a response field": {after: func(doc tree) {
			doc.schema("Key").in("properties")["note"] = tree{"type": "string", "maxLength": 64}
		}},
		"add an optional request field": {after: func(doc tree) {
			doc.schema("RegisterRequest").in("properties")["note"] = tree{"type": "string", "maxLength": 64}
		}},
		"add an optional parameter": {after: func(doc tree) {
			op := doc.in("paths", "/v1/providers", "get")
			op["parameters"] = []any{tree{"name": "auth_style", "in": "query", "schema": tree{"type": "string", "maxLength": 8}}}
		}},
		"add a failure": {after: func(doc tree) {
			responses := doc.in("paths", "/v1/providers", "get", "responses")
			responses["403"] = tree{"$ref": "#/components/responses/PermissionDenied"}
		}},
		"add a response header": {after: func(doc tree) {
			headers := doc.in("paths", keysPath, "post", "responses", "201", "headers")
			headers["Server-Timing"] = tree{"schema": tree{"type": "string", "maxLength": 64}}
		}},
		"add to a growing list": {after: func(doc tree) {
			slug := doc.schema("ProviderSlug")
			slug["x-extensible-enum"] = append(slug.list("x-extensible-enum"), "newcomer")
		}},
		"make an optional response field required": {after: func(doc tree) {
			actor := doc.schema("Actor")
			actor["required"] = append(actor.list("required"), "token_id")
		}},
		"make a required request field optional": {after: func(doc tree) {
			request := doc.schema("RegisterRequest")
			request["required"] = without(request.list("required"), "name")
		}},
		"loosen a limit of a request": {after: func(doc tree) {
			doc.schema("RegisterRequest").in("properties", "name")["maxLength"] = 256
		}},
		"change texts and examples": {after: func(doc tree) {
			op := doc.in("paths", "/v1/whoami", "get")
			op["summary"], op["description"] = "Another summary", "Another description."
			doc.schema("Key")["description"] = "Another description."
			doc.parameter("CustomerID")["example"] = "globex"
		}},
		"deprecate an operation": {after: func(doc tree) {
			op := doc.in("paths", keyPath, "delete")
			op["deprecated"], op["x-sunset"] = true, time.Now().AddDate(1, 0, 0).Format(time.DateOnly)
		}},
	}
	for name, e := range accepted {
		t.Run("accepted/"+name, func(t *testing.T) {
			t.Parallel()
			output, err := compareEdit(t, e)
			require.NoError(t, err, "%s", output)
		})
	}
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
