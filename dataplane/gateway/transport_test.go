package gateway

import (
	"bufio"
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
	"github.com/agentrouter/aikeys/dataplane/gateway/gatewaytest"
)

func TestUnreachableProviders(t *testing.T) {
	for name, tc := range map[string]struct {
		base, code, cause string
		timeout           time.Duration
	}{
		"nobody listens": {"http://127.0.0.1:1", "provider_unreachable", "connection refused", time.Minute},
		"it is no HTTP, and sends the key back": {provider(t, func(w http.ResponseWriter, r *http.Request) {
			conn, _, _ := http.NewResponseController(w).Hijack()
			fmt.Fprintf(conn, "%s\r\n\r\n", r.Header.Get("Authorization"))
			_ = conn.Close()
		}), "provider_unreachable", "answer not understood", time.Minute},
		"it is silent": {provider(t, func(_ http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
		}), "provider_timeout", "timeout", 50 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			transport := NewTransport(TransportConfig{ResponseHeaderTimeout: tc.timeout})
			gw := start(t, dataplanetest.Serving(callersKey, newKey(t, "openai", tc.base)),
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
	for proxy, cause := range map[string]string{refusing: "proxy refused: 407", "http://127.0.0.1:1": "proxy: connection refused"} {
		u, err := url.Parse(proxy)
		require.NoError(t, err)
		u.User = url.UserPassword("user", "PASSWORD")
		transport := NewTransport(TransportConfig{Proxy: http.ProxyURL(u)})
		gw := start(t, dataplanetest.Serving(callersKey, newKey(t, "openai", "https://provider.example/v1")),
			func(cfg *Config) { cfg.Transport = transport })
		res, body := do(t, request(t, "GET", gw.URL+"/openai/models", nil))
		require.Equal(t, "provider_unreachable", problemOf(t, res, body).Error.Code)
		require.Contains(t, gw.log.String(), cause)
		requireUnmarked(t, body, gw.log.String())
		require.NotContains(t, gw.log.String(), "PASSWORD")
	}
}

// When a kept connection turns out to be dead, the transport must not send a body again, even if a header calls the
// request idempotent.
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
	gw := start(t, dataplanetest.Serving(callersKey, newKey(t, "openai", "http://"+listener.Addr().String())))
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
	gw := start(t, dataplanetest.Serving(callersKey, newKey(t, "openai", upstream.URL+"/v1")), func(cfg *Config) {
		trusted := x509.NewCertPool()
		trusted.AddCert(upstream.Certificate())
		cfg.Transport = NewTransport(TransportConfig{RootCAs: trusted})
	})
	res, body := do(t, request(t, "POST", gw.URL+"/openai/chat/completions", strings.NewReader(`{"model":"m","stream":true,"messages":[]}`)))
	require.Equal(t, 200, res.StatusCode, body)
	require.Equal(t, "HTTP/2.0", upstream.Requests()[0].Proto)
}

// allowing lets a gateway connect to custom providers in some networks.
func allowing(networks ...string) func(*Config) {
	cfg := TransportConfig{}
	for _, network := range networks {
		cfg.Allowed = append(cfg.Allowed, netip.MustParsePrefix(network))
	}
	return func(g *Config) { g.CustomTransport = NewGuardedTransport(cfg) }
}

// custom starts a gateway before a custom provider at a base URL.
func custom(t testing.TB, style dataplane.AuthStyle, base string, change ...func(*Config)) *testGateway {
	t.Helper()
	key := *dataplanetest.NewKey(t, "openai", style, base, providersKey)
	key.Provider, key.Dialect = "x-llm", "openai"
	return start(t, dataplanetest.Serving(callersKey, &key), change...)
}

func TestVLLMAndOllamaAreServed(t *testing.T) {
	for _, style := range []dataplane.AuthStyle{dataplane.AuthBearer, dataplane.AuthNone} { // as vLLM with --api-key, and as Ollama
		server := provider(t, func(w http.ResponseWriter, r *http.Request) {
			want := map[dataplane.AuthStyle]string{dataplane.AuthBearer: "Bearer " + providersKey}[style]
			if r.Header.Get("Authorization") != want || strings.Contains(fmt.Sprint(r.Header), callersKey) {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			switch r.URL.Path {
			case "/v1/models":
				_, _ = io.WriteString(w, `{"object":"list","data":[{"id":"llama3","object":"model"},{"id":"none","object":"model"}]}`)
			case "/v1/chat/completions":
				w.Header().Set("Content-Type", "text/event-stream")
				for _, word := range []string{"none ", "of it"} {
					_, _ = fmt.Fprintf(w, "data: {\"choices\":[{\"delta\":{\"content\":%q}}]}\n\n", word)
					_ = http.NewResponseController(w).Flush()
				}
				_, _ = io.WriteString(w, "data: [DONE]\n\n")
			}
		})
		gw := custom(t, style, server+"/v1", allowing("127.0.0.0/8"))
		res, body := do(t, request(t, "GET", gw.URL+"/x-llm/models", nil))
		require.Equal(t, 200, res.StatusCode, body)
		require.Contains(t, body, `"id":"none"`)
		res, body = do(t, request(t, "POST", gw.URL+"/x-llm/v1/chat/completions", strings.NewReader(`{"model":"llama3","stream":true}`)))
		require.Equal(t, 200, res.StatusCode)
		require.Contains(t, body, `"content":"none "`, "the word that stands for no key is not masked")
		require.Contains(t, body, "[DONE]")
	}
}

func TestOwnServersAreReachedOnlyWhereAllowed(t *testing.T) {
	var reached atomic.Int32
	server := provider(t, func(http.ResponseWriter, *http.Request) { reached.Add(1) })
	port := mustURL(t, server).Port()
	for base, networks := range map[string][]string{
		server:                              nil,
		"http://localhost:" + port:          nil,
		"http://[::ffff:127.0.0.1]:" + port: {"10.0.0.0/8"},
		"https://10.1.2.3":                  nil,
		"https://100.64.0.1":                nil,
		"https://[fd12::7]":                 nil,
		"https://[64:ff9b::7f00:1]":         {"64:ff9b::/96"},
		"https://[2002:7f00:1::]":           nil,
		"http://93.184.215.14":              nil, // in clear text
		"http://169.254.169.254":            {"0.0.0.0/0", "::/0"},
		"http://[::ffff:a9fe:a9fe]":         {"0.0.0.0/0", "::/0"},
		"http://[fd00:ec2::254]":            {"0.0.0.0/0", "::/0"},
		"http://[64:ff9b::a9fe:a9fe]":       {"0.0.0.0/0", "::/0"},
		"http://[fe80::1]":                  {"0.0.0.0/0", "::/0"},
		"http://[fd00:c1::a9fe:a9fe]":       {"0.0.0.0/0", "::/0"},
		"http://[fd00:42::42]":              {"0.0.0.0/0", "::/0"},
		"http://[64:ff9b:1:a9fe:a9:fe00::]": {"0.0.0.0/0", "::/0"},
		"http://[::a9fe:a9fe]":              {"0.0.0.0/0", "::/0"},
		"http://[::ffff:0:a9fe:a9fe]":       {"0.0.0.0/0", "::/0"},
		"http://[2002:a9fe:a9fe::1]":        {"0.0.0.0/0", "::/0"},
		"http://0.0.0.0:" + port:            {"0.0.0.0/0", "::/0"},
		"http://100.100.100.200":            {"100.64.0.0/10"},
	} {
		gw := custom(t, dataplane.AuthBearer, base, allowing(networks...))
		res, body := do(t, request(t, "GET", gw.URL+"/x-llm/models", nil))
		require.Equal(t, "address_not_allowed", problemOf(t, res, body).Error.Code, base)
		require.Equal(t, 403, res.StatusCode, base)
	}
	require.Zero(t, reached.Load())
	gw := custom(t, dataplane.AuthBearer, "http://[::ffff:127.0.0.1]:"+port, allowing("127.0.0.1/32"))
	res, body := do(t, request(t, "GET", gw.URL+"/x-llm/models", nil))
	require.Equal(t, 200, res.StatusCode, body)
}

func TestANameThatLeadsElsewhereLaterIsRefused(t *testing.T) {
	var reached atomic.Int32
	server := provider(t, func(http.ResponseWriter, *http.Request) { reached.Add(1) })
	var answers atomic.Pointer[netip.Addr] // the name server answers this address for every name
	names, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = names.Close() }()
	go func() {
		for query := make([]byte, 512); ; {
			n, from, err := names.ReadFrom(query)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			assert.NoError(t, m.Unpack(query[:n]))
			m.Response, m.Additionals = true, nil
			if q := m.Questions[0]; q.Type == dnsmessage.TypeA {
				m.Answers = []dnsmessage.Resource{{
					Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class},
					Body:   &dnsmessage.AResource{A: answers.Load().As4()},
				}}
			}
			answer, err := m.Pack()
			assert.NoError(t, err)
			_, _ = names.WriteTo(answer, from)
		}
	}()
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", names.LocalAddr().String())
	}}
	transport := NewGuardedTransport(TransportConfig{Resolver: resolver, Allowed: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}})
	gw := custom(t, dataplane.AuthBearer, "http://llm.example:"+mustURL(t, server).Port(), func(cfg *Config) { cfg.CustomTransport = transport })
	for address, want := range map[string]int{"127.0.0.1": 200, "127.0.0.2": 403, "10.0.0.1": 403, "169.254.169.254": 403} {
		answers.Store(new(netip.MustParseAddr(address)))
		(&http.Client{Transport: transport}).CloseIdleConnections()
		res, body := do(t, request(t, "GET", gw.URL+"/x-llm/models", nil))
		require.Equal(t, want, res.StatusCode, address+body)
	}
	require.EqualValues(t, 1, reached.Load())
}

