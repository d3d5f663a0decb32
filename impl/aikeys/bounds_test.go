package aikeys_test

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/aikeys/aikeystest"
	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/internal/ratelimit"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
)

// locked is a service on Postgres whose tables a test can lock.
type locked struct {
	*aikeystest.Service
	*database
}

// newLocked returns a service whose database waits half of timeout for a lock.
func newLocked(t *testing.T, timeout time.Duration) *locked {
	t.Helper()
	db := &database{url: modelstest.EnginePostgres.URL(t)}
	db.store = modelstest.OpenStore(t, db.url, models.Options{Timeout: timeout})
	_, err := db.store.Migrate(t.Context())
	require.NoError(t, err)
	return &locked{aikeystest.Start(t, aikeystest.Options{Store: db.store}), db}
}

// lock keeps everybody off a table until the test ends or calls release.
func (l *locked) lock(t *testing.T, table string) (release func()) {
	t.Helper()
	tx, err := l.open(t).BeginTx(context.WithoutCancel(t.Context()), nil)
	require.NoError(t, err)
	release = sync.OnceFunc(func() { require.NoError(t, tx.Rollback()) })
	t.Cleanup(release)
	_, err = tx.ExecContext(t.Context(), "LOCK TABLE "+table+" IN ACCESS EXCLUSIVE MODE")
	require.NoError(t, err)
	return release
}

