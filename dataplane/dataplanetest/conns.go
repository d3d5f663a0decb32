package dataplanetest

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// listener accepts connections that can be cut and frozen.
type listener struct {
	net.Listener
	mu    sync.Mutex
	conns map[*conn]struct{}
}

func listen(address string) (*listener, error) {
	config := net.ListenConfig{Control: sharePort}
	inner, err := config.Listen(context.Background(), "tcp", address)
	if err != nil {
		return nil, err
	}
	return &listener{Listener: inner, conns: map[*conn]struct{}{}}, nil
}

// sharePort allows several sockets of this program to be bound to one port.
func sharePort(_, _ string, socket syscall.RawConn) error {
	var err error
	controlErr := socket.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	})
	return errors.Join(controlErr, err)
}

// reserve keeps the port of a listener for this program, also while nothing listens there. It returns a function that gives
// the port up.
func reserve(l net.Listener) (release func(), err error) {
	address, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return nil, net.ErrClosed
	}
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return nil, err
	}
	to := unix.SockaddrInet4{Port: address.Port}
	copy(to.Addr[:], address.IP.To4())
	err = errors.Join(unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1), unix.Bind(socket, &to))
	if err != nil {
		_ = unix.Close(socket)
		return nil, err
	}
	return func() { _ = unix.Close(socket) }, nil
}

func (l *listener) Accept() (net.Conn, error) {
	inner, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: inner, owner: l}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns[c] = struct{}{}
	return c, nil
}

// each calls do for every open connection.
func (l *listener) each(do func(*conn)) {
	l.mu.Lock()
	conns := make([]*conn, 0, len(l.conns))
	for c := range l.conns {
		conns = append(conns, c)
	}
	l.mu.Unlock()
	for _, c := range conns {
		do(c)
	}
}

// conn is a connection. When frozen, it behaves as if the other machine had lost power: nothing gets through, not even its
// end.
type conn struct {
	net.Conn
	owner  *listener
	frozen atomic.Bool
}

func (c *conn) Read(b []byte) (int, error) {
	for {
		n, err := c.Conn.Read(b)
		if err != nil || !c.frozen.Load() {
			return n, err
		}
	}
}

func (c *conn) Write(b []byte) (int, error) {
	if c.frozen.Load() {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

// Close closes the connection. A frozen one stays open, without a sign to the other end, until drop.
func (c *conn) Close() error {
	if c.frozen.Load() {
		return nil
	}
	return c.drop()
}

// drop resets the connection.
func (c *conn) drop() error {
	c.owner.mu.Lock()
	delete(c.owner.conns, c)
	c.owner.mu.Unlock()
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	return c.Conn.Close()
}
