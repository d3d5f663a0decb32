package auth_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/auth"
)

// gate holds a store's first answer back after the row was read.
type gate struct{ read, release chan struct{} }

func holdFirst(store *tokens) gate {
	g := gate{read: make(chan struct{}), release: make(chan struct{})}
	store.answer = func(ctx context.Context, find int) error {
		if find == 1 {
			close(g.read)
			<-g.release
		}
		return ctx.Err()
	}
	return g
}

type answer struct {
	principal auth.Principal
	err       error
}

// bubble runs a subtest with a clock of its own, in which synctest.Wait waits until all others wait.
func bubble(t *testing.T, name string, f func(t *testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
}

// begin authenticates in the background.
func begin(ctx context.Context, a *auth.Authenticator, header string) <-chan answer {
	done := make(chan answer, 1)
	go func() {
		p, err := a.Authenticate(ctx, header)
		done <- answer{p, err}
	}()
	return done
}

func TestDrop(t *testing.T) {
	t.Run("a cached session of a revoked key ends at once", func(t *testing.T) {
		store, now := newTokens(), newClock()
		text, id := store.Mint(t)
		a := auth.New(auth.Config{Tokens: store, Now: now.Now})
		_, err := a.Authenticate(t.Context(), bearer(text))
		require.NoError(t, err)
		store.Revoke(id)
		_, err = a.Authenticate(t.Context(), bearer(text))
		require.NoError(t, err, "it is cached")
		a.Drop(id)
		requireRefused(t, a, bearer(text))
	})
	t.Run("a look-up that the revocation overtook does not put the session back", func(t *testing.T) {
		store, now := newTokens(), newClock()
		text, id := store.Mint(t)
		g := holdFirst(store)
		a := auth.New(auth.Config{Tokens: store, Now: now.Now})
		early := begin(t.Context(), a, bearer(text))
		<-g.read
		store.Revoke(id)
		a.Drop(id)
		close(g.release)
		require.NoError(t, (<-early).err, "it began before the revocation")
		requireRefused(t, a, bearer(text))
	})
	bubble(t, "a request that begins after it does not share the answer of a look-up from before", func(t *testing.T) {
		store, now := newTokens(), newClock()
		text, id := store.Mint(t)
		g := holdFirst(store)
		a := auth.New(auth.Config{Tokens: store, Now: now.Now})
		early := begin(t.Context(), a, bearer(text))
		<-g.read
		store.Revoke(id)
		a.Drop(id)
		late := begin(t.Context(), a, bearer(text))
		synctest.Wait() // late has joined early's look-up
		close(g.release)
		require.NoError(t, (<-early).err)
		require.ErrorIs(t, (<-late).err, auth.ErrUnauthenticated)
	})
	t.Run("it leaves a live key usable", func(t *testing.T) {
		store := newTokens()
		text, id := store.Mint(t)
		a := auth.New(auth.Config{Tokens: store})
		for range 3 {
			_, err := a.Authenticate(t.Context(), bearer(text))
			require.NoError(t, err)
			a.Drop(id)
		}
		require.Equal(t, 3, store.Finds())
	})
	bubble(t, "a request for a live key that joined a look-up from before it asks again", func(t *testing.T) {
		store := newTokens()
		text, id := store.Mint(t)
		g := holdFirst(store)
		a := auth.New(auth.Config{Tokens: store})
		early := begin(t.Context(), a, bearer(text))
		<-g.read
		a.Drop(id)
		late := begin(t.Context(), a, bearer(text))
		synctest.Wait() // late has joined early's look-up
		close(g.release)
		require.NoError(t, (<-early).err)
		require.NoError(t, (<-late).err)
		require.Equal(t, 2, store.Finds())
	})
	t.Run("no request that begins after it succeeds, in any interleaving", func(t *testing.T) {
		store := newTokens()
		a := auth.New(auth.Config{Tokens: store})
		for range 100 {
			raceRevocation(t, store, a)
		}
	})
}

// raceRevocation revokes a key while others authenticate with it.
func raceRevocation(t *testing.T, store *tokens, a *auth.Authenticator) {
	t.Helper()
	text, id := store.Mint(t)
	var dropped atomic.Bool
	var wrong atomic.Int32
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for refused := false; !refused; {
				after := dropped.Load()
				_, err := a.Authenticate(t.Context(), bearer(text))
				if after && err == nil {
					wrong.Add(1)
				}
				refused = err != nil
			}
		})
	}
	store.Revoke(id)
	a.Drop(id)
	dropped.Store(true)
	group.Wait()
	require.Zero(t, wrong.Load())
}

func TestSharedLookUp(t *testing.T) {
	bubble(t, "many callers with one cold token cost one look-up, and the first one's leaving fails none", func(t *testing.T) {
		store := newTokens()
		text, id := store.Mint(t)
		g := holdFirst(store)
		a := auth.New(auth.Config{Tokens: store})
		ctx, cancel := context.WithCancel(t.Context())
		first := begin(ctx, a, bearer(text))
		<-g.read
		var others []<-chan answer
		for range 20 {
			others = append(others, begin(t.Context(), a, bearer(text)))
		}
		cancel()
		require.ErrorIs(t, (<-first).err, context.Canceled, "it does not wait for the look-up")
		synctest.Wait() // the others have joined
		close(g.release)
		for _, other := range others {
			got := <-other
			require.NoError(t, got.err)
			require.Equal(t, id, got.principal.TokenID)
		}
		require.Equal(t, 1, store.Finds())
	})
	bubble(t, "a caller does not take an answer that was asked for more than a TTL before it came", func(t *testing.T) {
		store, now := newTokens(), newClock()
		text, id := store.Mint(t)
		g := holdFirst(store)
		a := auth.New(auth.Config{Tokens: store, Now: now.Now})
		early := begin(t.Context(), a, bearer(text))
		<-g.read
		store.Revoke(id)
		now.Advance(time.Second)
		late := begin(t.Context(), a, bearer(text))
		synctest.Wait() // late has joined early's look-up
		close(g.release)
		require.NoError(t, (<-early).err)
		require.ErrorIs(t, (<-late).err, auth.ErrUnauthenticated)
	})
	t.Run("two tokens do not wait for each other", func(t *testing.T) {
		store := newTokens()
		slow, _ := store.Mint(t)
		quick, _ := store.Mint(t)
		g := holdFirst(store)
		a := auth.New(auth.Config{Tokens: store})
		waiting := begin(t.Context(), a, bearer(slow))
		<-g.read
		_, err := a.Authenticate(t.Context(), bearer(quick))
		require.NoError(t, err)
		close(g.release)
		require.NoError(t, (<-waiting).err)
	})
}
