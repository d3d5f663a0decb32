package feed

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// perTeller is how many streams are worth another goroutine to tell them.
const perTeller = 256

// deliver tells streams, one message each, in the order of its calls, of which there is one at a time. A stream whose queue is
// full is ended: it must resume, and no other waits for it.
func (f *Feed) deliver(streams []*Stream, messageFor func(*Stream) message) {
	var next atomic.Int64
	tell := func() {
		w := newSocketWriter()
		for i := next.Add(1); i <= int64(len(streams)); i = next.Add(1) {
			s := streams[i-1]
			if m := messageFor(s); !m.empty() && !s.tell(m, w) {
				f.mu.Lock()
				f.end(s, endSlow)
				f.mu.Unlock()
			}
		}
	}
	var others sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(streams)/perTeller) - 1 {
		others.Go(tell)
	}
	tell()
	others.Wait()
}

// tell writes a message to the stream's socket if that takes it at once, or else leaves it to the stream's own goroutine. It is
// false when that is behind by more than the stream may be.
func (s *Stream) tell(m message, w *socketWriter) bool {
	s.writing.Lock()
	defer s.writing.Unlock()
	if s.idle {
		rest, err := w.write(s.socket, m.chunk, false)
		if err == nil && len(rest) == 0 {
			return true
		}
		s.idle, s.torn = false, len(rest) < len(m.chunk)
		m = message{chunk: rest} // what is wrong with the socket, the stream's own goroutine finds out
	}
	select {
	case s.queue <- m:
		return true
	default:
		return false
	}
}

// rest is for the stream's own goroutine when it has written all it had: others may write to the socket, unless there is more.
func (s *Stream) rest() {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.torn = false
	s.idle = s.socket != nil && len(s.queue) == 0
}

// retire keeps others from writing to the socket for good, and tells whether a message is written by half.
func (s *Stream) retire() (torn bool) {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.idle = false
	return s.torn
}
