package dataplane_test

import (
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
)

// cached returns a scene in which a key is cached.
func cached(t *testing.T, change ...func(*dataplane.Config)) (s *scene, id string) {
	t.Helper()
	s = newScene(t, change...)
	id = s.register(dataplanetest.Key{})
	s.serves(forNobody, id)
	s.fetches(0, func() { s.serves(forNobody, id) })
	return s, id
}

func TestTheLeaseEndsALeaseAfterTheLastHeartbeatsTime(t *testing.T) {
	s, id := cached(t)
	s.StopHeartbeats()
	s.clock.Advance(time.Second - time.Nanosecond)
	s.fetches(0, func() { s.serves(forNobody, id) })
	s.clock.Advance(time.Nanosecond)
	s.fetches(2, func() { // each call asks
		s.serves(forNobody, id)
		s.serves(forNobody, id)
	})
	s.ResumeHeartbeats()
	s.awaitLease()
	s.fetches(0, func() { s.serves(forNobody, id) }) // what was cached is still there
}

func TestALateHeartbeatDoesNotExtendTheLease(t *testing.T) {
	s, id := cached(t)
	s.StopHeartbeats()
	then := s.Clock()
	s.clock.Advance(5 * time.Second)
	tx := s.Publish(unrelated())
	s.HeartbeatAt(then) // sent long ago, buffered somewhere
	s.applied(tx)
	s.fetches(1, func() { s.serves(forNobody, id) })
	s.HeartbeatAt(s.Clock() - 400*time.Millisecond)
	eventually(t, "a lease of what is left", func() bool {
		return s.r.Status().LeaseRemaining == 600*time.Millisecond
	})
}

func TestAReplicasClockThatIsSetDoesNotProlongTheLease(t *testing.T) {
	for name, step := range map[string]time.Duration{"forward": time.Hour, "back": -time.Hour} {
		t.Run(name, func(t *testing.T) {
			s, id := cached(t)
			s.StopHeartbeats()
			s.HeartbeatAt(s.Clock() + step)
			s.clock.Advance(time.Second)
			s.fetches(1, func() { s.serves(forNobody, id) })
		})
	}
}

func TestThisMachinesClockThatIsSetMovesNothing(t *testing.T) {
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		source, err := os.ReadFile(file)
		require.NoError(t, err)
		switch {
		case strings.HasSuffix(file, "_test.go"):
		case file == "config.go":
			require.Equal(t, 1, strings.Count(string(source), "time.Now()"), "only the clock's start")
		default:
			for _, wall := range []string{"time.Now", ".Unix", "time.Until", ".Round(0)"} {
				require.NotContains(t, string(source), wall, "%s goes by the time of day", file)
			}
		}
	}
}

// slowConn takes time to be there, and for its first bytes to arrive, by a clock that is moved.
type slowConn struct {
	net.Conn
	once  sync.Once
	delay func()
}

func (c *slowConn) Write(b []byte) (int, error) {
	c.once.Do(c.delay)
	return c.Conn.Write(b)
}

func TestTheTimeOfTheRequestCountsAgainstTheLeaseAndThatOfDiallingDoesNot(t *testing.T) {
	clock := dataplanetest.NewClock()
	cp := dataplanetest.NewControlPlane(t, dataplanetest.WithClock(clock))
	var dialled atomic.Int64
	transport := &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		inner, err := new(net.Dialer).DialContext(ctx, network, address)
		if dialled.Add(1) > 1 {
			return inner, err // for acknowledgements
		}
		clock.Advance(700 * time.Millisecond)
		return &slowConn{Conn: inner, delay: func() { clock.Advance(300 * time.Millisecond) }}, err
	}}
	defer transport.CloseIdleConnections()
	r := cp.Resolver(t, func(cfg *dataplane.Config) {
		cfg.Clock, cfg.HTTPClient = clock, &http.Client{Transport: transport}
	})
	require.Equal(t, 700*time.Millisecond, r.Status().LeaseRemaining)
}

func TestTheLeaseBeginsWithAHeartbeatNotWithHello(t *testing.T) {
	clock := dataplanetest.NewClock()
	cp := dataplanetest.NewControlPlane(t, dataplanetest.WithClock(clock))
	cp.StopHeartbeats()
	cfg := cp.Config()
	cfg.Clock = clock
	r, err := dataplane.New(cfg)
	require.NoError(t, err)
	dataplanetest.Run(t, r)
	s := &scene{cp, t, clock, r}
	id := s.RegisterKey(dataplanetest.Key{})
	eventually(t, "hello", func() bool { return r.Status().Connected })
	require.False(t, r.Status().Leased)
	s.fetches(2, func() {
		s.serves(forNobody, id)
		s.serves(forNobody, id)
	})
	s.ResumeHeartbeats()
	s.awaitLease()
	s.fetches(0, func() { s.serves(forNobody, id) })
}

