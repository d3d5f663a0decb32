package feed

import (
	"context"
	"time"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
)

// Changed returns a channel that is closed when something may have been committed, by any replica.
func (f *Feed) Changed() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changed
}

// announceKeyTests tells the data planes that test keys which tests wait to be claimed, as long as they do.
func (f *Feed) announceKeyTests(ctx context.Context) error {
	waiting, err := f.store.WaitingKeyTests(ctx, time.Now().UnixMicro())
	if err != nil || len(waiting) == 0 {
		return err
	}
	frames := make([][]byte, len(waiting))
	for i, t := range waiting {
		frames[i] = frame(gen.StreamMessage{Type: "key_test", TestID: &t.ID})
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.streams {
		if s.state != statePersisted || !s.testsKeys {
			continue
		}
		var message []byte // one, so that many tests fill no queue
		for i, t := range waiting {
			if s.dataPlane.Serves(t.CustomerID) {
				message = append(message, frames[i]...)
			}
		}
		f.send(s, message)
	}
	return nil
}
