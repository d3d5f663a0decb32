package dataplane_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
)

func TestPauseAfterAFailure(t *testing.T) {
	s, id := newCachedEnv(t, maxStale(time.Minute))
	s.LoseLease()
	s.SetFault(dataplanetest.Unavailable, dataplanetest.Fetch)
	s.Fetches(1, func() {
		s.Serves(forNobody, id)
		s.Serves(forNobody, id)
		s.Refuses(forAlice, dataplane.ErrUnavailable)
	})
	s.Clock.Advance(dataplane.DownFor)
	s.Fetches(1, func() { s.Serves(forNobody, id) })
}

// Otherwise strangers with made-up session tokens could stop all fetches.
func TestUncheckableTokenIsNotAFailure(t *testing.T) {
	for fault, passes := range map[dataplanetest.Fault]bool{dataplanetest.IssuerUnavailable: true, dataplanetest.Unavailable: false} {
		s := dataplanetest.NewEnv(t)
		s.RegisterKey(dataplanetest.Key{})
		s.SetFault(fault, dataplanetest.Fetch)
		_, err := s.R.Resolve(t.Context(), forCaller)
		require.ErrorIs(t, err, dataplane.ErrUnavailable)
		s.SetFault(dataplanetest.Healthy)
		_, err = s.R.Resolve(t.Context(), forNobody) // the clock stands still
		require.Equal(t, passes, err == nil, "%v", err)
	}
}

// A revocation missed during an outage causes a fetch. It is sent as soon as the stream is back, without the pause after
// a failure.
func TestFetchOnceTheStreamIsBack(t *testing.T) {
	s := dataplanetest.NewEnv(t, maxStale(time.Minute))
	older := s.Register(dataplanetest.Key{})
	newest := s.Register(dataplanetest.Key{})
	s.Serves(forNobody, newest)
	s.SetFault(dataplanetest.Unavailable)
	s.Cut()
	s.AwaitDisconnect()
	s.Clock.Advance(2 * time.Second)
	s.Fetches(1, func() { s.Serves(forNobody, newest) }) // it fails, and begins the pause
	s.Fetches(0, func() { s.Serves(forNobody, newest) })
	tx := s.RevokeKey(newest)
	s.SetFault(dataplanetest.Healthy)
	s.AwaitTx(tx)
	s.Serves(forNobody, older)
}

// newRefusedEnv returns an environment whose control plane has refused the data plane's credential, in answer to a fetch
// or to the stream. A key is cached, within MaxStale.
func newRefusedEnv(t *testing.T, by dataplanetest.Operation) (s *dataplanetest.Env, id string) {
	t.Helper()
	s, id = newCachedEnv(t, maxStale(time.Hour), fast)
	if by == dataplanetest.Fetch {
		s.SetFault(dataplanetest.Unavailable, dataplanetest.Events)
	}
	s.SetToken("another")
	s.Clock.Advance(2 * time.Second)
	if by == dataplanetest.Fetch {
		s.Refuses(forNobody, dataplane.ErrDataPlaneUnauthenticated)
	}
	dataplanetest.Eventually(t, "the refusal is noticed", func() bool { return s.R.Status().Unauthenticated })
	return s, id
}

// After many refusals the control plane answers 429 to this address, and later it may not answer at all. Neither restores
// the grace that the refusal ended.
func TestNoGraceAfterARefusal(t *testing.T) {
	for _, by := range []dataplanetest.Operation{dataplanetest.Fetch, dataplanetest.Events} {
		for name, fault := range faults() {
			t.Run(name, func(t *testing.T) {
				s, _ := newRefusedEnv(t, by)
				s.SetFault(fault)
				for range 3 {
					s.Clock.Advance(5 * time.Second)
					s.Refuses(forNobody, dataplane.ErrDataPlaneUnauthenticated)
				}
				status := s.R.Status()
				require.True(t, status.Unauthenticated)
				require.Zero(t, status.GraceRemaining)
			})
		}
	}
}

func TestGraceAfterAcceptance(t *testing.T) {
	for _, by := range []dataplanetest.Operation{dataplanetest.Fetch, dataplanetest.Events} {
		s, id := newRefusedEnv(t, by)
		s.SetToken(dataplanetest.Token)
		s.Clock.Advance(dataplane.RefusedFor)
		s.Serves(forNobody, id)
		dataplanetest.Eventually(t, "the credential is good", func() bool { return !s.R.Status().Unauthenticated })
		s.SetFault(dataplanetest.Unavailable)
		s.Clock.Advance(5 * time.Second)
		s.Serves(forNobody, id)
	}
}

// Refused requests count against their address, which other data planes may share.
func TestPauseAfterARefusal(t *testing.T) {
	s, _ := newRefusedEnv(t, dataplanetest.Events)
	s.SetFault(dataplanetest.Hanging, dataplanetest.Events) // the stream must not send the credential either
	s.Refuses(forNobody, dataplane.ErrDataPlaneUnauthenticated)
	s.Fetches(0, func() {
		for range 5 {
			s.Clock.Advance(dataplane.DownFor)
			s.Refuses(forAlice, dataplane.ErrDataPlaneUnauthenticated)
		}
	})
	s.Clock.Advance(dataplane.RefusedFor)
	s.Fetches(1, func() { s.Refuses(forNobody, dataplane.ErrDataPlaneUnauthenticated) })
}
