package auth

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/agentrouter/aikeys/models"
)

// maxCertificateNames is how many names of a certificate the database looks up, at most.
const maxCertificateNames = 100

// AuthenticateCertificate returns the data plane that has one of the names in a client certificate. The caller has
// verified the certificate. Errors, caching and Drop are the same as for Authenticate.
func (a *Authenticator) AuthenticateCertificate(ctx context.Context, names []string) (Principal, error) {
	switch {
	case a.cfg.DataPlanes == nil:
		return Principal{}, unauthenticated(errNoCertificates)
	case len(names) == 0:
		return Principal{}, unauthenticated(errNameless)
	case len(names) > maxCertificateNames:
		return Principal{}, unauthenticated(errTooManyNames)
	}
	key := cacheKeyOfNames(names)
	if p, ok := a.cached(key); ok {
		return p, nil
	}
	return a.lookUp(ctx, key, func(ctx context.Context, now time.Time) (Principal, error) {
		return a.verifyCertificate(ctx, names, now)
	})
}

// cacheKeyOfNames returns the cache's key for the names. No token has the same key.
func cacheKeyOfNames(names []string) cacheKey {
	var text []byte
	for _, name := range names {
		text = append(binary.BigEndian.AppendUint64(text, uint64(len(name))), name...)
	}
	return cacheKey{ofNames: true, sum: sha256.Sum256(text)}
}

// verifyCertificate returns the data plane of a certificate. It refuses a certificate that has the names of several
// data planes.
func (a *Authenticator) verifyCertificate(ctx context.Context, names []string, now time.Time) (Principal, error) {
	a.cfg.Metrics.countLookUp()
	rows, err := a.cfg.DataPlanes.FindDataPlanesByCertificate(ctx, names)
	switch {
	case err != nil:
		return Principal{}, fmt.Errorf("find certificate: %w", unavailableIfLate(ctx, err))
	case len(rows) == 0:
		return Principal{}, unauthenticated(errUnknownCertificate)
	case len(rows) > 1:
		return Principal{}, unauthenticated(errAmbiguous)
	}
	return dataPlanePrincipal(rows[0], now)
}

// verifyDataPlane looks up the data plane of a token. It fails unless the hash matches and the data plane is neither revoked
// nor expired.
func (a *Authenticator) verifyDataPlane(ctx context.Context, id string, hash [sha256.Size]byte, now time.Time) (Principal, error) {
	a.cfg.Metrics.countLookUp()
	row, err := a.cfg.DataPlanes.FindDataPlane(ctx, id)
	if err := checkSecret(ctx, row.Hash, hash, err); err != nil {
		return Principal{}, err
	}
	return dataPlanePrincipal(row, now)
}

func dataPlanePrincipal(d models.DataPlane, now time.Time) (Principal, error) {
	return Principal{DataPlaneID: d.ID, Method: MethodDataPlane}.live(d.RevokedAt, d.ExpiresAt, now)
}
