package models_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models"
)

func TestAPolicyIsReadAsItWasWritten(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		read := func() models.Policy {
			p, err := f.Policy(t.Context(), mia)
			require.NoError(t, err)
			return p
		}
		require.Equal(t, models.DefaultPolicy(acme, web), read())
		for _, written := range []models.Policy{
			{CustomerID: acme, ProjectID: web, UserKeys: models.UserKeysForbid, OnBadKey: models.OnBadKeyNextKey, OnLimited: models.OnLimitedNextKey, Operations: models.OperationsAll,
				RemovalGraceDays:   new(0),
				UserKeysByProvider: map[string]models.UserKeys{"openai": models.UserKeysRequire}},
			{CustomerID: acme, ProjectID: web, UserKeys: models.UserKeysAllow, OnBadKey: models.OnBadKeyFail, OnLimited: models.OnLimitedFail, Operations: models.OperationsInference,
				UserKeysByProvider: map[string]models.UserKeys{}},
			models.DefaultPolicy(acme, web),
		} {
			f.transact(func(tx *models.Tx) error { return tx.SetPolicy(&written, "olga", f.event(models.EventPolicySet)) })
			require.Equal(t, "olga", written.UpdatedBy)
			require.InDelta(t, now(), written.UpdatedAt, 60e6)
			require.Equal(t, written, read())
		}
		other, err := f.Policy(t.Context(), models.Caller{CustomerID: "globex", ProjectID: web})
		require.NoError(t, err)
		require.Equal(t, models.DefaultPolicy("globex", web), other)
	})
}

func TestAPolicysProviderEntryComesBeforeItsGeneralOne(t *testing.T) {
	p := models.Policy{UserKeys: models.UserKeysAllow, UserKeysByProvider: map[string]models.UserKeys{"openai": models.UserKeysForbid}}
	require.Equal(t, models.UserKeysForbid, p.For("openai"))
	require.Equal(t, models.UserKeysAllow, p.For("anthropic"))
}
