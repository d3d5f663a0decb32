package main

import (
	"bufio"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/websocket"

	pub "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/models/modelstest"
)

// startStreaming starts a gateway with flags and the credential of a data plane. Its provider answers with streams of events, or
// with WebSockets that echo, until the gateway hangs up.
func (c *controlPlane) startStreaming(replica *process, dataPlane string, flags ...string) *process {
	c.t.Helper()
	provider := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			websocket.Server{Handler: func(ws *websocket.Conn) { _, _ = io.Copy(ws, ws) }}.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "data: word\n\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	c.t.Cleanup(provider.Close)
	credential := c.run("admin dataplane create --customer acme --name " + dataPlane)
	return startProcess(c.t, os.Args[0], gatewayEnviron(c.t, replica.address.Dataplane, credential),
		append(flags, "--upstream", "openai="+provider.URL+"/v1")...).awaitReady()
}

// openStream opens a stream of events. It has begun when openStream returns.
func (c *controlPlane) openStream(gateway *process) *bufio.Reader {
	c.t.Helper()
	request, err := http.NewRequestWithContext(c.t.Context(), http.MethodPost, gateway.address.Gateway+"/openai/chat", strings.NewReader("{}"))
	require.NoError(c.t, err)
	request.Header.Set("Authorization", "Bearer "+c.alice)
	response, err := http.DefaultClient.Do(request)
	require.NoError(c.t, err)
	c.t.Cleanup(func() { _ = response.Body.Close() })
	events := bufio.NewReader(response.Body)
	line, err := events.ReadString('\n')
	require.NoError(c.t, err)
	require.Equal(c.t, "data: word\n", line)
	return events
}

// openSocket opens a WebSocket, over which one message has gone there and back.
func (c *controlPlane) openSocket(gateway *process) *websocket.Conn {
	c.t.Helper()
	cfg, err := websocket.NewConfig(strings.Replace(gateway.address.Gateway, "http", "ws", 1)+"/openai/realtime", "http://localhost/")
	require.NoError(c.t, err)
	cfg.Header.Set("Authorization", "Bearer "+c.alice)
	socket, err := cfg.DialContext(c.t.Context())
	require.NoError(c.t, err)
	c.t.Cleanup(func() { _ = socket.Close() })
	var echo string
	require.NoError(c.t, websocket.Message.Send(socket, "word"))
	require.NoError(c.t, websocket.Message.Receive(socket, &echo))
	return socket
}

func TestReceiptShowsTheRequestsInFlight(t *testing.T) {
	t.Parallel()
	secret := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(secret, []byte("opensesame"), 0o600))
	for _, engine := range modelstest.Engines() {
		c := newControlPlane(t, engine.URL(t))
		replica := c.start()
		key := c.register(replica)
		edge := c.startStreaming(replica, "edge", "--stream-grace", "1h")
		c.startStreaming(replica, "idle")
		forProxies := c.startStreaming(replica, "for-proxies", "--forward-auth-listen", "127.0.0.1:0", "--forward-auth-secret-file", secret)
		c.openStream(edge)
		c.openStream(edge)
		socket := c.openSocket(edge)
		c.openStream(forProxies)
		receipt := c.revoke(replica, key, "30s")
		require.Equal(t, "complete", receipt.State)
		require.Equal(t, []int{3, 3}, []int{receipt.DataPlanes, receipt.Acknowledged})
		require.Equal(t, []*int{new(3), new(2)}, []*int{receipt.InFlight, receipt.InFlightFrom})
		require.Equal(t, []pub.Acknowledgement{
			{DataPlane: "edge", Acknowledged: 1, InFlight: new(3), InFlightFrom: new(1)},
			{DataPlane: "for-proxies", Acknowledged: 1},
			{DataPlane: "idle", Acknowledged: 1, InFlight: new(0), InFlightFrom: new(1)},
		}, receipt.Acknowledgements)
		require.NoError(t, socket.SetDeadline(time.Now().Add(30*time.Second)))
		_, err := io.Copy(io.Discard, socket)
		require.NoError(t, err, "the WebSocket is closed")
	}
}

// A gateway whose credential is revoked serves nobody, whatever grace it has, and its open streams end as those of a revoked key do.
func TestRevokedDataPlaneEndsItsStreams(t *testing.T) {
	t.Parallel()
	c := newControlPlane(t, modelstest.EngineSQLite.URL(t))
	replica := c.start()
	c.register(replica)
	revoked := c.startStreaming(replica, "revoked", "--max-stale", "5m", "--stream-grace", "100ms")
	untouched := c.startStreaming(replica, "untouched")
	events, socket := c.openStream(revoked), c.openSocket(revoked)
	others := c.openSocket(untouched)
	c.run("admin dataplane revoke --name revoked")
	require.NoError(t, socket.SetDeadline(time.Now().Add(30*time.Second)))
	_, err := io.Copy(io.Discard, socket)
	require.NoError(t, err, "the WebSocket is closed")
	_, err = io.Copy(io.Discard, events)
	require.Error(t, err, "the caller sees that the answer is not whole")
	require.Equal(t, http.StatusServiceUnavailable, send(http.MethodGet, revoked.address.Gateway+"/openai/models", c.alice, "").status)
	require.Contains(t, revoked.readyz().body, `"refused"`)
	var echo string
	require.NoError(t, websocket.Message.Send(others, "word"))
	require.NoError(t, websocket.Message.Receive(others, &echo))
}
