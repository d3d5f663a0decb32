package models_test

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/url"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/internal/position"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/database"
	"github.com/agentrouter/aikeys/models/modelstest"
)

// envChild names the environment variable that holds a database's URL. If it is set, the test binary migrates that
// database, and then reads and writes in it until the process is killed.
const envChild = "MODELS_TEST_CHILD"

func TestMain(m *testing.M) {
	if url := os.Getenv(envChild); url != "" {
		go func() { // the child ends with its parent, when standard input closes
			_, _ = io.Copy(io.Discard, os.Stdin)
			os.Exit(3)
		}()
		store, err := database.Open(url, models.Options{})
		if err == nil {
			_, err = store.Migrate(context.Background())
		}
		if err == nil {
			fmt.Println("migrated")
			err = errors.Join((&fixture{Store: store}).load(context.Background(), 8, func(line string) { fmt.Println(line) })...)
		}
		panic(err)
	}
	modelstest.Main(m)
}

// startChild runs the test binary as a child process. Its first line says that it has migrated the database.
func startChild(t *testing.T, url string) (cmd *exec.Cmd, lines *bufio.Scanner) {
	t.Helper()
	cmd = exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), envChild+"="+url)
	_, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	return cmd, bufio.NewScanner(stdout)
}

// The project of the fixture.
const (
	acme = "acme"
	web  = "web"
)

// The callers of the fixture: its owner, two members, and a stranger. project is its project without a user.
var (
	olga     = models.Caller{CustomerID: acme, ProjectID: web, UserID: "olga"}
	mia      = models.Caller{CustomerID: acme, ProjectID: web, UserID: "mia"}
	moe      = models.Caller{CustomerID: acme, ProjectID: web, UserID: "moe"}
	stranger = models.Caller{CustomerID: acme, ProjectID: web, UserID: "sam"}
	project  = models.Caller{CustomerID: acme, ProjectID: web}
)

const (
	// outageTimeout is the store's timeout in tests of outages. slack is how much longer a busy machine may take.
	outageTimeout = time.Second
	slack         = 2 * time.Second
	// soon bounds a wake-up on a busy machine. again bounds the time until a watcher listens again.
	soon  = time.Second
	again = 15 * time.Second
)

// outage has the options of stores in tests of outages.
var outage = models.Options{Timeout: outageTimeout, MaxConns: 8}

var errRefused = errors.New("refused")

// fixture is a store with the project acme/web, unless it was made by open.
type fixture struct {
	*models.Store
	t   *testing.T
	ids models.IDs
	url string // the URL of its database
}

// ops is the process of the fixtures.
var ops = models.Process{Operator: "ops@host-1", Command: "aikeysd admin"}

// each runs a test on fixtures of every engine, in parallel with each other.
func each(t *testing.T, test func(t *testing.T, f *fixture)) {
	t.Helper()
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		t.Parallel()
		test(t, newFixture(t, e.MigratedURL(t), models.Options{Timeout: time.Minute, Process: ops}))
	})
}

// newFixture opens a migrated database and stores the project.
func newFixture(t *testing.T, url string, opts models.Options) *fixture {
	t.Helper()
	f := open(t, url, opts)
	f.transact(func(tx *models.Tx) error {
		err := tx.EnsureProject(acme, web)
		for _, m := range []models.Member{{UserID: "olga", Role: models.RoleOwner}, {UserID: "mia", Role: models.RoleMember}, {UserID: "moe", Role: models.RoleMember}} {
			err = errors.Join(err, failure(tx.SetMember(acme, web, m.UserID, m.Role)))
		}
		return err
	})
	return f
}

func open(t *testing.T, url string, opts models.Options) *fixture {
	t.Helper()
	return &fixture{Store: modelstest.OpenStore(t, url, opts), t: t, url: url}
}

// asOwner returns the fixture as the database user that owns the tables.
func (f *fixture) asOwner() *fixture {
	f.t.Helper()
	return open(f.t, modelstest.AsOwner(f.t, f.url), models.Options{Timeout: time.Minute})
}

