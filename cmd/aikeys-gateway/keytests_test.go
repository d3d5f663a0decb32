package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	pub "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/models/modelstest"
)

// standIn is a provider that accepts the keys that begin with sk-good, or any.
type standIn struct {
	*httptest.Server
	acceptsAny      bool
	tested, madeUp  atomic.Int32  // requests with keys of the test's, and with others
	arrived, answer chan struct{} // of requests with the key sk-good-slow
}

func startStandIn(t *testing.T, acceptsAny bool) *standIn {
	t.Helper()
	s := &standIn{acceptsAny: acceptsAny, arrived: make(chan struct{}, 1), answer: make(chan struct{})}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ") + r.Header.Get("X-Api-Key")
		isOurs := strings.Contains(key, "-EXAMPLE")
		if isOurs {
			s.tested.Add(1)
		} else {
			s.madeUp.Add(1)
		}
		if strings.HasPrefix(key, "sk-good-slow") {
			s.arrived <- struct{}{}
			<-s.answer
		}
		if r.URL.Path != "/v1/models" || !s.acceptsAny && !strings.HasPrefix(key, "sk-good") {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

// asked is the answer to a request about a key: the status, and the verdict with its reason.
func (c *controlPlane) asked(replica *process, method, path, body string) string {
	c.t.Helper()
	got := send(method, replica.address.API+"/v1/aikeys"+path, c.alice, body, "Content-Type", "application/json")
	var answer struct {
		Key     pub.Key
		Version pub.KeyVersion
	}
	require.NoError(c.t, json.Unmarshal([]byte(got.body), &answer), got.body)
	text := fmt.Sprint(got.status)
	for _, v := range []*pub.Verification{answer.Version.Verification, answer.Key.Verification} {
		if v != nil {
			text += " " + v.Verdict
			if v.Reason != nil {
				text += " " + *v.Reason
			}
			return text
		}
	}
	return text
}

// registerTested registers a key, has its secret tested, and returns the answer.
func (c *controlPlane) registerTested(replica *process, provider, secret string) string {
	c.t.Helper()
	return c.asked(replica, http.MethodPost, "", fmt.Sprintf(`{"provider":%q,"name":"key %d","secret":"%s-EXAMPLE-EXAMPLE","verify":true}`, provider, time.Now().UnixNano(), secret))
}

// store registers a key whose secret is not tested, and returns its id.
func (c *controlPlane) store(replica *process, provider, secret string) string {
	c.t.Helper()
	return c.call(replica, http.MethodPost, "", fmt.Sprintf(`{"provider":%q,"name":"key %d","secret":"%s-EXAMPLE-EXAMPLE"}`, provider, time.Now().UnixNano(), secret)).Key.ID
}

// startTester starts a gateway, which may test keys of a customer.
func (c *controlPlane) startTester(replica *process, customer string, args ...string) *process {
	c.t.Helper()
	edge := c.run(fmt.Sprintf("admin dataplane create --customer %s --name edge-%d", customer, time.Now().UnixNano()))
	return startProcess(c.t, os.Args[0], gatewayEnviron(c.t, replica.address.Dataplane, edge), args...).awaitReady()
}

// The request waits at one replica, where there are two, and the data planes are connected to the other.
func TestDataPlanesTestKeys(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		t.Parallel()
		c, provider := newControlPlane(t, e.URL(t)), startStandIn(t, false)
		closed := httptest.NewServer(nil)
		closed.Close()
		upstream := []string{"--upstream", "openai=" + provider.URL + "/v1,groq=" + closed.URL, "--upstream-allow", "127.0.0.1"}
		public := c.start("AIKEYS_VERIFY=data_plane")
		private := public
		if e == modelstest.EnginePostgres {
			private = c.start("AIKEYS_VERIFY=data_plane")
		}
		c.startTester(private, "globex", upstream...)
		c.startTester(private, "acme", append(upstream, "--key-tests=false")...)
		require.Equal(t, "201 unreachable no_data_plane", c.registerTested(public, "openai", "sk-good-0"))
		require.Zero(t, provider.tested.Load())

		gateways := []*process{c.startTester(private, "acme", upstream...), c.startTester(private, "acme", upstream...)}
		require.Equal(t, "201 valid", c.registerTested(public, "openai", "sk-good-1"))
		require.Equal(t, "422", c.registerTested(public, "openai", "sk-bad-1"))
		good, bad := c.store(public, "openai", "sk-good-2"), c.store(public, "openai", "sk-bad-2")
		require.Equal(t, "200 valid", c.asked(public, http.MethodPost, "/"+good+"/verify", ""))
		require.Equal(t, "200 rejected", c.asked(public, http.MethodPost, "/"+bad+"/verify", ""))
		require.Equal(t, "200 valid", c.asked(public, http.MethodPost, "/"+good+"/rotate", `{"secret":"sk-good-3-EXAMPLE-EXAMPLE"}`))
		require.Equal(t, "422", c.asked(public, http.MethodPost, "/"+good+"/rotate", `{"secret":"sk-bad-3-EXAMPLE-EXAMPLE"}`))
		require.Equal(t, int32(6), provider.tested.Load(), "one data plane makes each test")
		require.Equal(t, "201 unreachable no_connection", c.registerTested(public, "groq", "gsk_EXAMPLE-4"))

		c.testCustomKeys(public)

		// The data plane that has claimed the test dies.
		done := make(chan string, 1)
		go func() { done <- c.registerTested(public, "openai", "sk-good-slow") }()
		<-provider.arrived
		logged := ""
		for _, gateway := range gateways {
			gateway.end(syscall.SIGKILL)
			logged += gateway.log.String()
		}
		require.Contains(t, logged, "tested a key for the control plane")
		require.NotContains(t, logged, "EXAMPLE")
		close(provider.answer)
		require.Equal(t, "201 unreachable timeout", <-done)
		for _, replica := range []*process{public, private} {
			require.NotContains(t, replica.log.String(), "EXAMPLE")
		}
	})
}

