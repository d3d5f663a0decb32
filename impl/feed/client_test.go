package feed_test

import (
	"bufio"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/models"
)

// patience is how long what must happen may take on a busy machine.
const patience = 10 * time.Second

// message is one event of a stream.
type message struct {
	gen.StreamMessage

	id string
	at time.Time
}

func (m message) position(t testing.TB) models.Position {
	t.Helper()
	p, err := models.ParsePosition(m.id)
	require.NoError(t, err)
	return p
}

// request is what a data plane asks a stream for.
type request struct {
	dataPlane string // its id
	previous  string
	resume    string
	maxStale  time.Duration
	// apply is called with each message, by the goroutine that reads; may be nil.
	apply func(message)
	// readBuffer is the kernel's, in bytes; zero is its own choice.
	readBuffer int
	// stall stops reading after a message for which it is true; may be nil.
	stall func(message) bool
}

// conn is the data plane's end of a stream.
type conn struct {
	t      testing.TB
	sent   time.Time // before the request
	cancel context.CancelFunc
	ended  chan struct{}

	mu       sync.Mutex
	err      error // why the stream ended; nil is as it should
	messages []message
	raw      strings.Builder
	lastID   string
}

// open opens a stream at an address. It returns the status when that is not 200.
func open(t testing.TB, base string, r request) (*conn, int) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	query := url.Values{"data_plane": {r.dataPlane}, "max_stale_ms": {strconv.FormatInt(r.maxStale.Milliseconds(), 10)}}
	if r.previous != "" {
		query.Set("previous_session_id", r.previous)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/v1/events?"+query.Encode(), nil)
	require.NoError(t, err)
	if r.resume != "" {
		req.Header.Set("Last-Event-ID", r.resume)
	}
	transport := &http.Transport{DisableKeepAlives: true, DisableCompression: true}
	transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		tcp, err := (&net.Dialer{}).DialContext(ctx, network, address)
		if c, ok := tcp.(*net.TCPConn); ok && r.readBuffer > 0 {
			err = c.SetReadBuffer(r.readBuffer)
		}
		return tcp, err
	}
	c := &conn{t: t, sent: time.Now(), cancel: cancel, ended: make(chan struct{}), lastID: r.resume}
	response, err := transport.RoundTrip(req)
	if err != nil {
		cancel()
		return nil, 0
	}
	if response.StatusCode != http.StatusOK {
		_ = response.Body.Close()
		cancel()
		return nil, response.StatusCode
	}
	go c.read(ctx, response, r)
	t.Cleanup(c.cut)
	return c, http.StatusOK
}

func (c *conn) read(ctx context.Context, response *http.Response, r request) {
	defer close(c.ended)
	defer func() { _ = response.Body.Close() }()
	lines := bufio.NewScanner(response.Body)
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.err = lines.Err()
	}()
	m := message{id: r.resume}
	for lines.Scan() {
		switch field, value, _ := strings.Cut(lines.Text(), ": "); field {
		case "id":
			m.id = value
		case "data":
			m.StreamMessage = gen.StreamMessage{}
			if err := json.Unmarshal([]byte(value), &m.StreamMessage); err != nil {
				if lines.Scan() { // else the stream was cut in the middle of it
					c.t.Errorf("not a message: %q", value)
				}
				return
			}
		case "":
			m.at = time.Now()
			if r.apply != nil {
				r.apply(m)
			}
			c.mu.Lock()
			c.messages = append(c.messages, m)
			c.lastID = m.id
			c.mu.Unlock()
			if r.stall != nil && r.stall(m) {
				<-ctx.Done()
				return
			}
		}
		c.mu.Lock()
		c.raw.WriteString(lines.Text())
		c.mu.Unlock()
	}
}

// cut cuts the connection from this end, and waits until nothing reads it any more.
func (c *conn) cut() {
	c.cancel()
	<-c.ended
}

// all returns the messages so far.
func (c *conn) all() []message { return c.from(0) }

// from returns all but the first messages.
func (c *conn) from(first int) []message {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.messages[first:])
}

// last is the position to resume from.
func (c *conn) last() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lastID
}

// await returns the first message of the stream for which is is true.
func (c *conn) await(what string, is func(message) bool) message {
	c.t.Helper()
	seen := 0
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		fresh := c.from(seen)
		for _, m := range fresh {
			if is(m) {
				return m
			}
		}
		seen += len(fresh)
	}
	require.FailNow(c.t, "no such message came", "%s; there are %d messages", what, seen)
	return message{}
}

func (c *conn) awaitEnd() {
	c.t.Helper()
	select {
	case <-c.ended:
	case <-time.After(patience):
		require.FailNow(c.t, "the stream goes on")
	}
}

// awaitWholeEnd waits until the stream ends as a response should.
func (c *conn) awaitWholeEnd() {
	c.t.Helper()
	c.awaitEnd()
	c.mu.Lock()
	defer c.mu.Unlock()
	require.NoError(c.t, c.err)
}

func (c *conn) hello() message { return c.await("hello", typed("hello")) }

func (c *conn) session() string { return *c.hello().SessionID }

// when turns a time on the replica's clock into ours, as a data plane does: never later than it was.
func (c *conn) when(clockMs int64) time.Time {
	return c.sent.Add(time.Duration(clockMs-*c.hello().ClockMs) * time.Millisecond)
}

func typed(kind string) func(message) bool { return func(m message) bool { return m.Type == kind } }

func about(key string) func(message) bool {
	return func(m message) bool { return m.KeyID != nil && *m.KeyID == key }
}

// after is true of heartbeats that come after a key's event.
func after(key string) func(message) bool {
	seen := false
	return func(m message) bool {
		seen = seen || about(key)(m)
		return seen && m.Type == "heartbeat"
	}
}
