package dataplane_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
	gen "github.com/agentrouter/aikeys/gen/dataplane"
)

// town has one entry of each sort in the cache, by name.
type town struct {
	*scene
	entries                        map[string]dataplane.Request
	key, anthropic, alices, others string // ids of keys
}

func newTown(t *testing.T) *town {
	t.Helper()
	v := &town{scene: newScene(t)}
	v.key = v.RegisterKey(dataplanetest.Key{})
	v.anthropic = v.RegisterKey(dataplanetest.Key{Provider: "anthropic"})
	v.alices = v.RegisterKey(dataplanetest.Key{UserID: "alice"})
	v.others = v.RegisterKey(dataplanetest.Key{ProjectID: "other"})
	v.AddCredential("bobs", dataplanetest.Credential{UserID: "bob"})
	v.AddCredential("alices", dataplanetest.Credential{})
	v.applied(v.Publish(unrelated()))
	v.entries = map[string]dataplane.Request{
		"nobody":           forNobody,
		"nobody anthropic": dataplane.ForUser("acme", "chat", "", "anthropic"),
		"nobody gemini":    dataplane.ForUser("acme", "chat", "", "gemini"), // a refusal
		"alice":            forAlice,
		"alice by token":   dataplane.ForCaller("alices", "openai"),
		"bob":              dataplane.ForUser("acme", "chat", "bob", "openai"),
		"bob by token":     dataplane.ForCaller("bobs", "openai"),
		"mallory":          dataplane.ForUser("acme", "chat", "mallory", "openai"), // a refusal
		"by id":            dataplane.ByID(v.key),
		"other project":    dataplane.ForUser("acme", "other", "", "openai"),
	}
	for _, req := range v.entries {
		_, _ = v.resolve(req)
	}
	v.fetches(0, func() {
		for _, req := range v.entries {
			_, _ = v.resolve(req)
		}
	})
	return v
}

func ptr(text string) *string { return &text }

func TestAnEventDropsWhatItTouchesAndNothingElse(t *testing.T) {
	chat := []string{
		"nobody", "nobody anthropic", "nobody gemini", "alice", "alice by token", "bob", "bob by token", "mallory", "by id",
	}
	cases := map[string]struct {
		change func(v *town) uint64
		drops  []string
	}{
		"a key is revoked": {
			func(v *town) uint64 { return v.RevokeKey(v.key) }, []string{"nobody", "bob", "bob by token", "by id"}},
		"a user's own key is revoked": {
			func(v *town) uint64 { return v.RevokeKey(v.alices) }, []string{"alice", "alice by token"}},
		"a key fails": {
			func(v *town) uint64 { return v.FailKey(v.anthropic) }, []string{"nobody anthropic"}},
		"a project's key is registered": {
			func(v *town) uint64 {
				v.RegisterKey(dataplanetest.Key{Provider: "gemini"})
				return v.Publish(unrelated())
			},
			[]string{"nobody gemini"}},
		"a user's own key is registered": {
			func(v *town) uint64 { v.RegisterKey(dataplanetest.Key{UserID: "bob"}); return v.Publish(unrelated()) },
			[]string{"bob", "bob by token"}},
		"a policy is set": {
			func(v *town) uint64 { return v.SetPolicy("acme", "chat", dataplanetest.Policy{}) }, chat},
		"a member is added": {
			func(v *town) uint64 { return v.SetMember("acme", "chat", "mallory") }, []string{"mallory"}},
		"a member is removed": {
			func(v *town) uint64 { return v.RemoveMember("acme", "chat", "bob") }, []string{"bob", "bob by token"}},
		"a caller's API key is revoked": {
			func(v *town) uint64 { return v.RevokeCredential("bobs") }, []string{"bob by token"}},
		"a caller's API key is made": {
			func(v *town) uint64 {
				return v.Publish(gen.StreamMessage{
					Type: "token.created", CustomerID: ptr("acme"), ProjectID: ptr("chat"), TokenID: ptr("x")})
			}, nil},
		"something new happens in a project": {
			func(v *town) uint64 {
				return v.Publish(gen.StreamMessage{Type: "key.polished", CustomerID: ptr("acme"), ProjectID: ptr("chat")})
			}, chat},
		"something new happens to a customer": {
			func(v *town) uint64 {
				return v.Publish(gen.StreamMessage{Type: "customer.suspended", CustomerID: ptr("acme")})
			}, append([]string{"other project"}, chat...)},
		"something happens in another project": {
			func(v *town) uint64 { return v.Publish(unrelated()) }, nil},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			v := newTown(t)
			v.applied(tc.change(v))
			var dropped []string
			for entry, req := range v.entries {
				before := v.Count(dataplanetest.Fetch)
				_, _ = v.resolve(req)
				if v.Count(dataplanetest.Fetch) > before {
					dropped = append(dropped, entry)
				}
			}
			require.ElementsMatch(t, tc.drops, dropped)
		})
	}
}

func TestAChangeShowsAtOnce(t *testing.T) {
	v := newTown(t)
	v.applied(v.RemoveMember("acme", "chat", "bob"))
	v.refuses(v.entries["bob"], dataplane.ErrNotMember)
	v.refuses(v.entries["bob by token"], dataplane.ErrNotMember)
	v.applied(v.RevokeCredential("alices"))
	v.refuses(v.entries["alice by token"], dataplane.ErrCallerUnauthenticated)
	id := v.register(dataplanetest.Key{Provider: "gemini"})
	v.serves(v.entries["nobody gemini"], id)
	v.applied(v.SetPolicy("acme", "chat", dataplanetest.Policy{NextKey: true}))
	next := v.register(dataplanetest.Key{})
	v.serves(forNobody, next)
	v.applied(v.FailKey(next))
	v.serves(forNobody, v.key)
}

// A refusal to a caller's credential does not say for which project it is; the caller who then registers a key is served.
func TestARegistrationEndsTheRefusalOfACallerByTheirCredential(t *testing.T) {
	s := newScene(t)
	s.AddCredential("alices", dataplanetest.Credential{})
	byCredential := dataplane.ForCaller("alices", "openai")
	s.refuses(byCredential, dataplane.ErrNoKey)
	s.fetches(0, func() { s.refuses(byCredential, dataplane.ErrNoKey) })
	id := s.RegisterKey(dataplanetest.Key{})
	s.applied(s.Publish(unrelated()))
	key, err := s.resolve(byCredential)
	require.NoError(t, err)
	require.Equal(t, id, key.ID)
}
