package aikeys_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/aikeys/aikeystest"
	"github.com/agentrouter/aikeys/impl/providers"
	gensecret "github.com/agentrouter/aikeys/internal/secret"
	"github.com/agentrouter/aikeys/models/modelstest"
	"github.com/agentrouter/aikeys/sealer"
)

func TestRegisterKey(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		for name, body := range map[string]gen.RegisterRequest{"shared": s.Shared("shared"), "own": s.Own("own")} {
			t.Run(name, func(t *testing.T) {
				before := time.Now().Truncate(time.Microsecond)
				reply := post(t, s, owner, project+"/aikeys", body)
				require.Equal(t, http.StatusCreated, reply.Status)
				key := decode[gen.RegisterResponse](t, reply).Key
				require.Regexp(t, `^byok_[0-7][0-9A-HJKMNP-TV-Z]{25}$`, key.ID)
				require.WithinRange(t, key.CreatedAt, before, time.Now())
				suffix := body.Secret.Reveal()[len(body.Secret.Reveal())-4:]
				require.Equal(t, gen.Key{
					ID: key.ID, CustomerID: "acme", ProjectID: "web", Provider: "openai", Name: name, DisplaySuffix: suffix,
					UserScope: name == "own", CreatedAt: key.CreatedAt, CreatedBy: owner, State: "active",
				}, key)
				at := get(t, s, owner, reply.Header.Get("Location"))
				require.Equal(t, key, decode[gen.GetResponse](t, at).Key)
			})
		}
	})
}

// What is sealed is what was sent, under the binding that the data planes will open it with.
func TestSealingRegisteredSecret(t *testing.T) {
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		t.Parallel()
		db := newDatabase(t, e)
		s := aikeystest.Start(t, aikeystest.Options{Store: db.store})
		body := s.Shared("n")
		key := s.As(owner).Register(t, body)
		envelope := value[[]byte](t, db.open(t), "SELECT envelope FROM ai_keys WHERE id = $1", key.ID)
		binding := sealer.Binding{CustomerID: "acme", ProjectID: "web", KeyID: key.ID, Provider: "openai", Version: 1}
		opened, err := s.Sealer.Open(t.Context(), binding, envelope)
		require.NoError(t, err)
		require.Equal(t, body.Secret.Reveal(), string(opened.Reveal()))
		binding.Provider = "anthropic"
		_, err = s.Sealer.Open(t.Context(), binding, envelope)
		require.ErrorIs(t, err, sealer.ErrBinding)
	})
}

func TestRegisterKeyDisplaySuffix(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{})
	for secret, want := range map[string]string{
		"k": "", "abc": "", "abcd": "d", "abcdefg": "g", "abcdefgh": "gh", "abcdefghijk": "jk", "abcdefghijkl": "jkl",
		"abcdefghijklmnop": "mnop", "abcdefghijklmnopqrstuvwx": "uvwx",
		`{"resource":"my-resource","api_key":"0123456789abcdef0123456789abcdef"}`: "",
	} {
		t.Run(secret, func(t *testing.T) {
			key := s.As(owner).Register(t, s.Shared("n "+secret[:1]+want+string(rune('a'+len(secret)%26)), func(b *gen.RegisterRequest) {
				b.Provider, b.Secret = "mistral", gensecret.New(secret)
				if secret[0] == '{' {
					b.Provider = "azure_openai"
				}
			}))
			require.Equal(t, want, key.DisplaySuffix)
		})
	}
}

// Each refusal of the design, once: which secrets are refused is for the tests of impl/providers.
func TestRegisterKeyInvalidSecret(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{})
	secret := s.Secret()
	for name, tc := range map[string]struct{ provider, secret, says string }{
		"empty":                  {"openai", "", "empty"},
		"over 16 KiB":            {"openai", "sk-" + strings.Repeat(secret, 512), "16384"},
		"over 16 KiB of bytes":   {"azure_openai", `{"resource":"` + secret + `","x":"` + strings.Repeat("é", 16000) + `"}`, "16 KiB"},
		"leading space":          {"openai", " sk-" + secret, "white space"},
		"trailing line end":      {"openai", "sk-" + secret + "\n", "white space"},
		"a control character":    {"openai", "sk-" + secret + "\x01x", "visible ASCII"},
		"a line end within":      {"openai", "sk-" + secret + "\r\nx", "visible ASCII"},
		"a NUL":                  {"openai", "sk-" + secret + "\x00x", "visible ASCII"},
		"masked":                 {"openai", "sk-...abcd", "masked"},
		"masked with asterisks":  {"openai", "****", "masked"},
		"of another provider":    {"openai", "sk-ant-" + secret, "Anthropic"},
		"with its header's name": {"openai", "Bearer sk-" + secret, "Bearer"},
		"a credential cut short": {"vertex", `{"type":"service_account","project_id":"` + secret + `"}`, "private_key"},
		"a credential of Azure":  {"azure_openai", `{"api_key":"` + secret + `"}`, "resource"},
		"a credential of AWS":    {"bedrock", `{"access_key_id":"` + secret + `","region":"us-east-1"}`, "secret_access_key"},
		"no JSON":                {"vertex", secret, "JSON object"},
		"JSON for a plain key":   {"openai", `{"api_key":"` + secret + `"}`, "JSON"},
	} {
		t.Run(name, func(t *testing.T) {
			reply := post(t, s, owner, project+"/aikeys", s.Shared("n", func(b *gen.RegisterRequest) {
				b.Provider, b.Secret = tc.provider, gensecret.New(tc.secret)
			}))
			require.Equal(t, http.StatusBadRequest, reply.Status)
			p := reply.Problem(t)
			require.Len(t, p.Errors, 1)
			require.Equal(t, "secret", p.Errors[0].Field)
			require.Contains(t, p.Errors[0].Message, tc.says)
		})
	}
	require.Empty(t, list(t, s, owner))
}

