package aikeys_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/aikeys"
	"github.com/agentrouter/aikeys/impl/aikeys/aikeystest"
	"github.com/agentrouter/aikeys/impl/feed/feedtest"
	"github.com/agentrouter/aikeys/impl/providers"
	"github.com/agentrouter/aikeys/impl/secrets/secretstest"
	"github.com/agentrouter/aikeys/impl/verification"
	gensecret "github.com/agentrouter/aikeys/internal/secret"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/sealertest"
)

func TestListKeys(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		require.JSONEq(t, `{"keys":[]}`, string(get(t, s, owner, project+"/aikeys").Body), "an empty list is no null")
		var want []string
		for i := range 3 {
			n := strconv.Itoa(i)
			want = append(want, s.As(owner).Register(t, s.Shared("shared "+n)).ID, s.As(member).Register(t, s.Own("own "+n)).ID)
			s.As(other).Register(t, s.Own("theirs "+n))
			s.As(owner).Register(t, s.Own("the owner's "+n))
			s.Session("acme", "ops", sam).Register(t, s.Shared("elsewhere "+n))
		}
		groq := s.As(owner).Register(t, s.Shared("groq", func(b *gen.RegisterRequest) {
			b.Provider, b.Secret = "groq", gensecret.New("gsk_0123456789abcdef0123456789")
		}))
		want = append(want, groq.ID)
		s.As(owner).RevokeKey(t, want[0])
		s.As(member).RevokeKey(t, want[1])
		slices.Reverse(want)
		require.Equal(t, want, ids(list(t, s, member)))
		requirePaged(t, s, member, project+"/aikeys?", want, 1000)

		revoked, active := want[len(want)-2:], want[:len(want)-2]
		t.Run("active ones", func(t *testing.T) { requirePaged(t, s, member, project+"/aikeys?state=active&", active, 1000) })
		t.Run("revoked ones", func(t *testing.T) { requirePaged(t, s, member, project+"/aikeys?state=revoked&", revoked, 1000) })
		t.Run("of a provider", func(t *testing.T) {
			require.Equal(t, [][]string{{groq.ID}}, pages(t, s, member, project+"/aikeys?provider=groq&", 5))
			require.Equal(t, [][]string{{}}, pages(t, s, member, project+"/aikeys?provider=xai&", 5))
			requirePaged(t, s, member, project+"/aikeys?provider=openai&", want[1:], 1000)
			require.Equal(t, [][]string{{}}, pages(t, s, member, project+"/aikeys?provider=groq&state=revoked&", 5))
		})
	})
}

// Register, get, list and resolve say at once why a key can't serve.
func TestKeysSayWhyTheyCannotServe(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		says := func(key gen.Key, reason string) {
			listed := map[string]gen.Key{}
			for _, k := range list(t, s, member) {
				listed[k.ID] = k
			}
			for _, k := range []gen.Key{read(t, s, member, key.ID), listed[key.ID]} {
				require.Equal(t, []any{key.ID, reason == ""}, []any{k.ID, *k.Serves})
				require.Equal(t, reason == "", k.NotServingReason == nil)
				if reason != "" {
					require.Equal(t, reason, *k.NotServingReason)
				}
			}
		}
		shared, own := s.As(owner).Register(t, s.Shared("shared")), s.As(member).Register(t, s.Own("own"))
		require.True(t, *shared.Serves && *own.Serves)
		says(shared, "")
		says(own, "")
		require.True(t, *resolve(t, s, member, "openai").Serves)
		require.False(t, *resolve(t, s, member, "groq").Serves)

		setPolicy(t, s, map[string]any{"user_keys": "require", "user_keys_by_provider": map[string]any{"openai": "forbid"}})
		says(shared, "")
		says(own, "user_keys_forbidden")
		require.Equal(t, "user_keys_forbidden", *s.As(member).Register(t, s.Own("another")).NotServingReason, "at register")
		require.True(t, *resolve(t, s, member, "openai").Serves)
		groq := s.As(owner).Register(t, s.Shared("groq", func(b *gen.RegisterRequest) {
			b.Provider, b.Secret = "groq", gensecret.New("gsk_0123456789abcdef0123456789")
		}))
		require.Equal(t, "user_key_required", *groq.NotServingReason, "at register")
		says(groq, "user_key_required")
		s.As(owner).RevokeKey(t, shared.ID)
		says(shared, "revoked")
		setPolicy(t, s, map[string]any{})
		says(own, "")
	})
}

func TestListKeysPageToken(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		var mine []string
		for i := range 3 {
			mine = append([]string{s.As(owner).Register(t, s.Shared(strconv.Itoa(i))).ID}, mine...)
			s.As(other).Register(t, s.Own(strconv.Itoa(i)))
		}
		list := decode[gen.ListResponse](t, get(t, s, other, project+"/aikeys?page_size=1"))
		token := *list.NextPageToken // it names another member's own key
		t.Run("it shows another user no more than their list does", func(t *testing.T) {
			got := decode[gen.ListResponse](t, get(t, s, owner, project+"/aikeys?page_token="+token))
			require.Equal(t, mine, ids(got.Keys))
			require.Nil(t, got.NextPageToken)
			foreign, err := s.Session("globex", "web", owner).ListKeysWithResponse(t.Context(), self, self, &gen.ListKeysParams{PageToken: &token})
			require.NoError(t, err)
			require.Empty(t, foreign.JSON200.Keys)
		})
		t.Run("changes behind it move nothing", func(t *testing.T) {
			first := decode[gen.ListResponse](t, get(t, s, owner, project+"/aikeys?page_size=1"))
			require.Equal(t, mine[:1], ids(first.Keys))
			s.As(owner).Register(t, s.Shared("newer"))
			s.As(owner).RevokeKey(t, mine[0])
			rest := decode[gen.ListResponse](t, get(t, s, owner, project+"/aikeys?page_token="+*first.NextPageToken))
			require.Equal(t, mine[1:], ids(rest.Keys))
		})
	})
}

func TestRevokeKeyTwice(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		key := s.As(owner).Register(t, s.Shared("n"))
		before := time.Now().Truncate(time.Microsecond)
		first := s.As(owner).RevokeKey(t, key.ID)
		require.WithinRange(t, first.RevokedAt, before, time.Now())
		require.Equal(t, gen.Receipt{State: "complete", RevokedAt: first.RevokedAt, RevokedBy: owner}, first)
		s.SetMember("acme", "web", member, "owner")
		time.Sleep(time.Millisecond)
		require.Equal(t, first, s.As(owner).RevokeKey(t, key.ID))
		require.Equal(t, first, s.As(member).RevokeKey(t, key.ID), "for every caller")

		got := read(t, s, owner, key.ID)
		by := owner
		key.State, key.RevokedAt, key.RevokedBy = "revoked", &first.RevokedAt, &by
		key.Serves, key.NotServingReason, key.Etag = new(false), new("revoked"), new(`"2"`)
		require.Equal(t, []gen.Key{key}, list(t, s, owner), "lists come without receipts")
		key.Receipt = &first
		require.Equal(t, key, got)
		require.Len(t, events(t, s, owner), 2, "one register, one revoke")
	})
}

func TestRevokeKeyConcurrent(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		key, owners := s.As(owner).Register(t, s.Shared("n")), s.As(owner)
		got := together(40, func(int) gen.Receipt {
			reply, err := owners.RevokeKeyWithResponse(t.Context(), self, self, key.ID, nil)
			if err != nil || reply.JSON200 == nil {
				return gen.Receipt{}
			}
			return reply.JSON200.Receipt
		})
		stands := read(t, s, owner, key.ID)
		want := gen.Receipt{State: "complete", RevokedAt: *stands.RevokedAt, RevokedBy: owner}
		require.Equal(t, slices.Repeat([]gen.Receipt{want}, 40), got)
		require.Len(t, events(t, s, owner), 2)
	})
}

