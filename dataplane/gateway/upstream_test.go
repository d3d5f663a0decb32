package gateway_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/websocket"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/gateway"
	"github.com/agentrouter/aikeys/dataplane/gateway/gatewaytest"
)

func TestWebSocketsPass(t *testing.T) {
	protocols := make(chan string, 1)
	echo := websocket.Server{Handler: func(ws *websocket.Conn) {
		protocols <- strings.Join(ws.Request().Header["Sec-Websocket-Protocol"], ",")
		_, _ = io.Copy(ws, ws)
	}}
	gw := openAI(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+secret || r.URL.Path != "/v1/realtime" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		echo.ServeHTTP(w, r)
	})
	cfg, err := websocket.NewConfig(strings.Replace(gw.URL, "http", "ws", 1)+"/openai/v1/realtime", "http://localhost/")
	require.NoError(t, err)
	cfg.Header.Set("Authorization", "Bearer "+callersKey)
	cfg.Protocol = []string{"realtime", "openai-insecure-api-key." + callersKey}
	ws, err := cfg.DialContext(t.Context())
	require.NoError(t, err)
	for _, text := range []string{"one", "two"} {
		require.NoError(t, websocket.Message.Send(ws, text))
		var got string
		require.NoError(t, websocket.Message.Receive(ws, &got))
		require.Equal(t, text, got)
	}
	require.Equal(t, "realtime", <-protocols)
	require.Equal(t, []int{http.StatusSwitchingProtocols}, gw.reported())
	require.NoError(t, ws.Close())
	require.Eventually(t, func() bool { return strings.Contains(gw.log.String(), `"status":101`) }, 5*time.Second, time.Millisecond)
}

// Any other upgrade would be a tunnel to the provider's whole host, with its key opened.
func TestOtherUpgradesDoNotPass(t *testing.T) {
	seen := make(chan http.Header, 1)
	gw := openAI(t, func(_ http.ResponseWriter, r *http.Request) { seen <- r.Header })
	r := request(t, "GET", gw.URL+"/openai/models", nil)
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", "h2c")
	res, _ := do(t, r)
	require.Equal(t, 200, res.StatusCode)
	require.NotContains(t, <-seen, "Upgrade")
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	var asked atomic.Int32
	gw := openAI(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		http.Redirect(w, r, "http://127.0.0.1:1/elsewhere", http.StatusTemporaryRedirect)
	})
	res, _ := do(t, request(t, "POST", gw.URL+"/openai/chat", strings.NewReader("{}")))
	require.Equal(t, http.StatusTemporaryRedirect, res.StatusCode)
	require.Equal(t, "http://127.0.0.1:1/elsewhere", res.Header.Get("Location"))
	require.EqualValues(t, 1, asked.Load())
}

func TestARefusedKeyIsReportedOnceAndTheAnswerPasses(t *testing.T) {
	for _, status := range []int{401, 403, 200, 429, 500} {
		var asked atomic.Int32
		gw := openAI(t, func(w http.ResponseWriter, _ *http.Request) {
			asked.Add(1)
			w.WriteHeader(status)
			_, _ = io.WriteString(w, "theirs")
		})
		res, body := do(t, request(t, "POST", gw.URL+"/openai/chat", strings.NewReader("{}")))
		require.Equal(t, status, res.StatusCode)
		require.Equal(t, "theirs", body)
		require.EqualValues(t, 1, asked.Load())
		require.Equal(t, []int{status}, gw.reported())
	}
}

// The transport must not send a body again when a connection that it kept turns out to be dead, not even one that a
// header calls idempotent.
func TestNothingIsSentTwice(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = listener.Close() }()
	var requests atomic.Int32
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = conn.Close() }()
				for in := bufio.NewReader(conn); ; {
					r, err := http.ReadRequest(in)
					if err != nil {
						return
					}
					if _, err := io.Copy(io.Discard, r.Body); err != nil {
						return
					}
					if requests.Add(1) > 1 { // the kept connection dies with the second request
						if tcp, ok := conn.(*net.TCPConn); ok {
							_ = tcp.SetLinger(0)
						}
						return
					}
					fmt.Fprint(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
				}
			}()
		}
	}()
	gw := start(t, serving(newKey(t, "openai", dataplane.AuthBearer, "http://"+listener.Addr().String(), secret)))
	post := func() (answer, string) {
		r := request(t, "POST", gw.URL+"/openai/chat", strings.NewReader("{}"))
		r.Header.Set("Idempotency-Key", "1")
		return do(t, r)
	}
	res, body := post()
	require.Equal(t, 200, res.StatusCode, body)
	res, body = post()
	require.Equal(t, "provider_unreachable", problemOf(t, res, body).Error.Code)
	require.EqualValues(t, 2, requests.Load())
	require.Equal(t, []int{200}, gw.reported(), "no answer is no word on the key")
}

func TestUpstreamsTakeThePlaceOfBaseURLs(t *testing.T) {
	standIn := gatewaytest.StartProvider(t, gatewaytest.Accepting(secret))
	key := newKey(t, "openai", dataplane.AuthBearer, "https://api.openai.invalid/v1", secret)
	gw := start(t, serving(key), func(cfg *gateway.Config) {
		cfg.Upstreams = map[string]*url.URL{"openai": mustURL(t, standIn.URL+"/v1")}
	})
	for _, base := range []string{"/openai", "/openai/v1"} {
		res, body := do(t, request(t, "POST", gw.URL+base+"/chat/completions", strings.NewReader(`{"model":"m","messages":[]}`)))
		require.Equal(t, 200, res.StatusCode, body)
	}
	for _, seen := range standIn.Requests() {
		require.Equal(t, "/v1/chat/completions", seen.Path)
	}
	standIn.RequireNeverSaw(t, callersKey)
	require.Eventually(t, func() bool { return gw.counted(t, "openai", "200") == 2 }, 5*time.Second, time.Millisecond,
		"a request is counted after its answer is sent")

	for _, unsafe := range []string{"http://api.example.com", "ftp://127.0.0.1", "https://u:p@api.example.com"} {
		_, err := gateway.New(gateway.Config{
			Resolver: serving(key), Upstreams: map[string]*url.URL{"openai": mustURL(t, unsafe)},
		})
		require.Error(t, err, unsafe)
		require.NotContains(t, err.Error(), "u:p")
	}
}

func TestProvidersOverHTTP2Serve(t *testing.T) {
	standIn := gatewaytest.StartProvider(t, gatewaytest.Accepting(secret), gatewaytest.WithTLS())
	gw := start(t, serving(newKey(t, "openai", dataplane.AuthBearer, standIn.URL+"/v1", secret)), func(cfg *gateway.Config) {
		cfg.Transport = gateway.NewTransport(gateway.TransportConfig{RootCAs: trusting(standIn.Certificate())})
	})
	res, body := do(t, request(t, "POST", gw.URL+"/openai/chat/completions", strings.NewReader(`{"model":"m","stream":true,"messages":[]}`)))
	require.Equal(t, 200, res.StatusCode, body)
	require.Equal(t, "HTTP/2.0", standIn.Requests()[0].Proto)
}
