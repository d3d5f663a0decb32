package dataplane_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
)

// A session that came from who knows whom is sent once, and not for ever.
func TestAStreamThatCannotBeCarriedOnBeginsAnew(t *testing.T) {
	previous := make(chan string, 16)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		session := r.URL.Query().Get("previous_session_id")
		select {
		case previous <- session:
		default:
		}
		if session != "" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = fmt.Fprint(w, "data: {\"type\":\"hello\",\"session_id\":\"nonsense\",\"clock_ms\":1,\"lease_ms\":1000}\n\n")
	}))
	defer server.Close()
	r, err := dataplane.New(dataplane.Config{ControlPlane: server.URL, Token: func() string { return dataplanetest.Token }})
	require.NoError(t, err)
	dataplanetest.Run(t, r)
	for _, want := range []string{"", "nonsense", ""} {
		require.Equal(t, want, <-previous)
	}
}

// A revocation that was missed while the control plane was away makes the resolver ask, and it does as soon as the stream
// is back: that it could not be reached right before is no reason to refuse.
func TestAKeyIsAskedForAsSoonAsTheStreamIsBack(t *testing.T) {
	s := newScene(t, maxStale(time.Minute))
	older := s.register(dataplanetest.Key{})
	newest := s.register(dataplanetest.Key{})
	s.serves(forNobody, newest)
	s.SetFault(dataplanetest.Unavailable)
	s.Cut()
	eventually(t, "the end", func() bool { return !s.r.Status().Connected })
	s.clock.Advance(2 * time.Second)
	s.fetches(1, func() { s.serves(forNobody, newest) }) // it asks in vain, and will not again for a while
	s.fetches(0, func() { s.serves(forNobody, newest) })
	tx := s.RevokeKey(newest)
	s.SetFault(dataplanetest.Healthy)
	s.applied(tx)
	s.serves(forNobody, older)
}
