package aikeys_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/aikeys/aikeystest"
)

func TestMembershipChangesApplyAtOnce(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		shared := s.As(owner).Register(t, s.Shared("shared"))
		own := s.As(member).Register(t, s.Own("own"))
		setRole := func(user, role string) {
			t.Helper()
			reply := put(t, s, owner, project+"/members/"+user, map[string]any{"role": role})
			require.Equal(t, http.StatusOK, reply.Status)
			require.Equal(t, gen.Role(role), decode[gen.MemberResponse](t, reply).Member.Role)
		}
		t.Run("a member who becomes an owner may write", func(t *testing.T) {
			require.Equal(t, http.StatusForbidden, post(t, s, member, project+"/aikeys", s.Shared("m")).Status)
			setRole(member, "owner")
			require.Equal(t, http.StatusCreated, post(t, s, member, project+"/aikeys", s.Shared("m")).Status)
		})
		t.Run("and no more once they are a member again", func(t *testing.T) {
			setRole(member, "member")
			require.Equal(t, http.StatusForbidden, post(t, s, member, project+"/aikeys", s.Shared("n")).Status)
			require.Equal(t, http.StatusForbidden, del(t, s, member, project+"/aikeys/"+shared.ID).Status)
			require.Equal(t, http.StatusForbidden, put(t, s, member, project+"/policy", map[string]any{}).Status)
		})
		t.Run("a removed member has lost the project, their own keys too", func(t *testing.T) {
			require.Equal(t, http.StatusOK, del(t, s, owner, project+"/members/"+member).Status)
			for _, path := range []string{"/aikeys", "/aikeys/" + own.ID, "/aikeys/" + shared.ID, "/policy", "/events", "/members",
				"/resolve?provider=openai"} {
				require.Equal(t, http.StatusForbidden, get(t, s, member, project+path).Status, path)
			}
			require.Equal(t, http.StatusForbidden, del(t, s, member, project+"/aikeys/"+own.ID).Status)
			require.Equal(t, http.StatusForbidden, post(t, s, member, project+"/aikeys", s.Own("late")).Status)
		})
		t.Run("removing them again finds nobody", func(t *testing.T) {
			require.Equal(t, http.StatusNotFound, del(t, s, owner, project+"/members/"+member).Status)
		})
		t.Run("back again, they have what they had", func(t *testing.T) {
			setRole(member, "member")
			require.Equal(t, http.StatusOK, get(t, s, member, project+"/aikeys/"+own.ID).Status)
		})
	})
}

func TestLastOwner(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		refused := func(reply aikeystest.Reply) {
			t.Helper()
			require.Equal(t, http.StatusConflict, reply.Status)
			require.Equal(t, "failed_precondition", reply.Problem(t).Code)
		}
		refused(put(t, s, owner, project+"/members/"+owner, map[string]any{"role": "member"}))
		refused(del(t, s, owner, project+"/members/"+owner))
		require.Equal(t, http.StatusOK, put(t, s, owner, project+"/members/"+member, map[string]any{"role": "owner"}).Status)

		// Both leave at once: one of them stays.
		statuses := together(2, func(i int) int {
			user := []string{owner, member}[i]
			return del(t, s, user, project+"/members/"+user).Status
		})
		require.ElementsMatch(t, []int{http.StatusOK, http.StatusConflict}, statuses)
	})
}