// Many clients follow a redirect with the caller's credential: Anthropic's SDK for Python sends x-api-key to the other host.
func TestOwnServersRedirectNobodyElsewhere(t *testing.T) {
	location := make(chan string, 1)
	server := provider(t, func(w http.ResponseWriter, _ *http.Request) {
		for _, name := range []string{"Location", "Content-Location", "Operation-Location"} {
			w.Header().Set(name, <-location)
		}
		w.Header().Set("Agentrouter-Error", "{}")
		w.WriteHeader(http.StatusTemporaryRedirect)
	})
	gw := custom(t, dataplane.AuthBearer, server+"/v1", allowing("127.0.0.0/8"))
	for target, want := range map[string]string{
		"http://169.254.169.254/latest/meta-data/":                          "",
		"https://evil.example/v1/messages":                                  "",
		"//evil.example/":                                                   "",
		"https://user@evil.example/":                                        "",
		strings.Replace(server, "127.0.0.1", "localhost", 1) + "/v1/models": "",
		"/admin":                  "",
		"/v1/models?a=b":          gw.URL + "/x-llm/models?a=b",
		server + "/v1/models":     gw.URL + "/x-llm/models",
		"/v1/../../etc":           "",
		server + "@evil.example/": "",
	} {
		go func() {
			for range 3 {
				location <- target
			}
		}()
		res, err := http.DefaultTransport.RoundTrip(request(t, "GET", gw.URL+"/x-llm/models", nil))
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Equal(t, http.StatusTemporaryRedirect, res.StatusCode, "it is not followed here")
		for _, name := range []string{"Location", "Content-Location", "Operation-Location"} {
			require.Equal(t, want, res.Header.Get(name), "%s: %s", name, target)
		}
		require.Empty(t, res.Header.Get("Agentrouter-Error"))
	}
}

func TestOtherProxiesGetNoKeyOfACustomProvider(t *testing.T) {
	key := *newKey(t, "openai", "https://llm.example/v1")
	key.Provider = "x-llm"
	gw := startHandler(t, dataplanetest.Serving(callersKey, &key), NewForwardAuth)
	r := request(t, "GET", gw.URL+"/auth/x-llm", nil)
	r.Header.Set("X-Forwarded-Uri", "/x-llm/models")
	res, body := do(t, r)
	require.Equal(t, "custom_provider_not_served", problemOf(t, res, body).Error.Code)
	require.NotContains(t, fmt.Sprint(res.Header)+body, providersKey)
}
