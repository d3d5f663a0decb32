package lifecycle

import (
	"container/list"
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/agentrouter/aikeys/internal/netaddr"
)

const (
	// strangerIdle is how long a connection stays open between requests if none of its requests was ever authenticated.
	strangerIdle = 10 * time.Second
	// Strangers from one address may have 1/hostShare of a listener's places.
	hostShare = 4
	// connectionLife is how long a connection takes requests. After that, the next answer closes it, so that clients
	// that keep their connections find other replicas, and show their certificates again.
	connectionLife = time.Hour
	// shedLogInterval is the least time between two log lines about connections that were closed for newcomers.
	shedLogInterval = time.Minute
)

// Connections bounds the connections of a server. A stranger is a connection without an authenticated request so far.
// At the bound, a new connection closes the stranger that has been quiet for longest. If there is no stranger, it
// closes an authenticated connection without a request in flight. If every connection has a request in flight, the new
// connection is closed.
type Connections struct {
	// Max is how many connections there may be at once; see FileShare. 0 means no bound.
	Max int
	// TrustedProxies are addresses of proxies, whose connections serve many clients. Strangers from there are not bounded by address, and
	// may be idle as long as authenticated connections. Strangers from this machine are not bounded by address either.
	TrustedProxies []netip.Prefix
}

// FileShare returns how many connections a listener may have: a share (1/share) of the files that the process may open, but at most
// maximum. So one listener's connections can't take the files that the rest of the process needs.
func FileShare(share uint64, maximum int) int {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return maximum
	}
	return connectionLimit(files.Cur, share, maximum)
}

func connectionLimit(files, share uint64, maximum int) int {
	return max(1, int(min(files/share, uint64(maximum)))) //nolint:gosec // G115: maximum is positive
}

// MarkAuthenticated records that the request of ctx was authenticated, so that its connection is no longer a stranger.
func MarkAuthenticated(ctx context.Context) {
	if c, ok := ctx.Value(connectionKey{}).(*connection); ok {
		c.pool.authenticate(c)
	}
}

// MarkConnectionAuthenticated is MarkAuthenticated for a connection that a listener of Bound has accepted.
func MarkConnectionAuthenticated(conn net.Conn) {
	if c := connectionOf(conn); c != nil {
		c.pool.authenticate(c)
	}
}

// Bound returns a listener that bounds its connections like a Server, for a server that is not net/http's. Strangers
// may be idle. If there is no stranger, the listener closes the connection that was marked as authenticated longest
// ago.
func Bound(listener net.Listener, cfg Connections, log *slog.Logger) net.Listener {
	return newPool(listener, cfg, log)
}

type connectionKey struct{}

// connectionOf returns the pool's connection behind a connection of net/http, or nil.
func connectionOf(c net.Conn) *connection {
	if secure, ok := c.(interface{ NetConn() net.Conn }); ok { // of TLS
		c = secure.NetConn()
	}
	own, _ := c.(*connection)
	return own
}

// pool is a listener and the connections that it has accepted.
type pool struct {
	net.Listener
	Connections
	maxOfHost   int
	isPlainHTTP bool // connections read plain HTTP, so framing can parse it
	log         *slog.Logger

	mu        sync.Mutex
	open      int
	strangers list.List                 // *connection, the longest quiet first
	ofHosts   map[netip.Addr]*list.List // :: netaddr.Host → its strangers in the same order; without exempt addresses
	resting   list.List                 // authenticated *connection without a request, the longest resting first
	shed      int                       // connections closed for newcomers since the last log line
	logged    time.Time                 // time of that line
}

func newPool(listener net.Listener, cfg Connections, log *slog.Logger) *pool {
	return &pool{
		Listener: listener, Connections: cfg, maxOfHost: max(1, cfg.Max/hostShare), log: log, ofHosts: map[netip.Addr]*list.List{},
	}
}

// connection is a connection that a pool has accepted. The pool's mu guards its fields.
type connection struct {
	net.Conn
	pool    *pool
	host    netip.Addr // the zero Addr if the address has no bound
	isProxy bool

	gone, authenticated, busy bool
	place, placeOfHost        *list.Element // in strangers or resting, and in ofHosts
	idle                      *time.Timer   // closes an idle stranger; nil before its first request has ended
	framing                   framing
	accepted                  time.Time
}

