package main

import (
	"context"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models/modelstest"
)

// front is a proxy before a control plane that answers requests itself while a test sets an answer.
type front struct {
	url   string
	proxy *httputil.ReverseProxy

	mu     sync.Mutex
	answer http.HandlerFunc // nil forwards requests to the control plane
	passed context.Context  //nolint:containedctx // canceled to end the forwarded requests
	end    context.CancelFunc
}

func newFront(t *testing.T, target string) *front {
	t.Helper()
	to, err := url.Parse(target)
	require.NoError(t, err)
	transport := &http.Transport{}
	f := &front{proxy: &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(to) },
		Transport: transport, FlushInterval: -1, ErrorLog: log.New(io.Discard, "", 0),
	}}
	f.passed, f.end = context.WithCancel(context.Background())
	server := httptest.NewUnstartedServer(f)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.Start()
	f.url = server.URL
	t.Cleanup(func() {
		f.set(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
		server.CloseClientConnections()
		server.Close()
		transport.CloseIdleConnections()
	})
	return f
}

// set changes what answers requests and aborts those in flight. Nil is the control plane.
func (f *front) set(answer http.HandlerFunc) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.end()
	f.answer = answer
	f.passed, f.end = context.WithCancel(context.Background())
}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	answer, passed := f.answer, f.passed
	f.mu.Unlock()
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	stop := context.AfterFunc(passed, cancel)
	defer stop()
	if answer != nil {
		answer(w, r.WithContext(ctx))
		return
	}
	f.proxy.ServeHTTP(w, r.WithContext(ctx))
}

// garbage answers each request with a different response that breaks the contract.
func garbage() http.HandlerFunc {
	const hello = "event: hello\ndata: {\"type\":\"hello\",\"session_id\":\"s\",\"clock_ms\":1,\"lease_ms\":3600000}\n\n"
	streams := []string{
		"<html>", "event: heartbeat\nid: 1:1:\ndata: {\"type\":\"heartbeat\",\"clock_ms\":99999999}\n\n",
		hello + "event: heartbeat\nid: nowhere\ndata: {\"type\":\"heartbeat\",\"clock_ms\":2}\n\n",
		hello + "event: heartbeat\ndata: {\"type\":\"heart\n\n", hello + hello, strings.Repeat("x", 1<<20), "data: {}\n\n", "",
	}
	answers := []string{"", "{", "null", "[]", `{"key_id":"x"}`, "<html>", strings.Repeat("{", 1<<20)}
	var mu sync.Mutex
	n := 0
	return func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		n++
		text, kind := answers[n%len(answers)], "application/json"
		if r.Method == http.MethodGet {
			text, kind = streams[n%len(streams)], "text/event-stream"
		}
		mu.Unlock()
		w.Header().Set("Content-Type", kind)
		_, _ = io.WriteString(w, text)
	}
}

// A control plane that answers 500 or garbage has the same effect as an unreachable one: gateways serve until their lease and
// grace end, and recover when it does.
func TestInvalidControlPlaneAnswers(t *testing.T) {
	t.Parallel()
	s := newScene(t, sqliteURL(t), 1)
	var fronts []*front
	var planes []*plane
	for _, maxStale := range []time.Duration{0, 4 * time.Second} {
		f := newFront(t, s.at(0).dataplane)
		fronts = append(fronts, f)
		planes = append(planes, s.plane(&link{url: f.url}, maxStale))
	}
	for _, fault := range []struct {
		name   string
		answer http.HandlerFunc
	}{
		{"500", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }},
		{"garbage", garbage()},
	} {
		t.Log(fault.name)
		second := s.add(false)
		for _, p := range planes {
			p.awaitKey(second)
			require.Eventually(t, func() bool { return p.resolver.Status().Leased }, patience, time.Millisecond)
		}
		s.requireFaultBound(planes, second, func() {
			for _, f := range fronts {
				f.set(fault.answer)
			}
		}, func() {
			for _, f := range fronts {
				f.set(nil)
			}
		})
	}
	s.requireHealthy(planes)
}

// requireFaultBound revokes a key during a fault of 2 s that cuts off the data planes, and checks that each stops serving the key
// when its lease and grace end. The second plane's grace is longer than the fault.
func (s *scene) requireFaultBound(planes []*plane, key string, begin, end func()) {
	s.t.Helper()
	began := time.Now()
	begin()
	var covered []time.Time
	for _, p := range planes {
		covered = append(covered, p.covered())
	}
	revoked := s.owner(s.at(len(s.addresses())-1)).revoke(s.t, key, "0s")
	time.Sleep(time.Until(began.Add(2 * time.Second))) // the fault
	end()
	ended := time.Now()
	time.Sleep(time.Until(ended.Add(back + 200*time.Millisecond)))
	for i, p := range planes {
		p.awaitKey(s.newest)
		p.requireNone(key, revoked.answered.Add(p.bound()+margin), revoked.answered)
		p.requireServed(began, time.Now(), window{covered[i], ended.Add(back)})
	}
	planes[0].requireRefused(covered[0].Add(margin), ended)
	planes[1].requireServed(began, time.Now())
}

// A process hangs with all its connections open and later continues as if no time had passed. Its delayed messages are too old
// to extend a lease.
func TestControlPlaneThatHangs(t *testing.T) {
	t.Parallel()
	s := newScene(t, modelstest.Postgres(t), 2)
	hanging := s.at(0)
	var planes []*plane
	for _, maxStale := range []time.Duration{0, 5 * time.Second} {
		planes = append(planes, s.plane(&link{url: hanging.dataplane}, maxStale))
	}
	second := s.add(false)
	for _, p := range planes {
		p.awaitKey(second)
	}
	t.Cleanup(func() { _ = hanging.cmd.Process.Signal(syscall.SIGCONT) })
	s.requireFaultBound(planes, second, func() {
		require.NoError(t, hanging.cmd.Process.Signal(syscall.SIGSTOP))
	}, func() {
		require.NoError(t, hanging.cmd.Process.Signal(syscall.SIGCONT))
	})
	s.requireHealthy(planes)
}
