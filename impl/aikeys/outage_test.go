package aikeys_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/aikeys/aikeystest"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
)

// A database that goes away and comes back costs its time and nothing else: what was acknowledged is there, nobody is
// told that their credential is bad, and a retry makes no second key.
func TestPostgresOutage(t *testing.T) {
	cluster := modelstest.StartCluster(t, modelstest.WithoutFsync())
	store := modelstest.OpenStore(t, cluster.URL("postgres"), models.Options{Timeout: 2 * time.Second})
	_, err := store.Migrate(t.Context())
	require.NoError(t, err)
	s := aikeystest.Start(t, aikeystest.Options{Store: store})
	s.As(owner).Register(t, s.Shared("before"))

	load := newLoad(t, s, 8)
	load.await(10)
	require.NoError(t, cluster.Kill())
	load.awaitRefused(5)
	require.NoError(t, cluster.Start())
	load.await(10)
	require.NoError(t, cluster.Stop(modelstest.Fast))
	load.awaitRefused(5)
	require.NoError(t, cluster.Start())
	load.await(10)
	names := load.stop()

	want := slices.Concat(names.registered, []string{"before"})
	have := map[string]int{}
	for _, key := range list(t, s, owner) {
		have[key.Name]++
	}
	for _, name := range want {
		require.Equal(t, 1, have[name], "%s was acknowledged", name)
	}
	for _, name := range names.refused { // of which nobody knows whether they were stored
		reply := retry(t, s, s.As(owner).Token, name, load.bodies[name])
		require.Equal(t, http.StatusCreated, reply.Status)
	}
	require.Len(t, list(t, s, owner), len(want)+len(names.refused))
}

// load is clients that register and read as fast as they can.
type load struct {
	t      *testing.T
	s      *aikeystest.Service
	end    context.CancelFunc
	wg     sync.WaitGroup
	served atomic.Int64
	denied atomic.Int64

	mu     sync.Mutex
	names  struct{ registered, refused []string }
	bodies map[string]gen.RegisterRequest
	others map[int]int // :: a status that should not be → how often
}

func newLoad(t *testing.T, s *aikeystest.Service, clients int) *load {
	t.Helper()
	l := &load{t: t, s: s, bodies: map[string]gen.RegisterRequest{}, others: map[int]int{}}
	ctx, end := context.WithCancel(t.Context())
	l.end = end
	owners := s.As(owner)
	for client := range clients {
		l.wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				l.once(ctx, owners, fmt.Sprintf("key-%d-of-%d", i, client))
			}
		})
	}
	t.Cleanup(func() { end(); l.wg.Wait() })
	return l
}

func (l *load) once(ctx context.Context, owners *aikeystest.Session, name string) {
	body := l.s.Shared(name)
	registered, err := owners.RegisterKeyWithResponse(context.WithoutCancel(ctx), self, self, &gen.RegisterKeyParams{IdempotencyKey: &name}, body)
	if err != nil {
		l.count(name, body, 0)
		return
	}
	l.count(name, body, registered.StatusCode())
	read, err := owners.ResolveKeyWithResponse(context.WithoutCancel(ctx), self, self, &gen.ResolveKeyParams{Provider: "openai"})
	if err != nil {
		return
	}
	if status := read.StatusCode(); status != http.StatusOK && status != http.StatusServiceUnavailable {
		l.count("", body, status)
	}
}

func (l *load) count(name string, body gen.RegisterRequest, status int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bodies[name] = body
	switch status {
	case http.StatusCreated:
		l.names.registered = append(l.names.registered, name)
		l.served.Add(1)
	case http.StatusServiceUnavailable:
		l.names.refused = append(l.names.refused, name)
		l.denied.Add(1)
	default:
		l.others[status]++
	}
}

func (l *load) await(n int64) {
	l.t.Helper()
	until := l.served.Load() + n
	require.Eventually(l.t, func() bool { return l.served.Load() >= until }, 30*time.Second, 5*time.Millisecond)
}

func (l *load) awaitRefused(n int64) {
	l.t.Helper()
	until := l.denied.Load() + n
	require.Eventually(l.t, func() bool { return l.denied.Load() >= until }, 30*time.Second, 5*time.Millisecond)
}

func (l *load) stop() struct{ registered, refused []string } {
	l.t.Helper()
	l.end()
	l.wg.Wait()
	require.Empty(l.t, l.others, "only 201, 200 and 503 are answered")
	return l.names
}

// A database that answers nothing, so that a few requests hold all connections and the rest wait for one.
func TestStarvedPool(t *testing.T) {
	db := &database{url: modelstest.EnginePostgres.URL(t)}
	db.store = modelstest.OpenStore(t, db.url, models.Options{MaxConns: 2, Timeout: time.Second})
	_, err := db.store.Migrate(t.Context())
	require.NoError(t, err)
	s := aikeystest.Start(t, aikeystest.Options{Store: db.store})
	used, fresh := s.As(owner), s.NewSession("acme", "web", owner, time.Time{})
	require.Empty(t, list(t, s, owner))

	lock, err := db.open(t).BeginTx(t.Context(), nil)
	require.NoError(t, err)
	_, err = lock.ExecContext(t.Context(), "LOCK TABLE api_tokens, project_members IN ACCESS EXCLUSIVE MODE")
	require.NoError(t, err)
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
	require.NoError(t, lock.Rollback())
	require.Eventually(t, func() bool { return get(t, s, owner, project+"/aikeys").Status == http.StatusOK }, 5*time.Second, 10*time.Millisecond)
	require.Empty(t, list(t, s, owner))
}
