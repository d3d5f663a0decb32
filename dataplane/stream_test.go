package dataplane_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
)

func TestStreamResumes(t *testing.T) {
	s, id := newCachedEnv(t, maxStale(time.Minute))
	first := s.AwaitStream(1)
	require.Empty(t, first.LastEventID)
	require.Empty(t, first.PreviousSessionID)
	s.SetFault(dataplanetest.InternalError, dataplanetest.Events)
	other := s.Register(dataplanetest.Key{Provider: "anthropic"})
	forOther := dataplane.ForUser("acme", "chat", "", "anthropic")
	s.Serves(forOther, other)
	s.Cut()
	s.AwaitDisconnect()
	tx := s.RevokeKey(id)
	s.SetFault(dataplanetest.Healthy)
	second := s.AwaitStream(2)
	require.NotEmpty(t, second.LastEventID)
	require.Equal(t, first.SessionID, second.PreviousSessionID)
	s.AwaitTx(tx)
	s.Refuses(forNobody, dataplane.ErrKeyRevoked)
	s.Fetches(0, func() { s.Serves(forOther, other) }) // the rest of the cache is kept
}

func TestStreamResumesBeforeALateCommit(t *testing.T) {
	s := dataplanetest.NewEnv(t)
	id := s.RegisterKey(dataplanetest.Key{})
	late := s.Begin()
	s.Sync()
	s.Serves(forNobody, id)
	s.SetFault(dataplanetest.InternalError, dataplanetest.Events)
	s.Cut()
	s.AwaitDisconnect()
	s.RevokeKeyIn(late, id) // its number is smaller than those of announced events
	s.SetFault(dataplanetest.Healthy)
	s.AwaitTx(late)
	s.Refuses(forNobody, dataplane.ErrKeyRevoked)
}

func TestResetDropsTheCache(t *testing.T) {
	s, id := newCachedEnv(t)
	s.SetFault(dataplanetest.InternalError, dataplanetest.Events)
	s.Cut()
	s.Publish(dataplanetest.Unrelated())
	s.Forget()
	s.SetFault(dataplanetest.Healthy)
	s.AwaitStream(2)
	s.Fetches(1, func() { s.Serves(forNobody, id) })
}

func TestFirstConnectionDropsTheCache(t *testing.T) {
	cp := dataplanetest.NewControlPlane(t)
	id := cp.RegisterKey(dataplanetest.Key{})
	r, err := dataplane.New(cp.Config())
	require.NoError(t, err)
	key, err := r.Resolve(t.Context(), forNobody) // before Run
	require.NoError(t, err)
	require.Equal(t, id, key.ID)
	cp.RevokeKey(id) // no stream announces it
	dataplanetest.Run(t, r)
	dataplanetest.Eventually(t, "a lease", func() bool { return r.Status().Leased })
	_, err = r.Resolve(t.Context(), forNobody)
	require.ErrorIs(t, err, dataplane.ErrKeyRevoked)
}

func TestHalfOpenConnection(t *testing.T) {
	cp := dataplanetest.NewControlPlane(t)
	cp.Lease = 200 * time.Millisecond
	var links atomic.Int64 // how many links have died; each dies silently, with all its connections
	transport := hookedTransport(func(inner net.Conn) net.Conn {
		link := links.Load()
		return &hookedConn{inner, inner.Write, func(b []byte) (n int, err error) {
			for n, err = inner.Read(b); err == nil && link != links.Load(); {
				n, err = inner.Read(b)
			}
			return n, err
		}}
	})
	defer transport.CloseIdleConnections()
	r := cp.Resolver(t, func(cfg *dataplane.Config) { cfg.HTTPClient = &http.Client{Transport: transport} })
	id := cp.RegisterKey(dataplanetest.Key{})
	links.Add(1)
	tx := cp.RevokeKey(id)
	dataplanetest.Await(t, r, tx)
	require.Len(t, cp.Connections(), 2)
	require.NotEmpty(t, cp.Connections()[1].LastEventID)
	_, err := r.Resolve(t.Context(), forNobody)
	require.ErrorIs(t, err, dataplane.ErrKeyRevoked)
}

