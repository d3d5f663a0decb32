package lifecycle

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
)

func TestProgram(t *testing.T) {
	var mu sync.Mutex
	var notes []string // what the program does, in order
	note := func(text string) {
		mu.Lock()
		defer mu.Unlock()
		notes = append(notes, text)
	}
	// part takes some time to drain after stop, unless it is cut.
	part := func(name string, drain time.Duration) Part {
		return func(stop, cut context.Context) error {
			<-stop.Done()
			select {
			case <-time.After(drain):
				note(name + " ended")
				return nil
			case <-cut.Done():
				note(name + " cut")
				return context.Cause(cut)
			}
		}
	}
	program := func(stages ...[]Part) *Program {
		notes = nil
		return &Program{
			Stages: stages, Ops: part("ops", 0), DrainTimeout: 20 * time.Second, OnDrain: func() { note("draining") },
			Log: slog.New(slog.DiscardHandler), Closers: Closers{
				func() error { note("database closed"); return nil },
				func() error { note("traces closed"); return nil },
			},
		}
	}
	t.Run("stages stop in order", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Second, cancel)
			p := program(
				[]Part{part("slow", 8*time.Second), part("fast", 0)},
				[]Part{Task(func(ctx context.Context) error { <-ctx.Done(); note("feed ended"); return nil })},
			)
			var log bytes.Buffer
			p.Log = slog.New(slog.NewTextHandler(&log, nil))
			require.NoError(t, p.Run(ctx))
			require.Equal(t, []string{
				"draining", "fast ended", "slow ended", "feed ended", "ops ended", "traces closed", "database closed",
			}, notes)
			require.Contains(t, log.String(), `"stopping: requests in flight are answered first" timeout=20s`)
			require.Contains(t, log.String(), "msg=stopped")
		})
	})
	t.Run("the drain timeout is shared", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			began := time.Now()
			p := program([]Part{part("api", 15*time.Second)}, []Part{part("feed", time.Hour)},
				[]Part{part("last", time.Hour)})
			p.Ops = part("ops", time.Hour)
			err := p.Run(ctx)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.ErrorContains(t, err, "requests in flight were cut after 20s")
			require.Equal(t, []string{"draining", "api ended", "feed cut", "last cut", "ops cut", "traces closed", "database closed"}, notes)
			require.Equal(t, 22*time.Second, time.Since(began), "the parts after the time-out get one second each")
		})
	})
	t.Run("a failed part stops it", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			broken := errors.New("broken")
			p := program(
				[]Part{Task(func(context.Context) error { return nil }), part("api", time.Second)},
				[]Part{Task(func(context.Context) error { time.Sleep(time.Minute); return broken })},
			)
			p.Closers.Add(func() error { return errors.New("not closed") })
			err := p.Run(t.Context())
			require.ErrorIs(t, err, broken)
			require.ErrorContains(t, err, "not closed")
			require.NotContains(t, err.Error(), "cut")
			require.Equal(t, []string{"draining", "api ended", "ops ended", "traces closed", "database closed"}, notes)
		})
	})
}

func TestOpsHandler(t *testing.T) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: "lifecycle_test_total", Help: "A counter."}))
	ready := true
	ops := NewOpsHandler(registry, func(context.Context) (bool, any) {
		return ready, map[string]bool{"ready": ready}
	})
	get := func(path string) (status int, body string) {
		w := httptest.NewRecorder()
		ops.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, http.NoBody))
		return w.Code, w.Body.String()
	}
	status, body := get("/readyz")
	require.Equal(t, http.StatusOK, status)
	require.JSONEq(t, `{"ready":true}`, body)
	ready = false
	status, body = get("/readyz")
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.JSONEq(t, `{"ready":false}`, body)
	status, body = get("/healthz")
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, "ok\n", body)
	_, body = get("/metrics")
	require.Contains(t, body, "lifecycle_test_total 0")
}

func TestListen(t *testing.T) {
	listener, err := Listen(t.Context(), "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, listener.Close()) }()
	_, err = Listen(t.Context(), listener.Addr().String())
	require.ErrorIs(t, err, ErrAddressTaken)
	_, err = Listen(t.Context(), "192.0.2.1:1")
	require.Error(t, err)
	require.NotErrorIs(t, err, ErrAddressTaken)
}

func TestConnectionLimit(t *testing.T) {
	require.Equal(t, 341, connectionLimit(1024, 3, 1_000_000))
	require.Equal(t, 1, connectionLimit(2, 3, 1_000_000), "at least one")
	require.Equal(t, 1_000_000, connectionLimit(math.MaxUint64, 3, 1_000_000), "unlimited")
}

func TestServerURL(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	listener, err := new(net.ListenConfig).Listen(t.Context(), "unix", path)
	require.NoError(t, err)
	server := NewServer(ServerConfig{Listener: listener, HTTP: &http.Server{ReadHeaderTimeout: time.Second}, Log: slog.New(slog.DiscardHandler)})
	require.Equal(t, "unix:"+path, server.URL())
	stop, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, server.Run(stop, t.Context()))

	listener, err = Listen(t.Context(), "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, listener.Close())
	server = NewServer(ServerConfig{Listener: listener, HTTP: &http.Server{ReadHeaderTimeout: time.Second}, Log: slog.New(slog.DiscardHandler)})
	require.ErrorContains(t, server.Run(t.Context(), t.Context()), "serve http://127.0.0.1:")
}
