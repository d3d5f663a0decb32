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

// ErrNoPeerCredentials says that a connection does not tell the user of the process at its other end.
var ErrNoPeerCredentials = errors.New("the system tells no peer credentials")

// peerAddr is the address of the other end of a unix socket: the user of the process there, as the kernel had it when the
// process connected.
type peerAddr struct{ uid uint32 }

// Network implements net.Addr.
func (peerAddr) Network() string { return "unix" }

// String implements net.Addr.
func (a peerAddr) String() string { return "uid " + strconv.FormatUint(uint64(a.uid), 10) }

// WithPeers returns a listener on a unix socket whose connections know the users at their other ends. A connection whose
// user the kernel does not tell is closed.
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
		_ = c.Close() // it is gone already, or can't be trusted
	}
}

type peerConn struct {
	*net.UnixConn
	peer peerAddr
}

// RemoteAddr implements net.Conn.
func (c peerConn) RemoteAddr() net.Addr { return c.peer }

type connKey struct{}

// ConnContext is for http.Server: it lets Identities know the connection.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// Identities returns what is known of who is at the other end of the connection that ctx belongs to: none for a
// connection of another kind, and for a client certificate that has expired since the connection was made.
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
