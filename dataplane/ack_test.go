package dataplane_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
)

func TestARevocationIsAcknowledgedAtOnceAndAfterTheCacheDroppedIt(t *testing.T) {
	cases := map[string]struct {
		revoke func(s *scene, id string) uint64
		req    dataplane.Request
		want   error
	}{
		"key": {func(s *scene, id string) uint64 { return s.RevokeKey(id) }, forCaller, dataplane.ErrNoKey},
		"member": {
			func(s *scene, _ string) uint64 { return s.RemoveMember("acme", "chat", "alice") },
			forCaller, dataplane.ErrNotMember},
		"caller's API key": {
			func(s *scene, _ string) uint64 { return s.RevokeCredential(credential) },
			forCaller, dataplane.ErrCallerUnauthenticated},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			s.AddCredential(credential, dataplanetest.Credential{})
			id := s.register(dataplanetest.Key{})
			s.serves(tc.req, id)
			begin := time.Now()
			tx := tc.revoke(s, id)
			eventually(t, "acknowledged", func() bool { return s.Acknowledged(tx) })
			require.Less(t, time.Since(begin), 3*time.Second, "with those that are sent every few seconds?")
			s.refuses(tc.req, tc.want)
		})
	}
}

func TestReceiptsAreSpreadOverTheTimeAllowedAndCoalesced(t *testing.T) {
	cp := dataplanetest.NewControlPlane(t, dataplanetest.WithAcknowledgeWithin(300*time.Millisecond))
	r := cp.Resolver(t)
	eventually(t, "the first", func() bool { return len(cp.Acknowledgements()) == 1 })
	var last uint64
	for range 50 {
		id := cp.RegisterKey(dataplanetest.Key{})
		last = cp.RevokeKey(id)
	}
	dataplanetest.Await(t, r, last)
	eventually(t, "acknowledged", func() bool { return cp.Acknowledged(last) })
	require.LessOrEqual(t, len(cp.Acknowledgements()), 10, "50 revocations are not 50 receipts")
}

func TestAReceiptThatFailsIsSentAgain(t *testing.T) {
	s, id := cached(t)
	s.SetFault(dataplanetest.Unavailable, dataplanetest.Acknowledge)
	tx := s.RevokeKey(id)
	before := s.Count(dataplanetest.Acknowledge)
	eventually(t, "attempts", func() bool { return s.Count(dataplanetest.Acknowledge) >= before+2 })
	s.SetFault(dataplanetest.Healthy)
	eventually(t, "acknowledged", func() bool { return s.Acknowledged(tx) })
}

func TestAStreamThatIsNotKnownAnyMoreIsOpenedAnew(t *testing.T) {
	s, id := cached(t)
	eventually(t, "the first receipt", func() bool { return len(s.Acknowledgements()) == 1 })
	s.ForgetSessions()
	tx := s.RevokeKey(id)
	s.opened(2)
	eventually(t, "acknowledged", func() bool { return s.Acknowledged(tx) })
}

func TestPositionsAreAcknowledgedEveryFewSecondsInAnyCase(t *testing.T) {
	t.Parallel() // it waits
	s := newScene(t)
	eventually(t, "the first receipt", func() bool { return len(s.Acknowledgements()) == 1 })
	tx := s.Publish(unrelated())
	require.Eventually(t, func() bool { return s.Acknowledged(tx) }, 15*time.Second, 10*time.Millisecond)
}
