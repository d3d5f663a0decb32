package gateway

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
)

// BenchmarkAgainstBareProxy compares the gateway with a bare httputil.ReverseProxy before the same provider, with the
// same transport settings and a pool of buffers as well. Rounds of 64 connections alternate; then single requests do,
// for the median that the gateway adds.
//
//	go test -run - -bench AgainstBareProxy -benchtime 1x ./dataplane/gateway
func BenchmarkAgainstBareProxy(b *testing.B) {
	answer := []byte(strings.Repeat(`{"choices":[]}`, 64))
	upstream := provider(b, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(answer)
	})
	bare := provider(b, bareProxy(b, upstream+"/v1").ServeHTTP)
	ours, err := New(Config{
		Resolver: cached{key: dataplanetest.NewKey(b, "openai", dataplane.AuthBearer, upstream+"/v1", providersKey)},
		Log:      slog.New(slog.NewJSONHandler(io.Discard, nil)), //nolint:sloglint // lines cost what they cost
		Metrics:  prometheus.NewRegistry(),
	})
	require.NoError(b, err)
	b.Cleanup(ours.Close)
	proxied := provider(b, ours.ServeHTTP)
	const warmUp, round, rounds, singles = 200 * time.Millisecond, 150 * time.Millisecond, 30, 4000
	throughput(b, bare, warmUp)
	throughput(b, proxied, warmUp)
	for b.Loop() {
		var ratios, bareRates, ourRates []float64
		for range rounds {
			theirs, mine := throughput(b, bare, round), throughput(b, proxied, round)
			bareRates, ourRates, ratios = append(bareRates, theirs), append(ourRates, mine), append(ratios, mine/theirs)
		}
		var times [2][]float64
		conns := []*benchConn{dialBench(b, bare), dialBench(b, proxied)}
		for range singles {
			for i, conn := range conns {
				began := time.Now()
				require.NoError(b, conn.exchange())
				times[i] = append(times[i], float64(time.Since(began)))
			}
		}
		for _, conn := range conns {
			require.NoError(b, conn.Close())
		}
		added := time.Duration(median(times[1]) - median(times[0]))
		b.ReportMetric(median(ratios), "ratio")
		b.ReportMetric(median(bareRates), "bare-req/s")
		b.ReportMetric(median(ourRates), "gateway-req/s")
		b.ReportMetric(float64(added.Microseconds()), "added-µs")
	}
}

// cached is a resolver that returns the same key for every request and records nothing.
type cached struct {
	Resolver // nil: nothing else is called

	key *dataplane.Key
}

func (c cached) Resolve(context.Context, dataplane.Request) (*dataplane.Key, error) {
	return c.key, nil
}

func (cached) ReportAnswer(*dataplane.Key, int, []byte) {}

func (cached) Watch(*dataplane.Key, func(bool)) func() { return func() {} }

func bareProxy(b *testing.B, upstream string) http.Handler {
	target, err := url.Parse(upstream)
	require.NoError(b, err)
	transport := NewTransport(TransportConfig{})
	b.Cleanup(transport.CloseIdleConnections)
	return &httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.SetURL(target)
			pr.Out.URL.Path = strings.Replace(pr.Out.URL.Path, "/openai", "", 1)
		},
		Transport: transport, FlushInterval: -1, BufferPool: new(bufferPool),
	}
}

// throughput returns requests per second over 64 connections.
func throughput(b *testing.B, address string, d time.Duration) float64 {
	var (
		group sync.WaitGroup
		count atomic.Int64
		began = time.Now()
	)
	for range 64 {
		group.Go(func() {
			conn := dialBench(b, address)
			defer func() { _ = conn.Close() }()
			for time.Since(began) < d {
				if err := conn.exchange(); err != nil {
					b.Error(err)
					return
				}
				count.Add(1)
			}
		})
	}
	group.Wait()
	return float64(count.Load()) / time.Since(began).Seconds()
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

// benchConn sends one request over and over. It does less than Go's client, which would hide what the proxies cost.
type benchConn struct {
	net.Conn

	in      *bufio.Reader
	request []byte
}

func dialBench(b *testing.B, proxyURL string) *benchConn {
	conn, err := net.Dial("tcp", strings.TrimPrefix(proxyURL, "http://"))
	require.NoError(b, err)
	body := `{"model":"gpt-4o-mini","messages":[{"role":"user","content":"Say hello."}]}`
	return &benchConn{conn, bufio.NewReaderSize(conn, 16<<10), fmt.Appendf(nil,
		"POST /openai/chat/completions HTTP/1.1\r\nHost: gw\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\n"+
			"Accept: application/json\r\nUser-Agent: OpenAI/Python 2.0.0\r\nX-Stainless-Lang: python\r\nX-Stainless-Os: Linux\r\n"+
			"X-Stainless-Runtime: CPython\r\nX-Stainless-Retry-Count: 0\r\nContent-Length: %d\r\n\r\n%s", callersKey, len(body), body)}
}

func (c *benchConn) exchange() error {
	if _, err := c.Write(c.request); err != nil {
		return err
	}
	var status, length int
	for {
		line, err := c.in.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(line) == 2 {
			break
		}
		text := string(line)
		if status == 0 {
			_, _ = fmt.Sscanf(text, "HTTP/1.1 %d", &status)
		} else if strings.HasPrefix(text, "Content-Length: ") {
			_, _ = fmt.Sscanf(text, "Content-Length: %d", &length)
		}
	}
	if status != http.StatusOK {
		return fmt.Errorf("status %d", status)
	}
	_, err := c.in.Discard(length)
	return err
}

// BenchmarkStreamedResponses passes 100,000 streamed responses on, and measures how much larger the heap is after them than
// it was after the first tenth: a ratio of 1 is flat.
func BenchmarkStreamedResponses(b *testing.B) {
	const streams, clients = 100_000, 64
	upstream := provider(b, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "text/event-stream")
		for range 3 {
			_, _ = io.WriteString(w, "data: {\"choices\":[]}\n\n")
			flush(w)
		}
	})
	ours, err := New(Config{
		Resolver: cached{key: dataplanetest.NewKey(b, "openai", dataplane.AuthBearer, upstream+"/v1", providersKey)},
		Log:      slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(),
	})
	require.NoError(b, err)
	b.Cleanup(ours.Close)
	address := provider(b, ours.ServeHTTP)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients}}
	b.Cleanup(client.CloseIdleConnections)
	pass := func(n int) {
		var all sync.WaitGroup
		for range clients {
			all.Go(func() {
				for range n / clients {
					res, err := client.Do(request(b, http.MethodPost, address+"/openai/chat/completions", nil))
					if err != nil {
						b.Error(err)
						return
					}
					_, _ = io.Copy(io.Discard, res.Body)
					_ = res.Body.Close()
				}
			})
		}
		all.Wait()
	}
	for b.Loop() {
		pass(streams / 10)
		early := heap()
		pass(streams - streams/10)
		late := heap()
		b.ReportMetric(late/early, "heap-ratio")
		b.ReportMetric(late/(1<<20), "heap-MiB")
	}
}

// heap is what is in use after garbage was collected, in bytes.
func heap() float64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return float64(stats.HeapAlloc)
}
