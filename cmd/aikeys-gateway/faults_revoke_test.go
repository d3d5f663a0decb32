package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
)

// A second key replaces the first, and the first serves again when the second is revoked. No request fails in between, on
// either engine.
func TestKeyReplacementHasNoGap(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		replicas := 2
		if e == modelstest.EngineSQLite {
			replicas = 1
		}
		s := newScene(t, e.URL(t), replicas)
		_, planes := s.planes(0, 5*time.Second)
		began := time.Now()
		for range 5 {
			second := s.add(false)
			registered := time.Now()
			for _, p := range planes {
				p.awaitKey(second)
				p.requireNone(s.newest, registered.Add(lease+margin), registered)
			}
			revoked := s.owner(s.at(0)).revoke(t, second, "10s")
			require.Equal(t, "complete", revoked.State)
			require.Equal(t, 2, revoked.Acknowledged)
			for _, p := range planes {
				p.awaitKey(s.newest)
				p.requireNone(second, revoked.answered, revoked.sent)
			}
		}
		for _, p := range planes {
			p.requireServed(began, time.Now())
		}
	})
}

// thousand is the number of concurrent callers.
const thousand = 1000

// A key is revoked while a thousand members send requests through three data planes. Once the receipt is complete, no request
// gets the key, cached or not.
func TestFetchDuringRevocation(t *testing.T) {
	t.Parallel()
	s := newScene(t, modelstest.Postgres(t), 3)
	store := modelstest.OpenStore(t, s.database, models.Options{Timeout: time.Minute})
	require.NoError(t, store.Transact(t.Context(), func(tx *models.Tx) error {
		for i := range thousand {
			if _, err := tx.SetMember("acme", "chat", fmt.Sprintf("user-%d", i), models.RoleMember); err != nil {
				return err
			}
		}
		return nil
	}))
	var resolvers []*dataplane.Resolver
	for i := range 3 {
		edge, replica := s.edge(), s.at(i)
		r, err := dataplane.New(dataplane.Config{ControlPlane: replica.dataplane, Token: func() string { return edge }, FetchTimeout: patience})
		require.NoError(t, err)
		dataplanetest.Run(t, r)
		require.Eventually(t, func() bool { return r.Status().Leased }, patience, time.Millisecond)
		resolvers = append(resolvers, r)
	}
	ask := func(i int) (key string, err error) {
		user := dataplane.ForUser("acme", "chat", fmt.Sprintf("user-%d", i), "openai")
		for range 10 { // on a busy machine an answer may arrive too late to be used
			var got *dataplane.Key
			if got, err = resolvers[i%3].Resolve(context.Background(), user); err == nil {
				return got.ID, nil
			}
			if !errors.Is(err, dataplane.ErrUnavailable) {
				break
			}
		}
		return "", err
	}
	s.owner(s.at(0)).revoke(t, s.older, "10s")
	var mu sync.Mutex
	var asking sync.WaitGroup
	var last time.Time // when the last request that got the key was sent
	served := make(chan struct{}, thousand)
	for i := range thousand {
		asking.Go(func() {
			for once := false; ; once = true {
				began := time.Now()
				key, err := ask(i)
				if !once {
					served <- struct{}{}
				}
				if err != nil {
					if !errors.Is(err, dataplane.ErrNoKey) {
						t.Errorf("another error than that there is no key: %v", err)
					}
					return
				}
				mu.Lock()
				if key == s.newest && began.After(last) {
					last = began
				}
				mu.Unlock()
				time.Sleep(50 * time.Millisecond) // leave the others some of the processor
			}
		})
	}
	for range thousand / 3 { // the others are on their way
		<-served
	}
	revoked := s.owner(s.at(1)).revoke(t, s.newest, "20s")
	require.Equal(t, "complete", revoked.State)
	require.Equal(t, 3, revoked.DataPlanes)
	for i := range thousand {
		_, err := ask(i)
		require.ErrorIs(t, err, dataplane.ErrNoKey)
	}
	asking.Wait()
	t.Logf("the receipt was complete %v after the revocation was sent; the last request that got the key was made %v before that",
		revoked.answered.Sub(revoked.sent).Round(time.Millisecond), revoked.answered.Sub(last).Round(time.Millisecond))
	require.True(t, last.Before(revoked.answered), "a request made after the receipt got the key")
}

// A member with a key of their own is removed, and an API key is revoked while it is in use. Every gateway refuses within the
// bound.
func TestRemovedMemberIsRefused(t *testing.T) {
	t.Parallel()
	s := newScene(t, modelstest.Postgres(t), 2)
	s.aikeysd("admin", "member", "set", "--customer", "acme", "--project", "chat", "--user", "bob", "--role", "member")
	bob, spare := s.token("bob"), s.token("alice")
	own := callAs(t, s.at(0).api, bob).register(t, s.secret(), true)
	cases := map[string]struct {
		caller, key string
		status      int
		remove      func()
	}{
		"a member who is removed": {bob, own, http.StatusForbidden, func() {
			reply, err := s.owner(s.at(0)).RemoveMemberWithResponse(t.Context(), "-", "-", "bob")
			require.NoError(t, err)
			require.Less(t, reply.StatusCode(), 300, "%s", reply.Body)
		}},
		"an API key that is revoked": {spare, s.newest, http.StatusUnauthorized, func() {
			s.aikeysd("admin", "token", "revoke", "--customer", "acme", "--project", "chat", "--id", strings.Split(spare, "_")[1])
		}},
	}
	_, others := s.planes(0, 5*time.Second)
	for name, c := range cases {
		var planes []*plane
		for i, maxStale := range []time.Duration{0, 5 * time.Second} {
			p := newPlane(t, planeOptions{
				name: fmt.Sprintf("%s, max_stale %v", name, maxStale), provider: s.provider, control: s.at(i).dataplane,
				edge: s.edge(), caller: c.caller, maxStale: maxStale,
			})
			p.awaitKey(c.key)
			planes = append(planes, p)
		}
		began := time.Now()
		c.remove()
		removed := time.Now()
		for _, p := range planes {
			p.awaitStatus(c.status)
			time.Sleep(time.Until(removed.Add(lease + margin)))
			p.awaitStatus(c.status)
			p.requireRefused(removed.Add(lease+margin), time.Now())
			p.requireNone(c.key, removed.Add(lease+margin), removed)
			p.stop()
		}
		for _, p := range others {
			p.requireServed(began, time.Now())
		}
	}
}
