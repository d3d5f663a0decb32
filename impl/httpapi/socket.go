package httpapi

import (
	"context"
	"net"
	"net/http"
	"syscall"
)

// Socket returns the socket of the connection that the request of ctx came over, for a response of many parts that writes
// past its http.ResponseWriter once that is flushed. It is nil where what is written so would not be what the client reads:
// on TLS, where responses are not chunked, and where the connection has no socket or is another server's.
func Socket(ctx context.Context) syscall.RawConn {
	address, ok := ctx.Value(http.LocalAddrContextKey).(socketAddr)
	if !ok || !CallFrom(ctx).chunked {
		return nil
	}
	return address.socket
}

// isChunked: the others are HTTP/2, which has frames, and HTTP/1.0, which has neither.
func isChunked(r *http.Request) bool { return r.TLS == nil && r.ProtoMajor == 1 && r.ProtoMinor >= 1 }

// withSockets returns a listener whose connections tell their sockets with their own addresses, which net/http hands on.
func withSockets(l net.Listener) net.Listener { return socketListener{l} }

type socketListener struct{ net.Listener }

// Accept implements net.Listener.
func (l socketListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if socket, ok := c.(syscall.Conn); ok {
		if raw, err := socket.SyscallConn(); err == nil {
			return socketConn{c, socketAddr{c.LocalAddr(), raw}}, nil
		}
	}
	return c, nil
}

type socketConn struct {
	net.Conn
	local socketAddr
}

// LocalAddr implements net.Conn.
func (c socketConn) LocalAddr() net.Addr { return c.local }

type socketAddr struct {
	net.Addr
	socket syscall.RawConn
}
