package feed

import (
	"net/http"
	"time"
)

// writeTimeout is how long a data plane may take, at the least, to read what is written to it; half as much again, at the most.
const writeTimeout = time.Second

// output is where a stream is written to, with the deadline of each write.
type output struct {
	w       http.ResponseWriter
	control *http.ResponseController
	// framed is HTTP/2, where a deadline that passes ends the stream though there be nothing to write: it is lifted after each
	// write. Elsewhere it stands, and need not be set for each.
	framed   bool
	deadline time.Time
}

func newOutput(w http.ResponseWriter) *output {
	return &output{w: w, control: http.NewResponseController(w), framed: isFramed(w)}
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

// write sends a message, and those that have queued up behind it.
func (o *output) write(message []byte, behind <-chan []byte) error {
	if err := o.begin(); err != nil {
		return err
	}
	for more := queueLength; ; more-- {
		if _, err := o.w.Write(message); err != nil {
			return err
		}
		if more == 0 {
			return o.flush()
		}
		select {
		case message = <-behind:
		default:
			return o.flush()
		}
	}
}

// begin sees to it that a write has its time.
func (o *output) begin() error {
	now := time.Now()
	if o.deadline.Sub(now) >= writeTimeout {
		return nil
	}
	o.deadline = now.Add(writeTimeout * 3 / 2)
	return o.control.SetWriteDeadline(o.deadline)
}

func (o *output) flush() error {
	if err := o.control.Flush(); err != nil || !o.framed {
		return err
	}
	o.deadline = time.Time{}
	return o.control.SetWriteDeadline(o.deadline)
}
