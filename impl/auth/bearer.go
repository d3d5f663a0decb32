package auth

import (
	"crypto/sha256"
	"strconv"
	"strings"
)

// maxHeaderLength bounds what is hashed and parsed for a caller that is not known yet, in bytes. A JWT with a long list
// of groups stays well below.
const maxHeaderLength = 8 << 10

// bearerToken returns the token of an Authorization header: the scheme in any case, one or more spaces, and the token
// (RFC 6750, section 2.1; RFC 9110, section 11.4).
func bearerToken(authorization string) (string, error) {
	const scheme = "Bearer"
	if authorization == "" {
		return "", errMissing
	}
	if len(authorization) > maxHeaderLength {
		return "", errTooLong
	}
	if len(authorization) <= len(scheme) || !strings.EqualFold(authorization[:len(scheme)], scheme) ||
		authorization[len(scheme)] != ' ' {
		return "", errScheme
	}
	return strings.TrimLeft(authorization[len(scheme):], " "), nil
}

// cacheKey stands for a credential in the cache: the SHA-256 of a token's whole text, or of the names in a certificate.
type cacheKey struct {
	ofNames bool
	sum     [sha256.Size]byte
}

// String returns the key as a text that no other has.
func (k cacheKey) String() string { return strconv.FormatBool(k.ofNames) + string(k.sum[:]) }

func keyOf(token string) cacheKey { return cacheKey{sum: sha256.Sum256([]byte(token))} }

// credential is one whose shape is known: a token of ours has an id and a hash, a JWT its text, a certificate names.
type credential struct {
	id    string
	hash  [sha256.Size]byte
	jwt   string
	names []string
}

// parseToken tells a token of ours, of the given prefix, from a JWT by its shape. Either shape leaves no room for a comma,
// a space or a second token.
func parseToken(prefix, token string) (credential, error) {
	if isJWT(token) {
		return credential{jwt: token}, nil
	}
	parse := ParseAPIKey
	if prefix != APIKeyPrefix {
		parse = func(text string) (string, [sha256.Size]byte, error) { return Parse(prefix, text) }
	}
	id, hash, err := parse(token)
	return credential{id: id, hash: hash}, err
}

// isJWT tells whether a token is three parts of base64url with dots between: the compact form, the only one that
// RFC 7519, section 1 allows a JWT to have.
func isJWT(token string) bool {
	dots := 0
	for _, c := range []byte(token) {
		switch {
		case c == '.':
			dots++
		case c >= '0' && c <= '9', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '-', c == '_':
		default:
			return false
		}
	}
	return dots == 2
}