func TestInvalidMessagesEndTheStream(t *testing.T) {
	for name, text := range map[string]string{
		"no JSON":             "data: {nonsense\n\n",
		"no type":             "data: {}\n\n",
		"another hello":       "data: {\"type\":\"hello\",\"session_id\":\"x\",\"clock_ms\":0,\"lease_ms\":3600000}\n\n",
		"a nonsense position": "id: 7\ndata: {\"type\":\"heartbeat\",\"clock_ms\":9223372036854775807}\n\n",
		"no position":         "id:\ndata: {\"type\":\"heartbeat\",\"clock_ms\":0}\n\n",
		"a line without end":  "data: " + strings.Repeat("x", 100_000),
		"a message too long":  strings.Repeat("data: "+strings.Repeat("x", 1000)+"\n", 100),
	} {
		t.Run(name, func(t *testing.T) {
			s, id := newCachedEnv(t)
			s.Send(text)
			s.AwaitStream(2)
			s.AwaitLease()
			s.Fetches(0, func() { s.Serves(forNobody, id) })
		})
	}
}

func TestStreamIsRetried(t *testing.T) {
	for name, fault := range faults() {
		t.Run(name, func(t *testing.T) {
			s, id := newCachedEnv(t, fast, dataplane.WithIntervals(0, 0, 0, time.Millisecond))
			s.SetFault(fault, dataplanetest.Events)
			s.Cut()
			before := s.Count(dataplanetest.Events)
			dataplanetest.Eventually(t, "two attempts", func() bool { return s.Count(dataplanetest.Events) >= before+2 })
			s.SetFault(dataplanetest.Healthy)
			s.AwaitStream(2)
			s.Serves(forNobody, id)
		})
	}
}

func TestControlPlaneRestarts(t *testing.T) {
	s, id := newCachedEnv(t)
	s.Down()
	s.AwaitDisconnect()
	s.Fetches(0, func() { s.Serves(forNobody, id) }) // the lease has not ended
	s.Up()
	s.AwaitStream(2)
	s.Fetches(0, func() { s.Serves(forNobody, id) })
}

// A session that the control plane does not accept is sent once and then forgotten.
func TestStreamThatCannotResumeStartsOver(t *testing.T) {
	previous := make(chan string, 16)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		session := r.URL.Query().Get("previous_session_id")
		select {
		case previous <- session:
		default:
		}
		if session != "" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = fmt.Fprint(w, "data: {\"type\":\"hello\",\"session_id\":\"nonsense\",\"clock_ms\":1,\"lease_ms\":1000}\n\n")
	}))
	defer server.Close()
	r, err := dataplane.New(dataplane.Config{ControlPlane: server.URL, Token: func() string { return dataplanetest.Token }})
	require.NoError(t, err)
	dataplanetest.Run(t, r)
	for _, want := range []string{"", "nonsense", ""} {
		require.Equal(t, want, <-previous)
	}
}

func TestRefusedCredentialIsLoggedOnce(t *testing.T) {
	var log dataplanetest.Log
	var token atomic.Pointer[string]
	good, bad := dataplanetest.Token, "dp_WRONG"
	token.Store(&good)
	s, _ := newCachedEnv(t, func(cfg *dataplane.Config) {
		cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
		cfg.Token = func() string { return *token.Load() }
	}, dataplane.WithIntervals(0, 0, 0, time.Millisecond))
	token.Store(&bad)
	s.Cut()
	dataplanetest.Eventually(t, "told", func() bool { return s.R.Status().Unauthenticated })
	require.False(t, s.R.Status().Connected)
	s.LoseLease()
	s.Refuses(forNobody, dataplane.ErrDataPlaneUnauthenticated)
	before := s.Count(dataplanetest.Events)
	dataplanetest.Eventually(t, "another attempt", func() bool { return s.Count(dataplanetest.Events) > before })
	token.Store(&good) // as when the file of the token is replaced
	s.ResumeHeartbeats()
	s.AwaitStream(2)
	require.False(t, s.R.Status().Unauthenticated)
	require.Equal(t, 1, strings.Count(log.String(), "level=ERROR"))
	require.NotContains(t, log.String(), "dp_")
}