func TestRevokeKeyWait(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{})
	key := s.As(owner).Register(t, s.Shared("n"))
	for _, bad := range []string{"", "2", "s", "2m", "1h", "-1s", "1.5s", "31s", "99s", "30001ms", "99999ms", "100s", "2S", "2%20s", "2s2s", "1e1s", s.Secret()} {
		t.Run("bad: "+bad, func(t *testing.T) {
			reply := del(t, s, owner, project+"/aikeys/"+key.ID+"?wait="+bad)
			require.Equal(t, http.StatusBadRequest, reply.Status)
			require.Equal(t, []string{"wait"}, reply.Fields(t))
			require.Equal(t, "active", list(t, s, owner)[0].State, "and nothing is revoked")
		})
	}
	for _, good := range []string{"0s", "0ms", "1ms", "500ms", "2s", "02s", "30s", "30000ms"} {
		t.Run("good: "+good, func(t *testing.T) {
			started := time.Now()
			reply := del(t, s, owner, project+"/aikeys/"+key.ID+"?wait="+good)
			require.Equal(t, http.StatusOK, reply.Status)
			require.Less(t, time.Since(started), 10*time.Second, "a receipt that is complete is not waited for")
		})
	}
}

func TestNotFound(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		elsewhere := s.Session("acme", "ops", sam).Register(t, s.Shared("n"))
		s.SetMember("acme", "ops", owner, "owner")
		for _, id := range []string{exampleKey, exampleKey[5:], elsewhere.ID} {
			require.Equal(t, http.StatusNotFound, get(t, s, owner, project+"/aikeys/"+id).Status)
			require.Equal(t, http.StatusNotFound, del(t, s, owner, project+"/aikeys/"+id).Status)
		}
		require.Equal(t, http.StatusOK, get(t, s, owner, "/v1/customers/acme/projects/ops/aikeys/"+elsewhere.ID).Status)
		require.Empty(t, events(t, s, owner))
	})
}

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
					UserScope: name == "own", CreatedAt: key.CreatedAt, CreatedBy: owner, State: "active", Serves: new(true),
					Order: new(0), Disabled: new(false), Etag: new(`"1"`), Version: new(1),
				}, key)
				require.Equal(t, `"1"`, reply.Header.Get("ETag"))
				at := get(t, s, owner, reply.Header.Get("Location"))
				require.Equal(t, key, decode[gen.GetResponse](t, at).Key)
			})
		}
	})
}

// The service seals exactly the secret that was sent, under the binding with which data planes open it.
func TestSealingRegisteredSecret(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		body := s.Shared("n")
		key := s.As(owner).Register(t, body)
		row, err := s.Store.SealedVersion(t.Context(), key.ID, 0)
		require.NoError(t, err)
		binding := sealer.Binding{CustomerID: "acme", ProjectID: "web", KeyID: key.ID, Provider: "openai", Version: 1}
		opened, err := s.Sealer.Open(t.Context(), binding, row.Envelope)
		require.NoError(t, err)
		require.Equal(t, body.Secret.Reveal(), string(opened.Reveal()))
		binding.Provider = "anthropic"
		_, err = s.Sealer.Open(t.Context(), binding, row.Envelope)
		require.ErrorIs(t, err, sealer.ErrBinding)
	})
}

