package dataplane_test

import (
	"net/http"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
	gen "github.com/agentrouter/aikeys/gen/dataplane"
)

func TestARotatedKeyServesItsNewVersionAtOnce(t *testing.T) {
	s := dataplanetest.NewEnv(t)
	id := s.Register(dataplanetest.Key{})
	s.Serves(forNobody, id)
	s.AwaitTx(s.RotateKey(id, "sk-EXAMPLE-second"))
	for _, request := range []dataplane.Request{forNobody, dataplane.ByID(id)} {
		key, err := s.R.Resolve(t.Context(), request)
		require.NoError(t, err)
		require.Equal(t, 2, key.Version)
		header := http.Header{}
		require.NoError(t, key.Authorize(header))
		require.Equal(t, "Bearer sk-EXAMPLE-second", header.Get("Authorization"))
	}
}

// The answer left the control plane before the rotation, and arrives after its event.
func TestAnAnswerFromBeforeARotationIsNotUsed(t *testing.T) {
	s := dataplanetest.NewEnv(t)
	id := s.Register(dataplanetest.Key{})
	hold := s.HoldAnswers()
	result := s.ResolveAsync(t.Context(), forNobody)
	hold.Wait()
	s.AwaitTx(s.RotateKey(id, "sk-EXAMPLE-second"))
	hold.Release()
	got := <-result
	require.NoError(t, got.Err)
	require.Equal(t, 2, got.Key.Version)
}

func TestARotationEndsNoUseAndCountsThem(t *testing.T) {
	s := dataplanetest.NewEnv(t, func(cfg *dataplane.Config) { cfg.CountInFlight = true })
	id := s.Register(dataplanetest.Key{})
	old, err := s.R.Resolve(t.Context(), forNobody)
	require.NoError(t, err)
	ended := make(chan bool, 10)
	t.Cleanup(s.R.Watch(old, func(certain bool) { ended <- certain }))
	tx := s.RotateKey(id, "sk-EXAMPLE-second")
	s.AwaitTx(tx)
	s.Serves(forNobody, id)
	dataplanetest.Eventually(t, "the use is counted", func() bool {
		return slices.ContainsFunc(s.Acknowledgements(), func(ack gen.AcknowledgeRequest) bool {
			return slices.Contains(ack.InFlight, gen.InFlight{KeyID: id, Requests: 1})
		})
	})
	require.Empty(t, ended)
	s.AwaitTx(s.RevokeKey(id))
	require.True(t, <-ended, "a revocation ends it, whatever its version")
}

func TestAReportNamesTheVersion(t *testing.T) {
	s := dataplanetest.NewEnv(t)
	id := s.Register(dataplanetest.Key{})
	first, err := s.R.Resolve(t.Context(), forNobody)
	require.NoError(t, err)
	s.AwaitTx(s.RotateKey(id, "sk-EXAMPLE-second"))
	second, err := s.R.Resolve(t.Context(), forNobody)
	require.NoError(t, err)
	s.R.Report(second, http.StatusUnauthorized)
	s.R.Report(first, http.StatusUnauthorized) // late, and it does not hide that of the second
	dataplanetest.Eventually(t, "a report of the second version", func() bool {
		for _, report := range s.Reports() {
			if report.FailedVersion != nil && *report.FailedVersion == 2 {
				return true
			}
		}
		return false
	})
}
