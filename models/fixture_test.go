package models_test

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
)

// The project of the fixture.
const (
	acme = "acme"
	web  = "web"
)

// The callers of the fixture: its owner, two members, and somebody else.
var (
	olga     = models.Caller{CustomerID: acme, ProjectID: web, UserID: "olga"}
	mia      = models.Caller{CustomerID: acme, ProjectID: web, UserID: "mia"}
	moe      = models.Caller{CustomerID: acme, ProjectID: web, UserID: "moe"}
	stranger = models.Caller{CustomerID: acme, ProjectID: web, UserID: "sam"}
)

// fixture is a fresh store that has the project acme/web.
type fixture struct {
	*models.Store
	t   *testing.T
	ids models.IDs
	url string // of its database; set by each
}

// each runs a test on a fixture of every engine.
func each(t *testing.T, test func(t *testing.T, f *fixture)) {
	t.Helper()
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		url := e.MigratedURL(t)
		f := newFixture(t, modelstest.OpenStore(t, url, models.Options{}))
		f.url = url
		test(t, f)
	})
}

func newFixture(t *testing.T, s *models.Store) *fixture {
	t.Helper()
	f := &fixture{Store: s, t: t}
	f.addMember(olga, models.RoleOwner)
	f.addMember(mia, models.RoleMember)
	f.addMember(moe, models.RoleMember)
	return f
}

// addMember makes the caller's project, where it is not there, and the caller a member of it.
func (f *fixture) addMember(c models.Caller, role models.Role) {
	f.t.Helper()
	f.transact(func(tx *models.Tx) error {
		if err := tx.EnsureProject(c.CustomerID, c.ProjectID); err != nil {
			return err
		}
		_, err := tx.SetMember(c.CustomerID, c.ProjectID, c.UserID, role)
		return err
	})
}

func (f *fixture) transact(fn func(*models.Tx) error) {
	f.t.Helper()
	require.NoError(f.t, f.Transact(f.t.Context(), fn))
}

// shared returns a registration of a project-level key, changed as the caller likes.
func (f *fixture) shared(c models.Caller, changes ...func(*models.Registration)) models.Registration {
	now := time.Now()
	id := f.ids.Next(models.KeyIDPrefix, now)
	r := models.Registration{
		Key: models.Key{ID: id, CustomerID: c.CustomerID, ProjectID: c.ProjectID, Provider: "openai", Name: id, DisplaySuffix: "wxyz",
			Version: 1, Envelope: []byte("sealed " + id), KEKID: "kek-1", CreatedAt: now.UnixMicro(), CreatedBy: c.UserID},
		Event: models.Event{CustomerID: c.CustomerID, ProjectID: c.ProjectID, ID: f.ids.Next(models.EventIDPrefix, now),
			Type: models.EventKeyRegistered, Outcome: models.OutcomeAllowed, At: now.UnixMicro(), ActorUserID: c.UserID, KeyID: id},
	}
	for _, change := range changes {
		change(&r)
	}
	return r
}

// own returns a registration of the caller's own key.
func (f *fixture) own(c models.Caller, changes ...func(*models.Registration)) models.Registration {
	mine := func(r *models.Registration) { r.Key.UserID, r.Event.ScopeUserID = c.UserID, c.UserID }
	return f.shared(c, append([]func(*models.Registration){mine}, changes...)...)
}

func named(name string) func(*models.Registration) {
	return func(r *models.Registration) { r.Key.Name = name }
}

func provider(slug string) func(*models.Registration) {
	return func(r *models.Registration) { r.Key.Provider, r.Event.Provider = slug, slug }
}

// retryable gives the registration the Idempotency-Key whose hash is key, for a request with that fingerprint.
func retryable(key, fingerprint string) func(*models.Registration) {
	return func(r *models.Registration) {
		r.Idempotency = &models.IdempotencyRecord{CustomerID: r.Key.CustomerID, ProjectID: r.Key.ProjectID,
			UserID: r.Key.CreatedBy, KeyHash: []byte(key), Fingerprint: []byte(fingerprint), KeyID: r.Key.ID, CreatedAt: r.Key.CreatedAt}
	}
}

// register stores a key as its creator and returns it.
func (f *fixture) register(r models.Registration) models.Key {
	f.t.Helper()
	c := models.Caller{CustomerID: r.Key.CustomerID, ProjectID: r.Key.ProjectID, UserID: r.Key.CreatedBy}
	k, err := f.RegisterKey(f.t.Context(), c, models.RoleMember, r, now())
	require.NoError(f.t, err)
	return k
}

// revoke revokes a key as the API does.
func (f *fixture) revoke(k models.Key) {
	f.t.Helper()
	f.revokeNoted(&k)
}

func (f *fixture) removing(user string) func(*models.Tx) error {
	return func(tx *models.Tx) error { return tx.RemoveMember(acme, web, user, f.event(models.EventMemberRemoved)) }
}

func (f *fixture) setting(p *models.Policy) func(*models.Tx) error {
	return func(tx *models.Tx) error { return tx.SetPolicy(p, "olga", f.event(models.EventPolicySet)) }
}

// size is how many rows each table has that a register may write to.
type size struct{ keys, events, idempotency int }

func (f *fixture) size() size {
	f.t.Helper()
	count := func(table string) int {
		n, err := models.Count(f.t.Context(), f.Store, table)
		require.NoError(f.t, err)
		return n
	}
	return size{count("ai_keys"), count("events"), count("idempotency_records")}
}

func now() int64 { return time.Now().UnixMicro() }

func ids(keys []models.Key) []string {
	out := make([]string, len(keys))
	for i, k := range keys {
		out[i] = k.ID
	}
	return out
}

// together calls fn n times at once, with 0 to n-1, and returns what each call returned.
func together[T any](n int, fn func(i int) T) []T {
	out := make([]T, n)
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			<-start
			out[i] = fn(i)
		})
	}
	close(start)
	wg.Wait()
	return out
}
