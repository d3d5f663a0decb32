package dataplane_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
)

// disowned returns a scene whose control plane has refused the data plane's credential, with a key cached and time of grace
// left. How it has done so is the caller's: by a fetch or by the stream.
func disowned(t *testing.T, by dataplanetest.Operation) (s *scene, id string) {
	t.Helper()
	s, id = cached(t, maxStale(time.Hour), fast)
	if by == dataplanetest.Fetch {
		s.SetFault(dataplanetest.Unavailable, dataplanetest.Events)
	}
	s.SetToken("another")
	s.clock.Advance(2 * time.Second)
	if by == dataplanetest.Fetch {
		s.refuses(forNobody, dataplane.ErrDataPlaneUnauthenticated)
	}
	eventually(t, "the refusal is noticed", func() bool { return s.r.Status().Unauthenticated })
	return s, id
}

// A control plane that has refused a credential many times turns everything from there away, which is no answer; nor is the
// silence of one that has gone. Neither gives back what the refusal took.
func TestADataPlaneThatWasRefusedHasNoGraceWhateverComesAfter(t *testing.T) {
	for _, by := range []dataplanetest.Operation{dataplanetest.Fetch, dataplanetest.Events} {
		for name, fault := range faults() {
			t.Run(name, func(t *testing.T) {
				s, _ := disowned(t, by)
				s.SetFault(fault)
				for range 3 {
					s.clock.Advance(5 * time.Second)
					s.refuses(forNobody, dataplane.ErrDataPlaneUnauthenticated)
				}
				status := s.r.Status()
				require.True(t, status.Unauthenticated)
				require.Zero(t, status.GraceRemaining)
			})
		}
	}
}

func TestADataPlaneThatIsTakenAgainHasItsGraceAgain(t *testing.T) {
	for _, by := range []dataplanetest.Operation{dataplanetest.Fetch, dataplanetest.Events} {
		s, id := disowned(t, by)
		s.SetToken(dataplanetest.Token)
		s.clock.Advance(dataplane.RefusedFor)
		s.serves(forNobody, id)
		eventually(t, "the credential is good", func() bool { return !s.r.Status().Unauthenticated })
		s.SetFault(dataplanetest.Unavailable)
		s.clock.Advance(5 * time.Second)
		s.serves(forNobody, id)
	}
}

// Each refused request counts against its address, and so against the data planes beside it.
func TestAControlPlaneThatRefusesTheCredentialIsAskedSeldom(t *testing.T) {
	s, _ := disowned(t, dataplanetest.Events)
	s.SetFault(dataplanetest.Hanging, dataplanetest.Events) // the stream asks by itself
	s.refuses(forNobody, dataplane.ErrDataPlaneUnauthenticated)
	s.fetches(0, func() {
		for range 5 {
			s.clock.Advance(dataplane.DownFor)
			s.refuses(forAlice, dataplane.ErrDataPlaneUnauthenticated)
		}
	})
	s.clock.Advance(dataplane.RefusedFor)
	s.fetches(1, func() { s.refuses(forNobody, dataplane.ErrDataPlaneUnauthenticated) })
}