// The resolver logs the refusal once. It has no lease, so it fetches for each request, and it gets a lease when the
// limit is raised.
func TestRefusedMaxStaleIsLoggedOnce(t *testing.T) {
	log := new(dataplanetest.Log)
	cp := dataplanetest.NewControlPlane(t)
	cp.LimitMaxStale(time.Minute)
	cp.SetFault(dataplanetest.Unavailable, dataplanetest.Events)
	id := cp.RegisterKey(dataplanetest.Key{})
	cfg := cp.Config()
	cfg.MaxStale, cfg.Log = time.Hour, slog.New(slog.NewTextHandler(log, nil))
	dataplane.WithIntervals(0, 0, 0, time.Millisecond)(&cfg)
	r, err := dataplane.New(cfg)
	require.NoError(t, err)
	dataplanetest.Run(t, r)
	dataplanetest.Eventually(t, "another failure is logged", func() bool { return strings.Contains(log.String(), "no stream of events can be opened") })
	require.False(t, r.Status().TooStale)
	cp.SetFault(dataplanetest.Healthy, dataplanetest.Events)

	dataplanetest.Eventually(t, "the refusal", func() bool { return r.Status().TooStale })
	asked := cp.Count(dataplanetest.Events)
	dataplanetest.Eventually(t, "another try", func() bool { return cp.Count(dataplanetest.Events) > asked })
	key, err := r.Resolve(t.Context(), forNobody)
	require.NoError(t, err)
	require.Equal(t, id, key.ID)
	require.False(t, r.Status().Leased)
	cp.LimitMaxStale(time.Hour)
	dataplanetest.Eventually(t, "a lease", func() bool { return r.Status().Leased })
	require.False(t, r.Status().TooStale)

	told := log.String()
	require.Equal(t, 1, strings.Count(told, "refuses this data plane's max-stale"), told)
	require.Contains(t, told, "the control plane refuses a max-stale of 1h0m0s: max_stale_ms must be at most 60000, the limit of this service; "+
		"lower it here, or raise the control plane's --max-stale-limit")
	require.Contains(t, told, "the stream of events is open again")
}

// A 400 with any other body does not count as a refusal of MaxStale.
func TestOther400IsNoRefusalOfMaxStale(t *testing.T) {
	for name, body := range map[string]string{
		"another field": `{"errors":[{"field":"previous_session_id","message":"must be an id"}]}`, "no document": "<html>", "nothing": "",
		"too much": `{"errors":[{"field":"max_stale_ms","message":"` + strings.Repeat("x", 300<<10),
	} {
		t.Run(name, func(t *testing.T) {
			var asked atomic.Int32
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				asked.Add(1)
				w.WriteHeader(http.StatusBadRequest)
				_, _ = w.Write([]byte(body))
			}))
			defer server.Close()
			r, err := dataplane.New(dataplane.Config{ControlPlane: server.URL, Token: func() string { return dataplanetest.Token }})
			require.NoError(t, err)
			dataplanetest.Run(t, r)
			dataplanetest.Eventually(t, "two tries", func() bool { return asked.Load() > 1 })
			require.False(t, r.Status().TooStale)
		})
	}
}

func TestLateHeartbeatDoesNotExtendTheLease(t *testing.T) {
	s, id := newCachedEnv(t)
	s.StopHeartbeats()
	then := s.Now()
	s.Clock.Advance(5 * time.Second)
	tx := s.Publish(dataplanetest.Unrelated())
	s.HeartbeatAt(then) // a heartbeat that was sent long ago and buffered somewhere
	s.AwaitTx(tx)
	s.Fetches(1, func() { s.Serves(forNobody, id) })
	s.HeartbeatAt(s.Now() - 400*time.Millisecond)
	dataplanetest.Eventually(t, "a lease of what is left", func() bool {
		return s.R.Status().LeaseRemaining == 600*time.Millisecond
	})
}

