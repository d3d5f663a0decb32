package auth

import (
	"errors"
	"fmt"
)

var (
	// ErrUnauthenticated says that the request's credential opens no session. An error that wraps it also wraps the
	// cause. The cause is only for the log, because it could help an attacker guess.
	ErrUnauthenticated = errors.New("unauthenticated")
	// ErrIssuerUnavailable says that the OIDC issuer's documents can't be read, so a session token can be neither accepted nor
	// refused; a retry may work.
	ErrIssuerUnavailable = errors.New("OIDC issuer unavailable")
)

// The causes of ErrUnauthenticated. They are fixed texts, so they hold no part of the request.
var (
	errMissing   = errors.New("no Authorization header")
	errScheme    = errors.New("authorization scheme is not Bearer")
	errTooLong   = errors.New("the Authorization header is too long")
	errMalformed = errors.New("neither a token of this service nor a JWT")
	errChecksum  = errors.New("token is mistyped: its checksum does not match")
	errUnknown   = errors.New("no token has this id and secret")
	errRevoked   = errors.New("token is revoked")
	errExpired   = errors.New("token has expired")
	errNoIssuer  = errors.New("session tokens are not accepted: no OIDC issuer is configured")
	errAlgorithm = errors.New("JWT is malformed or its algorithm is not accepted")
	errSignature = errors.New("no key of the issuer verifies the JWT's signature")
	errIssuer    = errors.New("JWT is of another issuer")
	errAudience  = errors.New("JWT is for another audience or not valid yet")
	errPurpose   = errors.New("JWT is for another purpose than a session")
	errParty     = errors.New("JWT is for another client: its azp is neither the audience nor an authorized party")
	errLifetime  = errors.New("JWT was issued in the future, or lasts too long")
	errClaims    = errors.New("JWT's claims are ambiguous or not a JSON object")

	errNoCertificates     = errors.New("client certificates are not accepted")
	errNameless           = errors.New("the client certificate has no name")
	errTooManyNames       = errors.New("the client certificate has too many names")
	errUnknownCertificate = errors.New("no data plane has a name of the client certificate")
	errAmbiguous          = errors.New("the client certificate has the names of several data planes")
)

// unauthenticated wraps one of the causes above.
func unauthenticated(cause error) error {
	return fmt.Errorf("%w: %w", ErrUnauthenticated, cause)
}