func TestRegisterKeyDisplaySuffix(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{})
	for secret, want := range map[string]string{
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

// Each refusal of the design, once. The tests of impl/providers cover which secrets are refused.
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

// Names are shown to people, also in terminals.
func TestInvisibleCharactersInNamesAreRefused(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{})
	for what, name := range map[string]string{
		"a space of Unicode before": "\u2003prod", "one after": "prod\u00a0", "a next line": "prod\u0085", "a C1 control": "a\u009b31mb",
		"a line separator": "a\u2028b", "a paragraph separator": "a\u2029b", "letters turned around": "a\u202eb", "an isolate": "a\u2066b",
		"a zero-width space": "pro\u200bd", "a word joiner": "pro\u2060d", "a tag": "pro\U000E0064d", "a soft hyphen": "pro\u00add", "a joiner": "👩\u200d💻",
		"a Hangul filler": "pro\u3164d", "a grapheme joiner": "pro\u034fd", "a variation selector": "pro\ufe0fd",
	} {
		t.Run("refused: "+what, func(t *testing.T) {
			reply := post(t, s, owner, project+"/aikeys", s.Shared(name))
			require.Equal(t, http.StatusBadRequest, reply.Status)
			require.Equal(t, []string{"name"}, reply.Fields(t))
		})
	}
	require.Empty(t, list(t, s, owner))
	for _, name := range []string{"a", "a b", "über-prod", "鍵", "🔑", "a\u00a0b", `"'<>&\`, strings.Repeat("é", 128)} {
		t.Run("taken: "+name, func(t *testing.T) {
			require.Equal(t, name, s.As(owner).Register(t, s.Shared(name)).Name)
		})
	}
}

func TestNamesAreComparedInNFC(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		require.Equal(t, "Schl\u00fcssel", s.As(owner).Register(t, s.Shared("Schlu\u0308ssel")).Name)
		require.Equal(t, http.StatusConflict, post(t, s, owner, project+"/aikeys", s.Shared("Schl\u00fcssel")).Status)
	})
}

func TestRegisterKeyUniqueNames(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		taken := func(reply aikeystest.Reply) {
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
		statuses := together(25, func(int) int {
			reply, err := owners.RegisterKeyWithResponse(t.Context(), self, self, nil, s.Shared("prod"))
			if err != nil {
				return 0
			}
			return reply.StatusCode()
		})
		slices.Sort(statuses)
		require.Equal(t, append([]int{http.StatusCreated}, slices.Repeat([]int{http.StatusConflict}, 24)...), statuses)
		require.Len(t, list(t, s, owner), 1)
		require.Len(t, events(t, s, owner), 1)
	})
}

func TestIdempotencyKey(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		token := s.As(owner).Token
		key := s.Secret() // it is stored as a hash, so it may be a secret
		body := s.Shared("prod")
		first := retry(t, s, token, key, body)
		require.Equal(t, http.StatusCreated, first.Status)
		t.Run("the same request", func(t *testing.T) {
			for range 3 {
				again := retry(t, s, token, key, body)
				require.Equal(t, http.StatusCreated, again.Status)
				require.JSONEq(t, string(first.Body), string(again.Body))
				require.Equal(t, first.Header.Get("Location"), again.Header.Get("Location"))
			}
		})
		for name, change := range map[string]func(*gen.RegisterRequest){
			"another name":     func(b *gen.RegisterRequest) { b.Name = "other" },
			"another secret":   func(b *gen.RegisterRequest) { b.Secret = gensecret.New("sk-" + s.Secret()) },
			"another provider": func(b *gen.RegisterRequest) { b.Provider = "deepseek" },
			"another scope":    func(b *gen.RegisterRequest) { own := true; b.UserScope = &own },
		} {
			t.Run(name, func(t *testing.T) {
				changed := body
				change(&changed)
				reply := retry(t, s, token, key, changed)
				require.Equal(t, http.StatusUnprocessableEntity, reply.Status)
				require.Equal(t, "failed_precondition", reply.Problem(t).Code)
			})
		}
		t.Run("written in another way it is the same request", func(t *testing.T) {
			shared := false
			same := body
			same.UserScope = &shared
			require.Equal(t, http.StatusCreated, retry(t, s, token, key, same).Status)
		})
		t.Run("once the key is revoked it is still that key", func(t *testing.T) {
			id := decode[gen.RegisterResponse](t, first).Key.ID
			s.As(owner).RevokeKey(t, id)
			again := decode[gen.RegisterResponse](t, retry(t, s, token, key, body)).Key
			require.Equal(t, []string{id, "revoked"}, []string{again.ID, again.State})
		})
		t.Run("it is one user's", func(t *testing.T) {
			mine := s.Own("prod", func(b *gen.RegisterRequest) { b.Secret = body.Secret })
			require.Equal(t, http.StatusCreated, retry(t, s, s.As(member).Token, key, mine).Status)
		})
		t.Run("it is one project's", func(t *testing.T) {
			reply := retry(t, s, s.Session("acme", "ops", sam).Token, key, body)
			require.Equal(t, http.StatusCreated, reply.Status)
			require.Equal(t, "ops", decode[gen.RegisterResponse](t, reply).Key.ProjectID)
			reply = retry(t, s, s.Session("globex", "web", owner).Token, key, body)
			require.Equal(t, http.StatusCreated, reply.Status)
			require.Equal(t, "globex", decode[gen.RegisterResponse](t, reply).Key.CustomerID)
		})
		require.Len(t, list(t, s, owner), 1)
		require.Len(t, events(t, s, owner), 2, "one register, one revoke")
	})
}

func TestIdempotencyKeyAccess(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		token, body := s.As(owner).Token, s.Shared("prod")
		require.Equal(t, http.StatusCreated, retry(t, s, token, "k", body).Status)
		s.SetMember("acme", "web", member, "owner")
		s.SetMember("acme", "web", owner, "member")
		require.Equal(t, http.StatusForbidden, retry(t, s, token, "k", body).Status)
		require.Equal(t, http.StatusOK, del(t, s, member, project+"/members/"+owner).Status)
		require.Equal(t, http.StatusForbidden, retry(t, s, token, "k", body).Status)
	})
}

// A refused attempt does not use up its Idempotency-Key.
func TestIdempotencyKeyAfterARefusal(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		first := s.As(owner).Register(t, s.Shared("prod"))
		token := s.As(owner).Token
		require.Equal(t, http.StatusConflict, retry(t, s, token, "k", s.Shared("prod")).Status)
		require.Equal(t, http.StatusBadRequest, retry(t, s, token, "k", s.Shared("")).Status)
		require.Equal(t, http.StatusForbidden, retry(t, s, s.As(member).Token, "k", s.Shared("m")).Status)
		s.As(owner).RevokeKey(t, first.ID)
		require.Equal(t, http.StatusCreated, retry(t, s, token, "k", s.Shared("prod")).Status)
		require.Equal(t, http.StatusCreated, retry(t, s, s.As(member).Token, "k", s.Own("m")).Status)
	})
}

func TestIdempotencyKeyConcurrent(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		owners, body, key := s.As(owner), s.Shared("prod"), "one"
		got := together(25, func(int) string {
			reply, err := owners.RegisterKeyWithResponse(t.Context(), self, self, &gen.RegisterKeyParams{IdempotencyKey: &key}, body)
			if err != nil || reply.JSON201 == nil {
				return "no key"
			}
			return reply.JSON201.Key.ID
		})
		keys := list(t, s, owner)
		require.Len(t, keys, 1)
		require.Equal(t, slices.Repeat([]string{keys[0].ID}, 25), got)
		require.Len(t, events(t, s, owner), 1)
	})
}

func TestSealingRetryAfterAFault(t *testing.T) {
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		t.Parallel()
		backend := secretstest.Backend(t)
		var failing atomic.Bool
		s := aikeystest.Start(t, aikeystest.Options{Store: modelstest.NewStore(t, e), Sealer: sealertest.Fake{Sealer: backend, SealFunc: func(ctx context.Context, b sealer.Binding, secret sealer.Secret) (sealer.Envelope, error) {
			if failing.Swap(false) {
				return sealer.Envelope{}, errors.New("fault of the test")
			}
			return backend.Seal(ctx, b, secret)
		}}})
		body, token := s.Shared("prod"), s.As(owner).Token
		s.As(owner).Register(t, s.Shared("first")) // the canary is sealed as well
		failing.Store(true)
		reply := retry(t, s, token, "k", body)
		require.Equal(t, http.StatusInternalServerError, reply.Status)
		require.NotContains(t, string(reply.Body), "fault of the test")
		require.Len(t, list(t, s, owner), 1)
		require.Equal(t, http.StatusCreated, retry(t, s, token, "k", body).Status)
		require.Len(t, list(t, s, owner), 2)
	})
}

// If the keyset is replaced by a wrong one while the service runs, the service must not seal with it. Keys sealed under
// the wrong keyset would be lost once the right keyset is back.
func TestSealingAfterTheKeysetWasReplaced(t *testing.T) {
	right, wrong := secretstest.Backend(t), secretstest.Backend(t)
	backend := &struct{ sealer.Sealer }{right}
	s := aikeystest.Start(t, aikeystest.Options{Sealer: backend})
	register := func(name string) int { return post(t, s, owner, project+"/aikeys", s.Shared(name)).Status }
	require.Equal(t, http.StatusCreated, register("before"))
	backend.Sealer = wrong
	require.Equal(t, http.StatusServiceUnavailable, register("meanwhile"))
	backend.Sealer = right
	require.Equal(t, http.StatusCreated, register("after"))
	require.Len(t, list(t, s, owner), 2)
}

// A key whose envelope is damaged is listed, read, resolved and revoked like any other, since these operations do not
// need its secret.
func TestUnreadableKey(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		created := []string{s.As(owner).Register(t, s.Shared("damaged")).ID, s.As(owner).Register(t, s.Shared("sound")).ID}
		row, err := s.Store.SealedVersion(t.Context(), created[0], 0)
		require.NoError(t, err)
		stored, err := s.Store.Rewrap(t.Context(), []models.Rewrapping{
			{KeyID: row.ID, Version: row.Version, Old: row.Envelope, New: []byte("damaged"), KEKID: "local:00000000"}})
		require.NoError(t, err)
		require.Len(t, stored, 1)

		require.ElementsMatch(t, created, ids(list(t, s, owner)))
		require.Equal(t, http.StatusOK, get(t, s, owner, project+"/aikeys/"+created[0]).Status)
		require.Equal(t, http.StatusOK, get(t, s, owner, project+"/resolve?provider=openai").Status)
		require.Equal(t, http.StatusOK, del(t, s, owner, project+"/aikeys/"+created[0]).Status)
		require.ElementsMatch(t, created, ids(list(t, s, owner)))
	})
}

// TestAccessTable tests the access table of the design, cell by cell: who may do what to which key.
func TestAccessTable(t *testing.T) {
	const ok, created, forbidden, absent = http.StatusOK, http.StatusCreated, http.StatusForbidden, http.StatusNotFound
	type cells struct{ stranger, member, owner int }
	listed := func(t *testing.T, s *aikeystest.Service, user, id string) bool {
		reply := get(t, s, user, project+"/aikeys")
		return reply.Status == http.StatusOK && slices.Contains(ids(decode[gen.ListResponse](t, reply).Keys), id)
	}
	// own registers a user's own key. A stranger registers theirs while they are still a member.
	own := func(t *testing.T, s *aikeystest.Service, user, name string) gen.Key {
		if user == sam {
			s.SetMember(aikeystest.Customer, aikeystest.Project, sam, "member")
			defer func() { require.Equal(t, http.StatusOK, del(t, s, owner, project+"/members/"+sam).Status) }()
			return s.NewSession(aikeystest.Customer, aikeystest.Project, sam, time.Time{}).Register(t, s.Own(name)) // earlier API keys stay suspended
		}
		return s.As(user).Register(t, s.Own(name))
	}
	// revoke revokes a key as user, and asserts that reader sees it as revoked if and only if the status is 200.
	revoke := func(t *testing.T, s *aikeystest.Service, user, id, reader string) int {
		status := del(t, s, user, project+"/aikeys/"+id).Status
		key := read(t, s, reader, id)
		require.Equal(t, status == http.StatusOK, key.State == "revoked")
		return status
	}
	table := []struct {
		name string
		do   func(t *testing.T, s *aikeystest.Service, user string) int
		want cells
	}{
		{"read a project-level key", func(t *testing.T, s *aikeystest.Service, user string) int {
			key := s.As(owner).Register(t, s.Shared("shared for "+user))
			require.Equal(t, user != sam, listed(t, s, user, key.ID))
			return get(t, s, user, project+"/aikeys/"+key.ID).Status
		}, cells{forbidden, ok, ok}},
		{"read an own key", func(t *testing.T, s *aikeystest.Service, user string) int {
			key := own(t, s, user, "read "+user)
			require.Equal(t, user != sam, listed(t, s, user, key.ID))
			return get(t, s, user, project+"/aikeys/"+key.ID).Status
		}, cells{forbidden, ok, ok}},
		{"read another's own key", func(t *testing.T, s *aikeystest.Service, user string) int {
			key := own(t, s, other, "theirs "+user)
			require.False(t, listed(t, s, user, key.ID))
			return get(t, s, user, project+"/aikeys/"+key.ID).Status
		}, cells{forbidden, absent, absent}},
		{"register a project-level key", func(t *testing.T, s *aikeystest.Service, user string) int {
			return post(t, s, user, project+"/aikeys", s.Shared("by "+user)).Status
		}, cells{forbidden, forbidden, created}},
		{"revoke a project-level key", func(t *testing.T, s *aikeystest.Service, user string) int {
			key := s.As(owner).Register(t, s.Shared("revoked by "+user))
			return revoke(t, s, user, key.ID, owner)
		}, cells{forbidden, forbidden, ok}},
		{"test a project-level key", func(t *testing.T, s *aikeystest.Service, user string) int {
			key := s.As(owner).Register(t, s.Shared("tested by "+user))
			return verify(t, s, user, key.ID).Status
		}, cells{forbidden, forbidden, ok}},
		{"test an own key", func(t *testing.T, s *aikeystest.Service, user string) int {
			return verify(t, s, user, own(t, s, user, "test "+user).ID).Status
		}, cells{forbidden, ok, ok}},
		{"test another's own key", func(t *testing.T, s *aikeystest.Service, user string) int {
			key := own(t, s, other, "untested "+user)
			defer func() {
				require.Nil(t, read(t, s, other, key.ID).Verification)
			}()
			return verify(t, s, user, key.ID).Status
		}, cells{forbidden, absent, absent}},
		{"register an own key", func(t *testing.T, s *aikeystest.Service, user string) int {
			return post(t, s, user, project+"/aikeys", s.Own("own by "+user)).Status
		}, cells{forbidden, created, created}},
		{"revoke an own key", func(t *testing.T, s *aikeystest.Service, user string) int {
			key := own(t, s, user, "revoke "+user)
			return del(t, s, user, project+"/aikeys/"+key.ID).Status
		}, cells{forbidden, ok, ok}},
		{"revoke another's own key", func(t *testing.T, s *aikeystest.Service, user string) int {
			key := own(t, s, other, "kept "+user)
			return revoke(t, s, user, key.ID, other)
		}, cells{forbidden, absent, absent}},
	}
	each(t, func(t *testing.T, s *aikeystest.Service) {
		for _, row := range table {
			for user, want := range map[string]int{sam: row.want.stranger, member: row.want.member, owner: row.want.owner} {
				t.Run(row.name+" as "+user, func(t *testing.T) { require.Equal(t, want, row.do(t, s, user)) })
			}
		}
	}, testedAt(func(http.ResponseWriter, *http.Request) {}))
}

func TestBadIdempotencyKey(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{})
	secret := s.Secret()
	for name, values := range map[string][]string{
		"twice":              {secret, secret},
		"empty":              {""},
		"too long":           {strings.Repeat("k", 256)},
		"a space within":     {secret + " " + secret},
		"other than ASCII":   {secret + "é"},
		"two in one, spaced": {secret + ", " + secret},
	} {
		t.Run(name, func(t *testing.T) {
			reply := s.Send(t, register(t, s, name, header("Idempotency-Key", values...)))
			require.Equal(t, http.StatusBadRequest, reply.Status)
			require.Equal(t, []string{"Idempotency-Key"}, reply.Fields(t))
		})
	}
	require.Empty(t, list(t, s, owner))
	for name, value := range map[string]string{
		"the longest": strings.Repeat("k", 255), "a UUID": "7b0f2c1e-6f0b-4f4e-9a57-0f5f3c1d2e3a", "signs": `!"#$%&'()*+,-./:;<=>?@[\]^_{|}~`, "an escape": "%41",
	} {
		t.Run("taken: "+name, func(t *testing.T) {
			require.Equal(t, http.StatusCreated, s.Send(t, register(t, s, name, header("Idempotency-Key", value))).Status)
		})
	}
}

