package aikeys_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver that tests lock tables by
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/aikeys/aikeystest"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
)

func TestMain(m *testing.M) {
	code := modelstest.Main(m)
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, "every service is closed by now, and yet:", err)
		code = 1
	}
	os.Exit(code)
}

// Short names for what most tests use.
const (
	owner  = aikeystest.Owner
	member = aikeystest.Member
	other  = aikeystest.OtherMember
	sam    = aikeystest.Stranger
	self   = aikeystest.Self
)

// project is the path of the project that the sessions of Service.As have.
const project = "/v1/customers/" + aikeystest.Customer + "/projects/" + aikeystest.Project

// each runs a test on a service of its own over every engine, all engines at once.
func each(t *testing.T, test func(t *testing.T, s *aikeystest.Service), changes ...func(t *testing.T, o *aikeystest.Options)) {
	t.Helper()
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		t.Parallel()
		opts := aikeystest.Options{Store: modelstest.NewStore(t, e)}
		for _, change := range changes {
			change(t, &opts)
		}
		test(t, aikeystest.Start(t, opts))
	})
}

// ask sends a request in a user's session; get, del, put and post do so by their methods.
func ask(t *testing.T, s *aikeystest.Service, user, method, path string, body any) aikeystest.Reply {
	t.Helper()
	r := aikeystest.Request{Method: method, Path: path, Token: s.As(user).Token}
	if body != nil {
		r.Body = encode(t, body)
	}
	return s.Send(t, r)
}

func get(t *testing.T, s *aikeystest.Service, user, path string) aikeystest.Reply {
	t.Helper()
	return ask(t, s, user, http.MethodGet, path, nil)
}

func del(t *testing.T, s *aikeystest.Service, user, path string) aikeystest.Reply {
	t.Helper()
	return ask(t, s, user, http.MethodDelete, path, nil)
}

func put(t *testing.T, s *aikeystest.Service, user, path string, body any) aikeystest.Reply {
	t.Helper()
	return ask(t, s, user, http.MethodPut, path, body)
}

func post(t *testing.T, s *aikeystest.Service, user, path string, body any) aikeystest.Reply {
	t.Helper()
	return ask(t, s, user, http.MethodPost, path, body)
}

// encode returns the JSON of a body; bytes are sent as they are.
func encode(t *testing.T, body any) []byte {
	t.Helper()
	if raw, ok := body.([]byte); ok {
		return raw
	}
	text, err := json.Marshal(body)
	require.NoError(t, err)
	return text
}

func decode[T any](t *testing.T, r aikeystest.Reply) T {
	t.Helper()
	var value T
	require.NoError(t, json.Unmarshal(r.Body, &value), "%s", r.Body)
	return value
}

// list returns all keys that a user sees in their project.
func list(t *testing.T, s *aikeystest.Service, user string) []gen.Key {
	t.Helper()
	reply := get(t, s, user, project+"/aikeys")
	require.Equal(t, http.StatusOK, reply.Status)
	return decode[gen.ListResponse](t, reply).Keys
}

// events returns the newest events that a user sees in their project.
func events(t *testing.T, s *aikeystest.Service, user string) []gen.Event {
	t.Helper()
	reply := get(t, s, user, project+"/events?page_size=500")
	require.Equal(t, http.StatusOK, reply.Status)
	return decode[gen.ListEventsResponse](t, reply).Events
}

