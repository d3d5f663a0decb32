package gateway_test

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/websocket"

	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
	"github.com/agentrouter/aikeys/dataplane/gateway"
)

// serve runs a server until stop, and ends its requests at cut; ended then has the result of Run.
func serve(t testing.TB, handler http.Handler) (address string, stop, cut func(), ended <-chan error) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	stopped, stop := context.WithCancel(context.Background())
	cutOff, cut := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() {
		result <- gateway.NewServer(listener, handler, nil, nil, slog.New(slog.DiscardHandler)).Run(stopped, cutOff)
	}()
	t.Cleanup(func() {
		stop()
		cut()
		http.DefaultClient.CloseIdleConnections()
	})
	return listener.Addr().String(), stop, cut, result
}

func TestServerDrains(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	address, stop, _, ended := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		flush(w)
		close(arrived)
		<-release
		_, _ = io.WriteString(w, "whole")
	}))
	body := make(chan string, 1)
	go func() {
		res, err := http.DefaultTransport.RoundTrip(httptest.NewRequest(http.MethodGet, "http://"+address, nil))
		if err != nil {
			body <- err.Error()
			return
		}
		defer func() { _ = res.Body.Close() }()
		text, _ := io.ReadAll(res.Body)
		body <- string(text)
	}()
	<-arrived
	stop()
	require.Eventually(t, func() bool {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			_ = conn.Close()
		}
		return err != nil
	}, 5*time.Second, time.Millisecond, "it takes nobody else")
	close(release)
	require.Equal(t, "whole", <-body)
	require.NoError(t, <-ended)
}

// Strangers can't hold a connection with a body that never comes: the refusal is sent, and the connection closed.
func TestUnreadBodyClosesTheConnection(t *testing.T) {
	handler, err := gateway.New(gateway.Config{Resolver: dataplanetest.Serving(callersKey, nil)})
	require.NoError(t, err)
	asked, err := gateway.NewForwardAuth(gateway.Config{Resolver: dataplanetest.Serving(callersKey, nil)})
	require.NoError(t, err)
	for _, handler := range []http.Handler{handler, asked} {
		address, _, _, _ := serve(t, handler)
		for _, head := range []string{"Content-Length: 1000", "Transfer-Encoding: chunked"} {
			conn, err := net.Dial("tcp", address)
			require.NoError(t, err)
			require.NoError(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
			_, err = io.WriteString(conn, "POST /openai/chat HTTP/1.1\r\nHost: x\r\n"+head+"\r\n\r\n")
			require.NoError(t, err)
			text, err := io.ReadAll(conn)
			require.NoError(t, err, "the connection is closed")
			require.Regexp(t, `^HTTP/1\.1 40[14] `, string(text))
			require.NoError(t, conn.Close())
		}
	}
}

// A connection whose body was read is kept, however long the answer took.
func TestReadBodyKeepsTheConnection(t *testing.T) {
	address, _, _, _ := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, _ := io.ReadAll(r.Body)
		_, _ = w.Write(text)
	}))
	conn, err := net.Dial("tcp", address)
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	require.NoError(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
	answers := bufio.NewReader(conn)
	for i := range 2 {
		if i > 0 {
			time.Sleep(2500 * time.Millisecond) // longer than an unread body gets
		}
		_, err = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nok")
		require.NoError(t, err)
		res, err := http.ReadResponse(answers, nil)
		require.NoError(t, err)
		text, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Equal(t, "ok", string(text))
	}
}

func TestServerCutsAfterTheDrain(t *testing.T) {
	arrived := make(chan struct{}, 2)
	mux := http.NewServeMux()
	mux.HandleFunc("/plain", func(_ http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		<-r.Context().Done()
	})
	mux.Handle("/upgraded", websocket.Server{Handler: func(ws *websocket.Conn) {
		arrived <- struct{}{}
		<-ws.Request().Context().Done()
	}})
	for _, path := range []string{"/plain", "/upgraded"} {
		address, stop, cut, ended := serve(t, mux)
		go func() {
			if path == "/upgraded" {
				if ws, err := websocket.Dial("ws://"+address+path, "", "http://localhost/"); err == nil {
					_, _ = io.Copy(io.Discard, ws)
					_ = ws.Close()
				}
				return
			}
			if res, err := http.DefaultTransport.RoundTrip(httptest.NewRequest(http.MethodGet, "http://"+address+path, nil)); err == nil {
				_ = res.Body.Close()
			}
		}()
		<-arrived
		stop()
		cut()
		require.ErrorIs(t, <-ended, context.Canceled)
	}
}

func TestMaxHeaderBytes(t *testing.T) {
	address, stop, _, ended := serve(t, http.NotFoundHandler())
	r := httptest.NewRequest(http.MethodGet, "http://"+address, nil)
	r.Header.Set("X-Long", strings.Repeat("x", 128<<10))
	res, err := http.DefaultTransport.RoundTrip(r)
	require.NoError(t, err)
	_ = res.Body.Close()
	require.Equal(t, http.StatusRequestHeaderFieldsTooLarge, res.StatusCode)
	stop()
	require.NoError(t, <-ended)
}