// The client disconnects between the decision on a revoke and its record.
func TestDeniedRevokeIsRecordedOfALeavingMember(t *testing.T) {
	var mu sync.Mutex
	leaving := map[string]context.CancelFunc{} // by the test's name
	each(t, func(t *testing.T, s *aikeystest.Service) {
		key := s.As(owner).Register(t, s.Shared("n"))
		ctx, leave := context.WithCancel(t.Context())
		defer leave()
		req := request(ctx, t, s, member, http.MethodDelete, project+"/aikeys/"+key.ID, []byte{})
		mu.Lock()
		leaving[t.Name()] = leave
		mu.Unlock()
		reply, _ := s.Serve(req)
		require.Error(t, ctx.Err(), "left")
		require.Equal(t, http.StatusForbidden, reply.Status)
		mu.Lock()
		delete(leaving, t.Name())
		mu.Unlock()
		require.Equal(t, 1, denied(t, s))
		require.Len(t, list(t, s, owner), 1)
		require.NotContains(t, s.Evidence.Log(), `"level":"ERROR"`)
	}, func(t *testing.T, o *aikeystest.Options) {
		o.Now = func() time.Time {
			mu.Lock()
			defer mu.Unlock()
			if leave := leaving[t.Name()]; leave != nil {
				leave()
			}
			return time.Now()
		}
	})
}

func TestAListHasAtMost1000Items(t *testing.T) {
	const most = 1000
	each(t, func(t *testing.T, s *aikeystest.Service) {
		sample := s.As(member).Register(t, s.Own("n"))
		var ids models.IDs
		for range most / 50 { // so that no request waits for long
			for _, err := range together(50, func(int) error {
				now := time.Now()
				k := models.Key{ID: ids.Next(models.KeyIDPrefix, now), CustomerID: "acme", ProjectID: "web", UserID: member, Provider: "openai", Version: 1,
					Envelope: []byte("x"), CreatedAt: now.UnixMicro(), CreatedBy: member}
				k.Name = k.ID
				_, err := s.Store.RegisterKey(t.Context(), models.Caller{CustomerID: "acme", ProjectID: "web", UserID: member}, models.RoleMember,
					models.Registration{Key: k, Event: models.Event{ID: ids.Next(models.EventIDPrefix, now), CustomerID: "acme", ProjectID: "web"}}, 0)
				return err
			}) {
				require.NoError(t, err)
			}
		}
		for first := 0; first < most; first += 50 { // so that no transaction takes seconds
			require.NoError(t, s.Store.Transact(t.Context(), func(tx *models.Tx) error {
				for i := first; i < first+50; i++ {
					if _, err := tx.SetMember("acme", "web", fmt.Sprintf("many%04d", i), models.RoleMember); err != nil {
						return err
					}
				}
				return nil
			}))
		}
		for path, rest := range map[string]string{"/aikeys?provider=openai&": sample.ID, "/members?": ""} {
			all := pages(t, s, member, project+path, 0)
			require.Len(t, all, 2)
			require.Len(t, all[0], most)
			if rest != "" {
				require.Equal(t, []string{rest}, all[1])
			}
		}
	})
}

func TestQuotasOfActiveKeys(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		requireFull := func(reply aikeystest.Reply) {
			require.Equal(t, http.StatusConflict, reply.Status)
			require.Equal(t, "/problems/quota-exceeded", reply.Problem(t).Type)
		}
		s.As(owner).Register(t, s.Shared("one"))
		second, token := s.Shared("two"), s.As(owner).Token
		require.Equal(t, http.StatusCreated, retry(t, s, token, "k", second).Status)
		before := len(events(t, s, owner))
		requireFull(post(t, s, owner, project+"/aikeys", s.Shared("three")))
		requireFull(retry(t, s, token, "other", s.Shared("three")))
		require.Len(t, events(t, s, owner), before)
		require.Equal(t, http.StatusCreated, retry(t, s, token, "k", second).Status, "a retry gets the key that it made")

		own := s.As(member).Register(t, s.Own("mine"))
		requireFull(post(t, s, member, project+"/aikeys", s.Own("mine too")))
		s.As(owner).Register(t, s.Own("the owner's"))
		s.As(member).RevokeKey(t, own.ID)
		s.As(member).Register(t, s.Own("mine too"))
	}, func(_ *testing.T, o *aikeystest.Options) { o.Quotas = aikeys.Quotas{Project: 2, User: 1} })
}

