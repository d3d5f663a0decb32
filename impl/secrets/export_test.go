package secrets

import (
	"net"

	"github.com/agentrouter/aikeys/internal/unixsocket"
)

// PeerConn returns a connection of a user.
func PeerConn(uid uint32) net.Conn { return peerConn{peer: unixsocket.PeerAddr(uid)} }

type peerConn struct {
	net.Conn
	peer net.Addr
}

// RemoteAddr implements net.Conn.
func (c peerConn) RemoteAddr() net.Addr { return c.peer }