func TestReplicaClockDoesNotExtendTheLease(t *testing.T) {
	for name, step := range map[string]time.Duration{"forward": time.Hour, "back": -time.Hour} {
		t.Run(name, func(t *testing.T) {
			s, id := newCachedEnv(t)
			s.StopHeartbeats()
			tx := s.Publish(dataplanetest.Unrelated())
			s.HeartbeatAt(s.Now() + step)
			s.AwaitTx(tx) // the heartbeat brings its position
			s.Clock.Advance(time.Second)
			s.Fetches(1, func() { s.Serves(forNobody, id) })
		})
	}
}

// hookedConn is a connection whose reads and writes a test replaces.
type hookedConn struct {
	net.Conn
	write, read func(b []byte) (int, error)
}

func (c *hookedConn) Write(b []byte) (int, error) { return c.write(b) }
func (c *hookedConn) Read(b []byte) (int, error)  { return c.read(b) }

// hookedTransport returns a transport that replaces each connection with the result of hook.
func hookedTransport(hook func(net.Conn) net.Conn) *http.Transport {
	return &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		inner, err := new(net.Dialer).DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return hook(inner), nil
	}}
}

// If a request waited for a replica that hung, its stream would give no lease until it ends.
func TestStreamThatOpensTooLateIsReplaced(t *testing.T) {
	clock, cp := new(dataplanetest.Clock), dataplanetest.NewControlPlane(t)
	cp.Now = clock.Now
	hang := sync.OnceFunc(func() { clock.Advance(700 * time.Millisecond) })
	transport := hookedTransport(func(inner net.Conn) net.Conn {
		return &hookedConn{inner, func(b []byte) (int, error) { hang(); return inner.Write(b) }, inner.Read}
	})
	defer transport.CloseIdleConnections()
	r := cp.Resolver(t, func(cfg *dataplane.Config) {
		cfg.Clock, cfg.HTTPClient = clock, &http.Client{Transport: transport}
	})
	require.Equal(t, time.Second, r.Status().LeaseRemaining)
}

func TestDialTimeDoesNotCountAgainstTheLease(t *testing.T) {
	clock, cp := new(dataplanetest.Clock), dataplanetest.NewControlPlane(t)
	cp.Now = clock.Now
	var dialled atomic.Int64
	transport := hookedTransport(func(inner net.Conn) net.Conn {
		if dialled.Add(1) > 1 {
			return inner // for acknowledgements
		}
		clock.Advance(700 * time.Millisecond)
		waits := sync.OnceFunc(func() { clock.Advance(300 * time.Millisecond) }) // before its first write
		return &hookedConn{inner, func(b []byte) (int, error) { waits(); return inner.Write(b) }, inner.Read}
	})
	defer transport.CloseIdleConnections()
	r := cp.Resolver(t, func(cfg *dataplane.Config) {
		cfg.Clock, cfg.HTTPClient = clock, &http.Client{Transport: transport}
	})
	require.Equal(t, 700*time.Millisecond, r.Status().LeaseRemaining)
}

func TestHelloGivesNoLease(t *testing.T) {
	s, id := newCachedEnv(t)
	s.LoseLease()
	before := s.R.Status().SessionID
	s.Cut()
	dataplanetest.Eventually(t, "hello", func() bool {
		status := s.R.Status()
		return status.Connected && status.SessionID != before
	})
	require.False(t, s.R.Status().Leased)
	s.Fetches(2, func() {
		s.Serves(forNobody, id)
		s.Serves(forNobody, id)
	})
	s.ResumeHeartbeats()
	s.AwaitLease()
	s.Fetches(0, func() { s.Serves(forNobody, id) })
}

