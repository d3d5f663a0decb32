package auth

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/agentrouter/aikeys/models"
)

// maxCertificateNames bounds what a certificate may make the database look for.
const maxCertificateNames = 100

// AuthenticateCertificate returns who has a client certificate with these names, which the caller has verified. Its errors
// are those of Authenticate, and its sessions are cached and dropped in the same way.
func (a *Authenticator) AuthenticateCertificate(ctx context.Context, names []string) (Principal, error) {
	switch {
	case a.certificates == nil:
		return Principal{}, unauthenticated(errNoCertificates)
	case len(names) == 0:
		return Principal{}, unauthenticated(errNameless)
	case len(names) > maxCertificateNames:
		return Principal{}, unauthenticated(errTooManyNames)
	}
	now, key := a.now(), keyOfNames(names)
	if p, ok := a.cached(key, now); ok {
		return p, nil
	}
	return a.lookUp(ctx, key, credential{names: names}, now)
}

// keyOfNames stands for the names in the cache. No token has the key of names, whatever its text.
func keyOfNames(names []string) cacheKey {
	var text []byte
	for _, name := range names {
		text = append(binary.BigEndian.AppendUint64(text, uint64(len(name))), name...)
	}
	return cacheKey{ofNames: true, sum: sha256.Sum256(text)}
}

// findCertificate opens the session of a client certificate.
func (a *Authenticator) findCertificate(ctx context.Context, cred credential, now time.Time) (Principal, error) {
	token, err := a.certificates.FindCertificate(ctx, cred.names)
	switch {
	case errors.Is(err, models.ErrNotFound):
		return Principal{}, unauthenticated(errUnknownCertificate)
	case err != nil:
		return Principal{}, fmt.Errorf("find certificate: %w", unavailableIfLate(ctx, err))
	}
	return a.principalOf(token, now)
}
