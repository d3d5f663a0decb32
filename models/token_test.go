package models_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

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
			tokens[i].Hash = nil // lists have no hashes
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

// token makes an API key of mia for some projects. parent is the API key that mia uses for this; it is empty for a
// session token. token returns mia as the caller with the new API key.
func (f *fixture) token(parent, id string, expires int64, projects ...string) (models.Caller, error) {
	c := models.Caller{CustomerID: acme, ProjectID: web, UserID: "mia", TokenID: parent}
	err := f.Transact(f.t.Context(), func(tx *models.Tx) error {
		return tx.CreateOwnToken(c, models.Token{ID: id, Hash: []byte{1}, CustomerID: acme, ProjectID: web, UserID: "mia", ParentID: parent,
			Projects: models.NewIDSet(projects...), ExpiresAt: expires, CreatedAt: tx.Now}, 5)
	})
	c.TokenID = id
	return c, err
}

// joins makes olga an owner of projects, and mia a member.
func (f *fixture) joins(projects ...string) {
	for _, project := range projects {
		f.addMember(models.Caller{CustomerID: acme, ProjectID: project, UserID: "olga"}, models.RoleOwner)
		f.addMember(models.Caller{CustomerID: acme, ProjectID: project, UserID: "mia"}, models.RoleMember)
	}
}

func (f *fixture) projectsOf(c models.Caller) (ids []string) {
	list, err := f.ListProjects(f.t.Context(), c, "", 10, now())
	require.NoError(f.t, err)
	for _, m := range list {
		ids = append(ids, m.ProjectID)
	}
	return ids
}

func (f *fixture) tokenEvent(models.Token) models.Event { return f.event(models.EventTokenRevoked) }

func TestATokenActsOnlyInItsProjects(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.joins(web, "ios", "io", "s")
		c, err := f.token("", "01A", 0, web, "io")
		require.NoError(t, err)
		require.Equal(t, []string{"io", web}, f.projectsOf(c))
		for project, allowed := range map[string]bool{web: true, "io": true, "ios": false, "s": false, "eb": false, " ": false, "": false} {
			c.ProjectID = project
			for name, call := range guarded(f, "absent") {
				err := call(t.Context(), c)
				require.Equal(t, !allowed, errors.Is(err, models.ErrNotMember), "%s in %q: %v", name, project, err)
			}
		}
		all := models.Caller{CustomerID: acme, ProjectID: web, UserID: "mia"}
		require.Equal(t, []string{"io", "ios", "s", web}, f.projectsOf(all), "a session token reaches all of the user's")
		all.CustomerID = "other"
		require.Empty(t, f.projectsOf(all))
	})
}

func TestNoTokenMakesAWiderOrLongerOne(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.joins(web, "ios")
		end := time.Now().Add(time.Hour).UnixMicro()
		_, err := f.token("", "01A", end, web)
		require.NoError(t, err)
		for name, made := range map[string]struct {
			expires  int64
			projects []string
		}{
			"every project": {end, nil}, "another project": {end, []string{web, "ios"}}, "no end": {0, []string{web}}, "a later end": {end + 1, []string{web}},
		} {
			_, err := f.token("01A", "01X", made.expires, made.projects...)
			require.True(t, errors.Is(err, models.ErrForbidden) || errors.Is(err, models.ErrNotMember), "%s: %v", name, err)
		}
		_, err = f.token("01A", "01B", end, web)
		require.NoError(t, err)
		_, err = f.token("", "01C", 0, "unknown")
		require.ErrorIs(t, err, models.ErrNotMember)
		_, err = f.token("01Z", "01D", 0)
		require.ErrorIs(t, err, models.ErrSessionEnded)
	})
}

func TestABarredTokenStaysBarred(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.joins(web, "ios")
		c, err := f.token("", "01A", 0)
		require.NoError(t, err)
		child, err := f.token("01A", "01B", 0, web)
		require.NoError(t, err)
		bar := func(id string, cascade bool) (got models.Token, stop models.Stop, err error) {
			err = f.Transact(t.Context(), func(tx *models.Tx) (err error) {
				got, stop, err = tx.RevokeProjectToken(models.Caller{CustomerID: acme, ProjectID: web, UserID: "olga"}, id, cascade, f.tokenEvent)
				return err
			})
			return got, stop, err
		}
		got, stop, err := bar("01A", true)
		require.NoError(t, err)
		require.Zero(t, got.RevokedAt, "it goes on elsewhere")
		require.NotZero(t, stop.Tx)
		require.Equal(t, []string{"ios"}, f.projectsOf(c))
		again, same, err := bar("01A", true)
		require.NoError(t, err)
		require.Equal(t, got, again)
		require.Equal(t, stop, same)
		_, err = f.Role(t.Context(), child, now())
		require.ErrorIs(t, err, models.ErrSessionEnded, "it reached no other project")
		for _, projects := range [][]string{nil, {web}, {web, "ios"}} {
			_, err = f.token("01A", "01X", 0, projects...)
			require.Error(t, err, projects)
		}
		for _, absent := range []string{"01Z", "01C"} {
			_, _, err = bar(absent, false)
			require.ErrorIs(t, err, models.ErrNotFound)
		}
	})
}

