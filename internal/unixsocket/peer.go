package unixsocket

import (
	"errors"
	"net"
	"slices"
	"strconv"
)

// ErrNoPeerCredentials means that the user of the process at the other end of a connection can't be determined.
var ErrNoPeerCredentials = errors.New("peer credentials are not available")

// PeerAddr is the remote address of a connection over a unix socket: the number of the user whose process connected, according to
// the kernel.
type PeerAddr uint32

// Network implements net.Addr.
func (PeerAddr) Network() string { return "unix" }

// String implements net.Addr.
func (a PeerAddr) String() string { return "uid " + strconv.FormatUint(uint64(a), 10) }

// WithPeers returns a listener that determines the user at the other end of each connection: see UID. It closes
// connections whose user can't be determined or is not one of users. Without users, it accepts every user.
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
			return peerConn{c, PeerAddr(uid)}, nil
		}
		_ = c.Close()
	}
}

type peerConn struct {
	*net.UnixConn
	peer PeerAddr
}

// RemoteAddr implements net.Conn.
func (c peerConn) RemoteAddr() net.Addr { return c.peer }

// UID returns the user at the other end of a connection that a listener of this package has accepted.
func UID(c net.Conn) (uid uint32, ok bool) {
	peer, ok := c.RemoteAddr().(PeerAddr)
	return uint32(peer), ok
}
