package aikeys_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/aikeys/aikeystest"
)

// shape is a bad body: what is sent, and the field that the refusal names.
type shape struct {
	body  []byte
	field string
}

// TestBadBody sends, to every operation that takes a body, every bad shape of it with a secret
// in each place. That the secret is in no reply, log line, metric and span is checked for all tests, by aikeystest.
func TestBadBody(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{})
	for _, o := range aikeystest.Operations(t) {
		if o.RequestBody == nil {
			continue
		}
		schema := o.RequestBody.Value.Content["application/json"].Schema.Value
		good := goodBody(t, s, o.Body)
		for name, bad := range allShapes(t, s, schema, good) {
			t.Run(o.OperationID+" with "+name, func(t *testing.T) {
				o.Token, o.Body = s.As(owner).Token, bad.body
				reply := s.Send(t, o.Request)
				require.Equal(t, http.StatusBadRequest, reply.Status, "%s", reply.Body)
				p := reply.Problem(t)
				require.Equal(t, "invalid_argument", p.Code)
				require.Contains(t, reply.Fields(t), bad.field)
				for _, field := range p.Errors {
					require.NotEmpty(t, field.Message)
				}
			})
		}
	}
	require.Empty(t, list(t, s, owner))
	require.Empty(t, events(t, s, owner))
}

// goodBody returns the document's example with a hidden secret, if it has one.
func goodBody(t *testing.T, s *aikeystest.Service, example []byte) map[string]any {
	t.Helper()
	var good map[string]any
	require.NoError(t, json.Unmarshal(example, &good))
	if _, ok := good["secret"]; ok {
		good["secret"], good["provider"] = "sk-"+s.Secret(), "openai"
	}
	return good
}

func allShapes(t *testing.T, s *aikeystest.Service, schema *openapi3.Schema, good map[string]any) map[string]shape {
	t.Helper()
	shapes := textShapes(t, s, good)
	for name, ref := range schema.Properties {
		maps.Copy(shapes, memberShapes(t, s, name, ref.Value, slices.Contains(schema.Required, name), good))
	}
	return shapes
}

// textShapes are those that need no schema to be wrong.
func textShapes(t *testing.T, s *aikeystest.Service, good map[string]any) map[string]shape {
	t.Helper()
	secret, text := s.Secret(), string(encode(t, good))
	member := `"` + secret + `":`
	open := strings.TrimSuffix(text, "}")
	bodies := map[string]string{
		"nothing":                 "",
		"spaces alone":            "  \n",
		"no JSON":                 secret,
		"broken JSON":             open,
		"a broken string":         open + `,"x":"` + secret,
		"a missing comma":         open + ` "x":"` + secret + `"}`,
		"single quotes":           `{'secret':'` + secret + `'}`,
		"a comment":               "/*" + secret + "*/" + text,
		"NaN":                     open + `,` + member + `NaN}`,
		"two documents":           text + `{"secret":"` + secret + `"}`,
		"trailing text":           text + secret,
		"a trailing NUL":          text + "\x00",
		"a byte order mark":       "\uFEFF" + text,
		"UTF-16":                  "\xff\xfe{\x00}\x00",
		"invalid UTF-8":           open + `,` + `"x":"` + secret + "\xff" + `"}`,
		"invalid UTF-8 in a name": open + `,"` + secret + "\xff" + `":1}`,
		"half a surrogate pair":   open + `,"x":"` + secret + `\ud800"}`,
		"a raw line end":          open + `,"x":"` + secret + "\n" + `"}`,
		"an array":                `["` + secret + `"]`,
		"an array of bodies":      `[` + text + `]`,
		"a string":                `"` + secret + `"`,
		"a number":                `1234567890`,
		"true":                    `true`,
		"null":                    `null`,
		"an unknown member":       open + `,` + member + `1}`,
		"an unknown object":       open + `,` + member + `{"` + secret + `":["` + secret + `"]}}`,
		"an empty name":           open + `,"":"` + secret + `"}`,
		"deep nesting":            open + `,` + member + strings.Repeat("[", 30_000) + strings.Repeat("]", 30_000) + `}`,
		"deep nesting, unclosed":  strings.Repeat(`{"a":`, 12_000),
		"a huge number":           open + `,` + member + `1e999999}`,
		"a number of many digits": open + `,` + member + strings.Repeat("9", 50_000) + `}`,
		"many members":            open + `,` + manyMembers(secret, 1000) + `}`,
	}
	shapes := map[string]shape{}
	for name, body := range bodies {
		shapes[name] = shape{[]byte(body), "body"}
	}
	for name, value := range good {
		again := `,"` + name + `":` + string(encode(t, value)) + `}`
		shapes[name+" twice"] = shape{[]byte(open + again), "body"}
		shapes[name+" twice, one escaped"] = shape{[]byte(open + strings.Replace(again, name[:1], `\u00`+hexOf(name[0]), 1)), "body"}
		for _, variant := range []string{strings.ToUpper(name), strings.ToUpper(name[:1]) + name[1:], name + " ", " " + name, name + "\u200b"} {
			shapes[name+" and "+variant] = shape{[]byte(open + strings.Replace(again, name, variant, 1)), "body"}
		}
	}
	return shapes
}

