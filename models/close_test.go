package models_test

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/database"
	"github.com/agentrouter/aikeys/models/modelstest"
)

func TestAClosedStoreIsUnavailableToEveryMethod(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.register(f.own(mia)) // so that statements are prepared and connections open
		for name, call := range methods(f) {
			_ = call(t.Context())
			require.NotEmpty(t, name)
		}
		require.NoError(t, f.Close())
		for name, call := range methods(f) {
			require.ErrorIs(t, call(t.Context()), models.ErrUnavailable, name)
		}
		require.NoError(t, f.Close(), "closing again does nothing")
	})
}

func TestAStoreThatIsClosedAtOnceNeedsNoDatabase(t *testing.T) {
	for _, url := range []string{"sqlite:" + t.TempDir() + "/aikeys.db", "postgres://nobody@127.0.0.1:1/none"} {
		store, err := database.Open(url, models.Options{})
		require.NoError(t, err)
		require.NoError(t, store.Close())
	}
}

func TestClosingUnderLoadEndsEveryCallAndGoroutine(t *testing.T) {
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		url := e.URL(t)
		before := goleak.IgnoreCurrent()
		store, err := database.Open(url, models.Options{})
		require.NoError(t, err)
		_, err = store.Migrate(t.Context())
		require.NoError(t, err)
		f := newFixture(t, store)

		acknowledged, errs := loadUntilUnavailable(f, 16, func() {
			time.Sleep(100 * time.Millisecond)
			require.NoError(t, store.Close())
		})
		for _, err := range errs {
			require.ErrorIs(t, err, models.ErrUnavailable)
		}
		require.NoError(t, goleak.Find(before))

		again := newFixture(t, modelstest.OpenStore(t, url, models.Options{}))
		require.NotEmpty(t, acknowledged)
		require.Subset(t, ids(again.list(olga, models.KeyFilter{})), acknowledged)
	})
}

// loadUntilUnavailable registers and reads by n goroutines until each has had an error, and meanwhile runs fault. It
// returns the ids that were acknowledged, and the errors.
func loadUntilUnavailable(f *fixture, n int, fault func()) (acknowledged []string, errs []error) {
	f.t.Helper()
	ctx := f.t.Context()
	var (
		mu sync.Mutex
		wg sync.WaitGroup
	)
	for range n {
		wg.Go(func() {
			for {
				key, err := f.RegisterKey(ctx, olga, models.RoleOwner, f.shared(olga), now())
				if err == nil {
					mu.Lock()
					acknowledged = append(acknowledged, key.ID)
					mu.Unlock()
					_, err = f.GetKey(ctx, olga, key.ID, now())
				}
				if err == nil {
					_, err = f.ServingKeys(ctx, olga, "openai")
				}
				if err == nil {
					err = f.tryRevokeNoted(ctx, &key)
				}
				if err != nil {
					mu.Lock()
					errs = append(errs, err)
					mu.Unlock()
					return
				}
			}
		})
	}
	fault()
	done := make(chan struct{})
	go func() {
		defer close(done)
		wg.Wait()
	}()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		require.FailNow(f.t, "calls hang")
	}
	return acknowledged, errs
}
