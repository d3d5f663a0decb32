package feed

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/feed/feedtest"
	"github.com/agentrouter/aikeys/internal/position"
	"github.com/agentrouter/aikeys/models/modelstest"
)

func TestHello(t *testing.T) {
	onSQLite(t, func(t *testing.T, e *env) {
		r := e.replica(withLease(700 * time.Millisecond))
		m := r.connect()
		all := m.All()
		require.Equal(t, "hello", all[0].Type, "it comes first")
		require.Len(t, *all[0].SessionID, 26)
		require.Len(t, *all[0].ReplicaID, 26)
		require.Equal(t, 700, *all[0].LeaseMs)
		require.Equal(t, 1, *all[0].AcknowledgeWithinMs, "for one stream")
		require.Empty(t, all[0].ID)
		require.Equal(t, "heartbeat", all[1].Type)
		require.False(t, m.When(*all[1].ClockMs).After(all[1].At), "what was sent was read before")
		_, err := position.Parse(all[1].ID)
		require.NoError(t, err)
	})
}

// backlog makes a feed allow streams to have missed ten changes.
func backlog(f *Feed) { f.params.maxBacklog = 10 }

func TestResumeTooFarBackResets(t *testing.T) {
	onSQLite(t, func(t *testing.T, e *env) {
		require.Equal(t, 1_000, production.maxBacklog)
		r := e.replica(backlog)
		steady, first := r.connect(), r.connect()
		first.Leave()
		steady.Await("the last of them", isAbout(e.change(acme, 10)))
		require.Equal(t, []string{"hello", "key.registered", "key.registered"}, r.subscribe(first.resumed()).types()[:3], "ten can be missed")
		steady.Await("another", isAbout(e.change(acme, 1)))
		require.Equal(t, []string{"hello", "reset", "heartbeat"}, r.subscribe(first.resumed()).types()[:3])

		future, err := e.store.Position(t.Context())
		require.NoError(t, err)
		future.Xmin, future.Xmax, future.Open = future.Xmax+1000, future.Xmax+1000, nil
		require.Equal(t, []string{"hello", "reset", "heartbeat"}, r.subscribe(Subscription{DataPlane: e.dataPlane(), Resume: &future}).types()[:3])
	})
}

// Other customers' changes take time to read, but reset no one.
func TestOtherCustomersChangesResetNoResume(t *testing.T) {
	onSQLite(t, func(t *testing.T, e *env) {
		r := e.replica(backlog)
		steady, first := r.connect(), r.connect(acme)
		first.Leave()
		e.change("globex", 15) // the first page holds a part of this
		own := []string{e.change(acme, 1), e.change(acme, 1)}
		steady.Await("the last of them", isAbout(own[1]))
		var got []string
		for _, m := range r.subscribe(first.resumed()).All() {
			require.NotEqual(t, "reset", m.Type)
			if m.KeyID != nil {
				got = append(got, *m.KeyID)
			}
		}
		require.Equal(t, own, got, "each once, and nobody else's")
	})
}

func TestABacklogIsReadWithinPartOfALease(t *testing.T) {
	onSQLite(t, func(t *testing.T, e *env) {
		const lease = 10 * time.Second
		r := e.replica(backlog, withLease(lease), withStore(hookedStore{e.newStore(), func(ctx context.Context, method string) context.Context {
			if method == "Changes" {
				time.Sleep(lease/4 + time.Millisecond)
			}
			return ctx
		}}))
		steady, first := r.connect(), r.connect(acme)
		first.Leave()
		steady.Await("others", isAbout(e.change("globex", 10)))
		require.NotContains(t, r.subscribe(first.resumed()).types(), "reset", "one page is always read")
		steady.Await("others", isAbout(e.change("globex", 1)))
		require.Contains(t, r.subscribe(first.resumed()).types(), "reset")
	})
}

// A position that this replica has yet to read is not of another history: the lagging replica polls every 24 minutes, and is not
// woken.
func TestResumeAtLaggingReplica(t *testing.T) {
	onSQLite(t, func(t *testing.T, e *env) {
		ahead := e.replica()
		withFaults, isFaulty := e.faultyStore("Watch")
		isFaulty.Store(true)
		lagging := e.replica(withLease(time.Hour), withFaults)
		for range 5 {
			m := ahead.connect()
			m.AwaitRevocation(e.revoke().ID)
			resumed := lagging.subscribe(m.resumed())
			require.False(t, slices.Contains(resumed.types(), "reset"))
		}
	})
}

// Guarantee 5: a slow reader is dropped, delays no other, and misses nothing once it resumes.
func TestSlowReadersHurtNobody(t *testing.T) {
	onSQLite(t, func(t *testing.T, e *env) {
		r := e.replica()
		fine, slow := r.connect(), r.connect()
		slow.Stall()
		var keys []string
		began := time.Now()
		for range 100 { // more than a queue holds
			key := e.change(acme, 1)
			keys = append(keys, key)
			committed := time.Now()
			require.LessOrEqual(t, fine.Await("the change", isAbout(key)).At.Sub(committed), 10*time.Millisecond)
		}
		require.NoError(t, slow.AwaitEnd())
		require.Less(t, time.Since(began), 3*time.Second)
		e.eventually("it is dropped", func() bool { return r.openStreams() == 1 })
		again := r.subscribe(slow.resumed())
		require.False(t, slices.Contains(again.types(), "reset"))
		for _, key := range keys {
			require.True(t, slices.ContainsFunc(again.All(), isAbout(key)))
		}
	})
}

