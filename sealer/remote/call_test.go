package remote_test

import (
	"context"
	"encoding/base64"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/remote"
	"github.com/agentrouter/aikeys/sealer/sealertest"
)

func TestServiceDownAndBack(t *testing.T) {
	s := newFakeService(t)
	client := s.client(t)
	envelope := sealertest.MustSeal(t, client)
	gone := &fakeService{socket: s.socket + ".later", backend: s.backend}
	late := gone.client(t)
	for name, run := range operations(late, envelope.Bytes) {
		began := time.Now()
		require.ErrorIs(t, run(t.Context()), sealer.ErrUnavailable, name)
		require.Less(t, time.Since(began), time.Second, name)
	}
	gone.serve(t)
	for name, run := range operations(late, envelope.Bytes) {
		require.Eventually(t, func() bool { return run(t.Context()) == nil }, 5*time.Second, 10*time.Millisecond, name)
	}
}

// A restart closes all connections, also those that are kept alive.
func TestServiceRestart(t *testing.T) {
	s := &fakeService{socket: filepath.Join(t.TempDir(), "api.sock"), backend: sealertest.New(t)}
	client := s.client(t)
	for range 3 {
		server := s.serve(t)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				_, err := client.Seal(t.Context(), sealertest.Binding(), sealer.NewSecret([]byte(sealertest.Secret)))
				require.NoError(t, err)
			})
		}
		wg.Wait()
		require.NoError(t, server.Close())
	}
}

// The other side may close a connection in the very moment in which a request is sent on it.
func TestBrokenConnectionIsRetried(t *testing.T) {
	s := newFakeService(t)
	client := s.client(t)
	envelope := sealertest.MustSeal(t, client)
	for name, run := range operations(client, envelope.Bytes) {
		if name == "PrimaryKEK" {
			continue // its answer may be cached
		}
		require.NoError(t, run(t.Context())) // leaves a connection
		var broken atomic.Bool
		s.answer(func(http.ResponseWriter, *http.Request) bool {
			if broken.Swap(true) {
				return false
			}
			panic(http.ErrAbortHandler) // cuts the connection
		})
		require.NoError(t, run(t.Context()), name)
		require.True(t, broken.Load(), name)
		s.misbehave.Store(nil)
	}
}

func TestBrokenConnectionTwice(t *testing.T) {
	s := newFakeService(t)
	client := s.client(t)
	envelope := sealertest.MustSeal(t, client)
	s.answer(func(http.ResponseWriter, *http.Request) bool {
		panic(http.ErrAbortHandler) // cuts the connection
	})
	for name, run := range operations(client, envelope.Bytes) {
		s.requests.Store(0)
		require.ErrorIs(t, run(t.Context()), sealer.ErrUnavailable, name)
		require.LessOrEqual(t, s.requests.Load(), int64(3), name) // net/http itself repeats a GET once
	}
}

func TestBusyServiceIsRetried(t *testing.T) {
	t.Parallel()
	s := newFakeService(t)
	client := s.client(t)
	envelope := sealertest.MustSeal(t, client)
	for _, header := range []string{"", "0", "1", "soon"} {
		var asked atomic.Int64
		var first, second time.Time
		s.answer(func(w http.ResponseWriter, _ *http.Request) bool {
			if asked.Add(1) > 1 {
				second = time.Now()
				return false
			}
			first = time.Now()
			if header != "" {
				w.Header().Set("Retry-After", header)
			}
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		})
		_, err := client.Open(t.Context(), sealertest.Binding(), envelope.Bytes)
		require.NoError(t, err, header)
		require.EqualValues(t, 2, asked.Load())
		if header == "1" {
			require.GreaterOrEqual(t, second.Sub(first), time.Second, "its Retry-After is honoured")
		}
	}
}

