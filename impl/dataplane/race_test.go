package dataplane_test

import (
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	pub "github.com/agentrouter/aikeys/gen/aikeys"
	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/internal/position"
)

// What a data plane's fence stands on: however a revocation and fetches overlap, an answer that has the key says that it is
// from before. That goes for a key that serves in place of a bad one, too, which a second statement finds.
func TestNoAnswerHasAKeyAndItsRevocation(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		dp := s.dataPlane()
		s.policy(pub.PolicyRequest{OnBadKey: ptr(pub.OnBadKey("next_key"))})
		key, bad := s.shared("openai"), s.shared("openai")
		report(t, dp, bad.ID, true, 0)
		requireKey(t, fetch(t, dp, forUser(web, member, "openai")), key, "next_key")
		var (
			mu   sync.Mutex
			held []string // the positions of answers that have the key
			wg   sync.WaitGroup
		)
		const askers = 4
		asking := make(chan struct{}, askers)
		for i := range askers {
			body := []gen.FetchRequest{forUser(web, member, "openai"), forKey(key.ID)}[i%2]
			wg.Go(func() {
				for round := 0; ; round++ {
					if round == 3 {
						asking <- struct{}{}
					}
					reply, err := dp.FetchKeyWithResponse(t.Context(), body)
					if err != nil || reply.JSON200 == nil || reply.JSON200.KeyID != key.ID {
						return // revoked
					}
					mu.Lock()
					held = append(held, reply.JSON200.AsOf)
					mu.Unlock()
				}
			})
		}
		for range askers {
			<-asking
		}
		s.public.As(owner).RevokeKey(t, key.ID)
		wg.Wait()
		row, err := s.store.GetKey(t.Context(), ownersView, key.ID, time.Now().UnixMicro())
		require.NoError(t, err)
		require.Positive(t, row.RevocationTx)
		require.GreaterOrEqual(t, len(held), 3*askers)
		for _, text := range held {
			at, err := position.Parse(text)
			require.NoError(t, err)
			require.False(t, at.Contains(row.RevocationTx), text)
		}
		requireRefused(t, fetch(t, dp, forKey(key.ID)), http.StatusForbidden, "key-revoked")
	})
}