// migrate applies all migrations to a database, and returns its URL.
func migrate(t *testing.T, url string) string {
	t.Helper()
	store, err := database.Open(url, models.Options{})
	require.NoError(t, err)
	_, err = store.Migrate(t.Context())
	require.NoError(t, errors.Join(err, store.Close()))
	return url
}

// past returns connections of another store to the fixture's database, past the fixture's own store.
func (f *fixture) past() *sql.DB {
	return models.Conn(modelstest.OpenStore(f.t, f.url, models.Options{Timeout: time.Minute}))
}

// query runs a statement that returns one column.
func query[T any](t *testing.T, db *sql.DB, statement string) (column []T) {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), statement)
	require.NoError(t, err)
	defer func() { require.NoError(t, rows.Close()) }()
	for rows.Next() {
		var value T
		require.NoError(t, rows.Scan(&value))
		column = append(column, value)
	}
	require.NoError(t, rows.Err())
	return column
}

// count returns how many rows a table has.
func (f *fixture) count(table string) int {
	f.t.Helper()
	return query[int](f.t, models.Conn(f.Store), "SELECT count(*) FROM "+table)[0]
}

// size counts the rows of the tables that a registration writes to.
type size struct{ keys, events, idempotency int }

func (f *fixture) size() size {
	f.t.Helper()
	return size{f.count("ai_keys"), f.count("events"), f.count("idempotency_records")}
}

// hold takes a lock in another session until the test ends or calls release.
func (f *fixture) hold(statement string) (release func()) {
	f.t.Helper()
	tx, err := f.past().BeginTx(context.WithoutCancel(f.t.Context()), nil)
	require.NoError(f.t, err)
	release = sync.OnceFunc(func() { require.NoError(f.t, tx.Rollback()) })
	f.t.Cleanup(release)
	_, err = tx.ExecContext(f.t.Context(), statement)
	require.NoError(f.t, err)
	return release
}

// holdTransaction keeps a transaction with a number open until the test ends, except on SQLite, which has one writer.
func (f *fixture) holdTransaction() {
	if !f.isSQLite() {
		f.hold("SELECT pg_current_xact_id()")
	}
}

func (f *fixture) isSQLite() bool { return f.url[:7] == "sqlite:" }

// addMember makes the caller a member of their project, which it creates if necessary.
func (f *fixture) addMember(c models.Caller, role models.Role) {
	f.t.Helper()
	f.transact(func(tx *models.Tx) error {
		return errors.Join(tx.EnsureProject(c.CustomerID, c.ProjectID), failure(tx.SetMember(c.CustomerID, c.ProjectID, c.UserID, role)))
	})
}

func (f *fixture) setMember(user string, role models.Role) error {
	return failure(within(f, func(tx *models.Tx) (models.Member, error) { return tx.SetMember(acme, web, user, role) }))
}

func (f *fixture) removeMember(user string) error {
	return f.Transact(f.t.Context(), func(tx *models.Tx) error {
		return tx.RemoveMember(acme, web, user, f.event(models.EventMemberRemoved))
	})
}

func (f *fixture) transact(fn func(*models.Tx) error) {
	f.t.Helper()
	require.NoError(f.t, f.Transact(f.t.Context(), fn))
}

// within runs fn in a transaction and returns its results, or the transaction's error.
func within[T any](f *fixture, fn func(*models.Tx) (T, error)) (result T, err error) {
	err = f.Transact(f.t.Context(), func(tx *models.Tx) (err error) {
		result, err = fn(tx)
		return err
	})
	return result, err
}

// withToken stores an API key of mia's, and returns mia as the caller with that API key.
func (f *fixture) withToken(id string, expiresAt, revokedAt int64) models.Caller {
	f.t.Helper()
	f.transact(func(tx *models.Tx) error {
		return tx.CreateToken(models.Token{ID: id, Hash: []byte("hash"), CustomerID: acme, ProjectID: web, UserID: "mia",
			CreatedAt: tx.Now, ExpiresAt: expiresAt, RevokedAt: revokedAt})
	})
	return bearing(mia, id)
}

