package lifecycle

import (
	"context"
	"crypto/tls"
	"log"
	"net"
	"time"
)

// tlsListener completes the TLS handshakes of a pool's connections. If net/http completed them, nothing could check the
// bytes of an HTTP/1 client before net/http reads them.
type tlsListener struct {
	net.Listener
	config    *tls.Config
	timeout   time.Duration // of a handshake
	log       *log.Logger
	accepting context.Context
	close     context.CancelFunc
	ready     chan accepted
}

// accepted is what Accept returns.
type accepted struct {
	conn net.Conn
	err  error
}

func newTLSListener(inner net.Listener, config *tls.Config, timeout time.Duration, log *log.Logger) *tlsListener {
	l := &tlsListener{Listener: inner, config: config.Clone(), timeout: timeout, log: log, ready: make(chan accepted)}
	l.accepting, l.close = context.WithCancel(context.Background())
	if l.config.NextProtos == nil {
		l.config.NextProtos = []string{"h2", "http/1.1"}
	}
	go l.acceptAll()
	return l
}

// acceptAll starts a handshake with each client, until the listener is closed.
func (l *tlsListener) acceptAll() {
	for l.accepting.Err() == nil {
		conn, err := l.Listener.Accept()
		if err != nil {
			l.pass(accepted{err: err}) // blocks while net/http pauses after an error
			continue
		}
		go l.handshake(conn)
	}
}

// handshake passes a connection on after its handshake. If the handshake failed, net/http gets the same error from the connection, logs
// it, and answers clients that speak plain HTTP.
func (l *tlsListener) handshake(conn net.Conn) {
	defer func() { // like net/http, so that one client's handshake can't end the process
		if recover() != nil {
			l.log.Print("http: panic serving a TLS handshake")
			_ = conn.Close()
		}
	}()
	secure := tls.Server(conn, l.config)
	_ = conn.SetDeadline(time.Now().Add(l.timeout)) // fails only on a closed connection
	err := secure.HandshakeContext(l.accepting)
	_ = conn.SetDeadline(time.Time{})
	if own := connectionOf(conn); err == nil && secure.ConnectionState().NegotiatedProtocol != "h2" {
		l.pass(accepted{conn: secureConnection{secure, own}})
		return
	}
	l.pass(accepted{conn: secure})
}

func (l *tlsListener) pass(a accepted) {
	select {
	case l.ready <- a:
	case <-l.accepting.Done():
		if a.conn != nil {
			_ = a.conn.Close()
		}
	}
}

// Accept implements net.Listener.
func (l *tlsListener) Accept() (net.Conn, error) {
	select {
	case a := <-l.ready:
		return a.conn, a.err
	case <-l.accepting.Done():
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener. It ends the handshakes in progress.
func (l *tlsListener) Close() error {
	l.close()
	return l.Listener.Close()
}

// secureConnection is an HTTP/1 connection over TLS, whose framing is checked.
type secureConnection struct {
	*tls.Conn
	own *connection
}

// Read implements net.Conn.
func (c secureConnection) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.own.framing.add(p[:n])
	return n, err
}
