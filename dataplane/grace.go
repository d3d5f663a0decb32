package dataplane

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
)

// maxStaleParameter is how a stream's request declares Config.MaxStale, and how a refusal of it names it.
const maxStaleParameter = "max_stale_ms"

// maxSaid bounds what is repeated of a control plane's words.
const maxSaid = 200

// tooStale says that the control plane allows no such Config.MaxStale.
type tooStale struct {
	declared time.Duration
	says     string // the control plane's words, which name its limit
}

// Error says what to do about it.
func (e *tooStale) Error() string {
	return fmt.Sprintf("it refuses a max-stale of %v: %s %.*s; lower it here, or raise the control plane's --max-stale-limit",
		e.declared, maxStaleParameter, maxSaid, e.says)
}

// readTooStale returns the tooStale that an answer amounts to, or nil.
func readTooStale(response *http.Response, declared time.Duration) error {
	if response.StatusCode != http.StatusBadRequest {
		return nil
	}
	var problem gen.Problem
	if json.NewDecoder(io.LimitReader(response.Body, maxAnswer)).Decode(&problem) != nil {
		return nil //nolint:nilerr // what is no problem document names nothing
	}
	for _, field := range problem.Errors {
		if field.Field == maxStaleParameter {
			return &tooStale{declared, field.Message}
		}
	}
	return nil
}
