package auth_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/models"
)

// dataPlanes is a DataPlaneFinder in memory.
type dataPlanes map[string]models.DataPlane

func (d dataPlanes) FindDataPlane(_ context.Context, id string) (models.DataPlane, error) {
	if row, ok := d[id]; ok {
		return row, nil
	}
	return models.DataPlane{}, fmt.Errorf("data plane: %w", models.ErrNotFound)
}

// mint stores a data plane, changed as the caller likes, and returns its credential and id.
func (d dataPlanes) mint(t *testing.T, change func(*models.DataPlane)) (text, id string) {
	t.Helper()
	text, id, hash, err := auth.MintDataPlane(time.Now())
	require.NoError(t, err)
	row := models.DataPlane{ID: id, Name: "edge", Hash: hash, Customers: []string{"acme"}, CreatedAt: 1}
	change(&row)
	d[id] = row
	return text, id
}

func TestADataPlaneOpensASessionOfItsOwn(t *testing.T) {
	rows, clock := dataPlanes{}, newClock()
	a := auth.New(auth.Config{Tokens: auth.DataPlaneTokens(rows), Prefix: auth.DataPlanePrefix, Now: clock.Now})
	text, id := rows.mint(t, func(*models.DataPlane) {})
	require.True(t, strings.HasPrefix(text, "dp_"+id+"_"))
	p, err := a.Authenticate(t.Context(), bearer(text))
	require.NoError(t, err)
	require.Equal(t, auth.Principal{UserID: id, TokenID: id, Method: auth.MethodDataPlane}, p)

	expires := clock.Now().Add(time.Minute)
	text, _ = rows.mint(t, func(d *models.DataPlane) { d.ExpiresAt = expires.UnixMicro() })
	p, err = a.Authenticate(t.Context(), bearer(text))
	require.NoError(t, err)
	require.True(t, expires.Equal(p.ExpiresAt))
	clock.Advance(time.Minute)
	requireRefused(t, a, bearer(text))

	text, _ = rows.mint(t, func(d *models.DataPlane) { d.RevokedAt = 1 })
	requireRefused(t, a, bearer(text))
	text, id = rows.mint(t, func(*models.DataPlane) {})
	delete(rows, id)
	requireRefused(t, a, bearer(text))
}

func TestTheTokensOfUsersAndOfDataPlanesOpenNoSessionInEachOthersPlace(t *testing.T) {
	rows, users := dataPlanes{}, newTokens()
	forDataPlanes := auth.New(auth.Config{Tokens: auth.DataPlaneTokens(rows), Prefix: auth.DataPlanePrefix})
	forUsers := auth.New(auth.Config{Tokens: users})
	dp, _ := rows.mint(t, func(*models.DataPlane) {})
	ak, _ := users.Mint(t)
	requireRefused(t, forDataPlanes, bearer(ak))
	requireRefused(t, forDataPlanes, bearer("ak-"+ak))
	requireRefused(t, forDataPlanes, bearer("dp-"+dp))
	requireRefused(t, forDataPlanes, bearer("eyJhbGciOiJub25lIn0.eyJzdWIiOiJvbGdhIn0."))
	requireRefused(t, forUsers, bearer(dp))
	_, err := forUsers.Authenticate(t.Context(), bearer(ak))
	require.NoError(t, err)
}
