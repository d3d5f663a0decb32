package fakeprovider

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
)

// event is a server-sent event: a name, which some providers leave out, and data that is sent as JSON, or as it stands
// when it is a string.
type event struct {
	name string
	data any
}

// send writes events and flushes them together.
func send(w http.ResponseWriter, events ...event) error {
	var out bytes.Buffer
	for _, e := range events {
		if e.name != "" {
			fmt.Fprintf(&out, "event: %s\n", e.name)
		}
		if text, ok := e.data.(string); ok {
			fmt.Fprintf(&out, "data: %s\n\n", text)
			continue
		}
		data, err := json.Marshal(e.data)
		if err != nil {
			return err
		}
		fmt.Fprintf(&out, "data: %s\n\n", data)
	}
	if _, err := w.Write(out.Bytes()); err != nil {
		return err
	}
	return http.NewResponseController(w).Flush()
}
