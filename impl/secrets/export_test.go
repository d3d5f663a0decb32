package secrets

import "net"

// PeerConn returns a connection of a user.
func PeerConn(uid uint32) net.Conn { return peerConn{peer: peerAddr{uid}} }