func (l *locked) awaitWaiting(t *testing.T, table string, n int) {
	t.Helper()
	db := l.open(t)
	require.Eventually(t, func() bool {
		return value[int](t, db, "SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted AND relation = $1::regclass", table) >= n
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

// The clock strikes, for a revoke, between the decision and its record.
func TestDeniedRevokeIsRecordedOfALeavingMember(t *testing.T) {
	var mu sync.Mutex
	leaving := map[string]context.CancelFunc{} // by the test's name
	each(t, func(t *testing.T, s *aikeystest.Service) {
		key := s.As(owner).Register(t, s.Shared("n"))
		ctx, leave := context.WithCancel(t.Context())
		defer leave()
		req := request(ctx, t, s, member, http.MethodDelete, project+"/aikeys/"+key.ID, []byte{})
		mu.Lock()
		leaving[t.Name()] = leave
		mu.Unlock()
		reply, _ := s.Serve(req)
		require.Error(t, ctx.Err(), "left")
		require.Equal(t, http.StatusForbidden, reply.Status)
		mu.Lock()
		delete(leaving, t.Name())
		mu.Unlock()
		require.Equal(t, 1, denied(t, s))
		require.Len(t, list(t, s, owner), 1)
		require.NotContains(t, s.Evidence.Log(), `"level":"ERROR"`)
	}, func(t *testing.T, o *aikeystest.Options) {
		o.Now = func() time.Time {
			mu.Lock()
			defer mu.Unlock()
			if leave := leaving[t.Name()]; leave != nil {
				leave()
			}
			return time.Now()
		}
	})
}

func TestDeniedWriteIsRecordedOfALeavingMember(t *testing.T) {
	l := newLocked(t, 20*time.Second)
	for name, tc := range map[string]struct {
		method, path string
		body         any
	}{
		"set policy":    {http.MethodPut, "/policy", map[string]any{"user_keys": "allow"}},
		"set member":    {http.MethodPut, "/members/x", map[string]any{"role": "owner"}},
		"remove member": {http.MethodDelete, "/members/" + owner, []byte{}},
	} {
		t.Run(name, func(t *testing.T) {
			before := denied(t, l.Service)
			release := l.lock(t, "events")
			ctx, leave := context.WithCancel(t.Context())
			defer leave()
			req := request(ctx, t, l.Service, member, tc.method, project+tc.path, tc.body)
			status := make(chan int, 1)
			go func() {
				reply, _ := l.Serve(req)
				status <- reply.Status
			}()
			l.awaitWaiting(t, "events", 1)
			leave()
			require.Never(t, func() bool { return len(status) > 0 }, 50*time.Millisecond, 10*time.Millisecond, "its record is waited for")
			release()
			require.Equal(t, http.StatusForbidden, <-status)
			require.Equal(t, before+1, denied(t, l.Service))
		})
	}
}

// sentConn calls sent after each write. httptrace's WroteRequest comes before the request is flushed, and a client that leaves
// then may send nothing.
type sentConn struct {
	net.Conn
	sent func()
}

func (c *sentConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.sent()
	return n, err
}

// The audit trail and the log hold the same refusals, no matter when the client disconnects.
func TestDeniedWriteOfADisconnectedClient(t *testing.T) {
	const clients = 50
	each(t, func(t *testing.T, s *aikeystest.Service) {
		require.Empty(t, list(t, s, member)) // the session is looked up, and a connection there
		for i := range clients {
			ctx, leave := context.WithCancel(t.Context())
			dial := func(ctx context.Context, network, address string) (net.Conn, error) {
				conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
				return &sentConn{Conn: conn, sent: func() { time.AfterFunc(time.Duration(i)*40*time.Microsecond, leave) }}, err
			}
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: dial}}
			resp, err := client.Do(request(ctx, t, s, member, http.MethodPut, project+"/policy", map[string]any{}))
			if err == nil {
				require.NoError(t, resp.Body.Close())
			}
			leave()
		}
		require.Eventually(t, func() bool { return len(ends(s, "setPolicy")) == clients }, 10*time.Second, 5*time.Millisecond)
		refused := 0
		for _, end := range ends(s, "setPolicy") {
			require.Equal(t, "INFO", end.level, "status %d", end.status)
			if end.status == http.StatusForbidden {
				refused++
			}
		}
		require.Equal(t, refused, denied(t, s))
	})
}

func TestDeniedWriteThatCannotBeRecorded(t *testing.T) {
	l := newLocked(t, time.Second)
	l.lock(t, "events")
	reply := put(t, l.Service, member, project+"/policy", map[string]any{})
	require.Equal(t, http.StatusForbidden, reply.Status)
	lines := l.Evidence.Lines(reply.Header.Get("X-Request-Id"))
	require.Len(t, lines, 1)
	require.Equal(t, "ERROR", lines[0]["level"])
	require.Contains(t, lines[0]["error"], "refusal not recorded in the audit trail")
}

// cause returns the level and the cause that the one log line of a request tells.
func cause(t *testing.T, s *aikeystest.Service, reply aikeystest.Reply, status int) (level, text string) {
	t.Helper()
	require.Equal(t, status, reply.Status)
	lines := s.Evidence.Lines(reply.Header.Get("X-Request-Id"))
	require.Len(t, lines, 1)
	text, _ = lines[0]["error"].(string)
	level, _ = lines[0]["level"].(string)
	return level, text
}

// That no line holds a token is checked of every service; see aikeystest.
func TestLogOfRefusals(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		revoked := s.NewSession("acme", "web", owner, time.Time{})
		send := func(header http.Header) aikeystest.Reply {
			return s.Send(t, aikeystest.Request{Method: http.MethodGet, Path: project + "/aikeys", Header: header})
		}
		bearer := func(token string) http.Header { return http.Header{"Authorization": {"Bearer " + token}} }
		require.Equal(t, http.StatusOK, send(bearer(revoked.Token)).Status)
		revoked.Revoke(t, "acme", "web")
		bad := s.Secret()
		unknown, _, _, err := auth.MintAPIKey(time.Now())
		require.NoError(t, err)
		s.Evidence.Hide(unknown)
		texts := map[string]string{}
		for name, tc := range map[string]struct {
			reply  func() aikeystest.Reply
			status int
		}{
			"no credential":    {func() aikeystest.Reply { return send(nil) }, http.StatusUnauthorized},
			"no bearer":        {func() aikeystest.Reply { return send(http.Header{"Authorization": {"Basic " + bad}}) }, http.StatusUnauthorized},
			"no token of ours": {func() aikeystest.Reply { return send(bearer(bad)) }, http.StatusUnauthorized},
			"an unknown key":   {func() aikeystest.Reply { return send(bearer(unknown)) }, http.StatusUnauthorized},
			"a revoked key":    {func() aikeystest.Reply { return send(bearer(revoked.Token)) }, http.StatusUnauthorized},
			"a stranger":       {func() aikeystest.Reply { return get(t, s, sam, project+"/aikeys") }, http.StatusForbidden},
			"another customer": {func() aikeystest.Reply { return get(t, s, owner, "/v1/customers/globex/projects/web/aikeys") }, http.StatusForbidden},
			"a member":         {func() aikeystest.Reply { return put(t, s, member, project+"/policy", map[string]any{}) }, http.StatusForbidden},
		} {
			t.Run(name, func(t *testing.T) {
				level, text := cause(t, s, tc.reply(), tc.status)
				require.Equal(t, "INFO", level)
				require.NotEmpty(t, text)
				require.NotContains(t, texts, text, "another cause")
				texts[text] = name
			})
		}
		require.NotContains(t, s.Evidence.Log(), bad)
		require.NotContains(t, s.Evidence.Log(), strings.TrimPrefix(revoked.Token, revoked.TokenID))
	})
}

