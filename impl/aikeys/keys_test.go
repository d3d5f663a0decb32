package aikeys_test

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/aikeys/aikeystest"
	gensecret "github.com/agentrouter/aikeys/internal/secret"
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
		require.Equal(t, first, s.As(member).RevokeKey(t, key.ID), "whoever asks")

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
