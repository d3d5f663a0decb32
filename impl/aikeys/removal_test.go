package aikeys_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/aikeys/aikeystest"
)

func TestARemovalHasAReceiptAndIsUndoneByOwners(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		key := s.As(member).Register(t, s.Own("mine"))
		path := project + "/members/" + member
		impact := decode[gen.MemberImpactResponse](t, get(t, s, owner, path+"/impact"))
		require.Equal(t, 1, impact.Stops.OwnKeys)
		require.Equal(t, 1, impact.AtProviders[0].OwnKeys)
		require.NotContains(t, string(get(t, s, owner, path+"/impact").Body), key.ID, "a member's own keys are not an owner's to see")
		for _, user := range []string{other, sam} {
			require.Equal(t, http.StatusForbidden, get(t, s, user, path+"/impact").Status)
			require.Equal(t, http.StatusForbidden, ask(t, s, user, http.MethodPost, path+"/restore", nil).Status)
		}
		require.Equal(t, http.StatusNotFound, ask(t, s, owner, http.MethodPost, path+"/restore", nil).Status, "nothing was removed")

		removed := decode[gen.RemoveMemberResponse](t, del(t, s, owner, path+"?wait=2s&grace_days=1"))
		require.Equal(t, "complete", removed.Receipt.State)
		require.Equal(t, []int{1, 1}, []int{*removed.SuspendedKeys, *removed.SuspendedTokens})
		require.Equal(t, http.StatusForbidden, get(t, s, member, project+"/aikeys").Status)
		require.Equal(t, http.StatusOK, put(t, s, owner, path, map[string]any{"role": "member"}).Status)
		require.Equal(t, http.StatusForbidden, get(t, s, member, project+"/aikeys").Status, "the API key stays barred")
		require.Equal(t, http.StatusForbidden, ask(t, s, member, http.MethodPatch, project+"/aikeys/"+key.ID, map[string]any{"disabled": false}).Status)

		restored := decode[gen.RestoreMemberResponse](t, ask(t, s, owner, http.MethodPost, path+"/restore", nil))
		require.Equal(t, []int{1, 1}, []int{restored.RestoredKeys, restored.RestoredTokens})
		require.True(t, *read(t, s, member, key.ID).Serves)

		setPolicy(t, s, map[string]any{"removal_grace_days": 14})
		removed = decode[gen.RemoveMemberResponse](t, del(t, s, owner, path))
		require.Equal(t, 14*24*time.Hour, removed.RestoreUntil.Sub(removed.Receipt.RevokedAt))
	})
}