func bearing(c models.Caller, token string) models.Caller {
	c.TokenID = token
	return c
}

// shared returns a registration of a project-level key, with some changes.
func (f *fixture) shared(c models.Caller, changes ...func(*models.Registration)) models.Registration {
	now := time.Now()
	id := f.ids.Next(models.KeyIDPrefix, now)
	r := models.Registration{
		Key: models.Key{ID: id, CustomerID: c.CustomerID, ProjectID: c.ProjectID, Provider: "openai", Name: id, DisplaySuffix: "wxyz",
			Version: 1, Envelope: []byte("sealed " + id), KEKID: "kek-1", CreatedAt: now.UnixMicro(), CreatedBy: c.UserID, Revision: 1},
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

// retryable gives a registration an Idempotency-Key with the hash key, and the fingerprint of its request.
func retryable(key, fingerprint string) func(*models.Registration) {
	return func(r *models.Registration) {
		r.Idempotency = &models.IdempotencyRecord{CustomerID: r.Key.CustomerID, ProjectID: r.Key.ProjectID,
			UserID: r.Key.CreatedBy, KeyHash: []byte(key), Fingerprint: []byte(fingerprint), KeyID: r.Key.ID, CreatedAt: r.Key.CreatedAt}
	}
}

// register registers a key as its creator and returns it.
func (f *fixture) register(r models.Registration) models.Key {
	f.t.Helper()
	c := models.Caller{CustomerID: r.Key.CustomerID, ProjectID: r.Key.ProjectID, UserID: r.Key.CreatedBy}
	k, err := f.RegisterKey(f.t.Context(), c, models.RoleMember, r, now())
	require.NoError(f.t, err)
	return k
}

// revoke revokes a key as the API does, with its event.
func (f *fixture) revoke(k *models.Key) {
	f.t.Helper()
	require.NoError(f.t, f.tryRevoke(f.t.Context(), k))
}

func (f *fixture) tryRevoke(ctx context.Context, k *models.Key) error {
	e := f.keyEvent(models.EventKeyRevoked, *k)
	return f.Transact(ctx, func(tx *models.Tx) error { return failure(tx.RevokeKey(k, "olga", e)) })
}

// event returns an allowed event of the fixture's project.
func (f *fixture) event(kind models.EventType, changes ...func(*models.Event)) models.Event {
	e := models.Event{CustomerID: acme, ProjectID: web, ID: f.ids.Next(models.EventIDPrefix, time.Now()), Type: kind,
		Outcome: models.OutcomeAllowed, At: now()}
	for _, change := range changes {
		change(&e)
	}
	return e
}

// keyEvent returns an event about a key, in the key's scope.
func (f *fixture) keyEvent(kind models.EventType, k models.Key) models.Event {
	return f.event(kind, about(k.ID), func(e *models.Event) { e.ScopeUserID = k.UserID })
}

func about(keyID string) func(*models.Event) { return func(e *models.Event) { e.KeyID = keyID } }

// note stores an event about a key.
func (f *fixture) note(keyID string) {
	f.t.Helper()
	f.transact(func(tx *models.Tx) error { return tx.AppendEvent(f.event(models.EventPolicySet, about(keyID))) })
}

func (f *fixture) list(c models.Caller, filter models.KeyFilter) []models.Key {
	f.t.Helper()
	keys, err := f.ListKeys(f.t.Context(), c, filter, now())
	require.NoError(f.t, err)
	return keys
}

func ids(keys []models.Key) []string {
	out := make([]string, len(keys))
	for i, k := range keys {
		out[i] = k.ID
	}
	return out
}

func now() int64 { return time.Now().UnixMicro() }

func (f *fixture) position() position.Position {
	f.t.Helper()
	p, err := f.Position(f.t.Context())
	require.NoError(f.t, err)
	return p
}

// changes returns the changes since a position, and advances it.
func (f *fixture) changes(at *position.Position) []models.Change {
	f.t.Helper()
	found, next, err := f.Changes(f.t.Context(), *at, 10_000)
	require.NoError(f.t, err)
	*at = next
	return found
}

func keyIDs(changes []models.Change) []string {
	out := []string{}
	for _, c := range changes {
		out = append(out, c.KeyID)
	}
	return out
}

// dataPlane stores a data plane that may serve these customers, or all of them if the list is nil.
func (f *fixture) dataPlane(name string, customers []string, changes ...func(*models.DataPlane)) models.DataPlane {
	f.t.Helper()
	d := models.DataPlane{ID: f.ids.Next("", time.Now()), Name: name, Hash: []byte("hash of " + name), Customers: customers, CreatedAt: now()}
	for _, change := range changes {
		change(&d)
	}
	f.transact(func(tx *models.Tx) error { return tx.CreateDataPlane(d) })
	return d
}

func (f *fixture) revokeDataPlane(name string) (models.DataPlane, error) {
	return within(f, func(tx *models.Tx) (models.DataPlane, error) { return tx.RevokeDataPlane(name, "alice@host") })
}

func expiring(at int64) func(*models.DataPlane) {
	return func(d *models.DataPlane) { d.ExpiresAt = at }
}

func record(requestID string) models.FetchRecord {
	return models.FetchRecord{At: now(), DataPlaneID: "dp", CustomerID: acme, ProjectID: web, UserID: "mia", TokenID: "01T", Provider: "openai",
		KeyID: "byok_1", Version: 3, Decision: models.OutcomeAllowed, Reason: "own_key", RequestID: requestID, DerivedUntil: 7}
}

// together calls fn with 0 to n-1 concurrently, and returns the results.
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

// load runs n goroutines that register keys and revoke every other one. Each goroutine ends at its first error. load
// calls acknowledged with "<id>" for each registration, and with "<id> revoked" for each revocation.
func (f *fixture) load(ctx context.Context, n int, acknowledged func(line string)) (errs []error) {
	var mu sync.Mutex
	note := func(line string) {
		mu.Lock()
		defer mu.Unlock()
		acknowledged(line)
	}
	return together(n, func(int) error {
		for i := 0; ; i++ {
			key, err := f.RegisterKey(ctx, olga, models.RoleOwner, f.shared(olga), now())
			if err != nil {
				return err
			}
			note(key.ID)
			if i%2 == 0 {
				_, err = f.ServingKeys(ctx, olga, "openai", now())
			} else if err = f.tryRevoke(ctx, &key); err == nil {
				note(key.ID + " revoked")
			}
			if err != nil {
				return err
			}
		}
	})
}

// loadUntil loads the store, causes a fault after some writes, and returns what was acknowledged.
func (f *fixture) loadUntil(fault func() error) (acknowledged []string) {
	f.t.Helper()
	ended := make(chan error, 1)
	for _, err := range f.load(f.t.Context(), 16, func(line string) {
		if acknowledged = append(acknowledged, line); len(acknowledged) == 50 {
			go func() { ended <- fault() }()
		}
	}) {
		require.ErrorIs(f.t, err, models.ErrUnavailable)
	}
	require.NoError(f.t, <-ended)
	return acknowledged
}

// requireAcknowledged checks that the keys and revocations that load acknowledged are there, with their events.
func (f *fixture) requireAcknowledged(lines []string) {
	f.t.Helper()
	there := map[string]bool{}
	for _, k := range f.list(olga, models.KeyFilter{}) {
		there[k.ID] = true
		there[k.ID+" revoked"] = k.RevokedAt != 0
	}
	for _, line := range lines {
		require.True(f.t, there[line], "%s was acknowledged and is gone", line)
	}
	// The server may commit one more write of a killed client, even between two of these reads.
	require.Eventually(f.t, func() bool {
		return f.count("ai_keys")+f.count("ai_keys WHERE revoked_at <> 0") == f.count("events")
	}, 10*time.Second, 20*time.Millisecond, "each register and each revocation has its event, and there are no others")
}

// requireUnavailable checks that all methods return ErrUnavailable in time.
func (f *fixture) requireUnavailable(except ...string) {
	f.t.Helper()
	all, began := methods(f), time.Now()
	names := slices.DeleteFunc(slices.Sorted(maps.Keys(all)), func(name string) bool { return slices.Contains(except, name) })
	ctx, cancel := context.WithTimeout(f.t.Context(), outageTimeout) // Migrate has no timeout of its own
	defer cancel()
	for i, err := range together(len(names), func(i int) error { return all[names[i]](ctx) }) {
		require.ErrorIs(f.t, err, models.ErrUnavailable, names[i])
	}
	require.Less(f.t, time.Since(began), outageTimeout+slack)
}

func (f *fixture) requireRecovers() {
	f.t.Helper()
	require.Eventually(f.t, func() bool { return f.Ping(f.t.Context()) == nil }, 10*time.Second, 20*time.Millisecond)
	f.register(f.shared(olga))
}

// failure drops a method's result.
func failure[T any](_ T, err error) error { return err }

// guarded returns the methods that check their caller.
func guarded(f *fixture, keyID string) map[string]func(ctx context.Context, c models.Caller) error {
	return map[string]func(ctx context.Context, c models.Caller) error{
		"Role":   func(ctx context.Context, c models.Caller) error { return failure(f.Role(ctx, c, now())) },
		"GetKey": func(ctx context.Context, c models.Caller) error { return failure(f.GetKey(ctx, c, keyID, now())) },
		"ListKeys": func(ctx context.Context, c models.Caller) error {
			return failure(f.ListKeys(ctx, c, models.KeyFilter{}, now()))
		},
		"RegisterKey": func(ctx context.Context, c models.Caller) error {
			return failure(f.RegisterKey(ctx, c, models.RoleMember, f.own(c), now()))
		},
		"RegisterKey with an Idempotency-Key": func(ctx context.Context, c models.Caller) error {
			return failure(f.RegisterKey(ctx, c, models.RoleMember, f.own(c, retryable(f.ids.Next("", time.Now()), "same")), now()))
		},
		"Tx.Role": func(ctx context.Context, c models.Caller) error {
			return f.Transact(ctx, func(tx *models.Tx) error { return failure(tx.Role(c)) })
		},
	}
}

// methods returns all methods of the store that query the database, by name, with arguments.
func methods(f *fixture) map[string]func(context.Context) error {
	arguments := []any{mia, models.RoleMember, f.own(mia), "absent", int64(1), 10, uint32(1), []string{"absent"}, []byte(nil), position.Position{},
		[][]byte{{1}}, []models.Key{{ID: "absent"}}, models.KeyFilter{}, models.Stop{Type: models.EventKeyRevoked, Subject: "absent", Tx: 1}, models.Stream{ID: "1", DataPlaneID: "absent"}, models.KeyTest{}, models.Replica{ID: "r1"},
		[]models.Receipt{{StopID: "k"}}, map[string]int{}, map[string]int64{"absent": 1}, models.TokenFilter{Limit: 1}, []models.Rewrapping{{KeyID: "absent"}}, models.DataPlane{ID: "absent"}, models.Canary{}, record("r"),
		[]models.KeyReport{{KeyID: "absent", UsedAt: 1}}, models.UsageBatch{Counts: []models.UsageCount{{KeyID: "absent"}}}, models.UsageFilter{Limit: 1}, models.FetchFilter{Limit: 1}, models.EventFilter{}, models.NewKeyEvent(nil),
		func(models.EventType, models.Key) models.Event { return models.Event{} }, models.SystemEvent{}, models.SystemEventFilter{}, map[string]string{"kek-1": "primary"},
		func(tx *models.Tx) error { return tx.EnsureProject(acme, "ios") }}
	all, store := map[string]func(context.Context) error{}, reflect.ValueOf(f.Store)
	for i := range store.NumMethod() {
		name, method := store.Type().Method(i).Name, store.Method(i)
		if slices.Contains([]string{"Close", "Stats", "Watch", "CheckNotifications"}, name) {
			continue
		}
		all[name] = func(ctx context.Context) error {
			in := []reflect.Value{reflect.ValueOf(ctx)}
			for j := 1; j < method.Type().NumIn(); j++ {
				at := slices.IndexFunc(arguments, func(a any) bool { return reflect.TypeOf(a) == method.Type().In(j) })
				in = append(in, reflect.ValueOf(arguments[at]))
			}
			out := method.Call(in)
			err, _ := out[len(out)-1].Interface().(error)
			return err
		}
	}
	return all
}

// watcher holds a signal after a wake-up of Watch.
type watcher chan struct{}

func watch(t *testing.T, s *models.Store) (w watcher, stop func()) {
	t.Helper()
	woken := make(watcher, 1)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() {
		ended <- s.Watch(ctx, func() {
			select {
			case woken <- struct{}{}:
			default:
			}
		})
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	t.Cleanup(stop)
	return woken, stop
}

// wakes reports whether do wakes the watcher in time.
func (w watcher) wakes(within time.Duration, do func()) bool {
	select {
	case <-w:
	default:
	}
	do()
	select {
	case <-w:
		return true
	case <-time.After(within):
		return false
	}
}

// listeners selects the connections that listen for notifications.
const listeners = `FROM pg_stat_activity WHERE query LIKE 'LISTEN %' AND datname = current_database()`

func (f *fixture) awaitListening(n int) {
	f.t.Helper()
	require.Eventually(f.t, func() bool { return query[int](f.t, models.Conn(f.Store), "SELECT count(*) "+listeners)[0] == n }, again, 5*time.Millisecond)
}

// wireProxy is a proxy between a store and PostgreSQL. It counts round trips, and it can drop data silently, as a
// network may.
type wireProxy struct {
	url string
	// roundTrips counts the reads from clients.
	roundTrips atomic.Int64
	accepted   atomic.Int64
	stranded   atomic.Int64 // data on connections with a lower number is dropped

	mu    sync.Mutex
	conns []net.Conn
}

// newWireProxy runs a proxy to a database until the test ends.
func newWireProxy(t *testing.T, database string) *wireProxy {
	t.Helper()
	u, err := url.Parse(database)
	require.NoError(t, err)
	upstream := u.Host
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	u.Host = listener.Addr().String()
	p := &wireProxy{url: u.String()}
	var goroutines sync.WaitGroup
	t.Cleanup(func() {
		_ = listener.Close()
		p.thaw()
		goroutines.Wait()
	})
	goroutines.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", upstream)
			if err != nil {
				_ = client.Close()
				continue
			}
			p.mu.Lock()
			p.conns = append(p.conns, client, server)
			p.mu.Unlock()
			number := p.accepted.Add(1)
			for from, to := range map[net.Conn]net.Conn{client: server, server: client} {
				goroutines.Go(func() {
					defer func() { _ = to.Close() }()
					for buf := make([]byte, 64<<10); ; {
						n, err := from.Read(buf)
						if err != nil {
							return
						}
						if from == client {
							p.roundTrips.Add(1)
						}
						if number < p.stranded.Load() {
							continue
						}
						if _, err := to.Write(buf[:n]); err != nil {
							return
						}
					}
				})
			}
		}
	})
	return p
}

// thaw closes the present connections, which have lost data, and lets data on new ones through.
func (p *wireProxy) thaw() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_ = c.Close()
	}
	p.conns = nil
	p.stranded.Store(0)
}
