package aikeys_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/aikeys"
	"github.com/agentrouter/aikeys/impl/aikeys/aikeystest"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
)

// eachFolded runs a test on a service of every engine whose denied attempts are folded when the test says so.
func eachFolded(t *testing.T, test func(t *testing.T, s *aikeystest.Service, denials *aikeys.Denials)) {
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		store := modelstest.NewStore(t, e)
		denials := aikeys.NewDenials(store, slog.New(slog.DiscardHandler))
		test(t, aikeystest.Start(t, aikeystest.Options{Store: store, Denials: denials}), denials)
	})
}

func TestRepeatedDenialsAreFolded(t *testing.T) {
	eachFolded(t, func(t *testing.T, s *aikeystest.Service, denials *aikeys.Denials) {
		const attempts = 50
		refuse := func(user string) int {
			return put(t, s, user, project+"/policy", map[string]any{"user_keys": "allow"}).Status
		}
		for _, status := range together(attempts, func(int) int { return refuse(member) }) {
			require.Equal(t, http.StatusForbidden, status)
		}
		require.Equal(t, 1, denied(t, s), "the first is there at once")
		require.Equal(t, http.StatusForbidden, refuse(other))
		require.Equal(t, 2, denied(t, s), "another member's is another")

		interrupted, cancel := context.WithCancel(t.Context())
		cancel()
		denials.Flush(interrupted)
		require.Equal(t, 2, denied(t, s), "what can't be written is kept")
		denials.Flush(t.Context())
		require.Equal(t, 3, denied(t, s))
		folded := events(t, s, owner)[0]
		require.Equal(t, []any{"policy.set", "denied", member}, []any{folded.Type, folded.Outcome, folded.Actor.UserID})
		require.EqualValues(t, attempts-1, *folded.Repeated)
		require.False(t, folded.FirstAt.After(folded.At))
		require.WithinDuration(t, time.Now(), *folded.FirstAt, time.Minute)
		require.NotEmpty(t, folded.RequestID)
		require.NotEmpty(t, folded.SourceIP)

		denials.Flush(t.Context())
		require.Equal(t, 3, denied(t, s), "nothing was repeated since")
		refuse(member)
		require.Equal(t, 4, denied(t, s), "the first of the next window")
	})
}

// An attempt on ever other targets is the same attempt.
func TestDenialsOfManyTargetsAreFolded(t *testing.T) {
	eachFolded(t, func(t *testing.T, s *aikeystest.Service, denials *aikeys.Denials) {
		const attempts, apart = 100, 20
		for i := range attempts {
			reply := put(t, s, member, project+fmt.Sprintf("/members/u%d", i), map[string]any{"role": "owner"})
			require.Equal(t, http.StatusForbidden, reply.Status)
		}
		require.Equal(t, apart+1, denied(t, s))
		denials.Flush(t.Context())
		require.Equal(t, apart+2, denied(t, s))
		stoodFor := int64(0)
		for _, event := range events(t, s, owner) {
			switch {
			case event.Outcome != string(models.OutcomeDenied):
			case event.Repeated != nil:
				stoodFor += *event.Repeated
				require.Equal(t, fmt.Sprintf("u%d", attempts-1), *event.MemberID, "the last one")
			default:
				stoodFor++
			}
		}
		require.EqualValues(t, attempts, stoodFor, "no attempt is lost, and none counts twice")
	})
}