func TestAUserHas20WaitsAtMost(t *testing.T) {
	t.Parallel()
	const most = 20
	s := aikeystest.Start(t, aikeystest.Options{})
	plane := feedtest.StoreDataPlane(t, s.Store, models.DataPlane{ID: "dp", Name: "dp", Hash: []byte("h")})
	require.NoError(t, s.Store.OpenStream(t.Context(), models.Stream{ID: "st", DataPlaneID: plane.ID, ReplicaID: "gone"}, ""))
	last := s.As(owner).Register(t, s.Shared("last"))
	ctx, leave := context.WithCancel(t.Context())
	var waiting sync.WaitGroup
	defer waiting.Wait()
	defer leave()
	answers := make(chan error, 2*most)
	for i := range 2 * most {
		key := s.As(owner).Register(t, s.Shared(strconv.Itoa(i)))
		waiting.Go(func() {
			req := request(ctx, t, s, owner, http.MethodDelete, project+"/aikeys/"+key.ID+"?wait=30s", nil)
			req.Body, req.ContentLength = http.NoBody, 0
			reply, err := s.HTTPClient().Do(req)
			if err == nil {
				err = reply.Body.Close()
			}
			answers <- err
		})
	}
	for range most {
		require.NoError(t, <-answers, "those over the limit are answered at once")
	}
	reply := del(t, s, owner, project+"/aikeys/"+last.ID+"?wait=30s")
	require.Equal(t, "pending", decode[gen.RevokeResponse](t, reply).Receipt.State)
	require.Empty(t, answers, "all others still wait")
}

func TestSealingUnavailable(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		backend, ok := s.Sealer.(*sealertest.Unavailable)
		require.True(t, ok)
		body, token := s.Shared("n"), s.As(owner).Token
		requireUnavailable(t, post(t, s, owner, project+"/aikeys", body))
		requireUnavailable(t, retry(t, s, token, "k", body))
		require.Empty(t, list(t, s, owner))
		require.Empty(t, events(t, s, owner))
		setPolicy(t, s, map[string]any{})

		backend.SetAvailable(true)
		require.Equal(t, http.StatusCreated, retry(t, s, token, "k", body).Status)
		key := list(t, s, owner)[0]
		backend.SetAvailable(false)
		requireUnavailable(t, retry(t, s, token, "k", body))
		require.Equal(t, key.ID, resolve(t, s, member, "openai").Key.ID)
		s.As(owner).RevokeKey(t, key.ID)
	}, func(t *testing.T, o *aikeystest.Options) {
		o.Sealer = sealertest.NewUnavailable(secretstest.Backend(t))
	})
}

// statusOf returns a reply's status, or 0 without a reply.
func statusOf(reply interface{ StatusCode() int }, err error) int {
	if err != nil {
		return 0
	}
	return reply.StatusCode()
}

// A service with the wrong keyset for its database does not start. If the keyset is replaced while the service runs,
// the service registers nothing, and does not mistake a retry for the reuse of an Idempotency-Key.
func TestSealingRetryWithAnotherKeyset(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		body := s.Shared("n")
		require.Equal(t, http.StatusCreated, retry(t, s, s.As(owner).Token, "k", body).Status)
		wrong := aikeystest.Start(t, aikeystest.Options{Store: s.Store})
		for _, key := range []string{"k", "another"} {
			reply := retry(t, wrong, s.As(owner).Token, key, body)
			require.Equal(t, http.StatusServiceUnavailable, reply.Status)
			require.Contains(t, wrong.LogLine(t, reply)["error"], "keyset")
		}
		require.Len(t, list(t, s, owner), 1)
	})
}

func TestPanic(t *testing.T) {
	const text = "text-that-was-panicked-with"
	var what any
	s := aikeystest.Start(t, aikeystest.Options{Sealer: sealertest.Fake{Sealer: secretstest.Backend(t), SealFunc: func(context.Context, sealer.Binding, sealer.Secret) (sealer.Envelope, error) { panic(what) }}})
	s.Evidence.Hide(text)
	for name, value := range map[string]any{"a text": text, "an error": fmt.Errorf("oops: %s", text), "a struct": struct{ S string }{text}} {
		t.Run(name, func(t *testing.T) {
			what = value
			reply := post(t, s, owner, project+"/aikeys", s.Shared("n"))
			require.Equal(t, http.StatusInternalServerError, reply.Status)
			require.Equal(t, "internal", reply.Problem(t).Code)
			require.Empty(t, reply.Problem(t).Errors)
			line := s.LogLine(t, reply)
			require.Equal(t, "ERROR", line["level"])
			require.Contains(t, line["stack"], "Fake.Seal", "where it happened")
			require.Empty(t, list(t, s, owner), "and the service goes on")
		})
	}
}

func TestSealingClientDisconnects(t *testing.T) {
	modelstest.Postgres(t) // its cluster outlives the test
	before := goleak.IgnoreCurrent()
	t.Run("service", func(t *testing.T) {
		modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
			t.Parallel()
			entered := make(chan struct{})
			s := aikeystest.Start(t, aikeystest.Options{Store: modelstest.NewStore(t, e), Sealer: sealertest.Fake{Sealer: secretstest.Backend(t), SealFunc: func(ctx context.Context, _ sealer.Binding, _ sealer.Secret) (sealer.Envelope, error) {
				entered <- struct{}{}
				<-ctx.Done() // until its caller gives up
				return sealer.Envelope{}, fmt.Errorf("seal: %w", ctx.Err())
			}}})
			const clients = 20
			ctx, leave := context.WithCancel(t.Context())
			defer leave()
			owners := s.As(owner)
			require.Empty(t, list(t, s, owner))
			var wg sync.WaitGroup
			for i := range clients {
				wg.Go(func() {
					_, err := owners.RegisterKeyWithResponse(ctx, self, self, nil, s.Shared(strconv.Itoa(i)))
					if err == nil {
						t.Error("answered")
					}
				})
			}
			for range clients {
				<-entered
			}
			leave()
			wg.Wait()
			require.Eventually(t, func() bool { return len(ends(s, "registerKey")) == clients }, 5*time.Second, 5*time.Millisecond)
			require.Equal(t, slices.Repeat([]end{{"INFO", "registerKey", 499}}, clients), ends(s, "registerKey"), "nothing of ours failed")
			require.Empty(t, list(t, s, owner))
		})
	})
	goleak.VerifyNone(t, before)
}

// If the database stops and comes back, callers lose only time: acknowledged keys are there, no answer says that a
// credential is bad, and a retry makes no second key.
func TestPostgresOutage(t *testing.T) {
	t.Parallel()
	cluster := modelstest.StartCluster(t)
	store := modelstest.OpenStore(t, cluster.URL("postgres"), models.Options{Timeout: 2 * time.Second})
	_, err := store.Migrate(t.Context())
	require.NoError(t, err)
	s := aikeystest.Start(t, aikeystest.Options{Store: store})
	s.As(owner).Register(t, s.Shared("before"))

	var (
		mu     sync.Mutex
		names  = map[int][]string{} // by the status of the register
		bodies = map[string]gen.RegisterRequest{}
	)
	record := func(name string, body gen.RegisterRequest, status int) {
		mu.Lock()
		defer mu.Unlock()
		bodies[name], names[status] = body, append(names[status], name)
	}
	ctx, stop := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	defer clients.Wait()
	defer stop()
	owners := s.As(owner)
	for client := range 8 { // the clients register and read as fast as they can
		clients.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				name := fmt.Sprintf("key-%d-of-%d", i, client)
				body := s.Shared(name)
				registered, err := owners.RegisterKeyWithResponse(t.Context(), self, self, &gen.RegisterKeyParams{IdempotencyKey: &name}, body)
				record(name, body, statusOf(registered, err))
				read, err := owners.ResolveKeyWithResponse(t.Context(), self, self, &gen.ResolveKeyParams{Provider: "openai"})
				if status := statusOf(read, err); status != http.StatusOK && status != http.StatusServiceUnavailable {
					record("a read", body, status)
				}
			}
		})
	}
	awaitMore := func(status, n int) {
		count := func() int { mu.Lock(); defer mu.Unlock(); return len(names[status]) }
		until := count() + n
		require.Eventually(t, func() bool { return count() >= until }, 30*time.Second, 5*time.Millisecond)
	}
	awaitMore(http.StatusCreated, 10)
	for _, fail := range []func() error{cluster.Kill, func() error { return cluster.Stop(modelstest.Fast) }} {
		require.NoError(t, fail())
		awaitMore(http.StatusServiceUnavailable, 5)
		require.NoError(t, cluster.Start())
		awaitMore(http.StatusCreated, 10)
	}
	stop()
	clients.Wait()

	registered, refused := names[http.StatusCreated], names[http.StatusServiceUnavailable]
	require.Len(t, names, 2, "only 201, 200 and 503 are answered")
	have := map[string]int{}
	for _, key := range list(t, s, owner) {
		have[key.Name]++
	}
	for _, name := range append(registered, "before") {
		require.Equal(t, 1, have[name], "%s was acknowledged", name)
	}
	for _, name := range refused { // the key may have been stored or not
		require.Equal(t, http.StatusCreated, retry(t, s, s.As(owner).Token, name, bodies[name]).Status)
	}
	require.Len(t, list(t, s, owner), len(registered)+1+len(refused))
}

