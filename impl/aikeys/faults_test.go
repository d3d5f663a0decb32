package aikeys_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the drivers that tests look at tables by
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	_ "modernc.org/sqlite"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/aikeys/aikeystest"
	"github.com/agentrouter/aikeys/impl/secrets/secretstest"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/sealertest"
)

func requireUnavailable(t *testing.T, reply aikeystest.Reply) {
	t.Helper()
	require.Equal(t, http.StatusServiceUnavailable, reply.Status)
	require.Equal(t, "unavailable", reply.Problem(t).Code)
	require.NotEmpty(t, reply.Header.Get("Retry-After"))
}

func TestSealingUnavailable(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		backend, ok := s.Sealer.(*sealertest.Unavailable)
		require.True(t, ok)
		body, token := s.Shared("n"), s.As(owner).Token
		requireUnavailable(t, post(t, s, owner, project+"/aikeys", body))
		requireUnavailable(t, retry(t, s, token, "k", body))
		require.Empty(t, list(t, s, owner))
		require.Empty(t, events(t, s, owner))
		setPolicy(t, s, map[string]any{})

		backend.SetAvailable(true)
		require.Equal(t, http.StatusCreated, retry(t, s, token, "k", body).Status)
		key := list(t, s, owner)[0]
		backend.SetAvailable(false)
		requireUnavailable(t, retry(t, s, token, "k", body))
		require.Equal(t, key.ID, resolve(t, s, member, "openai").Key.ID)
		s.As(owner).RevokeKey(t, key.ID)
	}, func(t *testing.T, o *aikeystest.Options) {
		o.Sealer = sealertest.NewUnavailable(secretstest.Backend(t))
	})
}

// statusOf returns a reply's status, or 0 without a reply.
func statusOf(reply interface{ StatusCode() int }, err error) int {
	if err != nil {
		return 0
	}
	return reply.StatusCode()
}

func TestNotReady(t *testing.T) {
	var ready atomic.Bool
	s := aikeystest.Start(t, aikeystest.Options{Ready: ready.Load})
	for _, o := range aikeystest.Operations(t) {
		t.Run(o.OperationID, func(t *testing.T) {
			requireUnavailable(t, s.Send(t, o.Request)) // whatever the credential
			o.Token = s.As(owner).Token
			requireUnavailable(t, s.Send(t, o.Request))
		})
	}
	ready.Store(true)
	require.Empty(t, list(t, s, owner))
	require.Empty(t, events(t, s, owner))
}

// Such a service is not let start; were it to, a fingerprint of another keyset's would tell a retry from a reuse wrongly.
func TestSealingRetryWithAnotherKeyset(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		body := s.Shared("n")
		require.Equal(t, http.StatusCreated, retry(t, s, s.As(owner).Token, "k", body).Status)
		wrong := aikeystest.Start(t, aikeystest.Options{Store: s.Store})
		for _, key := range []string{"k", "another"} {
			reply := retry(t, wrong, s.As(owner).Token, key, body)
			require.Equal(t, http.StatusInternalServerError, reply.Status)
			lines := wrong.Evidence.Lines(reply.Header.Get("X-Request-Id"))
			require.Len(t, lines, 1)
			require.Contains(t, lines[0]["error"], "keyset")
		}
		require.Len(t, list(t, s, owner), 1)
	})
}

// crashing is a sealer that panics with whatever it knows.
type crashing struct {
	sealer.Sealer
	what any
}

func (c crashing) Seal(context.Context, sealer.Binding, sealer.Secret) (sealer.Envelope, error) {
	panic(c.what)
}