func TestPausedReaderGetsAllInOrder(t *testing.T) {
	onSQLite(t, func(t *testing.T, e *env) {
		r := e.replica()
		resume := make(chan struct{})
		m, err := r.tryConnect(Subscription{DataPlane: e.dataPlane()}, func(got feedtest.Message) {
			if got.Type == "key.registered" {
				<-resume
			}
		})
		require.NoError(t, err)
		var keys, told []string
		for range 30 {
			key := e.change(acme, 1)
			keys = append(keys, key)
			time.Sleep(10 * time.Millisecond)
		}
		close(resume)
		m.Await("the last change", isAbout(keys[29]))
		for _, got := range m.All() {
			if got.Type == "key.registered" {
				told = append(told, *got.KeyID)
			}
		}
		require.Equal(t, keys, told)
	})
}

// Messages from before the database was restored would extend a lease, and name a position that means something else now.
func TestLastMessageComesLast(t *testing.T) {
	onSQLite(t, func(t *testing.T, e *env) {
		r := e.replica()
		resume := make(chan struct{})
		m, err := r.tryConnect(Subscription{DataPlane: e.dataPlane()}, func(got feedtest.Message) {
			if got.Type == "key.registered" {
				<-resume
			}
		})
		require.NoError(t, err)
		e.change(acme, 1)
		time.Sleep(2 * time.Second) // heartbeats queue up
		e.execute("DELETE FROM events")
		e.eventually("the stream ends", func() bool { return r.openStreams() == 0 })
		close(resume)
		require.NoError(t, m.AwaitEnd())
		all := m.All()
		require.Equal(t, "reset", all[len(all)-2].Type)
		require.Zero(t, *all[len(all)-1].ClockMs)
	})
}

// A stream that ends in the middle of a message must neither seem to go on nor to end as a response should.
func TestSlowConnectionsAreClosed(t *testing.T) {
	t.Parallel()
	e := newEnv(t, modelstest.EngineSQLite.MigratedURL(t))
	r := e.replica()
	dataPlane := e.dataPlane()
	for name, protocol := range map[string]string{"HTTP/1.1": "http/1.1", "HTTP/2": "h2"} {
		t.Run(name, func(t *testing.T) {
			served := make(chan error, 1)
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				s, err := r.Subscribe(req.Context(), Subscription{DataPlane: dataPlane, Arrived: time.Now()})
				if err == nil {
					err = s.Serve(req.Context(), w)
				}
				served <- err
			}))
			server.EnableHTTP2 = protocol == "h2"
			server.Config.ConnState = func(c net.Conn, state http.ConnState) {
				if secure, ok := c.(*tls.Conn); ok && state == http.StateNew {
					if socket, ok := secure.NetConn().(*net.TCPConn); ok {
						_ = socket.SetWriteBuffer(16 << 10) // which fills up soon
					}
				}
			}
			server.StartTLS()
			defer server.Close()
			authorities := x509.NewCertPool()
			authorities.AddCert(server.Certificate())
			transport := &http.Transport{
				DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
					conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
					if socket, ok := conn.(*net.TCPConn); ok {
						_ = socket.SetReadBuffer(16 << 10) // which fills up soon, too
					}
					return conn, err
				},
				TLSClientConfig:   &tls.Config{RootCAs: authorities, NextProtos: []string{protocol}},
				ForceAttemptHTTP2: protocol == "h2", HTTP2: &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10},
			}
			defer transport.CloseIdleConnections()
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, http.NoBody)
			require.NoError(t, err)
			response, err := transport.RoundTrip(req)
			require.NoError(t, err)
			defer func() { _ = response.Body.Close() }()
			require.Equal(t, protocol == "h2", response.ProtoMajor == 2)
			body := bufio.NewReader(response.Body)
			_, err = body.ReadString('\n')
			require.NoError(t, err)
			for full := false; !full; { // nobody reads, so what the kernel and the client hold fills up
				select {
				case err := <-served:
					require.NoError(t, err)
					full = true
				case <-time.After(20 * time.Millisecond):
					e.change(acme, 300)
				}
			}
			text, err := io.ReadAll(body)
			if err == nil { // its queue was full while it was not writing
				require.True(t, strings.HasSuffix(string(text), "\n\n"))
			}
			require.NotErrorIs(t, err, context.Canceled)
		})
	}
}

func TestStreamEndsByAge(t *testing.T) {
	onSQLite(t, func(t *testing.T, e *env) {
		r := e.replica(func(f *Feed) { f.params.lease, f.params.maintenance = time.Hour, time.Hour })
		m := r.connect()
		time.Sleep(15 * time.Minute)
		require.False(t, m.Ended())
		time.Sleep(8 * time.Minute)
		require.True(t, m.Ended())
		require.NoError(t, m.AwaitEnd())
	})
}
