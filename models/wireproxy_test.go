package models_test

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// wireProxy stands between a store and Postgres: it counts round trips, and it can drop what is sent and tell nobody, as
// networks do.
type wireProxy struct {
	url        string
	roundTrips atomic.Int64

	upstream string
	listener net.Listener
	frozen   atomic.Bool
	stranded atomic.Int64 // connections with a lower number are dead
	accepted atomic.Int64
	mu       sync.Mutex
	conns    []net.Conn
	pumps    sync.WaitGroup
}

// newWireProxy serves a proxy to the database until the test ends.
func newWireProxy(t *testing.T, database string) *wireProxy {
	t.Helper()
	u, err := url.Parse(database)
	require.NoError(t, err)
	p := &wireProxy{upstream: u.Host}
	p.listener, err = new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	u.Host = p.listener.Addr().String()
	p.url = u.String()
	p.pumps.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

// freeze swallows whatever is sent from now on.
func (p *wireProxy) freeze() { p.frozen.Store(true) }

// strand swallows whatever is sent by the connections of now; new ones work.
func (p *wireProxy) strand() { p.stranded.Store(p.accepted.Load() + 1) }

// thaw lets new connections through; those that were frozen have lost bytes, and are cut.
func (p *wireProxy) thaw() {
	p.cut()
	p.frozen.Store(false)
}

func (p *wireProxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_ = c.Close()
	}
	p.conns = nil
}

func (p *wireProxy) close() {
	_ = p.listener.Close()
	p.cut()
	p.pumps.Wait()
}

func (p *wireProxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := new(net.Dialer).DialContext(context.Background(), "tcp", p.upstream)
		if err != nil {
			_ = client.Close()
			continue
		}
		p.mu.Lock()
		p.conns = append(p.conns, client, server)
		p.mu.Unlock()
		number := p.accepted.Add(1)
		p.pumps.Go(func() { p.pump(number, server, client, &syncCounter{trips: &p.roundTrips}) })
		p.pumps.Go(func() { p.pump(number, client, server, io.Discard) })
	}
}

// pump copies until an end closes, and shows what passes to tap.
func (p *wireProxy) pump(number int64, to, from net.Conn, tap io.Writer) {
	defer func() { _ = to.Close() }()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 && !p.frozen.Load() && number >= p.stranded.Load() {
			_, _ = tap.Write(buf[:n])
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// syncCounter counts the messages that end a round trip, Sync and Query, in what a client sends. The first message has no
// type, the others have one byte of it; all begin with their length (https://www.postgresql.org/docs/15/protocol-message-formats.html).
type syncCounter struct {
	trips   *atomic.Int64
	pending []byte
	started bool
}

func (c *syncCounter) Write(b []byte) (int, error) {
	c.pending = append(c.pending, b...)
	for {
		header := 0
		if c.started {
			header = 1
		}
		if len(c.pending) < header+4 {
			return len(b), nil
		}
		end := header + int(binary.BigEndian.Uint32(c.pending[header:]))
		if len(c.pending) < end {
			return len(b), nil
		}
		if c.started && (c.pending[0] == 'S' || c.pending[0] == 'Q') {
			c.trips.Add(1)
		}
		c.started = true
		c.pending = c.pending[end:]
	}
}
