package spec_test

import (
	"encoding/json"
	"go/format"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/stretchr/testify/require"
)

// sample is an entry of x-codeSamples, an extension that Redocly and other tools show beside the operation.
type sample struct {
	Lang   string `json:"lang"`
	Label  string `json:"label"`
	Source string `json:"source"`
}

func samplesOf(t *testing.T, op operation) []sample {
	t.Helper()
	text, err := json.Marshal(op.Extensions["x-codeSamples"])
	require.NoError(t, err)
	var samples []sample
	require.NoError(t, json.Unmarshal(text, &samples))
	return samples
}

// eachSample runs a test for every operation's sample with that label.
func eachSample(t *testing.T, label string, test func(t *testing.T, op operation, source string)) {
	t.Helper()
	for id, op := range operations(load(t, publicDocument)) {
		t.Run(id, func(t *testing.T) {
			for _, s := range samplesOf(t, op) {
				if s.Label == label {
					test(t, op, s.Source)
					return
				}
			}
			require.Fail(t, "no sample "+label)
		})
	}
}

func TestEveryOperationHasFiveSamples(t *testing.T) {
	for id, op := range operations(load(t, publicDocument)) {
		t.Run(id, func(t *testing.T) {
			kinds := [][2]string{}
			for _, s := range samplesOf(t, op) {
				kinds = append(kinds, [2]string{s.Label, s.Lang})
				require.NotEmpty(t, strings.TrimSpace(s.Source), s.Label)
			}
			require.Equal(t, [][2]string{
				{"curl", "Shell"}, {"Go", "Go"}, {"Python", "Python"}, {"TypeScript", "TypeScript"}, {"CLI", "Shell"},
			}, kinds)
		})
	}
}

func TestSamplesCallThePublishedNames(t *testing.T) {
	// calls is how each operation is called in Go, Python, TypeScript and on the command line. Programs are written against
	// these names: they may grow, and never change.
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
	for i, label := range []string{"Go", "Python", "TypeScript", "CLI"} {
		t.Run(label, func(t *testing.T) {
			eachSample(t, label, func(t *testing.T, op operation, source string) {
				require.Contains(t, want, op.OperationID)
				require.Contains(t, source, want[op.OperationID][i])
			})
		})
	}
	require.Len(t, operations(load(t, publicDocument)), len(want))
}

func TestGoSamplesAreFormatted(t *testing.T) {
	eachSample(t, "Go", func(t *testing.T, _ operation, source string) {
		formatted, err := format.Source([]byte(source))
		require.NoError(t, err)
		require.Equal(t, string(formatted), source)
	})
}

// Command lines are visible in process lists and in the shell's history.
func TestSamplesKeepSecretsOffCommandLines(t *testing.T) {
	t.Run("CLI", func(t *testing.T) {
		eachSample(t, "CLI", func(t *testing.T, _ operation, source string) {
			require.NotContains(t, source, "--secret")
		})
	})
	t.Run("curl", func(t *testing.T) {
		eachSample(t, "curl", func(t *testing.T, op operation, source string) {
			if op.Security == nil {
				require.Contains(t, source, `--oauth2-bearer "$AGENTROUTER_API_KEY"`)
			}
			require.NotContains(t, source, "Authorization")
			if op.RequestBody == nil {
				return
			}
			for _, p := range op.RequestBody.Value.Content.Get("application/json").Schema.Value.Properties {
				if p.Value.Extensions["x-secret"] == true {
					require.Contains(t, source, " -d @- <<EOF\n", "the body comes from standard input")
				}
			}
		})
	})
}

func TestCurlSamplesCallTheirOperation(t *testing.T) {
	curlURL := regexp.MustCompile(`"\$AGENTROUTER_BASE_URL(/[^"]*)"`)
	curlMethod := regexp.MustCompile(` -X (\S+)`)
	curlHeader := regexp.MustCompile(` -H "([^":]+): ([^"]*)"`)
	curlBody := regexp.MustCompile(`(?s) -d (?:'([^']*)'|@- <<EOF\n(.*)\nEOF\n)`)
	eachSample(t, "curl", func(t *testing.T, op operation, source string) {
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
	})
}
