package dataplane_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/stretchr/testify/require"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/impl/aikeys/aikeystest"
	"github.com/agentrouter/aikeys/impl/keysetcheck"
	"github.com/agentrouter/aikeys/impl/secrets/secretstest"
	gensecret "github.com/agentrouter/aikeys/internal/secret"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/sealer"
)

// A field that becomes secret, or ceases to be, has to be added to or removed from this list, where a reviewer sees it.
func TestSecretFieldsOfDocument(t *testing.T) {
	checked, err := contract()
	require.NoError(t, err)
	var found []string
	for _, item := range checked.Doc.Paths.Map() {
		for _, op := range item.Operations() {
			if op.RequestBody != nil {
				walk(op.RequestBody.Value.Content["application/json"].Schema, func(path string) {
					found = append(found, "request "+op.OperationID+path)
				})
			}
			for _, ref := range slices.Concat(item.Parameters, op.Parameters) {
				walk(ref.Value.Schema, func(string) { found = append(found, "parameter "+op.OperationID+" "+ref.Value.Name) })
			}
			for status, response := range op.Responses.Map() {
				for _, media := range response.Value.Content {
					walk(media.Schema, func(path string) { found = append(found, "response "+op.OperationID+" "+status+path) })
				}
			}
		}
	}
	slices.Sort(found)
	require.Equal(t, []string{"request fetchKey.credential", "response fetchKey 200.secret"}, found)
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
}

func TestSecretsDoNotPrint(t *testing.T) {
	const plain = "sk-0123456789abcdef"
	credential := gensecret.New(plain)
	for name, value := range map[string]any{
		"request": gen.FetchRequest{Credential: &credential}, "response": gen.FetchResponse{Secret: gensecret.New(plain)},
		"reply": gen.FetchKey200JSONResponse{Secret: gensecret.New(plain)},
	} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			require.Empty(t, aikeystest.FindIn(fmt.Appendf(nil, verb, value), plain), "%s %s", name, verb)
		}
	}
	text, err := json.Marshal(gen.FetchKey200JSONResponse{Secret: gensecret.New(plain)})
	require.NoError(t, err)
	require.Contains(t, string(text), plain, "but it is encoded")
}

// Sends secrets through every kind of answer. The fixture searches everything else for them when the service ends.
func TestSealingSecretsAppearOnlyInFetchAnswers(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		dp, limited := s.dataPlane(), s.dataPlane(serving(globex))
		key, mine := s.shared("openai"), s.own(member, "openai")
		token := s.credential(member)
		for _, body := range []gen.FetchRequest{forCaller(token, "openai"), forKey(key.ID), forUser(web, member, "openai")} {
			require.Equal(t, http.StatusOK, fetch(t, dp, body).StatusCode())
			require.Equal(t, http.StatusForbidden, fetch(t, limited, body).StatusCode())
		}
		s.public.As(member).RevokeKey(t, mine.ID)
		require.Equal(t, http.StatusForbidden, fetch(t, dp, forKey(mine.ID)).StatusCode())
		strange := s.marked()
		for _, body := range []string{
			`{"credential":"` + strange + `","provider":"openai"}`, `{"credential":"` + strange + `","provider":"` + strange + `"}`,
			`{"credential":"` + strange + `"`, `{"credential":["` + strange + `"],"provider":"openai"}`, `{"` + strange + `":1}`,
			`{"customer_id":"` + strange + `","project_id":"` + strange + `","user_id":"` + strange + `","provider":"openai"}`,
			`{"key_id":"byok_` + strange + `"}`, `{"credential":"` + strings.Repeat(strange, 300) + `","provider":"openai"}`,
			`{"credential":"` + strange + `","credential":"x","provider":"openai"}`,
		} {
			status := s.send(t, http.MethodPost, "/v1/fetch", dp.token, body).status
			require.True(t, status >= 400 && status < 500, "%d", status)
		}
		s.exec(t, `UPDATE ai_keys SET provider = 'deepseek' WHERE id = $1`, key.ID)
		require.Equal(t, http.StatusInternalServerError, fetch(t, dp, forKey(key.ID)).StatusCode())
		require.Contains(t, s.log.String(), `"operation":"fetchKey","status":500`)
		require.NotContains(t, s.log.String(), "/v1/")
	})
}

// crashing is a sealer that panics with the secret it has opened.
type crashing struct{ sealer.Sealer }

func (c crashing) Open(ctx context.Context, binding sealer.Binding, envelope []byte) (sealer.Secret, error) {
	plain, err := c.Sealer.Open(ctx, binding, envelope)
	if err != nil || binding == keysetcheck.Binding() {
		return plain, err
	}
	panic(string(plain.Reveal()))
}

func TestPanicDoesNotRevealSecret(t *testing.T) {
	s := start(t, "sqlite", options{sealer: crashing{secretstest.Backend(t)}})
	dp := s.dataPlane()
	s.shared("openai")
	requireRefused(t, fetch(t, dp, forUser(web, member, "openai")), http.StatusInternalServerError, "internal")
	require.Contains(t, s.log.String(), "crashing.Open", "where it happened")
}

// keeping is a sealer that keeps the secrets it has opened.
type keeping struct {
	sealer.Sealer
	opened chan sealer.Secret
}

func (k keeping) Open(ctx context.Context, binding sealer.Binding, envelope []byte) (sealer.Secret, error) {
	plain, err := k.Sealer.Open(ctx, binding, envelope)
	if binding != keysetcheck.Binding() {
		k.opened <- plain
	}
	return plain, err
}

func TestSealingOpenedSecretIsWiped(t *testing.T) {
	opened := make(chan sealer.Secret, 1)
	s := start(t, "sqlite", options{sealer: keeping{secretstest.Backend(t), opened}})
	dp, key := s.dataPlane(), s.shared("openai")
	requireKey(t, fetch(t, dp, forUser(web, member, "openai")), key, "project_key")
	require.Zero(t, (<-opened).Len())
}

// The log names a data plane by its id, and nothing names a caller's key.
func TestLoggedFieldsOfFetch(t *testing.T) {
	s := start(t, "sqlite", options{})
	dp, key := s.dataPlane(func(d *models.DataPlane) { d.Name = "the-name-of-the-edge" }), s.shared("openai")
	requireKey(t, fetch(t, dp, forCaller(s.credential(member), "openai")), key, "project_key")
	var lines []map[string]any
	for text := range strings.Lines(s.log.String()) {
		if line := decode[map[string]any](t, []byte(text)); line["operation"] == "fetchKey" {
			lines = append(lines, line)
		}
	}
	require.Len(t, lines, 1)
	for name := range lines[0] {
		require.Contains(t, []string{"time", "level", "msg", "request_id", "operation", "status", "took", "source_ip",
			"data_plane_id"}, name)
	}
	require.Equal(t, dp.id, lines[0]["data_plane_id"])
	require.NotContains(t, s.log.String(), "the-name-of-the-edge")
}
