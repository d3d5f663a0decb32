// Package feedtest has the data plane's end of a stream, for tests of the feed and of the API that serves it.
package feedtest

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/models"
)

// Patience is how long an event that a test waits for may take on a busy machine.
const Patience = 20 * time.Second

// Message is one event of a stream.
type Message struct {
	gen.StreamMessage

	ID   string // of this event or, if it has none, of the last event with an id
	Data []byte
	At   time.Time
}

// Client is a data plane's end of a stream. Write takes the arriving bytes, so a Client can be the target of io.Copy.
// It is also the http.ResponseWriter of a stream that is served without a network.
type Client struct {
	t    testing.TB
	sent time.Time // before the request was sent
	// OnMessage is called with each message before it counts as received; may be nil. While it blocks, the data plane reads
	// nothing.
	OnMessage func(Message)

	rest     []byte    // the bytes of the next message so far
	deadline time.Time // of Write
	stalled  atomic.Bool
	header   http.Header

	mu       sync.Mutex
	changed  chan struct{} // closed and replaced with each message
	messages []Message

	ended chan struct{} // closed when the stream has ended
	err   error         // why the stream ended; set before ended is closed
	leave context.CancelFunc
}

// NewClient returns a Client whose request is about to be sent. leave cancels that request.
func NewClient(t testing.TB, leave context.CancelFunc) *Client {
	return &Client{t: t, sent: time.Now(), changed: make(chan struct{}), header: http.Header{}, ended: make(chan struct{}), leave: leave}
}

// Write implements io.Writer. If the client is stalled, Write fails at the write deadline, like a write to a connection
// that nobody reads.
func (c *Client) Write(p []byte) (int, error) {
	if deadline := c.deadline; c.stalled.Load() {
		time.Sleep(time.Until(deadline))
		return 0, os.ErrDeadlineExceeded
	}
	c.rest = append(c.rest, p...)
	for {
		text, rest, whole := bytes.Cut(c.rest, []byte("\n\n"))
		if !whole {
			return len(p), nil
		}
		c.rest = slices.Clone(rest)
		c.receive(string(text))
	}
}

func (c *Client) receive(text string) {
	m := Message{ID: c.Last(), At: time.Now()}
	var event string
	for line := range strings.Lines(text) {
		switch field, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": "); field {
		case "id":
			m.ID = value
		case "event":
			event = value
		case "data":
			m.Data = []byte(value)
		}
	}
	if err := json.Unmarshal(m.Data, &m.StreamMessage); err != nil || event != m.Type {
		c.t.Errorf("not a message: %q", text)
	}
	if c.OnMessage != nil {
		c.OnMessage(m)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.messages = append(c.messages, m)
	close(c.changed)
	c.changed = make(chan struct{})
}

// Stall makes the data plane stop reading.
func (c *Client) Stall() { c.stalled.Store(true) }

// Header implements http.ResponseWriter.
func (c *Client) Header() http.Header { return c.header }

// WriteHeader implements http.ResponseWriter.
func (c *Client) WriteHeader(int) {}

// FlushError does nothing: Write holds nothing back.
func (c *Client) FlushError() error { return nil }

// SetReadDeadline does nothing.
func (c *Client) SetReadDeadline(_ time.Time) error { return nil }

// SetWriteDeadline bounds how long Write waits for a client that is stalled.
func (c *Client) SetWriteDeadline(at time.Time) error {
	c.deadline = at
	return nil
}

// End says that the stream has ended; a nil err means that the response ended properly.
func (c *Client) End(err error) {
	c.err = err
	close(c.ended)
}

// Leave cancels the request and waits until the stream has ended.
func (c *Client) Leave() {
	c.leave()
	<-c.ended
}

// Ended reports whether the stream has ended.
func (c *Client) Ended() bool {
	select {
	case <-c.ended:
		return true
	default:
		return false
	}
}

// AwaitEnd waits for the end of the stream and returns why it ended.
func (c *Client) AwaitEnd() error {
	c.t.Helper()
	select {
	case <-c.ended:
	case <-time.After(Patience):
		require.FailNow(c.t, "the stream goes on")
	}
	return c.err
}

// All returns the messages that have arrived.
func (c *Client) All() []Message {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.messages)
}

// Last returns the position to resume from, empty before the first.
func (c *Client) Last() string {
	if all := c.All(); len(all) > 0 {
		return all[len(all)-1].ID
	}
	return ""
}

// Await waits for the first message that the function is accepts, and returns that message. The text what says in a
// failure which message was expected.
func (c *Client) Await(what string, is func(Message) bool) Message {
	c.t.Helper()
	timeout := time.After(Patience)
	for seen := 0; ; {
		c.mu.Lock()
		fresh, changed := c.messages[seen:], c.changed
		c.mu.Unlock()
		for _, m := range fresh {
			if is(m) {
				return m
			}
		}
		seen += len(fresh)
		select {
		case <-changed:
		case <-timeout:
			require.FailNow(c.t, "no such message came", "%s; there are %d messages", what, seen)
		}
	}
}

// AwaitType returns the first message of a type.
func (c *Client) AwaitType(kind string) Message {
	c.t.Helper()
	return c.Await(kind, func(m Message) bool { return m.Type == kind })
}

// AwaitRevocation waits until the data plane has received the revocation of a key, and returns the heartbeat that
// follows the revocation. The heartbeat has the position to acknowledge.
func (c *Client) AwaitRevocation(keyID string) Message {
	c.t.Helper()
	seen := false
	return c.Await("the revocation and a heartbeat", func(m Message) bool {
		seen = seen || m.Type == "key.revoked" && *m.KeyID == keyID
		return seen && m.Type == "heartbeat"
	})
}

// Session returns the stream's id.
func (c *Client) Session() string {
	c.t.Helper()
	return *c.AwaitType("hello").SessionID
}

// When converts a time on the replica's clock to a local time, as a data plane does. The result is never too late.
func (c *Client) When(clockMs int64) time.Time {
	return c.sent.Add(time.Duration(clockMs-*c.AwaitType("hello").ClockMs) * time.Millisecond)
}

// Run runs something until stop is called or the test ends.
func Run(t testing.TB, run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	t.Cleanup(stop)
	return stop
}

// StoreDataPlane stores a data plane.
func StoreDataPlane(t testing.TB, store *models.Store, d models.DataPlane) models.DataPlane {
	t.Helper()
	d.CreatedAt = time.Now().UnixMicro()
	require.NoError(t, store.Transact(context.Background(), func(tx *models.Tx) error { return tx.CreateDataPlane(d) }))
	return d
}
