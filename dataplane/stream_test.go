package dataplane_test

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
)

// opened waits until n streams have been opened, and have hello and a heartbeat behind them.
func (s *scene) opened(n int) dataplanetest.Connection {
	s.t.Helper()
	eventually(s.t, "a stream", func() bool { return len(s.Connections()) >= n })
	c := s.Connections()[n-1]
	eventually(s.t, "its hello", func() bool { return s.r.Status().SessionID == c.SessionID })
	s.applied(s.Publish(unrelated()))
	return c
}

func TestAStreamThatBreaksIsResumedAndNothingIsMissed(t *testing.T) {
	s, id := cached(t, maxStale(time.Minute))
	first := s.opened(1)
	require.Empty(t, first.LastEventID)
	require.Empty(t, first.PreviousSessionID)
	s.SetFault(dataplanetest.InternalError, dataplanetest.Events)
	other := s.register(dataplanetest.Key{Provider: "anthropic"})
	forOther := dataplane.ForUser("acme", "chat", "", "anthropic")
	s.serves(forOther, other)
	s.Cut()
	eventually(t, "the end", func() bool { return !s.r.Status().Connected })
	tx := s.RevokeKey(id)
	s.SetFault(dataplanetest.Healthy)
	second := s.opened(2)
	require.NotEmpty(t, second.LastEventID)
	require.Equal(t, first.SessionID, second.PreviousSessionID)
	s.applied(tx)
	s.refuses(forNobody, dataplane.ErrNoKey)
	s.fetches(0, func() { s.serves(forOther, other) }) // the rest of the cache is kept
}

func TestARevocationIsActedOnWhenATransactionCommitsLateAndTheLinkIsCut(t *testing.T) {
	s := newScene(t)
	id := s.RegisterKey(dataplanetest.Key{})
	late := s.Begin()
	s.applied(s.Publish(unrelated()))
	s.serves(forNobody, id)
	s.SetFault(dataplanetest.InternalError, dataplanetest.Events)
	s.Cut()
	eventually(t, "the end", func() bool { return !s.r.Status().Connected })
	late.RevokeKey(id) // a smaller number than those that were told
	s.SetFault(dataplanetest.Healthy)
	s.applied(late.Tx)
	s.refuses(forNobody, dataplane.ErrNoKey)
}

func TestAResetDropsEverything(t *testing.T) {
	s, id := cached(t)
	s.SetFault(dataplanetest.InternalError, dataplanetest.Events)
	s.Cut()
	s.Publish(unrelated())
	s.Forget()
	s.SetFault(dataplanetest.Healthy)
	s.opened(2)
	s.fetches(1, func() { s.serves(forNobody, id) })
}

func TestAFirstConnectionDropsEverything(t *testing.T) {
	cp := dataplanetest.NewControlPlane(t)
	id := cp.RegisterKey(dataplanetest.Key{})
	r, err := dataplane.New(cp.Config())
	require.NoError(t, err)
	key, err := r.Resolve(t.Context(), forNobody) // before anything is followed
	require.NoError(t, err)
	require.Equal(t, id, key.ID)
	cp.RevokeKey(id) // and nobody tells
	dataplanetest.Run(t, r)
	eventually(t, "a lease", func() bool { return r.Status().Leased })
	_, err = r.Resolve(t.Context(), forNobody)
	require.ErrorIs(t, err, dataplane.ErrNoKey)
}

func TestAHalfOpenLinkIsNoticedAndDialledAnew(t *testing.T) {
	cp := dataplanetest.NewControlPlane(t, dataplanetest.WithLease(200*time.Millisecond))
	r := cp.Resolver(t)
	id := cp.RegisterKey(dataplanetest.Key{})
	begin := time.Now()
	cp.HalfOpen()
	tx := cp.RevokeKey(id)
	dataplanetest.Await(t, r, tx)
	require.Less(t, time.Since(begin), 5*time.Second)
	require.Len(t, cp.Connections(), 2)
	require.NotEmpty(t, cp.Connections()[1].LastEventID)
	_, err := r.Resolve(t.Context(), forNobody)
	require.ErrorIs(t, err, dataplane.ErrNoKey)
}

func TestGarbageOnTheStreamEndsItAndHarmsNothing(t *testing.T) {
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
			s, id := cached(t)
			s.Send(text)
			s.opened(2)
			s.awaitLease()
			s.fetches(0, func() { s.serves(forNobody, id) })
		})
	}
}

func TestAControlPlaneThatFailsToStreamIsTriedUntilItDoes(t *testing.T) {
	for name, fault := range faults() {
		if fault == dataplanetest.TooManyRequests {
			continue // tried again after seconds
		}
		t.Run(name, func(t *testing.T) {
			s, id := cached(t, func(cfg *dataplane.Config) { cfg.FetchTimeout = 200 * time.Millisecond })
			s.SetFault(fault, dataplanetest.Events)
			s.Cut()
			before := s.Count(dataplanetest.Events)
			eventually(t, "two attempts", func() bool { return s.Count(dataplanetest.Events) >= before+2 })
			s.SetFault(dataplanetest.Healthy)
			s.opened(2)
			s.serves(forNobody, id)
		})
	}
}

func TestAControlPlaneThatRestartsIsFoundAgain(t *testing.T) {
	s, id := cached(t)
	s.Down()
	eventually(t, "the end", func() bool { return !s.r.Status().Connected })
	s.fetches(0, func() { s.serves(forNobody, id) }) // the lease lasts
	s.Up()
	s.opened(2)
	s.fetches(0, func() { s.serves(forNobody, id) })
}

func TestARefusedCredentialIsToldOnceAndTriedOn(t *testing.T) {
	t.Parallel() // it waits
	var log syncBuffer
	var token atomic.Pointer[string]
	good, bad := dataplanetest.Token, "dp_WRONG"
	token.Store(&good)
	s, _ := cached(t, func(cfg *dataplane.Config) {
		cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
		cfg.Token = func() string { return *token.Load() }
	})
	token.Store(&bad)
	s.Cut()
	eventually(t, "told", func() bool { return s.r.Status().Unauthenticated })
	require.False(t, s.r.Status().Connected)
	s.loseLease()
	s.refuses(forNobody, dataplane.ErrDataPlaneUnauthenticated)
	before := s.Count(dataplanetest.Events)
	eventually(t, "another attempt", func() bool { return s.Count(dataplanetest.Events) > before })
	token.Store(&good) // as a file that is rotated
	s.ResumeHeartbeats()
	s.opened(2)
	require.False(t, s.r.Status().Unauthenticated)
	require.Equal(t, 1, strings.Count(log.String(), "level=ERROR"))
	require.NotContains(t, log.String(), "dp_")
}

func TestRunRunsOnceAtATimeAndAgain(t *testing.T) {
	cp := dataplanetest.NewControlPlane(t)
	r, err := dataplane.New(cp.Config())
	require.NoError(t, err)
	stop := dataplanetest.Run(t, r)
	eventually(t, "a lease", func() bool { return r.Status().Leased })
	require.ErrorIs(t, r.Run(t.Context()), dataplane.ErrRunning)
	stop()
	require.False(t, r.Status().Connected)
	dataplanetest.Run(t, r)
	eventually(t, "a stream again", func() bool { return r.Status().Connected })
	require.NotEmpty(t, cp.Connections()[1].LastEventID)
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

// syncBuffer is a log that is read while it is written.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
