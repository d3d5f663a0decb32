package auth_test

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/models"
)

// dataPlanes is a DataPlaneFinder in memory. It counts the look-ups of certificates.
type dataPlanes struct {
	rows  map[string]models.DataPlane
	err   error
	finds int
}

func (d *dataPlanes) FindDataPlane(_ context.Context, id string) (models.DataPlane, error) {
	if row, ok := d.rows[id]; ok {
		return row, d.err
	}
	return models.DataPlane{}, fmt.Errorf("data plane: %w", models.ErrNotFound)
}

func (d *dataPlanes) FindDataPlanesByCertificate(_ context.Context, names []string) (found []models.DataPlane, err error) {
	d.finds++
	for _, row := range d.rows {
		if slices.Contains(names, row.Certificate) && row.RevokedAt == 0 {
			found = append(found, row)
		}
	}
	return found, d.err
}

// mint stores a data plane, changed as the caller likes, and returns its credential and id.
func (d *dataPlanes) mint(t *testing.T, change func(*models.DataPlane)) (text, id string) {
	text, id, hash, err := auth.MintDataPlane(time.Now())
	require.NoError(t, err)
	row := models.DataPlane{ID: id, Name: "edge", Hash: hash, Customers: []string{"acme"}, CreatedAt: 1}
	change(&row)
	d.rows[id] = row
	return text, id
}

func newDataPlanes(now func() time.Time) (*dataPlanes, *auth.Authenticator) {
	rows := &dataPlanes{rows: map[string]models.DataPlane{}}
	return rows, auth.New(auth.Config{DataPlanes: rows, Now: now})
}

func TestDataPlaneToken(t *testing.T) {
	clock := newClock()
	rows, a := newDataPlanes(clock.Now)
	text, id := rows.mint(t, func(*models.DataPlane) {})
	require.True(t, strings.HasPrefix(text, "dp_"+id+"_"))
	p, err := a.Authenticate(t.Context(), bearer(text))
	require.NoError(t, err)
	require.Equal(t, auth.Principal{DataPlaneID: id, Method: auth.MethodDataPlane}, p)

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
	delete(rows.rows, id)
	requireRefused(t, a, bearer(text))
	for _, hash := range [][]byte{nil, {}} {
		text, _ = rows.mint(t, func(d *models.DataPlane) { d.Hash, d.Certificate = hash, "dns:edge.internal" })
		requireRefused(t, a, bearer(text))
	}
}

func TestDataPlaneAndUserTokensAreKeptApart(t *testing.T) {
	rows, forDataPlanes := newDataPlanes(nil)
	users := newTokens()
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

func TestAuthenticateCertificate(t *testing.T) {
	const edgeName = "dns:edge.internal"
	// newCertificates returns an Authenticator that knows one data plane, which has a certificate.
	newCertificates := func(now func() time.Time) (*dataPlanes, *auth.Authenticator) {
		rows, a := newDataPlanes(now)
		rows.rows["01EDGE"] = models.DataPlane{ID: "01EDGE", Name: "edge", Certificate: edgeName}
		return rows, a
	}
	requireCertificateRefused := func(t *testing.T, a *auth.Authenticator, names ...string) error {
		p, err := a.AuthenticateCertificate(t.Context(), names)
		require.ErrorIs(t, err, auth.ErrUnauthenticated)
		require.NotErrorIs(t, err, models.ErrUnavailable)
		require.Zero(t, p)
		return err
	}
	t.Run("it opens the cached session of the data plane that has one of its names", func(t *testing.T) {
		rows, a := newCertificates(nil)
		for range 3 {
			p, err := a.AuthenticateCertificate(t.Context(), []string{"cn:edge", edgeName})
			require.NoError(t, err)
			require.Equal(t, auth.Principal{DataPlaneID: "01EDGE", Method: auth.MethodDataPlane}, p)
		}
		require.Equal(t, 1, rows.finds)
	})
	t.Run("refused: no name, unknown names, names of two data planes, too many names", func(t *testing.T) {
		rows, a := newCertificates(nil)
		requireCertificateRefused(t, a)
		require.ErrorContains(t, requireCertificateRefused(t, a, "dns:other.internal"), "no data plane has a name")
		rows.rows["01OTHER"] = models.DataPlane{ID: "01OTHER", Certificate: "cn:other"}
		require.ErrorContains(t, requireCertificateRefused(t, a, edgeName, "cn:other"), "several")
		many := make([]string, 101)
		for i := range many {
			many[i] = fmt.Sprint("dns:", i)
		}
		finds := rows.finds
		requireCertificateRefused(t, a, many...)
		require.Equal(t, finds, rows.finds)
	})
	t.Run("refused where only users are accepted", func(t *testing.T) {
		requireCertificateRefused(t, auth.New(auth.Config{Tokens: newTokens()}), edgeName)
	})
	t.Run("its session ends when the data plane expires", func(t *testing.T) {
		clock := newClock()
		rows, a := newCertificates(clock.Now)
		expires := clock.Now().Add(time.Minute)
		rows.rows["01BRIEF"] = models.DataPlane{ID: "01BRIEF", Certificate: "cn:brief", ExpiresAt: expires.UnixMicro()}
		p, err := a.AuthenticateCertificate(t.Context(), []string{"cn:brief"})
		require.NoError(t, err)
		require.True(t, expires.Equal(p.ExpiresAt))
		clock.Advance(time.Minute)
		requireCertificateRefused(t, a, "cn:brief")
	})
	t.Run("its session ends when it is dropped", func(t *testing.T) {
		rows, a := newCertificates(newClock().Now)
		_, err := a.AuthenticateCertificate(t.Context(), []string{edgeName})
		require.NoError(t, err)
		delete(rows.rows, "01EDGE")
		a.Drop("01EDGE")
		requireCertificateRefused(t, a, edgeName)
	})
	t.Run("an unavailable database is not a refusal", func(t *testing.T) {
		rows, a := newCertificates(nil)
		rows.err = fmt.Errorf("down: %w", models.ErrUnavailable)
		_, err := a.AuthenticateCertificate(t.Context(), []string{edgeName})
		require.ErrorIs(t, err, models.ErrUnavailable)
		require.NotErrorIs(t, err, auth.ErrUnauthenticated)
	})
	// The cache finds tokens and certificates by a hash: a token with the text that is hashed for the names must not find
	// the certificate's session.
	t.Run("no token opens its cached session", func(t *testing.T) {
		_, a := newCertificates(newClock().Now)
		_, err := a.AuthenticateCertificate(t.Context(), []string{edgeName})
		require.NoError(t, err)
		text := append(binary.BigEndian.AppendUint64(nil, uint64(len(edgeName))), edgeName...)
		hash := sha256.Sum256(text)
		for _, token := range []string{edgeName, string(text), string(hash[:])} {
			requireRefused(t, a, bearer(token))
		}
	})
}