// The database does not answer, so a few requests hold all connections and the rest wait for one.
func TestStarvedPool(t *testing.T) {
	t.Parallel()
	s, lock, _ := newLockable(t, models.Options{MaxConns: 2, Timeout: time.Second})
	used, fresh := s.As(owner), s.NewSession("acme", "web", owner, time.Time{})
	require.Empty(t, list(t, s, owner))

	release := lock("api_tokens, project_members")
	replies := together(12, func(i int) int {
		session := []*aikeystest.Session{used, fresh}[i%2]
		if i%3 == 0 {
			reply, err := session.RegisterKeyWithResponse(t.Context(), self, self, nil, s.Shared(strconv.Itoa(i)))
			return statusOf(reply, err)
		}
		reply, err := session.ListKeysWithResponse(t.Context(), self, self, nil)
		return statusOf(reply, err)
	})
	require.Equal(t, slices.Repeat([]int{http.StatusServiceUnavailable}, 12), replies)
	release()
	require.Eventually(t, func() bool { return get(t, s, owner, project+"/aikeys").Status == http.StatusOK }, 5*time.Second, 10*time.Millisecond)
	require.Empty(t, list(t, s, owner))
}

// plant registers a secret in every way that the API has. It returns the secret, and a text that is stored unsealed.
func plant(t *testing.T, s *aikeystest.Service) (secret, open string) {
	secret, open = s.Secret(), "openly-named"
	with := func(text string) func(*gen.RegisterRequest) {
		return func(b *gen.RegisterRequest) { b.Secret = gensecret.New(text) }
	}
	shared := s.As(owner).Register(t, s.Shared(open, with("sk-"+secret)))
	s.As(member).Register(t, s.Own(open, with("sk-"+secret)))
	s.As(owner).Register(t, s.Shared(open, with(`{"resource":"r","api_key":"`+secret+`"}`), func(b *gen.RegisterRequest) { b.Provider = "azure_openai" }))
	again := s.Shared("again", with("sk-"+secret))
	for range 2 {
		require.Equal(t, http.StatusCreated, retry(t, s, s.As(owner).Token, secret, again).Status)
	}
	again.Name = "other"
	require.Equal(t, http.StatusUnprocessableEntity, retry(t, s, s.As(owner).Token, secret, again).Status)
	require.Equal(t, http.StatusConflict, post(t, s, owner, project+"/aikeys", s.Shared(open, with("sk-"+secret))).Status)
	require.Equal(t, http.StatusForbidden, post(t, s, member, project+"/aikeys", s.Shared(open, with("sk-"+secret))).Status)
	require.Equal(t, http.StatusForbidden, post(t, s, sam, project+"/aikeys", s.Shared(open, with("sk-"+secret))).Status)
	require.Equal(t, http.StatusBadRequest, post(t, s, owner, project+"/aikeys", s.Shared(open, with("sk-ant-"+secret))).Status)
	s.As(owner).RevokeKey(t, shared.ID)
	for _, path := range []string{"/aikeys", "/aikeys/" + shared.ID, "/events", "/resolve?provider=openai"} {
		require.Equal(t, http.StatusOK, get(t, s, owner, project+path).Status)
	}
	require.Empty(t, s.Evidence.Leaks())
	return secret, open
}

// requireUnwritten requires that no file below dir holds the secret or the owner's token. To prove that the search
// works, it also requires that some file holds open, a text that is stored unsealed.
func requireUnwritten(t *testing.T, s *aikeystest.Service, dir, secret, open string) {
	seen := false
	require.NoError(t, filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		seen = seen || strings.Contains(string(content), open)
		require.Empty(t, aikeystest.FindIn(content, secret), entry.Name())
		require.Empty(t, aikeystest.FindIn(content, s.As(owner).Token), entry.Name())
		return nil
	}))
	require.True(t, seen, "the search reads what is stored")
}

func TestSealingLeavesNoSecretInSQLite(t *testing.T) {
	dir := t.TempDir()
	store := modelstest.OpenStore(t, "sqlite:"+filepath.Join(dir, "aikeys.db"), models.Options{})
	_, err := store.Migrate(t.Context())
	require.NoError(t, err)
	s := aikeystest.Start(t, aikeystest.Options{Store: store})
	secret, open := plant(t, s)
	t.Run("while it is open", func(t *testing.T) { requireUnwritten(t, s, dir, secret, open) })
	token := s.As(owner).Token // minted before the store closes
	require.NotEmpty(t, token)
	require.NoError(t, store.Close())
	t.Run("once it is closed", func(t *testing.T) { requireUnwritten(t, s, dir, secret, open) })
}

func TestSealingLeavesNoSecretInPostgres(t *testing.T) {
	t.Parallel()
	cluster := modelstest.StartCluster(t, "log_min_duration_statement=0",
		"log_parameter_max_length_on_error=-1")
	store := modelstest.OpenStore(t, cluster.URL("postgres"), models.Options{})
	_, err := store.Migrate(t.Context())
	require.NoError(t, err)
	s := aikeystest.Start(t, aikeystest.Options{Store: store})
	secret, open := plant(t, s)
	db := modelstest.Open(t, cluster.URL("postgres"))
	db.SetMaxOpenConns(1)
	_, err = db.ExecContext(t.Context(), "SET xmlbinary = hex")
	require.NoError(t, err)
	var dump, data string
	t.Run("in no row of any table", func(t *testing.T) {
		require.NoError(t, db.QueryRowContext(t.Context(), "SELECT schema_to_xml('public', true, false, '')").Scan(&dump))
		require.Contains(t, dump, open)
		require.Empty(t, aikeystest.FindIn([]byte(dump), secret))
		require.Empty(t, aikeystest.FindIn([]byte(dump), s.As(owner).Token))
	})
	t.Run("in no file, its log of all statements and errors included", func(t *testing.T) {
		_, err := db.ExecContext(t.Context(), "CHECKPOINT")
		require.NoError(t, err)
		require.NoError(t, db.QueryRowContext(t.Context(), "SHOW data_directory").Scan(&data))
		require.NoError(t, cluster.Stop(modelstest.Fast))
		requireUnwritten(t, s, filepath.Dir(data), secret, open)
	})
}

// FuzzRegisterBody checks that the answer to any body is documented, is not a 5xx, and repeats no secret. Each "SECRET"
// in a body is replaced by a secret.
func FuzzRegisterBody(f *testing.F) {
	for _, seed := range []string{
		`{"provider":"openai","name":"n","secret":"sk-SECRET"}`,
		`{"provider":"anthropic","name":"n","secret":"sk-SECRET","user_scope":true}`,
		`{"provider":"SECRET","name":"n","secret":"sk-SECRET"}`,
		`{"provider":"openai","name":"SECRET","secret":"SECRET"}`,
		`{"provider":"openai","name":" n","secret":" SECRET"}`,
		`{"provider":"azure_openai","name":"n","secret":"{\"resource\":\"r\",\"api_key\":\"SECRET\"}"}`,
		`{"provider":"vertex","name":"n","secret":"{\"type\":\"SECRET\"}"}`,
		`{"provider":"bedrock","name":"n","secret":"SECRET"}`,
		`{"SECRET":1,"secret":"SECRET","Secret":"SECRET"}`,
		`{"provider":"openai","name":"n","secret":"SECRET","secret":"x"}`,
		`{"provider":"openai","name":"n","secret":{"SECRET":["SECRET"]}}`,
		`{"provider":"openai","name":"n","secret":"sk-SECRET"}{"SECRET":1}`,
		"\xef\xbb\xbf{}", "null", "[]", `"SECRET"`, "", "{", `{"name":"\ud800"}`, `{"name":"\u0000","secret":"SECRET\u0000"}`,
	} {
		f.Add([]byte(seed))
	}
	s := aikeystest.Start(f, aikeystest.Options{})
	token := s.As(owner).Token
	f.Fuzz(func(t *testing.T, body []byte) {
		secret := s.Secret()
		sent := bytes.ReplaceAll(body, []byte("SECRET"), []byte(secret))
		req := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/v1/aikeys", bytes.NewReader(sent))
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Authorization", "Bearer "+token)
		reply, complaints := s.Serve(req)
		require.Empty(t, complaints)
		require.Less(t, reply.Status, http.StatusInternalServerError)
		require.Empty(t, aikeystest.FindIn([]byte(s.Evidence.Log()), secret), "in the log")
		mayNameSecret := false
		if reply.Status == http.StatusCreated { // a strict reader must read the same key from the body
			var body struct {
				Provider, Name, Secret string
				UserScope              bool `json:"user_scope"`
			}
			decoder := json.NewDecoder(bytes.NewReader(sent))
			decoder.DisallowUnknownFields()
			require.NoError(t, decoder.Decode(&body))
			key := decode[gen.RegisterResponse](t, reply).Key
			require.Equal(t, []any{body.Provider, body.Name, body.UserScope}, []any{key.Provider, key.Name, key.UserScope})
			require.LessOrEqual(t, 4*len(key.DisplaySuffix), len(body.Secret))
			mayNameSecret = strings.Contains(body.Name, secret[:16]) || strings.Contains(body.Name, secret[16:])
		}
		if !mayNameSecret {
			require.Empty(t, aikeystest.FindIn(reply.Body, secret), "in the reply")
		}
		s.Evidence.Forget()
	})
}

