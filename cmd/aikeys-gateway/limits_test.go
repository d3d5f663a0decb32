package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models/modelstest"
)

// countStreams opens streams until the gateway refuses one, ends them, and returns how many it served at once.
func (c *controlPlane) countStreams(gateway *process) (open int) {
	c.t.Helper()
	var streams []io.Closer
	defer func() {
		for _, stream := range streams {
			_ = stream.Close()
		}
	}()
	for {
		request, err := http.NewRequestWithContext(c.t.Context(), http.MethodPost, gateway.address.Gateway+"/openai/chat", strings.NewReader("{}"))
		require.NoError(c.t, err)
		request.Header.Set("Authorization", "Bearer "+c.alice)
		response, err := http.DefaultClient.Do(request) //nolint:bodyclose // with the other streams
		require.NoError(c.t, err)
		streams = append(streams, response.Body)
		if response.StatusCode != http.StatusOK {
			body, err := io.ReadAll(response.Body)
			require.NoError(c.t, err)
			require.Contains(c.t, string(body), "/problems/key-limited")
			return open
		}
		open++
		require.Less(c.t, open, 50)
	}
}

func TestGatewaysShareALimitAsTheyComeAndGo(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		t.Parallel()
		c := newControlPlane(t, e.URL(t))
		replica := c.start()
		key := c.register(replica)
		limit := func(limits string) { c.call(replica, http.MethodPatch, "/"+key, `{"limit":`+limits+`}`) }
		limit(`{"concurrent":10}`)
		gateways := []*process{c.startStreaming(replica, "one"), c.startStreaming(replica, "two"), c.startStreaming(replica, "three")}
		awaitShares := func(want int) {
			t.Helper()
			deadline := time.Now().Add(patience)
			for _, gateway := range gateways {
				for c.countStreams(gateway) != want {
					require.True(t, time.Now().Before(deadline), "its share is not %d", want)
				}
			}
		}
		awaitShares(3)
		gateways[2].end(syscall.SIGTERM)
		gateways = gateways[:2]
		awaitShares(5)
		limit(`{"concurrent":1}`)
		awaitShares(1)
		limit(`{"concurrent":null,"requests_per_day":6}`)
		awaitShares(0) // each has served more today
	})
}

func TestTheNextKeyServesWhileTheFirstIsLimited(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		t.Parallel()
		var limited atomic.Value // the credential of the first request
		provider := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			limited.CompareAndSwap(nil, r.Header.Get("Authorization"))
			if r.Header.Get("Authorization") == limited.Load() {
				w.Header().Set("Retry-After", "300")
				w.WriteHeader(http.StatusTooManyRequests)
			}
		}))
		t.Cleanup(provider.Close)
		c := newControlPlane(t, e.URL(t))
		replica := c.start()
		next, first := c.register(replica), c.register(replica)
		policy := send(http.MethodPut, replica.address.API+"/v1/customers/-/projects/-/policy", c.alice, `{"on_limited":"next_key"}`, "Content-Type", "application/json")
		require.Equal(t, http.StatusOK, policy.status, policy.body)
		credential := c.run("admin dataplane create --customer acme --name edge")
		gateway := startProcess(t, os.Args[0], gatewayEnviron(t, replica.address.Dataplane, credential), "--upstream", "openai="+provider.URL+"/v1").awaitReady()
		requireServed := func(status int, key, reason string) {
			t.Helper()
			got := send(http.MethodPost, gateway.address.Gateway+"/openai/chat/completions", c.alice, "{}", "Content-Type", "application/json")
			require.Equal(t, []any{status, key, reason}, []any{got.status, got.header.Get("Agentrouter-Key-Id"), got.header.Get("Agentrouter-Reason")}, got.body)
		}
		requireServed(http.StatusTooManyRequests, first, "project_key")
		requireServed(http.StatusOK, next, "next_key_limited")
		requireServed(http.StatusOK, next, "next_key_limited")
		gateway.awaitLog(`"key_id":"` + next + `","reason":"next_key_limited"`)
		require.Equal(t, "complete", c.revoke(replica, next, "10s").State)
		requireServed(http.StatusTooManyRequests, first, "project_key")
	})
}
