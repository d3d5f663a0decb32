package gateway

import (
	"bufio"
	"crypto/x509"
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

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
	"github.com/agentrouter/aikeys/dataplane/gateway/gatewaytest"
)

func TestUnreachableProviders(t *testing.T) {
	for name, tc := range map[string]struct {
		base, code, cause string
		timeout           time.Duration
	}{
		"nobody listens": {closedPort(t), "provider_unreachable", "connection refused", time.Minute},
		"it is no HTTP":  {babbling(t), "provider_unreachable", "answer not understood", time.Minute},
		"it is silent": {provider(t, func(_ http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
		}), "provider_timeout", "timeout", 50 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			transport := NewTransport(TransportConfig{ResponseHeaderTimeout: tc.timeout})
			gw := start(t, dataplanetest.Serving(callersKey, dataplanetest.NewKey(t, "openai", dataplane.AuthBearer, tc.base, providersKey)),
				func(cfg *Config) { cfg.Transport = transport })
			res, body := do(t, request(t, "GET", gw.URL+"/openai/models", nil))
			require.Equal(t, tc.code, problemOf(t, res, body).Error.Code)
			require.Contains(t, gw.log.String(), tc.cause)
			require.Contains(t, gw.log.String(), dataplanetest.NewKeyID)
			requireUnmarked(t, body, gw.log.String())
		})
	}
}

func TestTheLogSaysThatTheProxyRefused(t *testing.T) {
	refusing := provider(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusProxyAuthRequired) })
	for proxy, cause := range map[string]string{refusing: "proxy refused: 407", closedPort(t): "proxy: connection refused"} {
		u, err := url.Parse(proxy)
		require.NoError(t, err)
		u.User = url.UserPassword("user", "PASSWORD")
		transport := NewTransport(TransportConfig{Proxy: http.ProxyURL(u)})
		gw := start(t, dataplanetest.Serving(callersKey, dataplanetest.NewKey(t, "openai", dataplane.AuthBearer, "https://provider.example/v1", providersKey)),
			func(cfg *Config) { cfg.Transport = transport })
		res, body := do(t, request(t, "GET", gw.URL+"/openai/models", nil))
		require.Equal(t, "provider_unreachable", problemOf(t, res, body).Error.Code)
		require.Contains(t, gw.log.String(), cause)
		requireUnmarked(t, body, gw.log.String())
		require.NotContains(t, gw.log.String(), "PASSWORD")
	}
}

func closedPort(t testing.TB) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = listener.Close() }()
	return "http://" + listener.Addr().String()
}

// babbling answers with what was sent to it, and so with the key.
func babbling(t testing.TB) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			if r, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
				fmt.Fprintf(conn, "%s\r\n\r\n", r.Header.Get("Authorization"))
			}
			_ = conn.Close()
		}
	}()
	return "http://" + listener.Addr().String()
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
	gw := start(t, dataplanetest.Serving(callersKey, dataplanetest.NewKey(t, "openai", dataplane.AuthBearer, "http://"+listener.Addr().String(), providersKey)))
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
	require.Equal(t, []int{200}, gw.Calls().Reports, "no answer is no word on the key")
}

func TestProviderOverHTTP2(t *testing.T) {
	upstream := gatewaytest.StartProvider(t, gatewaytest.Accepting(providersKey), gatewaytest.WithTLS())
	gw := start(t, dataplanetest.Serving(callersKey, dataplanetest.NewKey(t, "openai", dataplane.AuthBearer, upstream.URL+"/v1", providersKey)), func(cfg *Config) {
		cfg.Transport = NewTransport(TransportConfig{RootCAs: trusting(upstream.Certificate())})
	})
	res, body := do(t, request(t, "POST", gw.URL+"/openai/chat/completions", strings.NewReader(`{"model":"m","stream":true,"messages":[]}`)))
	require.Equal(t, 200, res.StatusCode, body)
	require.Equal(t, "HTTP/2.0", upstream.Requests()[0].Proto)
}

func trusting(certificate *x509.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(certificate)
	return pool
}
