package feed_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/feed"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
)

const acme = "acme"

// world is a database, and the replicas that serve streams from it.
type world struct {
	t      testing.TB
	engine modelstest.Engine
	url    string
	store  *models.Store // to write by; on SQLite that of the replica, too
	ids    models.IDs
}

func newWorld(t testing.TB, e modelstest.Engine) *world {
	t.Helper()
	w := &world{t: t, engine: e, url: e.URL(t)}
	w.store = modelstest.OpenStore(t, w.url, models.Options{MaxConns: 12})
	_, err := w.store.Migrate(t.Context())
	require.NoError(t, err)
	w.transact(func(tx *models.Tx) error { return tx.EnsureProject(acme, "web") })
	if e == modelstest.EnginePostgres { // as a replica without streams: it wakes the others
		ctx, cancel := context.WithCancel(context.Background())
		watched := make(chan error, 1)
		go func() { watched <- w.store.Watch(ctx, func() {}) }()
		t.Cleanup(func() {
			cancel()
			require.NoError(t, <-watched)
		})
	}
	return w
}

func each(t *testing.T, test func(t *testing.T, w *world)) {
	t.Helper()
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		t.Parallel()
		test(t, newWorld(t, e))
	})
}

// replica is a feed behind a server of its own.
type replica struct {
	*feed.Feed

	w       *world
	store   *models.Store
	base    string
	serving atomic.Int64 // handlers at work
	kill    func()
}

// options change a replica; the zero value is a replica as in production, but for a shorter lease.
type options struct {
	lease, house, grace, silence time.Duration
	store                        *models.Store
	tls                          bool
}

func defaulted(d, otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return d
}

// replica starts one and waits until it has read from the database. On Postgres it has a store of its own.
func (w *world) replica(o options) *replica {
	w.t.Helper()
	r := w.start(o)
	w.eventually("the replica reads", func() bool { return feed.Ready(r.Feed) })
	return r
}

func (w *world) start(o options) *replica {
	w.t.Helper()
	r := &replica{w: w, store: o.store}
	if r.store == nil {
		r.store = w.store
		if w.engine == modelstest.EnginePostgres {
			r.store = modelstest.OpenStore(w.t, w.url, models.Options{MaxConns: 8})
		}
	}
	var err error
	r.Feed, err = feed.New(feed.Config{Store: r.store, Lease: o.lease})
	require.NoError(w.t, err)
	feed.Hasten(r.Feed, defaulted(o.house, time.Second), defaulted(o.grace, 5*time.Second), defaulted(o.silence, 30*time.Second))
	server := httptest.NewUnstartedServer(http.HandlerFunc(r.serve))
	server.Listener = tightListener{server.Listener}
	if o.tls {
		server.StartTLS()
	} else {
		server.Start()
	}
	r.base = server.URL
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- r.Run(ctx) }()
	var killed atomic.Bool
	r.kill = func() {
		if killed.Swap(true) {
			return
		}
		cancel()
		require.NoError(w.t, <-ran)
		server.CloseClientConnections()
		server.Close()
	}
	w.t.Cleanup(r.kill)
	return r
}

// tightListener has the kernel take little of what a server writes to a connection that nobody reads.
type tightListener struct{ net.Listener }

func (l tightListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if tcp, ok := c.(*net.TCPConn); ok {
		err = errors.Join(err, tcp.SetWriteBuffer(4096))
	}
	return c, err
}

func (r *replica) serve(w http.ResponseWriter, req *http.Request) {
	r.serving.Add(1)
	defer r.serving.Add(-1)
	query := req.URL.Query()
	dataPlane, err := r.store.FindDataPlane(req.Context(), query.Get("data_plane"))
	if err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	stale, _ := strconv.Atoi(query.Get("max_stale_ms"))
	sub := feed.Subscription{
		DataPlane: dataPlane, Previous: query.Get("previous_session_id"), MaxStale: time.Duration(stale) * time.Millisecond,
	}
	if text := req.Header.Get("Last-Event-ID"); text != "" {
		position, err := models.ParsePosition(text)
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		sub.Resume = &position
	}
	s, err := r.Subscribe(req.Context(), sub)
	if err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	if err := s.Serve(req.Context(), w); err != nil {
		r.w.t.Errorf("a stream: %v", err)
	}
}

// connect opens a stream that must open.
func (r *replica) connect(q request) *conn {
	r.w.t.Helper()
	if q.dataPlane == "" {
		q.dataPlane = r.w.dataPlane().ID
	}
	c, status := open(r.w.t, r.base, q)
	require.Equal(r.w.t, http.StatusOK, status)
	c.await("a first heartbeat", typed("heartbeat"))
	return c
}

// acknowledge acknowledges a position at this replica.
func (r *replica) acknowledge(dataPlane string, c *conn, at string) {
	r.w.t.Helper()
	position, err := models.ParsePosition(at)
	require.NoError(r.w.t, err)
	require.NoError(r.w.t, r.Acknowledge(r.w.t.Context(), dataPlane, c.session(), position))
}