func TestLogLevelOfStrangersRequests(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{
		FailureRate: ratelimit.Rate{PerSecond: 0.0001, Burst: 1}, PrincipalRate: ratelimit.Rate{PerSecond: 0.0001, Burst: 2},
	})
	send := func(method, path, token string) aikeystest.Reply {
		return s.Send(t, aikeystest.Request{Method: method, Path: path, Token: token})
	}
	level := func(reply aikeystest.Reply, status int) string {
		level, text := cause(t, s, reply, status)
		if status != http.StatusUnauthorized {
			require.Empty(t, text)
		}
		return level
	}
	require.Equal(t, "DEBUG", level(send(http.MethodGet, "/nowhere", ""), http.StatusNotFound))
	require.Equal(t, "DEBUG", level(send(http.MethodPatch, "/v1/aikeys", ""), http.StatusMethodNotAllowed))
	require.Equal(t, "INFO", level(send(http.MethodGet, "/v1/whoami", ""), http.StatusUnauthorized), "within the limit")
	require.Equal(t, "DEBUG", level(send(http.MethodGet, "/v1/whoami", ""), http.StatusTooManyRequests))
	// Who calls is known.
	path := project + "/aikeys/byok_01JD8Q6Z3VQW2E4R6T8Y0A1S3D"
	require.Equal(t, "INFO", level(send(http.MethodGet, path, s.As(owner).Token), http.StatusNotFound))
	require.Equal(t, "DEBUG", level(send(http.MethodGet, "/v1/whoami", s.As(owner).Token), http.StatusOK))
	require.Equal(t, "DEBUG", level(send(http.MethodGet, path, s.As(owner).Token), http.StatusTooManyRequests))
}

func TestWholeListsAreBounded(t *testing.T) {
	const most = 4
	l := newLocked(t, 6*time.Second)
	key := l.As(owner).Register(t, l.Shared("n"))
	start := func(user, query string) <-chan int {
		who, status := l.As(user), make(chan int, 1)
		go func() {
			params := &gen.ListKeysParams{}
			if query != "" {
				size := 1
				params.PageSize = &size
			}
			reply, err := who.ListKeysWithResponse(t.Context(), self, self, params)
			status <- statusOf(reply, err)
		}()
		return status
	}
	fill := func(t *testing.T) []<-chan int {
		t.Helper()
		started := make([]<-chan int, most)
		for i := range started {
			started[i] = start(owner, "")
		}
		l.awaitWaiting(t, "ai_keys", most)
		return started
	}
	refuse := func(t *testing.T, token, path string) {
		t.Helper()
		requireExhausted(t, l.Send(t, aikeystest.Request{Method: http.MethodGet, Path: path, Token: token}))
	}

	t.Run("the fifth is refused, pages and others are not", func(t *testing.T) {
		release := l.lock(t, "ai_keys")
		lists := fill(t)
		refuse(t, l.As(owner).Token, project+"/aikeys")
		refuse(t, l.As(owner).Token, "/v1/aikeys?provider=openai")
		refuse(t, l.NewSession("acme", "ops", owner, time.Time{}).Token, "/v1/aikeys")
		lists = append(lists, start(owner, "page"), start(member, ""), start(member, ""))
		l.awaitWaiting(t, "ai_keys", most+3)
		release()
		for _, status := range lists {
			require.Equal(t, http.StatusOK, <-status)
		}
	})
	t.Run("lists that failed give their places back", func(t *testing.T) {
		release := l.lock(t, "ai_keys")
		for _, status := range fill(t) {
			require.Equal(t, http.StatusServiceUnavailable, <-status)
		}
		release()
		for range 3 * most {
			require.Len(t, list(t, l.Service, owner), 1)
		}
	})
	t.Run("lists whose reader left give their places back", func(t *testing.T) {
		release := l.lock(t, "ai_keys")
		ctx, leave := context.WithCancel(t.Context())
		defer leave()
		left := make(chan error, most)
		for range most {
			go func() { _, err := l.As(owner).ListKeysWithResponse(ctx, self, self, nil); left <- err }()
		}
		l.awaitWaiting(t, "ai_keys", most)
		leave()
		for range most {
			require.ErrorIs(t, <-left, context.Canceled)
		}
		release()
		require.Eventually(t, func() bool { return get(t, l.Service, owner, project+"/aikeys").Status == http.StatusOK }, 5*time.Second, 5*time.Millisecond)
		for _, reply := range together(most, func(int) aikeystest.Reply { return get(t, l.Service, owner, project+"/aikeys") }) {
			require.Equal(t, http.StatusOK, reply.Status)
		}
	})
	require.Equal(t, []string{key.ID}, ids(list(t, l.Service, owner)))
}