func hexOf(c byte) string {
	const digits = "0123456789abcdef"
	return string([]byte{digits[c>>4], digits[c&15]})
}

func manyMembers(secret string, n int) string {
	members := make([]string, n)
	for i := range members {
		members[i] = `"` + secret + strings.Repeat("x", i%9) + string(rune('a'+i/99)) + string(rune('0'+i%99)) + `":1`
	}
	slices.Sort(members)
	return strings.Join(slices.Compact(members), ",")
}

// memberShapes are what the schema of one member rules out.
func memberShapes(t *testing.T, s *aikeystest.Service, name string, schema *openapi3.Schema, required bool, good map[string]any) map[string]shape {
	t.Helper()
	secret := s.Secret()
	shapes := map[string]shape{}
	with := func(what string, value any) {
		body := maps.Clone(good)
		body[name] = value
		shapes[name+" that is "+what] = shape{encode(t, body), name}
	}
	if required {
		body := maps.Clone(good)
		delete(body, name)
		shapes["no "+name] = shape{encode(t, body), name}
	}
	with("null", nil)
	with("a list", []any{secret})
	with("a number", 1234567)
	if !schema.Type.Is("object") {
		with("an object", map[string]any{secret: secret})
	}
	if !schema.Type.Is("boolean") {
		with("true", true)
	}
	if !schema.Type.Is("string") {
		with("a string", secret)
		with("a string of JSON", `{"`+secret+`":true}`)
	}
	if schema.MinLength > 0 {
		with("empty", "")
	}
	if schema.MaxLength != nil {
		long := strings.Repeat(secret, int(*schema.MaxLength)/len(secret)+1)
		with("too long", long)
		with("too long by one", long[:*schema.MaxLength]+"x")
	}
	if schema.Enum != nil {
		with("none of the choices", secret)
		choice := fmt.Sprint(schema.Enum[0])
		with("a choice in upper case", strings.ToUpper(choice))
		with("a choice and a space", choice+" ")
		with("no choice at all", "")
	}
	if schema.Pattern != "" {
		for what, value := range map[string]string{
			"begun with a space": " " + secret, "ended with a space": secret + " ", "begun with a tab": "\t" + secret,
			"of two lines": secret + "\n" + secret, "ended with a line end": secret + "\n", "with a NUL": "a\x00" + secret,
			"with an escape": "a\x1b[31m" + secret, "with DEL": "a\x7f" + secret, "a space": " ",
		} {
			with(what, value)
		}
	}
	return shapes
}

func TestBadPolicy(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{})
	secret := s.Secret()
	many := map[string]any{}
	for i := range 65 {
		many[strings.Repeat("p", i+1)] = "allow"
	}
	for name, exceptions := range map[string]map[string]any{
		"an unknown choice":            {"openai": secret},
		"a choice that is an object":   {"openai": map[string]any{secret: secret}},
		"a choice that is null":        {"openai": nil},
		"a provider that is unknown":   {secret: "allow"},
		"an unknown one with no sense": {secret: secret},
		"too many":                     many,
	} {
		t.Run(name, func(t *testing.T) {
			reply := put(t, s, owner, project+"/policy", map[string]any{"user_keys_by_provider": exceptions})
			require.Equal(t, http.StatusBadRequest, reply.Status)
			require.Equal(t, []string{"user_keys_by_provider"}, reply.Fields(t))
		})
	}
}

func TestSeveralViolations(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{})
	secret := s.Secret()
	reply := s.Send(t, aikeystest.Request{
		Method: http.MethodPost, Path: project + "/aikeys?x=1", Token: s.As(owner).Token, Header: http.Header{"Idempotency-Key": {"a b"}},
		Body: encode(t, map[string]any{"name": "", "secret": 5, "user_scope": secret, secret: secret}),
	})
	require.Equal(t, http.StatusBadRequest, reply.Status)
	require.ElementsMatch(t, []string{"Idempotency-Key", "query", "body", "name", "provider", "secret", "user_scope"}, reply.Fields(t))
}
