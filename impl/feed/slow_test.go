package feed_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// bothWays runs a test with streams that are written to past their http.ResponseWriters, and through them.
func bothWays(t *testing.T, test func(t *testing.T, w *world, o options)) {
	each(t, func(t *testing.T, w *world) {
		for name, o := range map[string]options{"plain": {}} {
			t.Run(name, func(t *testing.T) { test(t, w, o) })
		}
	})
}

func TestASlowReaderIsDroppedAndHurtsNobody(t *testing.T) {
	bothWays(t, func(t *testing.T, w *world, o options) {
		r := w.replica(o)
		fine := r.connect(request{})
		slow, status := open(t, r.base, request{dataPlane: w.dataPlane().ID, readBuffer: 2048,
			stall: typed("heartbeat")})
		require.Equal(t, 200, status)
		slow.await("a first heartbeat", typed("heartbeat"))
		require.EqualValues(t, 2, r.serving.Load())
		var missed []string
		var delays []time.Duration
		for range 45 {
			keys := w.flood(20, strings.Repeat("p", 64))
			committed := time.Now()
			delays = append(delays, fine.await("the change", about(keys[19])).at.Sub(committed))
			missed = append(missed, keys...)
		}
		slices.Sort(delays)
		require.Less(t, delays[len(delays)/2], 250*time.Millisecond, "who waited for the slow one would wait for a second")
		w.eventually("the slow one is dropped, and its goroutine ends", func() bool { return r.serving.Load() == 1 })
		slow.cut()
		told := map[string]bool{}
		again := r.connect(request{resume: slow.last(), previous: slow.session()})
		for _, m := range again.all() {
			require.NotEqual(t, "reset", m.Type)
			if m.KeyID != nil {
				told[*m.KeyID] = true
			}
		}
		for _, key := range missed {
			require.True(t, told[key])
		}
	})
}

// What the kernel does not take at once waits, and is written in its turn.
func TestAReaderThatPausesIsToldAllInOrder(t *testing.T) {
	bothWays(t, func(t *testing.T, w *world, o options) {
		r := w.replica(o)
		var pause sync.Once
		resume := make(chan struct{})
		paused := r.connect(request{readBuffer: 2048, apply: func(m message) {
			if m.Type == "key.registered" {
				pause.Do(func() { <-resume }) // for less than the time that it has to read
			}
		}})
		keys := slices.Concat(w.flood(60, strings.Repeat("p", 64)), w.flood(60, strings.Repeat("p", 64)))
		close(resume)
		paused.await("the last change", about(keys[len(keys)-1]))
		k := r.revoke()
		paused.await("what comes next", about(k.ID))
		var told []string
		for _, m := range paused.all() {
			if m.Type == "key.registered" && m.KeyID != nil && slices.Contains(keys, *m.KeyID) {
				told = append(told, *m.KeyID)
			}
		}
		require.Equal(t, keys, told)
		require.EqualValues(t, 1, r.serving.Load())
	})
}

// A stream that ends in the middle of a message must not seem to go on, or to end as it should.
func TestTheConnectionOfASlowReaderIsClosed(t *testing.T) {
	bothWays(t, func(t *testing.T, w *world, o options) {
		r := w.replica(o)
		address, err := net.ResolveTCPAddr("tcp", strings.TrimPrefix(r.base, "http://"))
		require.NoError(t, err)
		tcp, err := net.DialTCP("tcp", nil, address)
		require.NoError(t, err)
		defer func() { _ = tcp.Close() }()
		require.NoError(t, tcp.SetReadBuffer(2048))
		_, err = fmt.Fprintf(tcp, "GET /v1/events?data_plane=%s&max_stale_ms=0 HTTP/1.1\r\nHost: a\r\n\r\n", w.dataPlane().ID)
		require.NoError(t, err)
		w.eventually("the stream opens", func() bool { return r.serving.Load() == 1 })
		for range 30 {
			w.flood(20, strings.Repeat("p", 64))
			time.Sleep(5 * time.Millisecond) // or one read would find them all
		}
		w.eventually("the stream ends", func() bool { return r.serving.Load() == 0 })
		require.NoError(t, tcp.SetReadDeadline(time.Now().Add(patience)))
		response, err := http.ReadResponse(bufio.NewReader(tcp), nil)
		require.NoError(t, err)
		defer func() { _ = response.Body.Close() }()
		_, err = io.Copy(io.Discard, response.Body)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	})
}
