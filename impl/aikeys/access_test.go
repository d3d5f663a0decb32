package aikeys_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/aikeys/aikeystest"
)

// TestAccessTable is the access table of the design, cell by cell: who may do what to which key.
func TestAccessTable(t *testing.T) {
	const ok, created, forbidden, absent = http.StatusOK, http.StatusCreated, http.StatusForbidden, http.StatusNotFound
	type cells struct{ stranger, member, owner int }
	table := []struct {
		name string
		do   func(t *testing.T, s *aikeystest.Service, user string) int
		want cells
	}{
		{"read a project-level key", func(t *testing.T, s *aikeystest.Service, user string) int {
			key := s.As(owner).Register(t, s.Shared("shared for "+user))
			requireListed(t, s, user, key.ID, user != sam)
			return get(t, s, user, project+"/aikeys/"+key.ID).Status
		}, cells{forbidden, ok, ok}},
		{"read an own key", func(t *testing.T, s *aikeystest.Service, user string) int {
			key := ownKey(t, s, user, user, "read")
			requireListed(t, s, user, key.ID, user != sam)
			return get(t, s, user, project+"/aikeys/"+key.ID).Status
		}, cells{forbidden, ok, ok}},
		{"read another's own key", func(t *testing.T, s *aikeystest.Service, user string) int {
			key := ownKey(t, s, other, user, "theirs")
			requireListed(t, s, user, key.ID, false)
			return get(t, s, user, project+"/aikeys/"+key.ID).Status
		}, cells{forbidden, absent, absent}},
		{"register a project-level key", func(t *testing.T, s *aikeystest.Service, user string) int {
			return post(t, s, user, project+"/aikeys", s.Shared("by "+user)).Status
		}, cells{forbidden, forbidden, created}},
		{"revoke a project-level key", func(t *testing.T, s *aikeystest.Service, user string) int {
			key := s.As(owner).Register(t, s.Shared("revoked by "+user))
			return revoking(t, s, owner, key.ID, func() int { return del(t, s, user, project+"/aikeys/"+key.ID).Status })
		}, cells{forbidden, forbidden, ok}},
		{"register an own key", func(t *testing.T, s *aikeystest.Service, user string) int {
			return post(t, s, user, project+"/aikeys", s.Own("own by "+user)).Status
		}, cells{forbidden, created, created}},
		{"revoke an own key", func(t *testing.T, s *aikeystest.Service, user string) int {
			key := ownKey(t, s, user, user, "revoke")
			return del(t, s, user, project+"/aikeys/"+key.ID).Status
		}, cells{forbidden, ok, ok}},
		{"revoke another's own key", func(t *testing.T, s *aikeystest.Service, user string) int {
			key := ownKey(t, s, other, user, "kept")
			return revoking(t, s, other, key.ID, func() int { return del(t, s, user, project+"/aikeys/"+key.ID).Status })
		}, cells{forbidden, absent, absent}},
	}
	each(t, func(t *testing.T, s *aikeystest.Service) {
		for _, row := range table {
			for user, want := range map[string]int{sam: row.want.stranger, member: row.want.member, owner: row.want.owner} {
				t.Run(row.name+" as "+user, func(t *testing.T) { require.Equal(t, want, row.do(t, s, user)) })
			}
		}
	})
}

// ownKey registers an own key of a user's; a stranger's is from when they were a member.
func ownKey(t *testing.T, s *aikeystest.Service, user, name, purpose string) gen.Key {
	t.Helper()
	if user == sam {
		s.SetMember(aikeystest.Customer, aikeystest.Project, sam, "member")
		defer func() {
			require.Equal(t, http.StatusOK, del(t, s, owner, project+"/members/"+sam).Status)
		}()
	}
	return s.As(user).Register(t, s.Own(purpose+" "+name))
}

func requireListed(t *testing.T, s *aikeystest.Service, user, id string, want bool) {
	t.Helper()
	reply := get(t, s, user, project+"/aikeys")
	if user == sam {
		require.Equal(t, http.StatusForbidden, reply.Status)
		return
	}
	if keys := ids(decode[gen.ListResponse](t, reply).Keys); want {
		require.Contains(t, keys, id)
	} else {
		require.NotContains(t, keys, id)
	}
}