func FuzzStream(f *testing.F) {
	hello := "data: {\"type\":\"hello\",\"session_id\":\"s\",\"clock_ms\":1,\"lease_ms\":1000}\n\n"
	f.Add([]byte(hello + "id: 1:2:\ndata: {\"type\":\"heartbeat\",\"clock_ms\":5}\n\n"))
	f.Add([]byte(hello +
		"data: {\"type\":\"key.revoked\",\"tx\":-1,\"key_id\":\"k\"}\n\ndata: {\"type\":\"reset\"}\r\n\r\n"))
	f.Add([]byte(hello +
		": comment\nid: 1:1:\ndata: {\"type\":\ndata: \"heartbeat\",\"clock_ms\":-9223372036854775808}\n\n"))
	f.Add([]byte("\x00\ndata\ndata:\n\n"))
	r, err := dataplane.New(dataplane.Config{ControlPlane: "http://127.0.0.1:1", Token: func() string { return "" }})
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, stream []byte) {
		require.Error(t, dataplane.Feed(r, bytes.NewReader(stream)))
		require.LessOrEqual(t, r.Status().LeaseRemaining, time.Hour)
	})
}

func TestRevocationsAreAcknowledgedAtOnce(t *testing.T) {
	cases := map[string]struct {
		revoke func(s *dataplanetest.Env, id string) int64
		req    dataplane.Request
		want   error
	}{
		"key": {func(s *dataplanetest.Env, id string) int64 { return s.RevokeKey(id) }, forCaller, dataplane.ErrKeyRevoked},
		"member": {
			func(s *dataplanetest.Env, _ string) int64 { return s.RemoveMember("alice") },
			forCaller, dataplane.ErrNotMember},
		"caller's API key": {
			func(s *dataplanetest.Env, _ string) int64 { return s.RevokeCredential(credential) },
			forCaller, dataplane.ErrCallerUnauthenticated},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			s := dataplanetest.NewEnv(t, dataplane.WithIntervals(time.Hour, 0, 0, 0))
			s.AddCredential(credential, dataplanetest.Credential{})
			id := s.Register(dataplanetest.Key{})
			s.Serves(tc.req, id)
			tx := tc.revoke(s, id)
			dataplanetest.Eventually(t, "acknowledged", func() bool { return s.Acknowledged(tx) })
			s.Refuses(tc.req, tc.want)
		})
	}
}

func TestAcknowledgementsAreCoalesced(t *testing.T) {
	cp := dataplanetest.NewControlPlane(t)
	cp.AcknowledgeWithin = 300 * time.Millisecond
	r := cp.Resolver(t)
	dataplanetest.Eventually(t, "the first", func() bool { return len(cp.Acknowledgements()) == 1 })
	var last int64
	for range 50 {
		id := cp.RegisterKey(dataplanetest.Key{})
		last = cp.RevokeKey(id)
	}
	dataplanetest.Await(t, r, last)
	dataplanetest.Eventually(t, "acknowledged", func() bool { return cp.Acknowledged(last) })
	require.LessOrEqual(t, len(cp.Acknowledgements()), 10, "50 revocations are not 50 acknowledgements")
}

func TestFailedAcknowledgementIsRetried(t *testing.T) {
	s, id := newCachedEnv(t)
	s.SetFault(dataplanetest.Unavailable, dataplanetest.Acknowledge)
	tx := s.RevokeKey(id)
	before := s.Count(dataplanetest.Acknowledge)
	dataplanetest.Eventually(t, "attempts", func() bool { return s.Count(dataplanetest.Acknowledge) >= before+2 })
	s.SetFault(dataplanetest.Healthy)
	dataplanetest.Eventually(t, "acknowledged", func() bool { return s.Acknowledged(tx) })
}

func TestUnknownSessionReopensTheStream(t *testing.T) {
	s, id := newCachedEnv(t)
	dataplanetest.Eventually(t, "the first acknowledgement", func() bool { return len(s.Acknowledgements()) == 1 })
	s.ForgetSessions()
	tx := s.RevokeKey(id)
	s.AwaitStream(2)
	dataplanetest.Eventually(t, "acknowledged", func() bool { return s.Acknowledged(tx) })
}

func TestPeriodicAcknowledgements(t *testing.T) {
	s := dataplanetest.NewEnv(t, dataplane.WithIntervals(10*time.Millisecond, 0, 0, 0))
	dataplanetest.Eventually(t, "the first acknowledgement", func() bool { return len(s.Acknowledgements()) == 1 })
	tx := s.Publish(dataplanetest.Unrelated())
	dataplanetest.Eventually(t, "acknowledged", func() bool { return s.Acknowledged(tx) })
}