func TestRegisterKeyExamples(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{})
	catalogue, err := providers.Load()
	require.NoError(t, err)
	for _, p := range catalogue.All() {
		t.Run(p.Slug, func(t *testing.T) {
			key := s.As(owner).Register(t, s.Shared("n", func(b *gen.RegisterRequest) { b.Provider, b.Secret = p.Slug, gensecret.New(p.Example) }))
			require.Equal(t, p.Slug, key.Provider)
		})
	}
}

func TestRegisterKeyUnknownProvider(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{})
	for _, slug := range []string{"OpenAI", "openai ", "gpt", s.Secret()} {
		reply := post(t, s, owner, project+"/aikeys", s.Shared("n", func(b *gen.RegisterRequest) { b.Provider = slug }))
		require.Equal(t, http.StatusBadRequest, reply.Status)
		require.Equal(t, []string{"provider"}, reply.Fields(t))
		require.Contains(t, reply.Problem(t).Errors[0].Message, "openai, anthropic, gemini")
	}
}

func TestRegisterKeyNameHoldsTheSecret(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{})
	secret := "sk-" + s.Secret()
	for what, name := range map[string]string{
		"the secret": secret, "the secret among other text": "key " + secret, "another secret": "sk-ant-api03-" + s.Secret(),
	} {
		t.Run(what, func(t *testing.T) {
			reply := post(t, s, owner, project+"/aikeys", s.Shared(name, func(b *gen.RegisterRequest) { b.Secret = gensecret.New(secret) }))
			require.Equal(t, http.StatusBadRequest, reply.Status)
			require.Equal(t, []string{"name"}, reply.Fields(t))
		})
	}
	require.Empty(t, list(t, s, owner))
	s.As(owner).Register(t, s.Shared("gsk_prod-key"))
}

// Names are printed for people, in terminals too.
func TestRegisterKeyUnprintableName(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{})
	for what, name := range map[string]string{
		"a space of Unicode before": "\u2003prod", "one after": "prod\u00a0", "a next line": "prod\u0085", "a C1 control": "a\u009b31mb",
		"a line separator": "a\u2028b", "a paragraph separator": "a\u2029b", "letters turned around": "a\u202eb", "an isolate": "a\u2066b",
	} {
		t.Run("refused: "+what, func(t *testing.T) {
			reply := post(t, s, owner, project+"/aikeys", s.Shared(name))
			require.Equal(t, http.StatusBadRequest, reply.Status)
			require.Equal(t, []string{"name"}, reply.Fields(t))
		})
	}
	require.Empty(t, list(t, s, owner))
	for _, name := range []string{"a", "a b", "über-prod", "鍵", "👩\u200d💻", "a\u00a0b", `"'<>&\`, strings.Repeat("é", 128)} {
		t.Run("taken: "+name, func(t *testing.T) {
			require.Equal(t, name, s.As(owner).Register(t, s.Shared(name)).Name)
		})
	}
}

func TestRegisterKeyUniqueNames(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		taken := func(reply aikeystest.Reply) {
			t.Helper()
			require.Equal(t, http.StatusConflict, reply.Status)
			require.Equal(t, "already_exists", reply.Problem(t).Code)
			require.Equal(t, []string{"name"}, reply.Fields(t))
		}
		first := s.As(owner).Register(t, s.Shared("prod"))
		taken(post(t, s, owner, project+"/aikeys", s.Shared("prod")))
		s.As(owner).Register(t, s.Shared("Prod"))
		s.As(owner).Register(t, s.Shared("prod", func(b *gen.RegisterRequest) { b.Provider = "deepseek" }))
		s.As(owner).Register(t, s.Own("prod"))
		s.As(member).Register(t, s.Own("prod"))
		taken(post(t, s, member, project+"/aikeys", s.Own("prod")))
		s.Session("acme", "ops", sam).Register(t, s.Shared("prod"))
		s.As(owner).RevokeKey(t, first.ID)
		again := s.As(owner).Register(t, s.Shared("prod"))
		require.NotEqual(t, first.ID, again.ID)
		taken(post(t, s, owner, project+"/aikeys", s.Shared("prod")))
	})
}

func TestRegisterKeyConcurrent(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		owners := s.As(owner)
		statuses := together(50, func(int) int {
			reply, err := owners.RegisterKeyWithResponse(t.Context(), self, self, nil, s.Shared("prod"))
			if err != nil {
				return 0
			}
			return reply.StatusCode()
		})
		slices.Sort(statuses)
		require.Equal(t, append([]int{http.StatusCreated}, slices.Repeat([]int{http.StatusConflict}, 49)...), statuses)
		require.Len(t, list(t, s, owner), 1)
		require.Len(t, events(t, s, owner), 1)
	})
}