func (r *replica) receipt(k models.Key) feed.Receipt {
	r.w.t.Helper()
	got, err := r.Receipt(r.w.t.Context(), k)
	require.NoError(r.w.t, err)
	return got
}

func (r *replica) await(k models.Key, wait time.Duration) feed.Receipt {
	r.w.t.Helper()
	got, err := r.WaitForReceipt(r.w.t.Context(), k, wait)
	require.NoError(r.w.t, err)
	return got
}

func (w *world) transact(fn func(tx *models.Tx) error) {
	w.t.Helper()
	require.NoError(w.t, w.store.Transact(context.Background(), fn))
}

func (w *world) eventually(what string, is func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if is() {
			return
		}
	}
	require.FailNow(w.t, "it never came to be", what)
}

// dataPlane stores a data plane that serves these customers; none are all.
func (w *world) dataPlane(customers ...string) models.DataPlane {
	w.t.Helper()
	id := w.ids.Next("", time.Now())
	d := models.DataPlane{ID: id, Name: id, Hash: []byte("hash"), Customers: customers, CreatedAt: 1}
	w.transact(func(tx *models.Tx) error { return tx.CreateDataPlane(d) })
	return d
}

// event is one about a key of its own.
func (w *world) event(kind models.EventType, customer, key string) models.Event {
	return models.Event{CustomerID: customer, ProjectID: "web", ID: w.ids.Next(models.EventIDPrefix, time.Now()), Type: kind,
		Outcome: models.OutcomeAllowed, At: time.Now().UnixMicro(), ActorUserID: "olga", KeyID: key, Provider: "openai"}
}

// flood commits n events of a project at once, and returns their keys.
func (w *world) flood(n int, project string) []string {
	w.t.Helper()
	tx, prefix := "(SELECT COALESCE(MAX(tx), 0) FROM events) + i", w.ids.Next("", time.Now())
	if w.engine == modelstest.EnginePostgres {
		tx = "pg_current_xact_id()::text::bigint"
	}
	w.execute(fmt.Sprintf(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d)
INSERT INTO events (tx, customer_id, project_id, scope_user_id, id, type, outcome, at, actor_user_id, actor_method, actor_token_id,
key_id, token_id, provider, member_id, role, source_ip, request_id)
SELECT %s, '%s', '%s', '', '%s-' || i, 'key.registered', 'allowed', 1, 'olga', '', '', '%s-' || i, '', 'openai', '', '', '', '' FROM n`,
		n, tx, acme, project, prefix, prefix))
	w.store.Wake()
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf("%s-%d", prefix, i+1)
	}
	return keys
}

func (w *world) keyID() string { return w.ids.Next(models.KeyIDPrefix, time.Now()) }

// key registers a key.
func (w *world) key() models.Key {
	w.t.Helper()
	caller := models.Caller{CustomerID: acme, ProjectID: "web", UserID: "olga"}
	id := w.keyID()
	w.transact(func(tx *models.Tx) error {
		_, err := tx.SetMember(acme, "web", "olga", models.RoleOwner)
		return err
	})
	k, err := w.store.RegisterKey(context.Background(), caller, models.RoleOwner, models.Registration{
		Key: models.Key{ID: id, CustomerID: acme, ProjectID: "web", Provider: "openai", Name: id, DisplaySuffix: "wxyz", Version: 1,
			Envelope: []byte("sealed"), KEKID: "kek", CreatedAt: time.Now().UnixMicro(), CreatedBy: "olga"},
		Event: w.event(models.EventKeyRegistered, acme, id),
	}, time.Now().UnixMicro())
	require.NoError(w.t, err)
	return k
}

// revoke revokes a new key, by this replica, and returns it.
func (r *replica) revoke() models.Key {
	r.w.t.Helper()
	k := r.w.key()
	r.revokeKey(&k)
	return k
}

func (r *replica) revokeKey(k *models.Key) {
	r.w.t.Helper()
	require.NoError(r.w.t, r.store.Transact(context.Background(), func(tx *models.Tx) error {
		if _, err := tx.RevokeKey(k, "olga"); err != nil {
			return err
		}
		return tx.AppendEvent(r.w.event(models.EventKeyRevoked, acme, k.ID))
	}))
}

// execute runs a statement behind the back of the stores.
func (w *world) execute(statement string, args ...any) {
	w.t.Helper()
	ctx := context.Background()
	if w.engine == modelstest.EnginePostgres {
		c, err := pgx.Connect(ctx, w.url)
		require.NoError(w.t, err)
		defer func() { _ = c.Close(ctx) }()
		_, err = c.Exec(ctx, statement, args...)
		require.NoError(w.t, err)
		return
	}
	db, err := sql.Open("sqlite", "file:"+url.PathEscape(strings.TrimPrefix(w.url, "sqlite:"))+"?_pragma=busy_timeout(5000)")
	require.NoError(w.t, err)
	defer func() { _ = db.Close() }()
	_, err = db.ExecContext(ctx, statement, args...)
	require.NoError(w.t, err)
}
