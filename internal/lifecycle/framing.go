package lifecycle

import (
	"bytes"
	"strconv"
	"strings"
	"sync/atomic"
)

// framing parses the requests on an HTTP/1 connection to find an ambiguous one: two servers may disagree about where
// such a request ends (RFC 9112, section 11.2). A request is ambiguous if it has both Transfer-Encoding and
// Content-Length, Transfer-Encoding in HTTP/1.0, or a folded header. net/http accepts ambiguous requests, and handlers
// can't recognize them. Requests that net/http refuses do not matter, since they end the connection.
type framing struct {
	part part
	line []byte // the line that is being read, shortened to its ends
	left int64  // bytes of the body or the chunk to skip

	isOld, isChunked, hasLength bool // of the head
	length                      int64

	ambiguous atomic.Bool // set once a request is ambiguous
	stopped   atomic.Bool // set once the rest of the connection is not HTTP/1
}

// part is the part of a request that is being read.
type part int

const (
	requestLine part = iota
	fieldLine
	bodyBytes
	chunkLine
	chunkBytes
	trailerLine
)

// maxFramingLine bounds how many bytes are kept of each end of a line. The parts of request lines and headers that
// matter are at the ends.
const maxFramingLine = 256

func (f *framing) stop() { f.stopped.Store(true) }

// add takes the bytes that were read next.
func (f *framing) add(read []byte) {
	for len(read) > 0 && !f.stopped.Load() {
		if f.part == bodyBytes || f.part == chunkBytes {
			skipped := min(f.left, int64(len(read)))
			f.left -= skipped
			if read = read[skipped:]; f.left == 0 {
				f.endBytes()
			}
			continue
		}
		end := bytes.IndexByte(read, '\n')
		if end < 0 {
			f.keep(read)
			return
		}
		f.keep(read[:end])
		read = read[end+1:]
		f.endLine(strings.TrimSuffix(string(f.line), "\r"))
		f.line = f.line[:0]
	}
}

// keep appends text to the line. Of a long line, it keeps the first and the last maxFramingLine bytes.
func (f *framing) keep(text []byte) {
	f.line = append(f.line, text[:min(len(text), maxFramingLine)]...)
	if len(text) > maxFramingLine {
		f.line = append(f.line, text[max(maxFramingLine, len(text)-maxFramingLine):]...)
	}
	if over := len(f.line) - 2*maxFramingLine; over > 0 {
		f.line = append(f.line[:maxFramingLine], f.line[maxFramingLine+over:]...)
	}
}

func (f *framing) endLine(line string) {
	switch f.part {
	case requestLine:
		f.isOld, f.isChunked, f.hasLength, f.length = strings.HasSuffix(line, " HTTP/1.0"), false, false, 0
		f.part = fieldLine
	case fieldLine:
		if line == "" {
			f.endHead()
			return
		}
		f.addField(line)
	case chunkLine:
		size, _, _ := strings.Cut(line, ";")
		bytes, err := strconv.ParseInt(strings.TrimRight(size, " \t"), 16, 63)
		switch {
		case err != nil || bytes < 0:
			f.stop()
		case bytes == 0:
			f.part = trailerLine
		default:
			f.part, f.left = chunkBytes, bytes+int64(len("\r\n"))
		}
	case trailerLine:
		if line == "" {
			f.part = requestLine
		}
	case bodyBytes, chunkBytes: // not made of lines
	}
}

func (f *framing) addField(line string) {
	if line[0] == ' ' || line[0] == '\t' {
		f.ambiguous.Store(true)
	}
	name, value, _ := strings.Cut(line, ":")
	switch {
	case strings.EqualFold(name, "Transfer-Encoding"):
		f.isChunked = true
	case strings.EqualFold(name, "Content-Length"):
		var err error
		f.hasLength = true
		if f.length, err = strconv.ParseInt(strings.Trim(value, " \t"), 10, 64); err != nil {
			f.stop()
		}
	}
}

func (f *framing) endHead() {
	if f.isChunked && (f.hasLength || f.isOld) {
		f.ambiguous.Store(true)
	}
	switch {
	case f.isChunked:
		f.part = chunkLine
	case f.length > 0:
		f.part, f.left = bodyBytes, f.length
	default:
		f.part = requestLine
	}
}

func (f *framing) endBytes() {
	if f.part == chunkBytes {
		f.part = chunkLine
		return
	}
	f.part = requestLine
}
