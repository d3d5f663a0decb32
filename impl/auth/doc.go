// Package auth turns the credential of a request, most often its Authorization header, into a Principal: the customer,
// the user and the default project that the caller acts for.
//
// Two kinds of bearer token open a session. An API key of ours is a text that carries its own id and checksum; its row
// is found by the id and the SHA-256 of its secret part is compared in constant time. A session token is a JWT of the
// configured OpenID Connect issuer, verified with the keys that the issuer publishes. The credentials of data planes have
// the form of API keys, and an Authenticator of their own: neither opens a session where the other belongs. A data plane may
// have a client certificate in place of a token: its connection verified it, and a name in it finds the row.
//
// The package answers three ways and never mixes them up: a Principal; ErrUnauthenticated, when the token opens no
// session (401); models.ErrUnavailable or ErrIssuerUnavailable, when that could not be found out (503). No error text,
// and no value of this package, holds a token or a piece of one.
//
// A session is cached for a moment, so that a burst of requests costs one look-up. How stale it can be is bounded by
// Config.CacheTTL; Authenticator.Drop ends that of a revoked key at once.
//
// It may import models (the Token row and the sentinels) and third-party libraries, nothing else of ours.
package auth