func TestBusyServiceBeyondTheDeadline(t *testing.T) {
	s := newFakeService(t)
	client := s.client(t)
	envelope := sealertest.MustSeal(t, client)
	s.answer(func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	for name, run := range operations(client, envelope.Bytes) {
		ctx, cancel := context.WithTimeout(t.Context(), 900*time.Millisecond)
		s.requests.Store(0)
		require.ErrorIs(t, run(ctx), sealer.ErrUnavailable, name)
		require.NoError(t, ctx.Err(), "%s: it is told before the deadline", name)
		require.EqualValues(t, 1, s.requests.Load(), name)
		cancel()
	}
}

func TestBusyServiceTwice(t *testing.T) {
	t.Parallel()
	s := newFakeService(t)
	client := s.client(t)
	s.always(http.StatusServiceUnavailable, "")
	_, err := client.Seal(t.Context(), sealertest.Binding(), sealer.NewSecret([]byte(sealertest.Secret)))
	require.ErrorIs(t, err, sealer.ErrUnavailable)
	require.NotErrorIs(t, err, remote.ErrAnswer)
	require.EqualValues(t, 2, s.requests.Load(), "asked twice, and no more")
}

// hang makes the service take requests and answer none until the returned function is called.
func (s *fakeService) hang() (release func()) {
	held := make(chan struct{})
	s.answer(func(http.ResponseWriter, *http.Request) bool {
		<-held
		return false
	})
	return func() { close(held) }
}

func TestTimeout(t *testing.T) {
	t.Parallel()
	const patience = 100 * time.Millisecond
	s := newFakeService(t)
	client := s.client(t, func(cfg *remote.Config) { cfg.Timeout = patience })
	envelope := sealertest.MustSeal(t, client)
	release := s.hang()
	defer release()
	for name, run := range operations(client, envelope.Bytes) {
		began := time.Now()
		err := run(t.Context())
		require.ErrorIs(t, err, sealer.ErrUnavailable, name)
		require.NotErrorIs(t, err, context.DeadlineExceeded, "%s: the caller's time is not up", name)
		require.ErrorContains(t, err, patience.String())
		require.Less(t, time.Since(began), 10*patience, name)
	}
}

func TestContextEndsACall(t *testing.T) {
	t.Parallel()
	s := newFakeService(t)
	client := s.client(t, func(cfg *remote.Config) { cfg.Timeout = time.Minute })
	envelope := sealertest.MustSeal(t, client)
	release := s.hang()
	defer release()
	for name, run := range operations(client, envelope.Bytes) {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		err := run(ctx)
		cancel()
		require.ErrorIs(t, err, context.DeadlineExceeded, name)
		ctx, cancel = context.WithCancel(t.Context())
		time.AfterFunc(20*time.Millisecond, cancel)
		require.ErrorIs(t, run(ctx), context.Canceled, name)
	}
}

func TestNotAllowed(t *testing.T) {
	s := newFakeService(t)
	client := s.client(t)
	envelope := sealertest.MustSeal(t, client)
	s.always(http.StatusForbidden, `{"type":"/problems/client-not-allowed"}`)
	for name, run := range operations(client, envelope.Bytes) {
		err := run(t.Context())
		require.ErrorIs(t, err, sealer.ErrUnavailable, name)
		require.ErrorIs(t, err, remote.ErrNotAllowed, name)
		require.ErrorContains(t, err, "its operator lists the clients")
	}
}

// The type counts, whatever the texts say.
func TestProblemTypes(t *testing.T) {
	s := newFakeService(t)
	client := s.client(t)
	envelope := sealertest.MustSeal(t, client)
	for slug, want := range map[string]error{
		"does-not-open": sealer.ErrBinding, "unknown-kek": sealer.ErrUnknownKEK, "malformed-envelope": sealer.ErrMalformed,
	} {
		s.always(http.StatusUnprocessableEntity, `{"type":"/problems/`+slug+`","title":"unknown-kek does-not-open malformed-envelope"}`)
		_, err := client.Open(t.Context(), sealertest.Binding(), envelope.Bytes)
		require.ErrorIs(t, err, want)
		require.NotErrorIs(t, err, sealer.ErrUnavailable)
	}
}

func TestGarbledAnswers(t *testing.T) {
	encode := base64.StdEncoding.EncodeToString
	s := newFakeService(t)
	client := s.client(t)
	envelope := sealertest.MustSeal(t, client)
	endless := func(w http.ResponseWriter, _ *http.Request) bool {
		for range 4 << 10 {
			if _, err := w.Write(make([]byte, 1<<10)); err != nil {
				break
			}
		}
		return true
	}
	answers := map[string]func(w http.ResponseWriter, r *http.Request) bool{"an endless one": endless}
	for name, text := range map[string]string{
		"nothing": "", "no JSON": "<html>", "an empty object": "{}", "null": "null", "an array": "[]",
		"no base64":          `{"kek_id":"k","envelope":"!","secret":"!"}`,
		"a bare KEK":         `{"kek_id":"k","envelope":"","keks":[{"id":"k","state":"enabled"}],"primary":"k"}`,
		"another KEK's":      `{"kek_id":"k","envelope":"` + encode(envelope.Bytes) + `"}`,
		"an empty secret":    `{"secret":""}`,
		"too long a secret":  `{"secret":"` + encode(make([]byte, sealer.MaxSecretLen+1)) + `"}`,
		"two documents":      `{}{}`,
		"too few results":    `{"results":[]}`,
		"an empty result":    `{"results":[{}]}`,
		"an unknown problem": `{"results":[{"problem":"invalid-argument"}]}`,
		"another's envelope": `{"results":[{"kek_id":"k","envelope":"` + encode(envelope.Bytes) + `"}]}`,
	} {
		answers[name] = func(w http.ResponseWriter, _ *http.Request) bool {
			_, _ = w.Write([]byte(text))
			return true
		}
	}
	for _, status := range []int{http.StatusCreated, http.StatusFound, http.StatusBadRequest, http.StatusNotFound, http.StatusTeapot, http.StatusUnprocessableEntity} {
		answers[http.StatusText(status)] = func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Location", "http://127.0.0.1:1/")
			w.WriteHeader(status)
			return true
		}
	}
	for name, answer := range answers {
		s.answer(answer)
		for operation, run := range operations(client, envelope.Bytes) {
			err := run(t.Context())
			require.ErrorIs(t, err, sealer.ErrUnavailable, "%s: %s", operation, name)
			require.ErrorIs(t, err, remote.ErrAnswer, "%s: %s", operation, name)
		}
	}
}

