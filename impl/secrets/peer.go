package secrets

import (
	"context"
	"crypto/tls"
	"net"
	"strconv"
	"time"

	"github.com/agentrouter/aikeys/internal/identity"
	"github.com/agentrouter/aikeys/internal/unixsocket"
)

type connKey struct{}

// ConnContext stores a request's connection for Identities. Set it as http.Server.ConnContext.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// Identities returns the identities of the peer at the other end of ctx's connection. It returns none if the connection uses neither a
// unix socket nor TLS, or if the client certificate has expired since the handshake.
func Identities(ctx context.Context) []identity.Identity {
	switch c := ctx.Value(connKey{}).(type) {
	case interface{ ConnectionState() tls.ConnectionState }:
		state := c.ConnectionState()
		names, _ := identity.OfCertificate(&state, time.Now())
		return names
	case net.Conn:
		if uid, ok := unixsocket.UID(c); ok {
			return []identity.Identity{{Kind: identity.UID, Name: strconv.FormatUint(uint64(uid), 10)}}
		}
	}
	return nil
}
