package feed

import (
	"net/http"
	"syscall"
	"time"
)

// writeTimeout is how long a data plane may take, at the least, to read what is written to it; half as much again, at the most.
const writeTimeout = time.Second

// output is where a stream's own goroutine writes, with the deadline of each write.
type output struct {
	w       http.ResponseWriter
	control *http.ResponseController
	// socket, unless it is nil, is written to past w once the response has begun.
	socket       syscall.RawConn
	socketWriter *socketWriter
	// lifts is whether the deadline is lifted after each write: on HTTP/2, where one that passes ends the stream though there be
	// nothing to write, and on a socket to which others write. Elsewhere it stands, and need not be set for each.
	lifts    bool
	deadline time.Time
}

func newOutput(w http.ResponseWriter, socket syscall.RawConn) *output {
	return &output{
		w: w, control: http.NewResponseController(w), socket: socket, socketWriter: newSocketWriter(),
		lifts: socket != nil || isFramed(w),
	}
}

// isFramed tells HTTP/2 from earlier versions: only its writers push.
func isFramed(w http.ResponseWriter) bool {
	for {
		if _, pushes := w.(http.Pusher); pushes {
			return true
		}
		wrapped, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return false
		}
		w = wrapped.Unwrap()
	}
}

// begin sends the first events, after the response's head.
func (o *output) begin(events []byte) error {
	if err := o.allow(); err != nil {
		return err
	}
	if _, err := o.w.Write(events); err != nil {
		return err
	}
	return o.flush()
}

// write sends a message, and those that have queued up behind it.
func (o *output) write(m message, behind <-chan message) error {
	if err := o.allow(); err != nil {
		return err
	}
	for more := queueLength; ; more-- {
		if err := o.put(m); err != nil {
			return err
		}
		if more == 0 {
			return o.flush()
		}
		select {
		case m = <-behind:
		default:
			return o.flush()
		}
	}
}

func (o *output) put(m message) error {
	if o.socket == nil {
		_, err := o.w.Write(m.events())
		return err
	}
	_, err := o.socketWriter.write(o.socket, m.chunk, true)
	return err
}

// flush sends what w holds back: to a socket's nothing, once the response has begun.
func (o *output) flush() error {
	if err := o.control.Flush(); err != nil || !o.lifts {
		return err
	}
	o.deadline = time.Time{}
	return o.control.SetWriteDeadline(o.deadline)
}

// end leaves the rest of the response its time; of one that is broken off it leaves none, and the connection is closed.
func (o *output) end(broken bool) {
	if broken {
		_ = o.control.SetWriteDeadline(time.Unix(1, 0))
		return
	}
	_ = o.allow()
}

// allow sees to it that a write has its time.
func (o *output) allow() error {
	now := time.Now()
	if o.deadline.Sub(now) >= writeTimeout {
		return nil
	}
	o.deadline = now.Add(writeTimeout * 3 / 2)
	return o.control.SetWriteDeadline(o.deadline)
}
