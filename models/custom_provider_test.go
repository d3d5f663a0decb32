package models_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models"
)

func TestACustomProviderWithKeysStays(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		vllm := models.CustomProvider{CustomerID: acme, Slug: "x-vllm", Name: "vLLM", BaseURL: "https://llm.example/v1", Dialect: "openai",
			Auth: "bearer", Digest: "d1", CreatedBy: "ops@host"}
		create := func(p models.CustomProvider) error {
			return f.Transact(t.Context(), func(tx *models.Tx) error { return tx.CreateCustomProvider(p) })
		}
		remove := func(customer string) error {
			return f.Transact(t.Context(), func(tx *models.Tx) error { return tx.DeleteCustomProvider(customer, "x-vllm") })
		}
		register := func(digest string) (models.Key, error) {
			r := f.shared(olga, provider("x-vllm"))
			r.Key.Destination = digest
			return f.RegisterKey(t.Context(), olga, models.RoleOwner, r, now())
		}
		_, err := register("d1")
		require.ErrorIs(t, err, models.ErrDestinationGone, "there is none yet")
		require.NoError(t, create(vllm))
		require.ErrorIs(t, create(vllm), models.ErrAlreadyExists)
		_, err = f.CustomProvider(t.Context(), "globex", "x-vllm")
		require.ErrorIs(t, err, models.ErrNotFound, "it is the customer's own")
		require.ErrorIs(t, remove("globex"), models.ErrNotFound)

		_, err = register("d2")
		require.ErrorIs(t, err, models.ErrDestinationGone, "the key was sealed for another one with that slug")
		key, err := register("d1")
		require.NoError(t, err)
		require.ErrorIs(t, remove(acme), models.ErrInUse)
		sealed, err := f.SealedKey(t.Context(), key.ID)
		require.NoError(t, err)
		require.Equal(t, "d1", sealed.Destination, "re-wrapping needs it")

		f.revoke(&key)
		require.NoError(t, remove(acme))
		all, err := f.ListCustomProviders(t.Context(), acme)
		require.NoError(t, err)
		require.Empty(t, all)
		trail, err := f.ListSystemEvents(t.Context(), models.SystemEventFilter{CustomerID: acme}, 2)
		require.NoError(t, err)
		require.Equal(t, []models.EventType{models.EventProviderDeleted, models.EventProviderCreated}, []models.EventType{trail[0].Type, trail[1].Type})
	})
}
