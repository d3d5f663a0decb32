package dataplane_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
)

func TestRevocationsAreAcknowledgedAtOnce(t *testing.T) {
	cases := map[string]struct {
		revoke func(s *dataplanetest.Env, id string) int64
		req    dataplane.Request
		want   error
	}{
		"key": {func(s *dataplanetest.Env, id string) int64 { return s.RevokeKey(id) }, forCaller, dataplane.ErrNoKey},
		"member": {
			func(s *dataplanetest.Env, _ string) int64 { return s.RemoveMember("acme", "chat", "alice") },
			forCaller, dataplane.ErrNotMember},
		"caller's API key": {
			func(s *dataplanetest.Env, _ string) int64 { return s.RevokeCredential(credential) },
			forCaller, dataplane.ErrCallerUnauthenticated},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			s := dataplanetest.NewEnv(t, dataplane.WithIntervals(time.Hour, 0, 0))
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
	cp := dataplanetest.NewControlPlane(t, dataplanetest.WithAcknowledgeWithin(300*time.Millisecond))
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
	s := dataplanetest.NewEnv(t, dataplane.WithIntervals(10*time.Millisecond, 0, 0))
	dataplanetest.Eventually(t, "the first acknowledgement", func() bool { return len(s.Acknowledgements()) == 1 })
	tx := s.Publish(dataplanetest.Unrelated())
	dataplanetest.Eventually(t, "acknowledged", func() bool { return s.Acknowledged(tx) })
}
