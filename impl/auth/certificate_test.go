package auth_test

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/models"
)

// certificates is a DataPlaneCertificateFinder in memory. After reading it calls answer, if set.
type certificates struct {
	mu     sync.Mutex
	rows   []models.DataPlane
	err    error
	finds  int
	answer func(ctx context.Context, find int) error
}

func (c *certificates) FindDataPlanesByCertificate(ctx context.Context, names []string) (found []models.DataPlane, err error) {
	c.mu.Lock()
	c.finds++
	find, answer := c.finds, c.answer
	for _, row := range c.rows {
		if slices.Contains(names, row.Certificate) && row.RevokedAt == 0 {
			found = append(found, row)
		}
	}
	err = c.err
	c.mu.Unlock()
	if answer != nil {
		if err := answer(ctx, find); err != nil {
			return nil, err
		}
	}
	return found, err
}

func (c *certificates) revoke(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.rows {
		if c.rows[i].ID == id {
			c.rows[i].RevokedAt = 1
		}
	}
}

// newCertificates returns sessions of data planes, of which edge is one with a certificate.
func newCertificates(now func() time.Time) (*certificates, *auth.Authenticator) {
	rows := &certificates{rows: []models.DataPlane{{ID: "01EDGE", Name: "edge", Certificate: "dns:edge.internal"}}}
	return rows, auth.New(auth.Config{
		Tokens: auth.DataPlaneTokens(dataPlanes{}), Certificates: auth.DataPlaneCertificates(rows),
		Prefix: auth.DataPlanePrefix, Now: now,
	})
}

func requireCertificateRefused(t *testing.T, a *auth.Authenticator, names ...string) error {
	t.Helper()
	p, err := a.AuthenticateCertificate(t.Context(), names)
	require.ErrorIs(t, err, auth.ErrUnauthenticated)
	require.NotErrorIs(t, err, models.ErrUnavailable)
	require.Zero(t, p)
	return err
}

func TestACertificateOpensTheSessionOfItsDataPlane(t *testing.T) {
	clock := newClock()
	rows, a := newCertificates(clock.Now)
	for range 3 {
		p, err := a.AuthenticateCertificate(t.Context(), []string{"cn:edge", "dns:edge.internal"})
		require.NoError(t, err)
		require.Equal(t, auth.Principal{UserID: "01EDGE", TokenID: "01EDGE", Method: auth.MethodDataPlane}, p)
	}
	require.Equal(t, 1, rows.finds, "it is cached")

	require.ErrorContains(t, requireCertificateRefused(t, a, "dns:other.internal"), "no data plane has a name")
	requireCertificateRefused(t, a)
	rows.rows = append(rows.rows, models.DataPlane{ID: "01OTHER", Certificate: "cn:other"})
	require.ErrorContains(t, requireCertificateRefused(t, a, "dns:edge.internal", "cn:other"), "several", "with names of two it is of neither")
	many := make([]string, 101)
	for i := range many {
		many[i] = fmt.Sprint("dns:", i)
	}
	finds := rows.finds
	requireCertificateRefused(t, a, many...)
	require.Equal(t, finds, rows.finds)

	expires := clock.Now().Add(time.Minute)
	rows.rows = []models.DataPlane{{ID: "01BRIEF", Certificate: "cn:brief", ExpiresAt: expires.UnixMicro()}}
	p, err := a.AuthenticateCertificate(t.Context(), []string{"cn:brief"})
	require.NoError(t, err)
	require.True(t, expires.Equal(p.ExpiresAt))
	clock.Advance(time.Minute)
	requireCertificateRefused(t, a, "cn:brief")
}

func TestWhereNoCertificatesAreAcceptedNoneOpensASession(t *testing.T) {
	a := auth.New(auth.Config{Tokens: newTokens()})
	requireCertificateRefused(t, a, "dns:edge.internal")
}

func TestADatabaseThatCantBeAskedRefusesNoCertificate(t *testing.T) {
	rows, a := newCertificates(time.Now)
	rows.err = fmt.Errorf("down: %w", models.ErrUnavailable)
	_, err := a.AuthenticateCertificate(t.Context(), []string{"dns:edge.internal"})
	require.ErrorIs(t, err, models.ErrUnavailable)
	require.NotErrorIs(t, err, auth.ErrUnauthenticated)
}

func TestTheSessionOfACertificateEndsWhenItIsDropped(t *testing.T) {
	t.Run("one that is cached", func(t *testing.T) {
		rows, a := newCertificates(newClock().Now)
		_, err := a.AuthenticateCertificate(t.Context(), []string{"dns:edge.internal"})
		require.NoError(t, err)
		rows.revoke("01EDGE")
		a.Drop("01EDGE")
		requireCertificateRefused(t, a, "dns:edge.internal")
	})
	t.Run("one that is being looked up", func(t *testing.T) {
		rows, a := newCertificates(newClock().Now)
		read, release := make(chan struct{}), make(chan struct{})
		rows.answer = func(_ context.Context, find int) error {
			if find == 1 {
				close(read)
				<-release
			}
			return nil
		}
		early := make(chan error, 1)
		go func() {
			_, err := a.AuthenticateCertificate(context.Background(), []string{"dns:edge.internal"})
			early <- err
		}()
		<-read
		rows.revoke("01EDGE")
		a.Drop("01EDGE")
		close(release)
		require.NoError(t, <-early, "it began before the revocation")
		requireCertificateRefused(t, a, "dns:edge.internal")
	})
}

// The cache finds both by a hash, so that a token whose text is what the names are hashed as must not find theirs.
func TestNoTokenOpensTheCachedSessionOfACertificate(t *testing.T) {
	_, a := newCertificates(newClock().Now)
	const name = "dns:edge.internal"
	_, err := a.AuthenticateCertificate(t.Context(), []string{name})
	require.NoError(t, err)
	text := append(binary.BigEndian.AppendUint64(nil, uint64(len(name))), name...)
	hash := sha256.Sum256(text)
	for _, token := range []string{name, string(text), string(hash[:])} {
		requireRefused(t, a, bearer(token))
	}
}

func TestNoTokenOpensTheSessionOfADataPlaneThatHasACertificate(t *testing.T) {
	rows := dataPlanes{}
	a := auth.New(auth.Config{Tokens: auth.DataPlaneTokens(rows), Prefix: auth.DataPlanePrefix})
	for _, hash := range [][]byte{nil, {}} {
		text, _ := rows.mint(t, func(d *models.DataPlane) { d.Hash, d.Certificate = hash, "dns:edge.internal" })
		requireRefused(t, a, bearer(text))
	}
}
