package dataplane

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
)

// maxMessage bounds a line of the stream, and a message.
const maxMessage = 64 << 10

// errGarbage is a stream or an answer that is not as the contract has it. Texts never repeat what came.
var errGarbage = errors.New("not as the contract has it")

// sseReader reads server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html).
type sseReader struct {
	lines *bufio.Reader
	id    string // of the last message that had one, as the standard wants
	data  []byte
}

func newSSEReader(r io.Reader) *sseReader {
	return &sseReader{lines: bufio.NewReaderSize(r, maxMessage)}
}

// next returns the next message. It blocks until one has come.
func (s *sseReader) next() (gen.StreamMessage, error) {
	s.data = s.data[:0]
	for {
		line, err := s.lines.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			return gen.StreamMessage{}, fmt.Errorf("stream: %w: a line is too long", errGarbage)
		}
		if err != nil {
			return gen.StreamMessage{}, fmt.Errorf("stream: %w", err)
		}
		line = bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r"))
		if len(line) == 0 {
			if len(s.data) > 0 {
				return s.message()
			}
			continue
		}
		if err := s.field(line); err != nil {
			return gen.StreamMessage{}, err
		}
	}
}

// field takes a line; comments and fields that are of no use here are passed over.
func (s *sseReader) field(line []byte) error {
	name, text, _ := bytes.Cut(line, []byte(":"))
	text = bytes.TrimPrefix(text, []byte(" "))
	switch string(name) {
	case "data":
		if len(s.data)+len(text) > maxMessage {
			return fmt.Errorf("stream: %w: a message is too long", errGarbage)
		}
		s.data = append(append(s.data, text...), '\n')
	case "id":
		if bytes.IndexByte(text, 0) < 0 {
			s.id = string(text)
		}
	}
	return nil
}

func (s *sseReader) message() (m gen.StreamMessage, err error) {
	if json.Unmarshal(s.data, &m) != nil || m.Type == "" {
		return m, fmt.Errorf("stream: %w: a message is no JSON document with a type", errGarbage)
	}
	return m, nil
}