// fakeVerifier has a result for each secret, and counts its calls.
type fakeVerifier struct {
	result verification.Result
	asked  atomic.Int32
}

func (f *fakeVerifier) Verify(context.Context, models.Caller, providers.Provider, string) verification.Result {
	f.asked.Add(1)
	return f.result
}

func TestSecretIsTestedBeforeItIsStored(t *testing.T) {
	for _, c := range []struct {
		name   string
		result verification.Result
		force  bool
		status int
		forced *bool
	}{
		{"valid", verification.Result{Outcome: verification.Valid, Reason: "restricted"}, false, http.StatusCreated, nil},
		{"unreachable", verification.Result{Outcome: verification.Unreachable, Reason: "timeout"}, false, http.StatusCreated, nil},
		{"rejected", verification.Result{Outcome: verification.Rejected}, false, http.StatusUnprocessableEntity, nil},
		{"rejected, by force", verification.Result{Outcome: verification.Rejected, Reason: "leaked"}, true, http.StatusCreated, new(true)},
		{"valid, though forced", verification.Result{Outcome: verification.Valid}, true, http.StatusCreated, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := &fakeVerifier{result: c.result}
			each(t, func(t *testing.T, s *aikeystest.Service) {
				reply := post(t, s, owner, project+"/aikeys", s.Shared("n", func(b *gen.RegisterRequest) { b.Verify, b.Force = new(true), &c.force }))
				require.Equal(t, c.status, reply.Status)
				if c.status != http.StatusCreated {
					require.Equal(t, "/problems/secret-rejected", reply.Problem(t).Type)
					require.Empty(t, list(t, s, owner))
					require.Empty(t, events(t, s, owner))
					return
				}
				key := decode[gen.RegisterResponse](t, reply).Key
				require.Equal(t, string(c.result.Outcome), key.Verification.Verdict)
				require.WithinDuration(t, time.Now(), key.Verification.CheckedAt, time.Minute)
				require.Equal(t, []gen.Key{key}, list(t, s, owner))
				require.Equal(t, key, read(t, s, owner, key.ID))
				event := events(t, s, owner)[0]
				require.Equal(t, new(string(c.result.Outcome)), event.After.Verdict)
				require.Equal(t, key.Verification.Reason, event.After.Reason)
				require.Equal(t, c.forced, event.After.Forced)
			}, func(_ *testing.T, o *aikeystest.Options) { o.Verifier = v })
		})
	}
}

func TestNoSecretIsTestedUnasked(t *testing.T) {
	v := &fakeVerifier{result: verification.Result{Outcome: verification.Rejected}}
	each(t, func(t *testing.T, s *aikeystest.Service) {
		key := s.As(owner).Register(t, s.Shared("n"))
		require.Nil(t, key.Verification)
		require.Nil(t, events(t, s, owner)[0].After)
		require.Zero(t, v.asked.Load())
	}, func(_ *testing.T, o *aikeystest.Options) { o.Verifier = v })
	each(t, func(t *testing.T, s *aikeystest.Service) {
		key := s.As(owner).Register(t, s.Shared("n", func(b *gen.RegisterRequest) { b.Verify = new(true) }))
		require.Equal(t, []string{"unreachable", "off"}, []string{key.Verification.Verdict, *key.Verification.Reason}, "the operator allows no tests")
	})
}

// Otherwise a user who may not register the key could try out secrets.
func TestOnlyWhoMayRegisterHasSecretsTested(t *testing.T) {
	v := &fakeVerifier{result: verification.Result{Outcome: verification.Valid}}
	each(t, func(t *testing.T, s *aikeystest.Service) {
		body := s.Shared("n", func(b *gen.RegisterRequest) { b.Verify = new(true) })
		require.Equal(t, http.StatusForbidden, post(t, s, member, project+"/aikeys", body).Status)
		require.Equal(t, "denied", events(t, s, owner)[0].Outcome)
		require.Equal(t, http.StatusForbidden, post(t, s, sam, project+"/aikeys", body).Status)
		require.Zero(t, v.asked.Load())
	}, func(_ *testing.T, o *aikeystest.Options) { o.Verifier = v })
}

// testedAt makes the service test stored keys of OpenAI and Bedrock at a handler instead of the providers.
func testedAt(provider http.HandlerFunc) func(t *testing.T, o *aikeystest.Options) {
	return func(t *testing.T, o *aikeystest.Options) { o.Tester = aikeystest.NewTester(t, provider) }
}

func verify(t *testing.T, s *aikeystest.Service, user, id string) aikeystest.Reply {
	return ask(t, s, user, http.MethodPost, project+"/aikeys/"+id+"/verify", nil)
}

// fetched returns the records of fetches.
func fetched(t *testing.T, s *aikeystest.Service) []gen.Fetch {
	return decode[gen.ListFetchesResponse](t, get(t, s, owner, project+"/fetches")).Fetches
}

func TestVerdictStaysOnTheKey(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		key := s.As(owner).Register(t, s.Shared("n"))
		reply := verify(t, s, owner, key.ID)
		require.Equal(t, http.StatusOK, reply.Status, "%s", reply.Body)
		got := decode[gen.VerifyResponse](t, reply)
		require.Equal(t, "rejected", got.Verification.Verdict)
		require.WithinDuration(t, time.Now(), got.Verification.CheckedAt, time.Minute)
		require.Equal(t, got.Verification, *got.Key.Verification)
		require.Equal(t, []any{false, "rejected", "active"}, []any{*got.Key.Serves, *got.Key.NotServingReason, got.Key.State})
		require.Equal(t, []gen.Key{got.Key}, list(t, s, member))
		require.Equal(t, got.Key, read(t, s, member, key.ID))
		resolved := resolve(t, s, member, "openai")
		require.Equal(t, []any{key.ID, false}, []any{resolved.Key.ID, *resolved.Serves}, "it is still the one that is used")

		event := events(t, s, member)[0]
		require.Equal(t, []string{"key.verified", "allowed", key.ID, owner, "rejected"},
			[]string{event.Type, event.Outcome, *event.KeyID, event.Actor.UserID, *event.After.Verdict})
		opened := fetched(t, s)
		require.Len(t, opened, 1)
		require.Equal(t, []any{"control_plane", "verification", "allowed", "openai", key.ID, 1, owner, s.As(owner).TokenID, event.RequestID},
			[]any{opened[0].DataPlaneID, opened[0].Reason, opened[0].Decision, opened[0].Provider, *opened[0].KeyID, *opened[0].Version,
				*opened[0].UserID, *opened[0].TokenID, opened[0].RequestID})

		refuse(t, s, key.ID, false)
		require.True(t, *resolve(t, s, member, "openai").Serves, "used with success since")
	}, testedAt(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }))
}

