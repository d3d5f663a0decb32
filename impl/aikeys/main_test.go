package aikeys_test

import (
	"bytes"
	"cmp"
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
	r := aikeystest.Request{Method: method, Path: path, Token: s.As(user).Token}
	if body != nil {
		r.Body = encode(t, body)
	}
	return s.Send(t, r)
}

func get(t *testing.T, s *aikeystest.Service, user, path string) aikeystest.Reply {
	return ask(t, s, user, http.MethodGet, path, nil)
}

func del(t *testing.T, s *aikeystest.Service, user, path string) aikeystest.Reply {
	return ask(t, s, user, http.MethodDelete, path, nil)
}

func put(t *testing.T, s *aikeystest.Service, user, path string, body any) aikeystest.Reply {
	return ask(t, s, user, http.MethodPut, path, body)
}

func post(t *testing.T, s *aikeystest.Service, user, path string, body any) aikeystest.Reply {
	return ask(t, s, user, http.MethodPost, path, body)
}

// encode returns the JSON of a body; bytes are sent as they are.
func encode(t *testing.T, body any) []byte {
	if raw, ok := body.([]byte); ok {
		return raw
	}
	text, err := json.Marshal(body)
	require.NoError(t, err)
	return text
}

// decode returns the body of a reply, which must say that the request has succeeded.
func decode[T any](t *testing.T, r aikeystest.Reply) (value T) {
	require.Less(t, r.Status, http.StatusMultipleChoices, "%s", r.Body)
	require.NoError(t, json.Unmarshal(r.Body, &value), "%s", r.Body)
	return value
}

// list returns all keys that a user sees in their project.
func list(t *testing.T, s *aikeystest.Service, user string) []gen.Key {
	return decode[gen.ListResponse](t, get(t, s, user, project+"/aikeys")).Keys
}

// events returns the newest events that a user sees in their project.
func events(t *testing.T, s *aikeystest.Service, user string) []gen.Event {
	return decode[gen.ListEventsResponse](t, get(t, s, user, project+"/events?page_size=500")).Events
}

// read returns a key as a user sees it.
func read(t *testing.T, s *aikeystest.Service, user, id string) gen.Key {
	return decode[gen.GetResponse](t, get(t, s, user, project+"/aikeys/"+id)).Key
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
func pages(t *testing.T, s *aikeystest.Service, user, path string, size int) (all [][]string) {
	query := ""
	if size > 0 {
		query = fmt.Sprintf("page_size=%d&", size)
	}
	for token := ""; len(all) < 100; {
		type item struct {
			ID     string
			UserID string `json:"user_id"`
		}
		page := decode[struct {
			Keys, Events, Members []item
			Next                  *string `json:"next_page_token"`
		}](t, get(t, s, user, strings.TrimRight(path+query+token, "?&")))
		of := []string{}
		for _, i := range slices.Concat(page.Keys, page.Events, page.Members) {
			of = append(of, cmp.Or(i.ID, i.UserID))
		}
		all = append(all, of)
		if page.Next == nil {
			return all
		}
		token = "page_token=" + *page.Next
	}
	require.Fail(t, "the list does not end")
	return nil
}

// requirePaged asserts that a list read in pages of any size is the same list.
func requirePaged(t *testing.T, s *aikeystest.Service, user, path string, want []string, most int) {
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
	return s.Send(t, aikeystest.Request{Method: http.MethodPost, Path: "/v1/aikeys", Token: token, Body: encode(t, body),
		Header: http.Header{"Idempotency-Key": {key}}})
}

// exampleKey is the key id of the document's examples.
const exampleKey = "byok_01JD8Q6Z3V8M2T5K7N9R4W1XYZ"

// newLockable starts a service on Postgres, and returns a function that locks tables until the test ends or calls release, and one that waits
// until a connection waits for a table. The database waits half of the options' Timeout for a lock.
func newLockable(t *testing.T, opts models.Options) (s *aikeystest.Service, lock func(tables string) (release func()), awaitWaiting func(table string)) {
	url := modelstest.EnginePostgres.URL(t)
	store := modelstest.OpenStore(t, url, opts)
	_, err := store.Migrate(t.Context())
	require.NoError(t, err)
	db, err := sql.Open("pgx", url)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	lock = func(tables string) (release func()) {
		tx, err := db.BeginTx(context.WithoutCancel(t.Context()), nil)
		require.NoError(t, err)
		release = sync.OnceFunc(func() { require.NoError(t, tx.Rollback()) })
		t.Cleanup(release)
		_, err = tx.ExecContext(t.Context(), "LOCK TABLE "+tables+" IN ACCESS EXCLUSIVE MODE")
		require.NoError(t, err)
		return release
	}
	return aikeystest.Start(t, aikeystest.Options{Store: store}), lock, func(table string) {
		require.Eventually(t, func() (waits bool) {
			err := db.QueryRowContext(t.Context(), "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = $1::regclass)", table).Scan(&waits)
			return err == nil && waits
		}, 5*time.Second, 5*time.Millisecond)
	}
}

// denied returns how many denied attempts are in the audit trail.
func denied(t *testing.T, s *aikeystest.Service) (n int) {
	for _, event := range events(t, s, owner) {
		if event.Outcome == string(models.OutcomeDenied) {
			n++
		}
	}
	return n
}

// request builds a request that the test sends, or hands over, by itself.
func request(ctx context.Context, t *testing.T, s *aikeystest.Service, user, method, path string, body any) *http.Request {
	req, err := http.NewRequestWithContext(ctx, method, s.URL+path, bytes.NewReader(encode(t, body)))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+s.As(user).Token)
	return req
}

func requireUnavailable(t *testing.T, reply aikeystest.Reply) {
	require.Equal(t, http.StatusServiceUnavailable, reply.Status)
	require.Equal(t, "unavailable", reply.Problem(t).Code)
	require.NotEmpty(t, reply.Header.Get("Retry-After"))
}

// end is what the log says of a request's end.
type end struct {
	Level, Operation string
	Status           int
}

// ends returns the log lines of an operation's requests.
func ends(s *aikeystest.Service, operation string) (found []end) {
	for text := range strings.Lines(s.Evidence.Log()) {
		var line end
		if json.Unmarshal([]byte(text), &line) == nil && line.Operation == operation {
			found = append(found, line)
		}
	}
	return found
}

func requireExhausted(t *testing.T, reply aikeystest.Reply) time.Duration {
	require.Equal(t, http.StatusTooManyRequests, reply.Status)
	require.Equal(t, "resource_exhausted", reply.Problem(t).Code)
	wait, err := time.ParseDuration(reply.Header.Get("Retry-After") + "s")
	require.NoError(t, err)
	return wait
}

func resolve(t *testing.T, s *aikeystest.Service, user, provider string) gen.ResolveResponse {
	return decode[gen.ResolveResponse](t, get(t, s, user, project+"/resolve?provider="+provider))
}

func setPolicy(t *testing.T, s *aikeystest.Service, body map[string]any) gen.Policy {
	return decode[gen.PolicyResponse](t, put(t, s, owner, project+"/policy", body)).Policy
}
