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
			return f.Transact(t.Context(), func(tx *models.Tx) error {
				return tx.DeleteCustomProvider(customer, "x-vllm", func(projectID string) models.Event {
					return f.event(models.EventProviderDeleted, func(e *models.Event) {
						e.ProjectID, e.ActorUserID, e.ActorMethod = projectID, "ops@host", models.MethodAdmin
					})
				})
			})
		}
		register := func(digest string) (models.Key, error) {
			r := f.shared(olga, provider("x-vllm"))
			r.Key.Destination = digest
			return f.RegisterKey(t.Context(), olga, models.RoleOwner, r, now())
		}
		_, err := register("d1")
		require.ErrorIs(t, err, models.ErrDestinationGone, "it does not exist yet")
		require.NoError(t, create(vllm))
		require.ErrorIs(t, create(vllm), models.ErrAlreadyExists)
		_, err = f.CustomProvider(t.Context(), "globex", web, "x-vllm")
		require.ErrorIs(t, err, models.ErrNotFound, "it is the customer's own")
		require.ErrorIs(t, remove("globex"), models.ErrNotFound)

		_, err = register("d2")
		require.ErrorIs(t, err, models.ErrDestinationGone, "the key was sealed for another one with that slug")
		key, err := register("d1")
		require.NoError(t, err)
		require.ErrorIs(t, remove(acme), models.ErrInUse)
		sealed, err := f.SealedVersion(t.Context(), key.ID, 0)
		require.NoError(t, err)
		require.Equal(t, "d1", sealed.Destination, "re-wrapping needs it")

		f.revoke(&key)
		require.NoError(t, remove(acme))
		all, err := f.ListCustomProviders(t.Context(), acme, "")
		require.NoError(t, err)
		require.Empty(t, all)
		trail, err := f.ListSystemEvents(t.Context(), models.SystemEventFilter{CustomerID: acme}, 2)
		require.NoError(t, err)
		require.Equal(t, []models.EventType{models.EventProviderDeleted, models.EventProviderCreated}, []models.EventType{trail[0].Type, trail[1].Type})
		events, err := f.ListEvents(t.Context(), olga, models.EventFilter{Type: models.EventProviderDeleted}, "", 10)
		require.NoError(t, err)
		require.Len(t, events, 1, "a project that had keys for it learns who took it away")
		require.Equal(t, []string{"ops@host", models.MethodAdmin, "x-vllm", "https://llm.example/v1"},
			[]string{events[0].ActorUserID, events[0].ActorMethod, events[0].Provider, events[0].Before.BaseURL})
		elsewhere, err := f.ListEvents(t.Context(), models.Caller{CustomerID: acme, ProjectID: "other", UserID: "olga"}, models.EventFilter{}, "", 10)
		require.NoError(t, err)
		require.Empty(t, elsewhere)
	})
}

func TestAProjectsProviderIsItsOwn(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		add := func(slug, project string) error {
			return f.Transact(t.Context(), func(tx *models.Tx) error {
				p := models.CustomProvider{CustomerID: acme, ProjectID: project, Slug: slug, Name: "n", BaseURL: "https://llm.example/v1", Digest: "d1", CreatedBy: "olga"}
				return tx.AddProjectProvider(&p, 2, f.event(models.EventProviderCreated))
			})
		}
		remove := func(slug, project string) error {
			return f.Transact(t.Context(), func(tx *models.Tx) error {
				return failure(tx.RemoveProjectProvider(models.Caller{CustomerID: acme, ProjectID: project, UserID: "olga"}, slug, f.event(models.EventProviderDeleted)))
			})
		}
		require.NoError(t, add("x-one", web))
		require.ErrorIs(t, add("x-one", "other"), models.ErrAlreadyExists, "a slug names one server of a customer")
		require.NoError(t, f.Transact(t.Context(), func(tx *models.Tx) error {
			return tx.CreateCustomProvider(models.CustomProvider{CustomerID: acme, Slug: "x-all", Digest: "d1"})
		}))
		require.NoError(t, add("x-two", "other"))
		require.NoError(t, add("x-three", web))
		require.ErrorIs(t, add("x-four", web), models.ErrQuotaExceeded, "the operator's does not count")

		usable, err := f.ListCustomProviders(t.Context(), acme, web)
		require.NoError(t, err)
		require.Equal(t, []string{"x-all", "x-one", "x-three"}, slugs(usable))
		_, err = f.CustomProvider(t.Context(), acme, web, "x-two")
		require.ErrorIs(t, err, models.ErrNotFound)
		r := f.shared(olga, provider("x-two"))
		r.Key.Destination = "d1"
		_, err = f.RegisterKey(t.Context(), olga, models.RoleOwner, r, now())
		require.ErrorIs(t, err, models.ErrDestinationGone, "it is another project's")

		require.ErrorIs(t, remove("x-two", web), models.ErrNotFound)
		require.ErrorIs(t, remove("x-all", web), models.ErrNotFound, "the operator removes what the operator added")
		require.NoError(t, remove("x-one", web))
		events, err := f.ListEvents(t.Context(), olga, models.EventFilter{Type: models.EventProviderDeleted}, "", 10)
		require.NoError(t, err)
		require.Len(t, events, 1)
		require.Equal(t, "https://llm.example/v1", events[0].Before.BaseURL)
	})
}

func TestAProviderIsNeverRemovedFromUnderAKey(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		for range 10 {
			p := models.CustomProvider{CustomerID: acme, ProjectID: web, Slug: "x-race", Digest: "d1"}
			require.NoError(t, f.Transact(t.Context(), func(tx *models.Tx) error {
				return tx.AddProjectProvider(&p, 5, f.event(models.EventProviderCreated))
			}))
			r := f.shared(olga, provider("x-race"))
			r.Key.Destination = "d1"
			var key models.Key
			errs := together(2, func(i int) (err error) {
				if i == 0 {
					key, err = f.RegisterKey(t.Context(), olga, models.RoleOwner, r, now())
					return err
				}
				return f.Transact(t.Context(), func(tx *models.Tx) error {
					if _, err := tx.Role(olga); err != nil {
						return err
					}
					return failure(tx.RemoveProjectProvider(olga, "x-race", f.event(models.EventProviderDeleted)))
				})
			})
			if errs[0] == nil {
				require.ErrorIs(t, errs[1], models.ErrInUse)
				f.revoke(&key)
				require.NoError(t, f.Transact(t.Context(), func(tx *models.Tx) error {
					return tx.DeleteCustomProvider(acme, "x-race", func(string) models.Event { return f.event(models.EventProviderDeleted) })
				}))
			} else {
				require.ErrorIs(t, errs[0], models.ErrDestinationGone)
				require.NoError(t, errs[1])
			}
		}
	})
}

func slugs(all []models.CustomProvider) (slugs []string) {
	for _, p := range all {
		slugs = append(slugs, p.Slug)
	}
	return slugs
}
