package models_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models"
)

func TestTokensAreCreatedFoundListedAndRevokedOnce(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		tokens := []models.Token{
			{ID: "01A", Hash: []byte{0, 1, 0xff}, CustomerID: acme, ProjectID: web, UserID: "mia", CreatedAt: 1},
			{ID: "01B", Hash: []byte{2}, CustomerID: acme, ProjectID: web, UserID: "olga", CreatedAt: 2, ExpiresAt: 9},
			{ID: "01C", Hash: []byte{3}, CustomerID: acme, ProjectID: web, UserID: "mia", CreatedAt: 3},
			{ID: "01D", Hash: []byte{4}, CustomerID: acme, ProjectID: "ios", UserID: "mia", CreatedAt: 4},
		}
		for _, token := range tokens {
			f.transact(func(tx *models.Tx) error { return tx.CreateToken(token) })
			got, err := f.FindToken(t.Context(), token.ID)
			require.NoError(t, err)
			require.Equal(t, token, got)
		}
		for i := range tokens {
			tokens[i].Hash = nil // lists have none
		}
		list := func(user string) []models.Token {
			got, err := f.ListTokens(t.Context(), acme, web, user)
			require.NoError(t, err)
			return got
		}
		require.Equal(t, tokens[:3], list(""))
		require.Equal(t, []models.Token{tokens[0], tokens[2]}, list("mia"))
		_, err := f.FindToken(t.Context(), "01Z")
		require.ErrorIs(t, err, models.ErrNotFound)

		revoke := func(project string) (revoked models.Token, err error) {
			err = f.Transact(t.Context(), func(tx *models.Tx) (err error) {
				revoked, err = tx.RevokeToken(acme, project, "01A", f.event(models.EventTokenRevoked))
				return err
			})
			return revoked, err
		}
		_, err = revoke("ios")
		require.ErrorIs(t, err, models.ErrNotFound, "another project's")
		first, err := revoke(web)
		require.NoError(t, err)
		require.NotZero(t, first.RevokedAt)
		second, err := revoke(web)
		require.NoError(t, err)
		require.Equal(t, first, second, "the first revocation stands")
		require.Equal(t, first, list("")[0], "a revoked API key stays in the list")
	})
}

func TestATokensIDIsTakenForGood(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		token := models.Token{ID: "01A", Hash: []byte{1}, CustomerID: acme, ProjectID: web, UserID: "mia"}
		create := func() error {
			return f.Transact(t.Context(), func(tx *models.Tx) error { return tx.CreateToken(token) })
		}
		require.NoError(t, create())
		require.ErrorIs(t, create(), models.ErrAlreadyExists)
	})
}
