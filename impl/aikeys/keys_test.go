package aikeys_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/aikeys/aikeystest"
	"github.com/agentrouter/aikeys/impl/providers"
	"github.com/agentrouter/aikeys/impl/secrets/secretstest"
	gensecret "github.com/agentrouter/aikeys/internal/secret"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
	"github.com/agentrouter/aikeys/sealer"
)

// pages reads a list page by page and returns the pages' ids.
func pages(t *testing.T, s *aikeystest.Service, user, path string, size int) [][]string {
	t.Helper()
	var all [][]string
	token := ""
	for range 100 {
		query := fmt.Sprintf("%spage_size=%d", path, size)
		if token != "" {
			query += "&page_token=" + token
		}
		reply := get(t, s, user, query)
		require.Equal(t, http.StatusOK, reply.Status, "%s", reply.Body)
		page := decode[struct {
			Keys   []gen.Key    `json:"keys"`
			Events []gen.Event  `json:"events"`
			People []gen.Member `json:"members"`
			Next   *string      `json:"next_page_token"`
		}](t, reply)
		of := ids(page.Keys)
		for _, e := range page.Events {
			of = append(of, e.ID)
		}
		for _, m := range page.People {
			of = append(of, m.UserID)
		}
		all = append(all, of)
		if page.Next == nil {
			return all
		}
		require.NotEmpty(t, *page.Next)
		token = *page.Next
	}
	require.Fail(t, "the list does not end")
	return nil
}

// requirePaged asserts that a list read in pages of any size is the same list.
func requirePaged(t *testing.T, s *aikeystest.Service, user, path string, want []string, most int) {
	t.Helper()
	for _, size := range []int{1, 2, 3, len(want) - 1, len(want), len(want) + 1, most} {
		t.Run("in pages of "+strconv.Itoa(size), func(t *testing.T) {
			got := pages(t, s, user, path, size)
			require.Equal(t, want, slices.Concat(got...))
			require.Len(t, got, (len(want)+size-1)/size, "no page is empty")
		})
	}
}

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
		groq := s.As(owner).Register(t, s.Shared("groq", func(b *gen.RegisterRequest) { b.Provider, b.Secret = "groq", gensecret.New("gsk_0123456789") }))
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

func TestListKeysPageToken(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		var mine []string
		for i := range 3 {
			mine = append([]string{s.As(owner).Register(t, s.Shared(strconv.Itoa(i))).ID}, mine...)
			s.As(other).Register(t, s.Own(strconv.Itoa(i)))
		}
		list := decode[gen.ListResponse](t, get(t, s, other, project+"/aikeys?page_size=1"))
		token := *list.NextPageToken // of another member's own key
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

func TestListKeysWithoutPages(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{})
	const many = 120 // more than a page is by default
	for i := range many {
		s.As(owner).Register(t, s.Shared(strconv.Itoa(i)))
	}
	whole := decode[gen.ListResponse](t, get(t, s, owner, project+"/aikeys"))
	require.Len(t, whole.Keys, many)
	require.Nil(t, whole.NextPageToken)
	first := decode[gen.ListResponse](t, get(t, s, owner, project+"/aikeys?page_size=1"))
	second := decode[gen.ListResponse](t, get(t, s, owner, project+"/aikeys?page_token="+*first.NextPageToken))
	require.Len(t, second.Keys, 100, "a token alone asks for pages")
	require.NotNil(t, second.NextPageToken)
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

		got := decode[gen.GetResponse](t, get(t, s, owner, project+"/aikeys/"+key.ID)).Key
		by := owner
		key.State, key.RevokedAt, key.RevokedBy = "revoked", &first.RevokedAt, &by
		require.Equal(t, []gen.Key{key}, list(t, s, owner), "lists come without receipts")
		key.Receipt = &first
		require.Equal(t, key, got)
		require.Len(t, events(t, s, owner), 2, "one register, one revoke")
	})
}

func TestRevokeKeyConcurrent(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		key, owners := s.As(owner).Register(t, s.Shared("n")), s.As(owner)
		got := together(100, func(int) gen.Receipt {
			reply, err := owners.RevokeKeyWithResponse(t.Context(), self, self, key.ID, nil)
			if err != nil || reply.JSON200 == nil {
				return gen.Receipt{}
			}
			return reply.JSON200.Receipt
		})
		stands := decode[gen.GetResponse](t, get(t, s, owner, project+"/aikeys/"+key.ID)).Key
		want := gen.Receipt{State: "complete", RevokedAt: *stands.RevokedAt, RevokedBy: owner}
		require.Equal(t, slices.Repeat([]gen.Receipt{want}, 100), got)
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
			require.Less(t, time.Since(started), time.Second, "a receipt that is complete is not waited for")
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
					UserScope: name == "own", CreatedAt: key.CreatedAt, CreatedBy: owner, State: "active",
				}, key)
				at := get(t, s, owner, reply.Header.Get("Location"))
				require.Equal(t, key, decode[gen.GetResponse](t, at).Key)
			})
		}
	})
}

