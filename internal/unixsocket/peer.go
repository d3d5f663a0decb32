package unixsocket

import (
	"errors"
	"net"
	"slices"
	"strconv"
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

// WithPeers returns a listener whose connections know the user at the other end: see UID. It closes a connection whose user can't
// be determined or is not one of users; without users, everybody is.
func WithPeers(l *net.UnixListener, users ...uint32) net.Listener { return peerListener{l, users} }

type peerListener struct {
	*net.UnixListener
	users []uint32
}

// Accept implements net.Listener.
func (l peerListener) Accept() (net.Conn, error) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		uid, err := peerUID(c)
		if err == nil && (len(l.users) == 0 || slices.Contains(l.users, uid)) {
			return peerConn{c, peerAddr{uid}}, nil
		}
		_ = c.Close()
	}
}

type peerConn struct {
	*net.UnixConn
	peer peerAddr
}

// RemoteAddr implements net.Conn.
func (c peerConn) RemoteAddr() net.Addr { return c.peer }

// UID returns the user at the other end of a connection that a listener of this package has accepted.
func UID(c net.Conn) (uid uint32, ok bool) {
	peer, ok := c.RemoteAddr().(peerAddr)
	return peer.uid, ok
}

// PeerAddr returns the remote address of a connection from a process of the user.
func PeerAddr(uid uint32) net.Addr { return peerAddr{uid} }
