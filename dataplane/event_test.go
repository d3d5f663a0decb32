package dataplane_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
	gen "github.com/agentrouter/aikeys/gen/dataplane"
)

// eventEnv has one cache entry of each kind.
type eventEnv struct {
	*dataplanetest.Env
	entries                        map[string]dataplane.Request // by description
	key, anthropic, alices, others string                       // ids of keys
}

func newEventEnv(t *testing.T) *eventEnv {
	t.Helper()
	v := &eventEnv{Env: dataplanetest.NewEnv(t)}
	v.key = v.RegisterKey(dataplanetest.Key{})
	v.anthropic = v.RegisterKey(dataplanetest.Key{Provider: "anthropic"})
	v.alices = v.RegisterKey(dataplanetest.Key{UserID: "alice"})
	v.others = v.RegisterKey(dataplanetest.Key{ProjectID: "other"})
	v.AddCredential("bobs", dataplanetest.Credential{UserID: "bob"})
	v.AddCredential("alices", dataplanetest.Credential{})
	v.Sync()
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
		_, _ = v.R.Resolve(t.Context(), req)
	}
	v.Fetches(0, func() {
		for _, req := range v.entries {
			_, _ = v.R.Resolve(t.Context(), req)
		}
	})
	return v
}

func TestEventsDropWhatTheyTouch(t *testing.T) {
	chat := []string{
		"nobody", "nobody anthropic", "nobody gemini", "alice", "alice by token", "bob", "bob by token", "mallory", "by id",
	}
	cases := map[string]struct {
		change func(v *eventEnv) int64
		drops  []string
	}{
		"a key is revoked": {
			func(v *eventEnv) int64 { return v.RevokeKey(v.key) }, []string{"nobody", "bob", "bob by token", "by id"}},
		"a user's own key is revoked": {
			func(v *eventEnv) int64 { return v.RevokeKey(v.alices) }, []string{"alice", "alice by token"}},
		"a key fails": {
			func(v *eventEnv) int64 { return v.FailKey(v.anthropic) }, []string{"nobody anthropic"}},
		"a project's key is registered": {
			func(v *eventEnv) int64 {
				v.RegisterKey(dataplanetest.Key{Provider: "gemini"})
				return v.Publish(dataplanetest.Unrelated())
			},
			[]string{"nobody gemini"}},
		"a user's own key is registered": {
			func(v *eventEnv) int64 {
				v.RegisterKey(dataplanetest.Key{UserID: "bob"})
				return v.Publish(dataplanetest.Unrelated())
			},
			[]string{"bob", "bob by token"}},
		"a policy is set": {
			func(v *eventEnv) int64 { return v.SetPolicy("acme", "chat", dataplanetest.Policy{}) }, chat},
		"a member is added": {
			func(v *eventEnv) int64 { return v.SetMember("acme", "chat", "mallory") }, []string{"mallory"}},
		"a member is removed": {
			func(v *eventEnv) int64 { return v.RemoveMember("acme", "chat", "bob") }, []string{"bob", "bob by token"}},
		"a caller's API key is revoked": {
			func(v *eventEnv) int64 { return v.RevokeCredential("bobs") }, []string{"bob by token"}},
		"a caller's API key is made": {
			func(v *eventEnv) int64 {
				return v.Publish(gen.StreamMessage{
					Type: "token.created", CustomerID: new("acme"), ProjectID: new("chat"), TokenID: new("x")})
			}, nil},
		"something new happens in a project": {
			func(v *eventEnv) int64 {
				return v.Publish(gen.StreamMessage{Type: "key.polished", CustomerID: new("acme"), ProjectID: new("chat")})
			}, chat},
		"something new happens to a customer": {
			func(v *eventEnv) int64 {
				return v.Publish(gen.StreamMessage{Type: "customer.suspended", CustomerID: new("acme")})
			}, append([]string{"other project"}, chat...)},
		"something happens in another project": {
			func(v *eventEnv) int64 { return v.Publish(dataplanetest.Unrelated()) }, nil},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			v := newEventEnv(t)
			v.AwaitTx(tc.change(v))
			var dropped []string
			for entry, req := range v.entries {
				before := v.Count(dataplanetest.Fetch)
				_, _ = v.R.Resolve(t.Context(), req)
				if v.Count(dataplanetest.Fetch) > before {
					dropped = append(dropped, entry)
				}
			}
			require.ElementsMatch(t, tc.drops, dropped)
		})
	}
}

func TestChangesShowAtOnce(t *testing.T) {
	v := newEventEnv(t)
	v.AwaitTx(v.RemoveMember("acme", "chat", "bob"))
	v.Refuses(v.entries["bob"], dataplane.ErrNotMember)
	v.Refuses(v.entries["bob by token"], dataplane.ErrNotMember)
	v.AwaitTx(v.RevokeCredential("alices"))
	v.Refuses(v.entries["alice by token"], dataplane.ErrCallerUnauthenticated)
	id := v.Register(dataplanetest.Key{Provider: "gemini"})
	v.Serves(v.entries["nobody gemini"], id)
	v.AwaitTx(v.SetPolicy("acme", "chat", dataplanetest.Policy{NextKey: true}))
	next := v.Register(dataplanetest.Key{})
	v.Serves(forNobody, next)
	v.AwaitTx(v.FailKey(next))
	v.Serves(forNobody, v.key)
}

// A refusal to a credential does not name the project, and a key registered later must still lift it.
func TestRegistrationLiftsUnscopedRefusal(t *testing.T) {
	s := dataplanetest.NewEnv(t)
	s.AddCredential("alices", dataplanetest.Credential{})
	byCredential := dataplane.ForCaller("alices", "openai")
	s.Refuses(byCredential, dataplane.ErrNoKey)
	s.Fetches(0, func() { s.Refuses(byCredential, dataplane.ErrNoKey) })
	id := s.RegisterKey(dataplanetest.Key{})
	s.Sync()
	key, err := s.R.Resolve(t.Context(), byCredential)
	require.NoError(t, err)
	require.Equal(t, id, key.ID)
}
