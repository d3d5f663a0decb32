package aikeys_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/aikeys/aikeystest"
	"github.com/agentrouter/aikeys/models/modelstest"
)

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

// get, del, put and post send a request in a user's session.
func get(t *testing.T, s *aikeystest.Service, user, path string) aikeystest.Reply {
	t.Helper()
	return s.Send(t, aikeystest.Request{Method: http.MethodGet, Path: path, Token: s.As(user).Token})
}

func del(t *testing.T, s *aikeystest.Service, user, path string) aikeystest.Reply {
	t.Helper()
	return s.Send(t, aikeystest.Request{Method: http.MethodDelete, Path: path, Token: s.As(user).Token})
}

func put(t *testing.T, s *aikeystest.Service, user, path string, body any) aikeystest.Reply {
	t.Helper()
	return s.Send(t, aikeystest.Request{Method: http.MethodPut, Path: path, Token: s.As(user).Token, Body: encode(t, body)})
}

func post(t *testing.T, s *aikeystest.Service, user, path string, body any) aikeystest.Reply {
	t.Helper()
	return s.Send(t, aikeystest.Request{Method: http.MethodPost, Path: path, Token: s.As(user).Token, Body: encode(t, body)})
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

// names returns the keys' names, sorted.
func names(keys []gen.Key) []string {
	out := []string{}
	for _, k := range keys {
		out = append(out, k.Name)
	}
	slices.Sort(out)
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

// clock is a clock that stands still until it is moved.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Now()} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}
