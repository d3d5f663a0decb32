package dataplane_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
)

// fetchAs fetches for a data plane that enforces what is said.
func fetchAs(t *testing.T, dp *dataPlane, enforces string, body gen.FetchRequest) *gen.FetchKeyResult {
	t.Helper()
	reply, err := dp.FetchKeyWithResponse(t.Context(), &gen.FetchKeyParams{AgentrouterEnforces: &enforces}, body)
	require.NoError(t, err)
	return reply
}

func TestARestrictedKeyGoesOnlyToPlanesThatEnforceIt(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		dp, key := s.dataPlane(), s.shared("openai")
		s.patch(key.ID, "", `{"restrict":{"models":["gpt-4o*"],"operations":["/chat/completions"]}}`)
		for _, ask := range []gen.FetchRequest{forKey(key.ID), forCaller(s.credential(member), "openai"), forUser(web, "", "openai")} {
			got := fetchAs(t, dp, "limits, restrictions", ask)
			require.Equal(t, http.StatusOK, got.StatusCode())
			require.Equal(t, &gen.Restrictions{Models: []string{"gpt-4o*"}, Operations: []string{"/chat/completions"}}, got.JSON200.Restrict)
			for _, refused := range []*gen.FetchKeyResult{fetch(t, dp, ask), fetchAs(t, dp, "limits", ask)} {
				require.Contains(t, requireRefused(t, refused, http.StatusNotFound, "no-key").Detail, "restricted to models or operations")
			}
		}
		require.Equal(t, "restrictions_not_enforced", s.records(acme, web)[0].Reason)
		s.patch(key.ID, "", `{"restrict":{"models":null,"operations":null}}`)
		require.Nil(t, fetch(t, dp, forKey(key.ID)).JSON200.Restrict)
	})
}

func TestAKeyServesTheUsersItIsRestrictedTo(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		dp, shared := s.dataPlane(), s.shared("openai")
		s.patch(shared.ID, "", `{"restrict":{"users":["`+member+`"]}}`)
		requireKey(t, fetch(t, dp, forCaller(s.credential(member), "openai")), shared, "project_key")
		for _, ask := range []gen.FetchRequest{forCaller(s.credential(owner), "openai"), forUser(web, "", "openai")} {
			requireRefused(t, fetchAs(t, dp, "restrictions", ask), http.StatusForbidden, "key-restricted")
			requireRefused(t, fetch(t, dp, ask), http.StatusNotFound, "no-key")
		}
		require.Equal(t, "key_restricted", s.records(acme, web)[1].Reason)
		for range 2 { // an older one that serves everybody is next, and there is none; a newer one comes first
			other := s.shared("openai")
			requireKey(t, fetch(t, dp, forCaller(s.credential(owner), "openai")), other, "project_key")
		}
	})
}

func TestALimitedKeyGoesOnlyToPlanesThatEnforceIt(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		dp, key := s.dataPlane(), s.shared("openai")
		s.patch(key.ID, "", `{"limit":{"requests_per_minute":60,"concurrent":2}}`)
		for _, ask := range []gen.FetchRequest{forKey(key.ID), forCaller(s.credential(member), "openai"), forUser(web, "", "openai")} {
			require.Equal(t, &gen.KeyLimit{RequestsPerMinute: new(60), Concurrent: new(2)}, fetchAs(t, dp, "restrictions, limits", ask).JSON200.Limit)
			for _, refused := range []*gen.FetchKeyResult{fetch(t, dp, ask), fetchAs(t, dp, "restrictions", ask)} {
				require.Contains(t, requireRefused(t, refused, http.StatusNotFound, "no-key").Detail, "has limits")
			}
		}
		require.Equal(t, "limits_not_enforced", s.records(acme, web)[0].Reason)
		s.patch(key.ID, "", `{"limit":null}`)
		require.Nil(t, fetch(t, dp, forKey(key.ID)).JSON200.Limit)
	})
}
