//go:build !linux

package unixsocket

import "net"

// peerUID is not implemented on this system. Use mutual TLS instead.
func peerUID(*net.UnixConn) (uid uint32, err error) { return 0, ErrNoPeerCredentials }