func TestPanic(t *testing.T) {
	const text = "text-that-was-panicked-with"
	for name, what := range map[string]any{"a text": text, "an error": fmt.Errorf("oops: %s", text), "a struct": struct{ S string }{text}} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, s *aikeystest.Service) {
				s.Evidence.Hide(text)
				reply := post(t, s, owner, project+"/aikeys", s.Shared("n"))
				require.Equal(t, http.StatusInternalServerError, reply.Status)
				require.Equal(t, "internal", reply.Problem(t).Code)
				require.Empty(t, reply.Problem(t).Errors)
				lines := s.Evidence.Lines(reply.Header.Get("X-Request-Id"))
				require.Len(t, lines, 1)
				require.Equal(t, "ERROR", lines[0]["level"])
				require.Contains(t, lines[0]["stack"], "crashing.Seal", "where it happened")
				require.Empty(t, list(t, s, owner), "and the service goes on")
			}, func(t *testing.T, o *aikeystest.Options) { o.Sealer = crashing{secretstest.Backend(t), what} })
		})
	}
}

// stuck is a sealer that waits until its caller gives up.
type stuck struct {
	sealer.Sealer
	entered chan struct{}
}

func (s stuck) Seal(ctx context.Context, _ sealer.Binding, _ sealer.Secret) (sealer.Envelope, error) {
	s.entered <- struct{}{}
	<-ctx.Done()
	return sealer.Envelope{}, fmt.Errorf("seal: %w", ctx.Err())
}

func TestSealingClientDisconnects(t *testing.T) {
	modelstest.Postgres(t) // its cluster outlives the test
	before := goleak.IgnoreCurrent()
	t.Run("service", func(t *testing.T) {
		each(t, func(t *testing.T, s *aikeystest.Service) {
			backend, ok := s.Sealer.(stuck)
			require.True(t, ok)
			const clients = 20
			ctx, leave := context.WithCancel(t.Context())
			defer leave()
			owners := s.As(owner)
			require.Empty(t, list(t, s, owner))
			var wg sync.WaitGroup
			for i := range clients {
				wg.Go(func() {
					_, err := owners.RegisterKeyWithResponse(ctx, self, self, nil, s.Shared(strconv.Itoa(i)))
					if err == nil {
						t.Error("answered")
					}
				})
			}
			for range clients {
				<-backend.entered
			}
			leave()
			wg.Wait()
			require.Eventually(t, func() bool { return len(ends(s, "registerKey")) == clients }, 5*time.Second, 5*time.Millisecond)
			require.Equal(t, slices.Repeat([]end{{"INFO", 499}}, clients), ends(s, "registerKey"), "nothing of ours failed")
			require.Empty(t, list(t, s, owner))
		}, func(t *testing.T, o *aikeystest.Options) {
			o.Sealer = stuck{secretstest.Backend(t), make(chan struct{})}
		})
	})
	goleak.VerifyNone(t, before)
}

// end is how the log tells of a request's end.
type end struct {
	level  string
	status int
}

// ends returns what the log tells of an operation's requests.
func ends(s *aikeystest.Service, operation string) []end {
	var found []end
	for text := range strings.Lines(s.Evidence.Log()) {
		var line struct {
			Level, Operation string
			Status           int
		}
		if json.Unmarshal([]byte(text), &line) == nil && line.Operation == operation {
			found = append(found, end{line.Level, line.Status})
		}
	}
	return found
}

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

// database is a migrated database, and the way past the store to what is in it.
type database struct {
	url   string
	store *models.Store
}

func newDatabase(t *testing.T, e modelstest.Engine) *database {
	t.Helper()
	url := e.URL(t)
	store := modelstest.OpenStore(t, url, models.Options{})
	_, err := store.Migrate(t.Context())
	require.NoError(t, err)
	return &database{url: url, store: store}
}

// open returns connections of the test's own.
func (d *database) open(t *testing.T) *sql.DB {
	t.Helper()
	driver, source := "pgx", d.url
	if path, ok := strings.CutPrefix(d.url, "sqlite:"); ok {
		driver, source = "sqlite", "file:"+path
	}
	db, err := sql.Open(driver, source)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db
}

// value returns the one value that a query finds.
func value[T any](t *testing.T, db *sql.DB, query string, args ...any) T {
	t.Helper()
	var v T
	require.NoError(t, db.QueryRowContext(t.Context(), query, args...).Scan(&v))
	return v
}
