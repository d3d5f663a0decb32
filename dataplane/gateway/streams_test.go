package gateway

import (
	"bufio"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/websocket"

	"github.com/agentrouter/aikeys/dataplane"
)

func TestOpenStreamsEnd(t *testing.T) {
	// answer is a stream of events, or a WebSocket that echoes, until the gateway hangs up.
	answer := func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			websocket.Server{Handler: func(ws *websocket.Conn) { _, _ = io.Copy(ws, ws) }}.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		for r.Context().Err() == nil {
			_, _ = io.WriteString(w, "data: word\n\n")
			flush(w)
			select {
			case <-r.Context().Done():
			case <-time.After(time.Millisecond):
			}
		}
	}
	open := func(t *testing.T, gw *testGateway) (ws *websocket.Conn, events *bufio.Reader) {
		t.Helper()
		cfg, err := websocket.NewConfig(strings.Replace(gw.URL, "http", "ws", 1)+"/openai/v1/realtime", "http://localhost/")
		require.NoError(t, err)
		cfg.Header.Set("Authorization", "Bearer "+callersKey)
		ws, err = cfg.DialContext(t.Context())
		require.NoError(t, err)
		t.Cleanup(func() { _ = ws.Close() })
		res, err := http.DefaultTransport.RoundTrip(request(t, "POST", gw.URL+"/openai/v1/chat", strings.NewReader("{}")))
		require.NoError(t, err)
		t.Cleanup(func() { _ = res.Body.Close() })
		events = bufio.NewReader(res.Body)
		line, err := events.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "data: word\n", line)
		return ws, events
	}
	echoes := func(ws *websocket.Conn) error {
		var got string
		if err := websocket.Message.Send(ws, "word"); err != nil {
			return err
		}
		return websocket.Message.Receive(ws, &got)
	}
	t.Run("when their key ends: WebSockets at once, events after the grace", func(t *testing.T) {
		gw := openAI(t, answer, func(cfg *Config) { cfg.StreamGrace = time.Hour })
		ws, events := open(t, gw)
		require.NoError(t, echoes(ws))
		gw.End(true)
		_, err := io.Copy(io.Discard, ws)
		require.NoError(t, err, "the WebSocket is closed")
		require.Error(t, echoes(ws))
		for range 3 {
			_, err = events.ReadString('\n')
			require.NoError(t, err)
		}

		const grace = 300 * time.Millisecond
		gw = openAI(t, answer, func(cfg *Config) { cfg.StreamGrace = grace })
		_, events = open(t, gw)
		began := time.Now()
		gw.End(true)
		_, err = io.Copy(io.Discard, events)
		require.Error(t, err, "the caller sees that the answer is not whole")
		require.GreaterOrEqual(t, time.Since(began), grace)
		require.Eventually(t, func() bool { return gw.Calls().Watches == 0 }, 10*time.Second, time.Millisecond)
	})
	t.Run("when the length of the answer was announced, too", func(t *testing.T) {
		gw := openAI(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "1000000")
			_, _ = io.WriteString(w, "data: word\n")
			flush(w)
			<-r.Context().Done()
		})
		res, err := http.DefaultTransport.RoundTrip(request(t, "GET", gw.URL+"/openai/v1/files/f/content", nil))
		require.NoError(t, err)
		gw.End(true)
		_, err = io.Copy(io.Discard, res.Body)
		require.Error(t, err)
		require.NoError(t, res.Body.Close())
	})
	t.Run("when it has not begun yet", func(t *testing.T) {
		arrived, revoked := make(chan struct{}), make(chan struct{})
		gw := openAI(t, func(w http.ResponseWriter, r *http.Request) {
			close(arrived)
			<-revoked
			answer(w, r)
		})
		go func() {
			<-arrived
			gw.End(true)
			close(revoked)
		}()
		res, err := http.DefaultTransport.RoundTrip(request(t, "POST", gw.URL+"/openai/v1/chat", strings.NewReader("{}")))
		if err == nil { // the answer may end before its head has been passed on
			_, err = io.Copy(io.Discard, res.Body)
			require.NoError(t, res.Body.Close())
		}
		require.Error(t, err)
	})
	t.Run("when events were missed and the key has ended", func(t *testing.T) {
		gw := openAI(t, answer)
		ws, events := open(t, gw)
		gw.End(false)
		require.NoError(t, echoes(ws), "it has not")
		_, err := events.ReadString('\n')
		require.NoError(t, err)
		gw.Refuse(dataplane.ErrUnavailable)
		gw.End(false)
		require.NoError(t, echoes(ws), "nobody has said so")
		gw.Refuse(dataplane.ErrCustomerNotServed)
		_, err = io.Copy(io.Discard, ws)
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, events)
		require.Error(t, err)
	})
	for what, err := range map[string]error{"is disabled": dataplane.ErrKeyDisabled, "has expired": dataplane.ErrKeyExpired} {
		t.Run("when events were missed and the key "+what, func(t *testing.T) {
			gw := openAI(t, answer)
			ws, events := open(t, gw)
			gw.Refuse(err)
			gw.End(false)
			_, err := io.Copy(io.Discard, ws)
			require.NoError(t, err)
			_, err = io.Copy(io.Discard, events)
			require.Error(t, err)
		})
	}
	t.Run("when the gateway itself is refused", func(t *testing.T) {
		gw := openAI(t, answer)
		ws, events := open(t, gw)
		gw.Refuse(dataplane.ErrDataPlaneUnauthenticated)
		gw.End(false)
		_, err := io.Copy(io.Discard, ws)
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, events)
		require.Error(t, err)
	})
	t.Run("when a WebSocket has lasted too long, and only then", func(t *testing.T) {
		gw := openAI(t, answer, func(cfg *Config) { cfg.UpgradeLife = 200 * time.Millisecond })
		ws, events := open(t, gw)
		_, err := io.Copy(io.Discard, ws)
		require.NoError(t, err)
		_, err = events.ReadString('\n')
		require.NoError(t, err)
	})
}
