package secrets

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strconv"
	"time"

	"github.com/agentrouter/aikeys/internal/identity"
)

// ErrNoPeerCredentials means that the user of the process at the other end of a connection can't be determined.
var ErrNoPeerCredentials = errors.New("peer credentials are not available")

// peerAddr is the address of the other end of a unix socket: the user of the process there when it connected, according to the
// kernel.
type peerAddr struct{ uid uint32 }

// Network implements net.Addr.
func (peerAddr) Network() string { return "unix" }

// String implements net.Addr.
func (a peerAddr) String() string { return "uid " + strconv.FormatUint(uint64(a.uid), 10) }

// WithPeers returns a listener whose connections know the user at the other end. It closes a connection whose user can't be
// determined.
func WithPeers(l *net.UnixListener) net.Listener { return peerListener{l} }

type peerListener struct{ *net.UnixListener }

// Accept implements net.Listener.
func (l peerListener) Accept() (net.Conn, error) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		uid, err := peerUID(c)
		if err == nil {
			return peerConn{c, peerAddr{uid}}, nil
		}
		_ = c.Close() // the peer has disconnected or can't be identified
	}
}

type peerConn struct {
	*net.UnixConn
	peer peerAddr
}

// RemoteAddr implements net.Conn.
func (c peerConn) RemoteAddr() net.Addr { return c.peer }

type connKey struct{}

// ConnContext is for http.Server.ConnContext. Identities needs it to find the connection of a request.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// Identities returns the identities of the peer at the other end of ctx's connection. There are none if the connection is
// neither a unix socket nor TLS, or if the client certificate has expired since the handshake.
func Identities(ctx context.Context) []identity.Identity {
	switch c := ctx.Value(connKey{}).(type) {
	case *tls.Conn:
		state := c.ConnectionState()
		names, _ := identity.OfCertificate(&state, time.Now())
		return names
	case net.Conn:
		if peer, ok := c.RemoteAddr().(peerAddr); ok {
			return []identity.Identity{{Kind: identity.UID, Name: strconv.FormatUint(uint64(peer.uid), 10)}}
		}
	}
	return nil
}