func ids(keys []gen.Key) []string {
	out := []string{}
	for _, k := range keys {
		out = append(out, k.ID)
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

// pages reads a list page by page and returns the pages' ids. Size 0 leaves the size to the service.
func pages(t *testing.T, s *aikeystest.Service, user, path string, size int) [][]string {
	t.Helper()
	var all [][]string
	token := ""
	for range 100 {
		query := path
		if size > 0 {
			query += fmt.Sprintf("page_size=%d&", size)
		}
		if token != "" {
			query += "page_token=" + token
		}
		reply := get(t, s, user, strings.TrimRight(query, "?&"))
		require.Equal(t, http.StatusOK, reply.Status, "%s", reply.Body)
		page := decode[struct {
			Keys   []gen.Key    `json:"keys"`
			Events []gen.Event  `json:"events"`
			People []gen.Member `json:"members"`
			Next   *string      `json:"next_page_token"`
		}](t, reply)
		of := ids(page.Keys)
		for _, e := range page.Events {
			of = append(of, e.ID)
		}
		for _, m := range page.People {
			of = append(of, m.UserID)
		}
		all = append(all, of)
		if page.Next == nil {
			return all
		}
		require.NotEmpty(t, *page.Next)
		token = *page.Next
	}
	require.Fail(t, "the list does not end")
	return nil
}

// requirePaged asserts that a list read in pages of any size is the same list.
func requirePaged(t *testing.T, s *aikeystest.Service, user, path string, want []string, most int) {
	t.Helper()
	for _, size := range []int{1, 2, 3, len(want) - 1, len(want), len(want) + 1, most} {
		t.Run("in pages of "+strconv.Itoa(size), func(t *testing.T) {
			got := pages(t, s, user, path, size)
			require.Equal(t, want, slices.Concat(got...))
			require.Len(t, got, (len(want)+size-1)/size, "no page is empty")
		})
	}
}

// retry sends a register with an Idempotency-Key.
func retry(t *testing.T, s *aikeystest.Service, token, key string, body gen.RegisterRequest) aikeystest.Reply {
	t.Helper()
	return s.Send(t, aikeystest.Request{Method: http.MethodPost, Path: "/v1/aikeys", Token: token, Body: encode(t, body),
		Header: http.Header{"Idempotency-Key": {key}}})
}

// exampleKey is the key id of the document's examples.
const exampleKey = "byok_01JD8Q6Z3V8M2T5K7N9R4W1XYZ"

// locked is a service on Postgres whose tables a test can lock.
type locked struct {
	*aikeystest.Service
	db *sql.DB
}

// newLocked starts a service on Postgres. Its database waits half of the options' Timeout for a lock.
func newLocked(t *testing.T, opts models.Options) *locked {
	t.Helper()
	url := modelstest.EnginePostgres.URL(t)
	store := modelstest.OpenStore(t, url, opts)
	_, err := store.Migrate(t.Context())
	require.NoError(t, err)
	db, err := sql.Open("pgx", url)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return &locked{aikeystest.Start(t, aikeystest.Options{Store: store}), db}
}

// lock locks tables until the test ends or calls release.
func (l *locked) lock(t *testing.T, tables string) (release func()) {
	t.Helper()
	tx, err := l.db.BeginTx(context.WithoutCancel(t.Context()), nil)
	require.NoError(t, err)
	release = sync.OnceFunc(func() { require.NoError(t, tx.Rollback()) })
	t.Cleanup(release)
	_, err = tx.ExecContext(t.Context(), "LOCK TABLE "+tables+" IN ACCESS EXCLUSIVE MODE")
	require.NoError(t, err)
	return release
}

// awaitWaiting waits until n connections wait for a lock on the table.
func (l *locked) awaitWaiting(t *testing.T, table string, n int) {
	t.Helper()
	require.Eventually(t, func() bool {
		var waiting int
		err := l.db.QueryRowContext(t.Context(),
			"SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted AND relation = $1::regclass", table).Scan(&waiting)
		return err == nil && waiting >= n
	}, 5*time.Second, 5*time.Millisecond)
}

func denied(t *testing.T, s *aikeystest.Service) int {
	t.Helper()
	n := 0
	for _, event := range events(t, s, owner) {
		if event.Outcome == string(models.OutcomeDenied) {
			n++
		}
	}
	return n
}

// request builds a request that the test sends, or hands over, by itself.
func request(ctx context.Context, t *testing.T, s *aikeystest.Service, user, method, path string, body any) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, s.URL+path, bytes.NewReader(encode(t, body)))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+s.As(user).Token)
	return req
}

func requireUnavailable(t *testing.T, reply aikeystest.Reply) {
	t.Helper()
	require.Equal(t, http.StatusServiceUnavailable, reply.Status)
	require.Equal(t, "unavailable", reply.Problem(t).Code)
	require.NotEmpty(t, reply.Header.Get("Retry-After"))
}

// end is what the log says of a request's end.
type end struct {
	level  string
	status int
}

// ends returns the log lines of an operation's requests.
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

func requireExhausted(t *testing.T, reply aikeystest.Reply) time.Duration {
	t.Helper()
	require.Equal(t, http.StatusTooManyRequests, reply.Status)
	require.Equal(t, "resource_exhausted", reply.Problem(t).Code)
	seconds, err := strconv.Atoi(reply.Header.Get("Retry-After"))
	require.NoError(t, err)
	return time.Duration(seconds) * time.Second
}

func resolve(t *testing.T, s *aikeystest.Service, user, provider string) gen.ResolveResponse {
	t.Helper()
	reply := get(t, s, user, project+"/resolve?provider="+provider)
	require.Equal(t, http.StatusOK, reply.Status)
	return decode[gen.ResolveResponse](t, reply)
}

func setPolicy(t *testing.T, s *aikeystest.Service, body map[string]any) gen.Policy {
	t.Helper()
	reply := put(t, s, owner, project+"/policy", body)
	require.Equal(t, http.StatusOK, reply.Status, "%s", reply.Body)
	return decode[gen.PolicyResponse](t, reply).Policy
}
