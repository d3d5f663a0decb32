package feed

import (
	"errors"
	"syscall"
)

// socketWriter writes to sockets. It is for one goroutine.
type socketWriter struct {
	rest []byte
	wait bool
	err  error
	step func(fd uintptr) bool // made once, not for each write
}

func newSocketWriter() *socketWriter {
	w := &socketWriter{}
	w.step = w.attempt
	return w
}

// write writes text to a socket and returns what is left of it: of a socket that takes no more now, unless wait says to wait
// for that, until the socket's deadline.
func (w *socketWriter) write(socket syscall.RawConn, text []byte, wait bool) (rest []byte, err error) {
	w.rest, w.wait, w.err = text, wait, nil
	err = socket.Write(w.step)
	return w.rest, errors.Join(err, w.err)
}

// attempt tells whether it is over.
func (w *socketWriter) attempt(fd uintptr) bool {
	for len(w.rest) > 0 {
		n, err := syscall.Write(int(fd), w.rest)
		switch {
		case err == nil:
			w.rest = w.rest[n:]
		case errors.Is(err, syscall.EAGAIN):
			return !w.wait
		case !errors.Is(err, syscall.EINTR):
			w.err = err
			return true
		}
	}
	return true
}