// revoking calls fn and asserts that the key is revoked exactly if fn returned 200, as reader sees it.
func revoking(t *testing.T, s *aikeystest.Service, reader, id string, fn func() int) int {
	t.Helper()
	status := fn()
	key := decode[gen.GetResponse](t, get(t, s, reader, project+"/aikeys/"+id)).Key
	require.Equal(t, status == http.StatusOK, key.State == "revoked")
	return status
}

func TestAccessToProjectResources(t *testing.T) {
	type cells struct{ stranger, member, owner int }
	everyMember := cells{http.StatusForbidden, http.StatusOK, http.StatusOK}
	owners := cells{http.StatusForbidden, http.StatusForbidden, http.StatusOK}
	anySession := cells{http.StatusOK, http.StatusOK, http.StatusOK}
	table := []struct {
		method, path string
		body         any
		want         cells
	}{
		{http.MethodGet, project + "/policy", nil, everyMember},
		{http.MethodPut, project + "/policy", map[string]any{"on_bad_key": "fail"}, owners},
		{http.MethodGet, project + "/events", nil, everyMember},
		{http.MethodGet, project + "/members", nil, everyMember},
		{http.MethodPut, project + "/members/new", map[string]any{"role": "member"}, owners},
		{http.MethodDelete, project + "/members/new", nil, owners},
		{http.MethodGet, project + "/resolve?provider=openai", nil, everyMember},
		{http.MethodGet, "/v1/providers", nil, anySession},
		{http.MethodGet, "/v1/whoami", nil, anySession},
	}
	each(t, func(t *testing.T, s *aikeystest.Service) {
		for _, row := range table {
			s.SetMember(aikeystest.Customer, aikeystest.Project, "new", "member") // whom an owner may remove
			for user, want := range map[string]int{sam: row.want.stranger, member: row.want.member, owner: row.want.owner} {
				t.Run(row.method+" "+row.path+" as "+user, func(t *testing.T) {
					r := aikeystest.Request{Method: row.method, Path: row.path, Token: s.As(user).Token}
					if row.body != nil {
						r.Body = encode(t, row.body)
					}
					require.Equal(t, want, s.Send(t, r).Status)
				})
			}
		}
	})
}

func TestAccessOfAnotherCustomersUser(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		key := s.As(owner).Register(t, s.Shared("ours"))
		foreign := s.Session(aikeystest.OtherCustomer, aikeystest.Project, owner)
		for _, o := range aikeystest.Operations(t) {
			if !strings.Contains(o.Path, "/projects/") {
				continue
			}
			t.Run(o.OperationID, func(t *testing.T) {
				o.Token = foreign.Token
				o.Path = strings.ReplaceAll(strings.Replace(o.Path, "/v1/customers/-/projects/-", project, 1), exampleKey, key.ID)
				reply := s.Send(t, o.Request)
				require.Equal(t, http.StatusForbidden, reply.Status)
				require.NotContains(t, string(reply.Body), "ours")
			})
		}
		t.Run("its own project of the same name is another", func(t *testing.T) {
			mine := foreign.Register(t, s.Shared("theirs"))
			require.Equal(t, aikeystest.OtherCustomer, mine.CustomerID)
			reply, err := foreign.ListKeysWithResponse(t.Context(), self, self, nil)
			require.NoError(t, err)
			require.Equal(t, []string{mine.ID}, ids(reply.JSON200.Keys))
			require.Equal(t, []string{key.ID}, ids(list(t, s, owner)))
			got, err := foreign.GetKeyWithResponse(t.Context(), self, self, key.ID)
			require.NoError(t, err)
			require.Equal(t, http.StatusNotFound, got.StatusCode())
		})
	})
}

// exampleKey is the key id of the document's examples.
const exampleKey = "byok_01JD8Q6Z3V8M2T5K7N9R4W1XYZ"