// After a 101 there is no body: reading one would not end.
func TestSwitchingProtocols(t *testing.T) {
	s := newFakeService(t)
	client := s.client(t)
	envelope := sealertest.MustSeal(t, client)
	s.answer(func(w http.ResponseWriter, _ *http.Request) bool {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return false
		}
		t.Cleanup(func() { _ = conn.Close() })
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n")
		return true
	})
	for operation, run := range operations(client, envelope.Bytes) {
		require.ErrorIs(t, run(t.Context()), remote.ErrAnswer, operation)
	}
}

func TestTruncatedAnswer(t *testing.T) {
	s := newFakeService(t)
	client := s.client(t)
	envelope := sealertest.MustSeal(t, client)
	s.answer(func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Content-Length", "1000")
		_, _ = w.Write([]byte(strings.Repeat(" ", 100)))
		return true
	})
	_, err := client.Open(t.Context(), sealertest.Binding(), envelope.Bytes)
	require.ErrorIs(t, err, sealer.ErrUnavailable)
}

// If the service answers before it has read the request, the zeroed body must not be sent.
func TestEarlyAnswer(t *testing.T) {
	s := newFakeService(t)
	listener, err := net.Listen("unix", s.socket+".early")
	require.NoError(t, err)
	early := &fakeService{socket: s.socket + ".early"}
	done := make(chan error, 1)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				done <- err
				return
			}
			_, _ = conn.Read(make([]byte, 1))
			_, _ = conn.Write([]byte("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"))
			_ = conn.Close()
		}
	}()
	client := early.client(t)
	for range 15 {
		_, err := client.Seal(t.Context(), sealertest.Binding(), sealer.NewSecret(make([]byte, sealer.MaxSecretLen)))
		require.ErrorIs(t, err, sealer.ErrUnavailable)
	}
	require.NoError(t, listener.Close())
	require.ErrorIs(t, <-done, net.ErrClosed)
}