func TestCascadesOfOneUserDontDeadlock(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.joins(web)
		for round := range 10 {
			ids := []string{fmt.Sprintf("%02dA", round), fmt.Sprintf("%02dB", round)}
			for _, id := range ids {
				_, err := f.token("", id, 0, web)
				require.NoError(t, err)
			}
			for _, err := range together(2, func(i int) error {
				return f.Transact(t.Context(), func(tx *models.Tx) error {
					_, _, err := tx.RevokeOwnToken(models.Caller{CustomerID: acme, ProjectID: web, UserID: "mia"}, ids[i], true, f.tokenEvent)
					return err
				})
			}) {
				require.NoError(t, err)
			}
		}
	})
}

func TestShortLivedTokensAreBounded(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.joins(web)
		_, err := f.token("", "01A", 0, web)
		require.NoError(t, err)
		// Each API key has made the next one, and all but the last have expired.
		require.NoError(t, models.Exec(t.Context(), f.Store, `INSERT INTO api_tokens (id, hash, customer_id, project_id, user_id, created_at, expires_at, parent_id)
WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 998)
SELECT 'n' || i, hash, customer_id, project_id, user_id, created_at, 1, CASE i WHEN 1 THEN id ELSE 'n' || (i - 1) END FROM n JOIN api_tokens ON id = '01A'`))
		last, err := f.token("", "01B", 0, web)
		require.NoError(t, err)
		require.NoError(t, models.Exec(t.Context(), f.Store, `UPDATE api_tokens SET parent_id = 'n998' WHERE id = '01B'`))
		_, err = f.token("", "01C", 0, web)
		require.ErrorIs(t, err, models.ErrQuotaExceeded, "the 1,001st of a day")
		require.NoError(t, f.Transact(t.Context(), func(tx *models.Tx) error {
			got, stop, err := tx.RevokeOwnToken(models.Caller{CustomerID: acme, ProjectID: web, UserID: "mia"}, "01A", true, f.tokenEvent)
			require.NotZero(t, got.RevokedAt)
			require.NotZero(t, stop.Tx)
			return err
		}))
		_, err = f.Role(t.Context(), last, now())
		require.ErrorIs(t, err, models.ErrSessionEnded, "the last of the line")
		require.NoError(t, models.Exec(t.Context(), f.Store, `UPDATE api_tokens SET created_at = created_at - 86400000000`))
		_, err = f.token("", "01C", 0, web)
		require.NoError(t, err, "a day later")
	})
}

func TestATokenManagesOnlyWhatItMayActAs(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.joins(web, "ios")
		all, err := f.token("", "01A", 0)
		require.NoError(t, err)
		limited, err := f.token("", "01B", 0, web)
		require.NoError(t, err)
		_, err = f.token("01B", "01C", 0, web)
		require.NoError(t, err)
		list := func(c models.Caller) (ids []string) {
			tokens, err := f.ListOwnTokens(t.Context(), c, models.TokenFilter{Live: true, Limit: 10}, now())
			require.NoError(t, err)
			for _, token := range tokens {
				require.Empty(t, token.Hash)
				ids = append(ids, token.ID)
			}
			return ids
		}
		revoke := func(c models.Caller, id string) error {
			return f.Transact(t.Context(), func(tx *models.Tx) error {
				_, _, err := tx.RevokeOwnToken(c, id, true, f.tokenEvent)
				return err
			})
		}
		require.Equal(t, []string{"01C", "01B", "01A"}, list(all))
		require.Equal(t, []string{"01C", "01B"}, list(limited))
		require.ErrorIs(t, revoke(limited, "01A"), models.ErrNotFound)
		stranger := models.Caller{CustomerID: acme, ProjectID: web, UserID: "olga"}
		require.ErrorIs(t, revoke(stranger, "01A"), models.ErrNotFound)
		stranger = models.Caller{CustomerID: "other", ProjectID: web, UserID: "mia"}
		require.ErrorIs(t, revoke(stranger, "01A"), models.ErrNotFound)
		require.NoError(t, revoke(all, "01B"))
		require.Equal(t, []string{"01A"}, list(all), "what was made with it is revoked too")
		_, err = f.ListOwnTokens(t.Context(), limited, models.TokenFilter{Limit: 10}, now())
		require.ErrorIs(t, err, models.ErrSessionEnded)
	})
}

func TestTokensAreCountedAndMarkedUsed(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.joins(web)
		for _, id := range []string{"01A", "01B", "01C", "01D", "01E"} {
			_, err := f.token("", id, 0)
			require.NoError(t, err)
		}
		_, err := f.token("", "01F", 0)
		require.ErrorIs(t, err, models.ErrQuotaExceeded)
		require.NoError(t, f.MarkTokensUsed(t.Context(), map[string]int64{"01A": 7, "01B": 5, "absent": 9}))
		require.NoError(t, f.MarkTokensUsed(t.Context(), map[string]int64{"01A": 6, "01B": 8}))
		for id, used := range map[string]int64{"01A": 7, "01B": 8, "01C": 0} {
			token, err := f.FindToken(t.Context(), id)
			require.NoError(t, err)
			require.Equal(t, used, token.LastUsedAt, id)
		}
	})
}
