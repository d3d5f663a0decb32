package main

import (
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// linkState is what a link does with the data that is sent over it.
type linkState int

const (
	linkUp   linkState = iota
	linkDown           // connections are closed as they come
	linkDark           // nothing gets through, not even that an end has closed; it is held until the link is up again
)

// link is what lies between a data plane and its control plane: a balancer that takes the addresses in turn, over a wire
// that can be cut.
type link struct {
	url     string
	targets func() []string
	delay   atomic.Int64 // of each piece, each way

	mu      sync.Mutex
	state   linkState
	changed chan struct{} // closed and replaced when state changes
	calls   map[*call]bool
	next    int
}

// call is a connection over a link.
type call struct {
	near, far net.Conn
	lost      bool // data sent on it is dropped without an error
}

func newLink(t *testing.T, targets func() []string) *link {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	l := &link{
		url: "http://" + listener.Addr().String(), targets: targets, changed: make(chan struct{}), calls: map[*call]bool{},
	}
	var carrying sync.WaitGroup
	carrying.Go(func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			carrying.Go(func() { l.carry(near) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		l.set(linkDown)
		l.hangUp(true)
		carrying.Wait()
	})
	return l
}

func (l *link) set(state linkState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.state = state
	close(l.changed)
	l.changed = make(chan struct{})
}

// up restores the link.
func (l *link) up() { l.set(linkUp) }

// cut breaks every connection, and each that comes, with a reset or with a farewell.
func (l *link) cut(reset bool) {
	l.set(linkDown)
	l.hangUp(reset)
}

// darken lets nothing through any more. With lose, the connections that there are never carry anything again.
func (l *link) darken(lose bool) {
	l.set(linkDark)
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.calls {
		c.lost = c.lost || lose
	}
}

func (l *link) hangUp(reset bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.calls {
		hangUp(c.near, reset)
		hangUp(c.far, reset)
	}
}

func hangUp(conn net.Conn, reset bool) {
	if tcp, ok := conn.(*net.TCPConn); ok && reset {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

// await waits until the link carries data, and reports whether the call still can.
func (l *link) await(c *call) bool {
	for {
		l.mu.Lock()
		state, changed, lost := l.state, l.changed, c.lost
		l.mu.Unlock()
		switch {
		case state == linkDown:
			return false
		case state == linkUp && !lost:
			return true
		}
		<-changed
	}
}

func (l *link) carry(near net.Conn) {
	c := &call{near: near}
	defer hangUp(near, true)
	if !l.await(c) {
		return
	}
	if c.far = l.dial(); c.far == nil {
		return
	}
	defer hangUp(c.far, true)
	l.mu.Lock()
	l.calls[c] = true
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.calls, c)
	}()
	var both sync.WaitGroup
	both.Go(func() { l.pump(c, c.far, near) })
	both.Go(func() { l.pump(c, near, c.far) })
	both.Wait()
}

// dial connects to the next address that answers. It returns nil if none does.
func (l *link) dial() net.Conn {
	targets := l.targets()
	for range targets {
		l.mu.Lock()
		target := targets[l.next%len(targets)]
		l.next++
		l.mu.Unlock()
		if conn, err := net.DialTimeout("tcp", target, time.Second); err == nil {
			return conn
		}
	}
	return nil
}

// pump copies data in one direction, and the end of the stream.
func (l *link) pump(c *call, to, from net.Conn) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if !l.await(c) {
			return
		}
		time.Sleep(time.Duration(l.delay.Load()))
		if n > 0 {
			if _, bad := to.Write(buffer[:n]); bad != nil {
				hangUp(from, true)
				return
			}
		}
		if err != nil {
			hangUp(to, false)
			return
		}
	}
}