// The sealed secret is the one that was sent, under the binding that data planes open it with.
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

// retry sends a register with an Idempotency-Key.
func retry(t *testing.T, s *aikeystest.Service, token, key string, body gen.RegisterRequest) aikeystest.Reply {
	t.Helper()
	return s.Send(t, aikeystest.Request{Method: http.MethodPost, Path: "/v1/aikeys", Token: token, Body: encode(t, body),
		Header: http.Header{"Idempotency-Key": {key}}})
}

func TestIdempotencyKey(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		token := s.As(owner).Token
		key := s.Secret() // which is kept as a hash, and so may be as secret as its caller likes
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

// An attempt that was refused uses nothing up.
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
		got := together(50, func(int) string {
			reply, err := owners.RegisterKeyWithResponse(t.Context(), self, self, &gen.RegisterKeyParams{IdempotencyKey: &key}, body)
			if err != nil || reply.JSON201 == nil {
				return "no key"
			}
			return reply.JSON201.Key.ID
		})
		keys := list(t, s, owner)
		require.Len(t, keys, 1)
		require.Equal(t, slices.Repeat([]string{keys[0].ID}, 50), got)
		require.Len(t, events(t, s, owner), 1)
	})
}

// flaky is a sealer whose next Seal fails in a way that nobody foresaw.
type flaky struct {
	sealer.Sealer
	failing atomic.Bool
}

func (f *flaky) Seal(ctx context.Context, b sealer.Binding, secret sealer.Secret) (sealer.Envelope, error) {
	if f.failing.Swap(false) {
		return sealer.Envelope{}, errors.New("fault of the test")
	}
	return f.Sealer.Seal(ctx, b, secret)
}

func TestSealingRetryAfterAFault(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		backend, ok := s.Sealer.(*flaky)
		require.True(t, ok)
		body, token := s.Shared("prod"), s.As(owner).Token
		s.As(owner).Register(t, s.Shared("first")) // the canary is sealed as well
		backend.failing.Store(true)
		reply := retry(t, s, token, "k", body)
		require.Equal(t, http.StatusInternalServerError, reply.Status)
		require.NotContains(t, string(reply.Body), "fault of the test")
		require.Equal(t, []string{"first"}, names(list(t, s, owner)))
		require.Equal(t, http.StatusCreated, retry(t, s, token, "k", body).Status)
		require.Equal(t, []string{"first", "prod"}, names(list(t, s, owner)))
	}, func(t *testing.T, o *aikeystest.Options) { o.Sealer = &flaky{Sealer: secretstest.Backend(t)} })
}

// swapped is a sealer in whose place another one may be put.
type swapped struct{ sealer.Sealer }

// A keyset that is put in another's place while the service runs would seal keys that are lost once the right one is back.
func TestSealingAfterTheKeysetWasReplaced(t *testing.T) {
	right, wrong := secretstest.Backend(t), secretstest.Backend(t)
	backend := &swapped{right}
	s := aikeystest.Start(t, aikeystest.Options{Sealer: backend})
	register := func(name string) int {
		return post(t, s, owner, project+"/aikeys", map[string]string{"provider": "openai", "name": name,
			"secret": "sk-EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE"}).Status
	}
	require.Equal(t, http.StatusCreated, register("before"))
	backend.Sealer = wrong
	require.Equal(t, http.StatusServiceUnavailable, register("meanwhile"))
	backend.Sealer = right
	require.Equal(t, http.StatusCreated, register("after"))
	require.Len(t, list(t, s, owner), 2)
}

// What needs no secret asks for none: a key whose envelope is damaged is listed, read, resolved and revoked like any other.
func TestUnreadableKey(t *testing.T) {
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		store := modelstest.NewStore(t, e)
		s := aikeystest.Start(t, aikeystest.Options{Store: store})
		var created []string
		for _, name := range []string{"damaged", "sound"} {
			reply := post(t, s, owner, project+"/aikeys", map[string]string{"provider": "openai", "name": name,
				"secret": "sk-EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE"})
			require.Equal(t, http.StatusCreated, reply.Status, "%s", reply.Body)
			created = append(created, decode[gen.RegisterResponse](t, reply).Key.ID)
		}
		row, err := store.SealedKey(t.Context(), created[0])
		require.NoError(t, err)
		stored, err := store.Rewrap(t.Context(), []models.Rewrapping{
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
