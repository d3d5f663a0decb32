package feed

import (
	"encoding/json"
	"strconv"
	"time"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/models"
)

// message is what is written to streams at once: events, as one chunk of an HTTP/1.1 response (RFC 9112, section 7.1), made
// once for all who are told the same. It is not changed any more.
type message struct {
	chunk []byte
	head  int // where the events begin
}

const chunkLineEnd = "\r\n"

// newMessage puts frames together. Of none it is empty, for a chunk without data would end the response.
func newMessage(frames ...[]byte) message {
	size := 0
	for _, f := range frames {
		size += len(f)
	}
	if size == 0 {
		return message{}
	}
	const longestHead = 16 + len(chunkLineEnd)
	chunk := strconv.AppendInt(make([]byte, 0, longestHead+size+len(chunkLineEnd)), int64(size), 16)
	chunk = append(chunk, chunkLineEnd...)
	head := len(chunk)
	for _, f := range frames {
		chunk = append(chunk, f...)
	}
	return message{append(chunk, chunkLineEnd...), head}
}

func (m message) empty() bool { return len(m.chunk) == 0 }

// events are the message without what makes it a chunk.
func (m message) events() []byte { return m.chunk[m.head : len(m.chunk)-len(chunkLineEnd)] }

// frame is one server-sent event. JSON has no line ends of its own.
func frame(message gen.StreamMessage) []byte {
	data, err := json.Marshal(message)
	if err != nil {
		data = []byte(`{"type":"reset"}`) // can't happen: strings and numbers alone
	}
	text := append([]byte("event: "), message.Type...)
	return append(append(append(text, "\ndata: "...), data...), "\n\n"...)
}

func changeFrame(c models.Change) []byte {
	return frame(gen.StreamMessage{
		Type: string(c.Type), Tx: &c.Tx, CustomerID: &c.CustomerID, ProjectID: &c.ProjectID,
		Provider: optional(c.Provider), KeyID: optional(c.KeyID), UserID: optional(c.UserID), TokenID: optional(c.TokenID),
	})
}

func heartbeatFrame(position models.Position, at time.Duration, within int) []byte {
	text := append([]byte("id: "), position.String()...)
	text = append(text, "\nevent: heartbeat\ndata: {\"type\":\"heartbeat\",\"clock_ms\":"...)
	text = append(strconv.AppendInt(text, at.Milliseconds(), 10), ",\"acknowledge_within_ms\":"...)
	return append(strconv.AppendInt(text, int64(within), 10), "}\n\n"...)
}

func resetFrame() []byte { return frame(gen.StreamMessage{Type: "reset"}) }

func optional(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}