// checkConnection answers 400 to ambiguous requests and closes their connection. It also closes connections after connectionLife.
func checkConnection(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, ok := r.Context().Value(connectionKey{}).(*connection)
		isAmbiguous := ok && c.framing.ambiguous.Load()
		if isAmbiguous || ok && time.Since(c.accepted) > connectionLife {
			w.Header().Set("Connection", "close")
		}
		if isAmbiguous {
			http.Error(w, "400 Bad Request: its length is ambiguous", http.StatusBadRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// Accept implements net.Listener.
func (p *pool) Accept() (net.Conn, error) {
	for {
		accepted, err := p.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c := p.newConnection(accepted)
		if p.admit(c) {
			return c, nil
		}
		_ = accepted.Close() // all places have requests in flight
	}
}

func (p *pool) newConnection(accepted net.Conn) *connection {
	c := &connection{Conn: accepted, pool: p, accepted: time.Now()}
	address := netaddr.Parse(accepted.RemoteAddr().String())
	c.isProxy = slices.ContainsFunc(p.TrustedProxies, func(n netip.Prefix) bool { return n.Contains(address) })
	if !c.isProxy && address.IsValid() && !address.IsLoopback() {
		c.host = netaddr.Host(address)
	}
	return c
}

// admit gives a place to a new connection. If all places are taken, it closes another connection. It reports whether
// there was a place.
func (p *pool) admit(c *connection) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.Max > 0 {
		if own := p.ofHosts[c.host]; own != nil && own.Len() >= p.maxOfHost {
			p.shedFirst(own)
		}
		if p.open >= p.Max && !p.shedFirst(&p.strangers) && !p.shedFirst(&p.resting) {
			p.noteShed()
			return false
		}
	}
	p.open++
	c.place = p.strangers.PushBack(c)
	if c.host.IsValid() {
		if p.ofHosts[c.host] == nil {
			p.ofHosts[c.host] = list.New()
		}
		c.placeOfHost = p.ofHosts[c.host].PushBack(c)
	}
	return true
}

// shedFirst closes the first connection of a list. It reports whether there was one.
func (p *pool) shedFirst(connections *list.List) bool {
	first := connections.Front()
	if first == nil {
		return false
	}
	c := first.Value.(*connection) //nolint:forcetypeassert,errcheck // the lists have nothing else
	p.remove(c)
	_ = c.Conn.Close() // the TCP connection's Close, which does not wait
	p.noteShed()
	return true
}

func (p *pool) noteShed() {
	p.shed++
	if now := time.Now(); now.Sub(p.logged) >= shedLogInterval {
		p.log.WarnContext(context.Background(), "connections were closed for newcomers", // there is no request
			slog.String("listener", p.Addr().String()), slog.Int("connections", p.shed))
		p.shed, p.logged = 0, now
	}
}

// remove frees the place of a connection.
func (p *pool) remove(c *connection) {
	if c.gone {
		return
	}
	c.gone = true
	p.open--
	p.unlist(c)
}

// unlist takes a connection out of the lists and stops its timer.
func (p *pool) unlist(c *connection) {
	if c.place != nil {
		p.strangers.Remove(c.place) // does nothing for an element of resting
		p.resting.Remove(c.place)
		c.place = nil
	}
	if c.placeOfHost != nil {
		own := p.ofHosts[c.host]
		if own.Remove(c.placeOfHost); own.Len() == 0 {
			delete(p.ofHosts, c.host)
		}
		c.placeOfHost = nil
	}
	if c.idle != nil {
		c.idle.Stop()
	}
}

func (p *pool) authenticate(c *connection) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case c.gone:
		return
	case c.authenticated:
		if c.place != nil {
			p.resting.MoveToBack(c.place)
		}
		return
	}
	c.authenticated = true
	p.unlist(c)
	if !c.busy {
		c.place = p.resting.PushBack(c)
	}
}

// follow is the http.Server.ConnState.
func (p *pool) follow(conn net.Conn, state http.ConnState) {
	c := connectionOf(conn)
	if c == nil || state == http.StateNew || state == http.StateClosed {
		return
	}
	if secure, ok := conn.(interface{ ConnectionState() tls.ConnectionState }); ok && len(secure.ConnectionState().VerifiedChains) > 0 {
		p.authenticate(c)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.gone {
		return
	}
	c.busy = state != http.StateIdle
	if state == http.StateHijacked {
		c.framing.stop()
	}
	switch {
	case c.authenticated && c.busy:
		p.unlist(c)
	case c.authenticated:
		if c.place == nil {
			c.place = p.resting.PushBack(c)
		}
	default:
		p.strangers.MoveToBack(c.place)
		if c.placeOfHost != nil {
			p.ofHosts[c.host].MoveToBack(c.placeOfHost)
		}
		p.timeIdle(c)
	}
}

// timeIdle starts or stops the timer of a stranger.
func (p *pool) timeIdle(c *connection) {
	switch {
	case c.isProxy:
	case c.busy && c.idle != nil:
		c.idle.Stop()
	case c.busy:
	case c.idle == nil:
		c.idle = time.AfterFunc(strangerIdle, func() { p.closeIdle(c) })
	default:
		c.idle.Reset(strangerIdle)
	}
}

func (p *pool) closeIdle(c *connection) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !c.gone && !c.busy && !c.authenticated {
		p.remove(c)
		_ = c.Conn.Close()
	}
}

// Read implements net.Conn.
func (c *connection) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.pool.isPlainHTTP {
		c.framing.add(p[:n])
	}
	return n, err
}

// Close implements net.Conn.
func (c *connection) Close() error {
	c.pool.mu.Lock()
	c.pool.remove(c)
	c.pool.mu.Unlock()
	return c.Conn.Close()
}

// CloseWrite lets net/http end a connection so that the client can read the answer even if its request was not read to
// the end.
func (c *connection) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}