func TestWithoutALeaseOrAnAnswerNothingIsServed(t *testing.T) {
	for name, fault := range faults() {
		t.Run(name, func(t *testing.T) {
			s, id := cached(t, fast)
			s.loseLease()
			s.SetFault(fault)
			s.refuses(forNobody, dataplane.ErrUnavailable)
			s.SetFault(dataplanetest.Healthy)
			s.clock.Advance(dataplane.DownFor)
			s.serves(forNobody, id)
		})
	}
	t.Run("down", func(t *testing.T) {
		s, id := cached(t)
		s.loseLease()
		s.Down()
		s.refuses(forNobody, dataplane.ErrUnavailable)
		s.Up()
		s.clock.Advance(dataplane.DownFor)
		s.serves(forNobody, id)
	})
}

func faults() map[string]dataplanetest.Fault {
	return map[string]dataplanetest.Fault{
		"500": dataplanetest.InternalError, "503": dataplanetest.Unavailable, "hangs": dataplanetest.Hanging,
		"garbage": dataplanetest.Garbage, "429": dataplanetest.TooManyRequests,
	}
}

func fast(cfg *dataplane.Config) { cfg.FetchTimeout = 100 * time.Millisecond }

func TestWithoutAnAnswerStaleKeysServeAsLongAsDeclared(t *testing.T) {
	for name, fault := range faults() {
		t.Run(name, func(t *testing.T) {
			s, id := cached(t, maxStale(time.Minute), fast)
			require.Equal(t, time.Minute, s.Connections()[0].MaxStale)
			s.StopHeartbeats()
			s.SetFault(fault)
			s.clock.Advance(time.Second + time.Minute - time.Millisecond)
			s.serves(forNobody, id)
			s.clock.Advance(time.Millisecond)
			s.refuses(forNobody, dataplane.ErrUnavailable)
		})
	}
}

func TestAnAnswerIsPreferredToAStaleKey(t *testing.T) {
	s, id := cached(t, maxStale(time.Minute))
	s.loseLease()
	s.SetFault(dataplanetest.InternalError, dataplanetest.Events)
	s.Cut() // nothing gets through on a stream
	s.RevokeKey(id)
	s.refuses(forNobody, dataplane.ErrNoKey)
}

func TestAnOldKeyServesUnderGraceAlone(t *testing.T) {
	s, id := cached(t, maxStale(10*time.Minute), func(cfg *dataplane.Config) { cfg.MaxAge = time.Minute })
	s.SetFault(dataplanetest.InternalError, dataplanetest.Fetch)
	s.clock.Advance(2 * time.Minute)
	s.awaitLease()
	s.serves(forNobody, id)
	s.clock.Advance(9 * time.Minute)
	s.awaitLease()
	s.refuses(forNobody, dataplane.ErrUnavailable)
}

func TestAControlPlaneThatIsDownIsLeftAloneForAMoment(t *testing.T) {
	s, id := cached(t, maxStale(time.Minute))
	s.loseLease()
	s.SetFault(dataplanetest.Unavailable, dataplanetest.Fetch)
	s.fetches(1, func() {
		s.serves(forNobody, id)
		s.serves(forNobody, id)
		s.refuses(forAlice, dataplane.ErrUnavailable)
	})
	s.clock.Advance(dataplane.DownFor)
	s.fetches(1, func() { s.serves(forNobody, id) })
}

func TestWhileAnAttemptHangsStaleKeysServeAtOnceAndOthersFailAtOnce(t *testing.T) {
	s, id := cached(t, maxStale(time.Minute), func(cfg *dataplane.Config) { cfg.FetchTimeout = 5 * time.Second })
	s.loseLease()
	s.SetFault(dataplanetest.Hanging, dataplanetest.Fetch)
	s.fetches(1, func() {
		begin := time.Now()
		s.serves(forNobody, id) // after the moment that an answer may take
		s.clock.Advance(dataplane.DownFor)
		s.serves(forNobody, id)
		s.refuses(forAlice, dataplane.ErrUnavailable)
		require.Less(t, time.Since(begin), 4*time.Second)
	})
	s.Cut() // lets go of the attempt
}

func TestAnAnswerThatTookLongerThanALeaseIsNotUsedWithoutOne(t *testing.T) {
	s, id := cached(t)
	s.loseLease()
	hold := s.HoldAnswers()
	result := s.start(t.Context(), forNobody)
	hold.Wait(1)
	s.clock.Advance(time.Second + time.Millisecond)
	s.fetches(1, func() { // it is fetched again
		hold.Release()
		require.Equal(t, id, s.outcome(result).key.ID)
	})
}

// Else strangers with made-up session tokens would keep everybody from the control plane.
func TestATokenThatCantBeCheckedIsNoFailureOfTheControlPlane(t *testing.T) {
	for fault, passes := range map[dataplanetest.Fault]bool{dataplanetest.IssuerUnavailable: true, dataplanetest.Unavailable: false} {
		s := newScene(t)
		s.RegisterKey(dataplanetest.Key{})
		s.SetFault(fault, dataplanetest.Fetch)
		_, err := s.resolve(forCaller)
		require.ErrorIs(t, err, dataplane.ErrUnavailable)
		s.SetFault(dataplanetest.Healthy)
		_, err = s.resolve(forNobody) // at the same moment: the clock stands still
		require.Equal(t, passes, err == nil, "%v", err)
	}
}