func TestAccessHidesProjects(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		key := s.As(owner).Register(t, s.Shared("hidden"))
		places := map[string]string{
			"a project that is not there":   "/v1/customers/acme/projects/nowhere",
			"a customer that is not there":  "/v1/customers/nobody/projects/nowhere",
			"another customer's project":    "/v1/customers/globex/projects/web",
			"a project of another's, by id": "/v1/customers/globex/projects/ops",
		}
		for _, o := range aikeystest.Operations(t) {
			if !strings.Contains(o.Path, "/projects/") {
				continue
			}
			ask := func(place string) string {
				o.Token = s.As(sam).Token
				r := o.Request
				r.Path = strings.ReplaceAll(strings.Replace(r.Path, "/v1/customers/-/projects/-", place, 1), exampleKey, key.ID)
				reply := s.Send(t, r)
				require.Equal(t, http.StatusForbidden, reply.Status)
				id := reply.Header.Get("X-Request-Id")
				reply.Header.Del("X-Request-Id")
				reply.Header.Del("Date")
				var head strings.Builder
				require.NoError(t, reply.Header.Write(&head))
				return head.String() + strings.ReplaceAll(string(reply.Body), id, "ID")
			}
			existing := ask(project)
			for name, place := range places {
				t.Run(o.OperationID+" of "+name, func(t *testing.T) { require.Equal(t, existing, ask(place)) })
			}
		}
		require.Equal(t, []string{key.ID}, ids(list(t, s, owner)))
	})
}

func TestProjectSpellings(t *testing.T) {
	spellings := map[string]string{
		"named":                project,
		"dashes":               "/v1/customers/-/projects/-",
		"customer named":       "/v1/customers/acme/projects/-",
		"project named":        "/v1/customers/-/projects/web",
		"empty segments":       "/v1/customers//projects/",
		"empty customer":       "/v1/customers//projects/web",
		"empty project":        "/v1/customers/acme/projects/",
		"dash and empty":       "/v1/customers/-/projects/",
		"short (of keys only)": "/v1",
	}
	each(t, func(t *testing.T, s *aikeystest.Service) {
		first := s.As(owner).Register(t, s.Shared("first"))
		for name, base := range spellings {
			t.Run(name, func(t *testing.T) {
				var mine gen.Key
				t.Run("register", func(t *testing.T) {
					reply := post(t, s, owner, base+"/aikeys", s.Shared(name))
					require.Equal(t, http.StatusCreated, reply.Status)
					mine = decode[gen.RegisterResponse](t, reply).Key
					require.Equal(t, aikeystest.Customer, mine.CustomerID)
					require.Equal(t, aikeystest.Project, mine.ProjectID)
					require.Equal(t, project+"/aikeys/"+mine.ID, reply.Header.Get("Location"))
				})
				t.Run("list", func(t *testing.T) {
					reply := get(t, s, owner, base+"/aikeys?state=active")
					require.Equal(t, []string{mine.ID, first.ID}, ids(decode[gen.ListResponse](t, reply).Keys))
				})
				t.Run("get", func(t *testing.T) {
					reply := get(t, s, owner, base+"/aikeys/"+mine.ID)
					require.Equal(t, mine, decode[gen.GetResponse](t, reply).Key)
					bare := get(t, s, owner, base+"/aikeys/"+strings.TrimPrefix(mine.ID, "byok_"))
					require.Equal(t, mine, decode[gen.GetResponse](t, bare).Key)
				})
				t.Run("revoke", func(t *testing.T) {
					require.Equal(t, http.StatusOK, del(t, s, owner, base+"/aikeys/"+mine.ID).Status)
				})
			})
		}
		t.Run("empty segments work for the other methods too", func(t *testing.T) {
			for _, path := range []string{"/policy", "/events", "/members", "/resolve?provider=openai"} {
				require.Equal(t, http.StatusOK, get(t, s, owner, "/v1/customers//projects/"+path).Status)
			}
		})
		t.Run("the session's defaults, not the fixture's", func(t *testing.T) {
			sams := s.Session(aikeystest.Customer, aikeystest.OtherProject, sam)
			key := sams.Register(t, s.Shared("in ops"))
			require.Equal(t, aikeystest.OtherProject, key.ProjectID)
		})
	})
}
