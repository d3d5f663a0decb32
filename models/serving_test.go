package models_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models"
)

func (f *fixture) serving(c models.Caller, provider string) (own, project string) {
	f.t.Helper()
	s, err := f.ServingKeys(f.t.Context(), c, provider)
	require.NoError(f.t, err)
	return s.Own.ID, s.Project.ID
}

func TestTheKeyStoredLastServesThoughClocksStepBack(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		first := f.register(f.shared(olga))
		second := f.register(f.shared(olga, func(r *models.Registration) {
			r.Key.ID = models.KeyIDPrefix + "00000000000000000000000000" // sorts before every id of a sane clock
			r.Key.CreatedAt -= time.Hour.Microseconds()
		}))
		require.Less(t, second.ID, first.ID)
		require.Less(t, second.CreatedAt, first.CreatedAt)
		_, serves := f.serving(mia, "openai")
		require.Equal(t, second.ID, serves)

		t.Run("revoking it falls back to the one before", func(t *testing.T) {
			f.revoke(second)
			_, serves := f.serving(mia, "openai")
			require.Equal(t, first.ID, serves)
		})
		t.Run("revoking all leaves none", func(t *testing.T) {
			f.revoke(first)
			own, serves := f.serving(mia, "openai")
			require.Empty(t, own)
			require.Empty(t, serves)
		})
	})
}

func TestOnlyOwnAndProjectKeysOfTheProviderServe(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ios := models.Caller{CustomerID: acme, ProjectID: "ios", UserID: "mia"}
		globex := models.Caller{CustomerID: "globex", ProjectID: web, UserID: "mia"}
		f.addMember(ios, models.RoleOwner)
		f.addMember(globex, models.RoleOwner)
		own := f.register(f.own(mia)).ID
		project := f.register(f.shared(olga)).ID
		for _, r := range []models.Registration{f.own(moe), f.own(mia, provider("anthropic")), f.shared(olga, provider("anthropic")),
			f.own(ios), f.shared(ios), f.own(globex), f.shared(globex)} {
			f.register(r)
		}
		gotOwn, gotProject := f.serving(mia, "openai")
		require.Equal(t, own, gotOwn)
		require.Equal(t, project, gotProject)
		gotOwn, gotProject = f.serving(olga, "openai")
		require.Empty(t, gotOwn)
		require.Equal(t, project, gotProject)
	})
}