// A stored access key of AWS is tested at STS, which never sees its secret.
func TestAccessKeyIsTestedAtSTS(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		for _, c := range []struct{ secret, verdict, host string }{
			{`{"access_key_id":"AKIA-EXAMPLE","secret_access_key":"EXAMPLE/EXAMPLE/EXAMPLE","region":"eu-west-1"}`, "rejected", "sts.eu-west-1.amazonaws.com"},
			{`{"api_key":"ABSK-EXAMPLE-EXAMPLE-EXAMPLE","region":"eu-west-1"}`, "valid", "bedrock.eu-west-1.amazonaws.com"},
		} {
			key := s.As(owner).Register(t, s.Shared(c.host, func(b *gen.RegisterRequest) { b.Provider, b.Secret = "bedrock", gensecret.New(c.secret) }))
			got := decode[gen.VerifyResponse](t, verify(t, s, owner, key.ID))
			require.Equal(t, c.verdict, got.Verification.Verdict, c.host)
			require.Equal(t, c.verdict == "valid", *got.Key.Serves)
		}
		require.Len(t, fetched(t, s), 2)
	}, testedAt(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Host == "bedrock.eu-west-1.amazonaws.com" && r.Header.Get("Authorization") == "Bearer ABSK-EXAMPLE-EXAMPLE-EXAMPLE":
		case r.Host == "sts.eu-west-1.amazonaws.com" && !strings.Contains(r.Header.Get("Authorization"), "EXAMPLE/EXAMPLE"):
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, `{"Error": {"Code": "InvalidClientTokenId"}}`)
		default:
			w.WriteHeader(http.StatusTeapot)
		}
	}))
}

// The record that a secret was opened is stored before its provider gets it.
func TestOpeningIsOnRecordBeforeTheProviderIsAsked(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		key := s.As(owner).Register(t, s.Shared("n"))
		require.Equal(t, "valid", decode[gen.VerifyResponse](t, verify(t, s, owner, key.ID)).Verification.Verdict)
	}, func(t *testing.T, o *aikeystest.Options) {
		testedAt(func(w http.ResponseWriter, r *http.Request) {
			page, err := o.Store.ListFetches(r.Context(), aikeystest.Customer, aikeystest.Project, models.FetchFilter{Limit: 10})
			if err != nil || len(page) != 1 {
				w.WriteHeader(http.StatusUnauthorized)
			}
		})(t, o)
	})
}

func TestOnlyWhoMayWriteAKeyHasItTested(t *testing.T) {
	var asked atomic.Int32
	each(t, func(t *testing.T, s *aikeystest.Service) {
		key := s.As(owner).Register(t, s.Shared("n"))
		reply := verify(t, s, member, key.ID)
		require.Equal(t, http.StatusForbidden, reply.Status)
		require.Contains(t, reply.Problem(t).Detail, "Only an owner of the project may have a project-level key tested.")
		event := events(t, s, owner)[0]
		require.Equal(t, []string{"key.verified", "denied", key.ID, member}, []string{event.Type, event.Outcome, *event.KeyID, event.Actor.UserID})
		require.Empty(t, fetched(t, s))
		require.Zero(t, asked.Load())
	}, testedAt(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
}

func TestRevokedKeyIsNotOpenedForATest(t *testing.T) {
	var asked atomic.Int32
	each(t, func(t *testing.T, s *aikeystest.Service) {
		key := s.As(owner).Register(t, s.Shared("n"))
		s.As(owner).RevokeKey(t, key.ID)
		reply := verify(t, s, owner, key.ID)
		require.Equal(t, http.StatusConflict, reply.Status)
		require.Equal(t, "/problems/not-testable", reply.Problem(t).Type)
		disabled := s.As(owner).Register(t, s.Shared("disabled"))
		require.Equal(t, http.StatusOK, ask(t, s, owner, http.MethodPatch, project+"/aikeys/"+disabled.ID, map[string]any{"disabled": true}).Status)
		require.Equal(t, http.StatusConflict, verify(t, s, owner, disabled.ID).Status)
		require.Empty(t, fetched(t, s))
		require.Zero(t, asked.Load())
	}, testedAt(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
}

func TestKeyIsTestedOnceInTenSeconds(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		key := s.As(owner).Register(t, s.Shared("n"))
		statuses := together(6, func(int) int { return verify(t, s, owner, key.ID).Status })
		done := 0
		for _, status := range statuses {
			if status == http.StatusOK {
				done++
			} else {
				require.Equal(t, http.StatusTooManyRequests, status)
			}
		}
		require.Equal(t, 1, done)
		reply := verify(t, s, owner, key.ID)
		require.Equal(t, "/problems/tested-recently", reply.Problem(t).Type)
		wait := requireExhausted(t, reply)
		require.LessOrEqual(t, wait, 10*time.Second)
		require.Len(t, fetched(t, s), 1)

		row, err := s.Store.GetKey(t.Context(), models.Caller{CustomerID: key.CustomerID, ProjectID: key.ProjectID, UserID: owner}, key.ID, time.Now().UnixMicro())
		require.NoError(t, err)
		row.VerifiedAt -= (10 * time.Second).Microseconds()
		require.NoError(t, s.Store.Transact(t.Context(), func(tx *models.Tx) error {
			return tx.StoreVerdict(row, models.Event{ID: "evt_1", CustomerID: key.CustomerID, ProjectID: key.ProjectID, Type: models.EventKeyVerified, Outcome: models.OutcomeAllowed})
		}))
		require.Equal(t, http.StatusOK, verify(t, s, owner, key.ID).Status)
	}, testedAt(func(http.ResponseWriter, *http.Request) {}))
}

func TestOperatorMayAllowNoTests(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		key := s.As(owner).Register(t, s.Shared("n"))
		reply := verify(t, s, owner, key.ID)
		require.Equal(t, http.StatusConflict, reply.Status)
		require.Equal(t, "The operator of this service has turned tests of keys off.", reply.Problem(t).Detail)
		require.Equal(t, http.StatusForbidden, verify(t, s, sam, key.ID).Status)
		require.Equal(t, http.StatusNotFound, verify(t, s, owner, exampleKey).Status)
		require.Empty(t, fetched(t, s))
	})
}

func TestKeyOfAProviderWithoutATestIsNotOpened(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		added := post(t, s, owner, project+"/providers", map[string]any{"slug": "x-vllm", "base_url": "https://llm.example/v1"})
		require.Equal(t, http.StatusCreated, added.Status, "%s", added.Body)
		body := s.Shared("n", func(b *gen.RegisterRequest) { b.Provider = "x-vllm" })
		key := s.As(owner).Register(t, body)
		got := decode[gen.VerifyResponse](t, verify(t, s, owner, key.ID))
		require.Equal(t, []string{"unreachable", "unsupported"}, []string{got.Verification.Verdict, *got.Verification.Reason})
		require.True(t, *got.Key.Serves)
		require.Empty(t, fetched(t, s))
	}, testedAt(func(http.ResponseWriter, *http.Request) {}))
}

// Every opened secret has its event, even if the client disconnects.
func TestVerdictIsStoredIfTheClientDisconnects(t *testing.T) {
	asked, answer := make(chan struct{}, 8), make(chan struct{})
	t.Cleanup(func() { close(answer) })
	each(t, func(t *testing.T, s *aikeystest.Service) {
		key := s.As(owner).Register(t, s.Shared("n"))
		ctx, cancel := context.WithCancel(t.Context())
		req := request(ctx, t, s, owner, http.MethodPost, project+"/aikeys/"+key.ID+"/verify", []byte{})
		ended := make(chan error, 1)
		go func() {
			reply, err := s.HTTPClient().Do(req)
			if err == nil {
				_, _ = io.Copy(io.Discard, reply.Body)
				_ = reply.Body.Close()
			}
			ended <- err
		}()
		<-asked
		cancel()
		require.ErrorIs(t, <-ended, context.Canceled)
		answer <- struct{}{}
		require.Eventually(t, func() bool {
			k := read(t, s, owner, key.ID)
			return k.Verification != nil && k.Verification.Verdict == "valid"
		}, 10*time.Second, 5*time.Millisecond)
		require.Equal(t, "key.verified", events(t, s, owner)[0].Type)
	}, testedAt(func(http.ResponseWriter, *http.Request) {
		asked <- struct{}{}
		<-answer
	}))
}