// testCustomKeys tests keys of servers of the customer's own, of which one accepts any key.
func (c *controlPlane) testCustomKeys(public *process) {
	c.t.Helper()
	strict, lax := startStandIn(c.t, false), startStandIn(c.t, true)
	for slug, flags := range map[string]string{
		"x-strict": "--base-url " + strict.URL + "/v1", "x-lax": "--base-url " + lax.URL + "/v1", "x-anthropic": "--dialect anthropic --auth header --header X-Api-Key --base-url " + strict.URL,
		"x-open": "--auth none --base-url " + lax.URL + "/v1", "x-private": "--base-url http://127.0.0.2:" + strict.URL[strings.LastIndex(strict.URL, ":")+1:] + "/v1",
	} {
		c.run("admin provider create --customer acme --slug " + slug + " " + flags)
	}
	for _, tc := range [][3]string{
		{"x-strict", "sk-good-x", "201 valid"}, {"x-strict", "sk-bad-x", "422"}, {"x-anthropic", "sk-good-x", "201 valid"}, {"x-anthropic", "sk-bad-x", "422"},
		{"x-lax", "sk-good-x", "201 unreachable any_key"}, {"x-private", "sk-good-x", "201 unreachable no_connection"},
	} {
		require.Equal(c.t, tc[2], c.registerTested(public, tc[0], tc[1]), "%s %s", tc[0], tc[1])
	}
	require.Equal(c.t, []int32{1, 1, 4, 2}, []int32{lax.tested.Load(), lax.madeUp.Load(), strict.tested.Load(), strict.madeUp.Load()})
	require.Equal(c.t, "200 unreachable any_key", c.asked(public, http.MethodPost, "/"+c.store(public, "x-lax", "sk-good-y")+"/verify", ""))
	require.Equal(c.t, "201 unreachable unsupported",
		c.asked(public, http.MethodPost, "", `{"provider":"x-open","name":"open","secret":"none","verify":true}`))
}
