package dataplane_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
	gen "github.com/agentrouter/aikeys/gen/dataplane"
)

func TestRestrictedKeysAreForProgramsThatEnforceThem(t *testing.T) {
	cp := dataplanetest.NewControlPlane(t)
	cp.RegisterKey(dataplanetest.Key{Restrict: &gen.Restrictions{Models: []string{"gpt-4o", "o1*"}}})
	cfg := cp.Config()
	r, err := dataplane.New(cfg)
	require.NoError(t, err)
	_, err = r.Resolve(t.Context(), forNobody)
	require.ErrorIs(t, err, dataplane.ErrNoKey)
	cfg.Restrictions = true
	r, err = dataplane.New(cfg)
	require.NoError(t, err)
	key, err := r.Resolve(t.Context(), forNobody)
	require.NoError(t, err)
	for model, allowed := range map[string]bool{"gpt-4o": true, "gpt-4o-mini": false, "o1": true, "o1-pro": true, "O1": false, "": false} {
		require.Equal(t, allowed, key.Restrictions.AllowsModel(model), model)
	}
}
