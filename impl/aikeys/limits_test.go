package aikeys_test

import (
	"net/http"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/aikeys/aikeystest"
	"github.com/agentrouter/aikeys/internal/ratelimit"
)

func requireExhausted(t *testing.T, reply aikeystest.Reply) time.Duration {
	t.Helper()
	require.Equal(t, http.StatusTooManyRequests, reply.Status)
	require.Equal(t, "resource_exhausted", reply.Problem(t).Code)
	seconds, err := strconv.Atoi(reply.Header.Get("Retry-After"))
	require.NoError(t, err)
	return time.Duration(seconds) * time.Second
}

func TestRateLimitPerUser(t *testing.T) {
	const burst = 5
	s := aikeystest.Start(t, aikeystest.Options{PrincipalRate: ratelimit.Rate{PerSecond: 0.7, Burst: burst}})
	ask := func(session *aikeystest.Session) aikeystest.Reply {
		return s.Send(t, aikeystest.Request{Method: http.MethodGet, Path: "/v1/whoami", Token: session.Token})
	}
	for range burst {
		require.Equal(t, http.StatusOK, ask(s.As(owner)).Status)
	}
	limited := time.Now()
	wait := requireExhausted(t, ask(s.As(owner)))
	t.Run("with another API key of theirs and in another project too", func(t *testing.T) {
		requireExhausted(t, ask(s.NewSession("acme", "web", owner, time.Time{})))
		requireExhausted(t, ask(s.Session("acme", "ops", owner)))
	})
	t.Run("whatever the request", func(t *testing.T) {
		for _, o := range aikeystest.Operations(t) {
			o.Token = s.As(owner).Token
			requireExhausted(t, s.Send(t, o.Request))
		}
	})
	t.Run("and nobody else", func(t *testing.T) {
		require.Equal(t, http.StatusOK, ask(s.As(member)).Status)
		require.Equal(t, http.StatusOK, ask(s.Session("globex", "web", owner)).Status, "who has the same user id")
	})
	t.Run("a bad credential is not counted for whom it names", func(t *testing.T) {
		for range 2 * burst {
			reply := s.Send(t, aikeystest.Request{Method: http.MethodGet, Path: "/v1/whoami", Token: s.As(other).Token + "x"})
			require.Equal(t, http.StatusUnauthorized, reply.Status)
		}
		require.Equal(t, http.StatusOK, ask(s.As(other)).Status)
	})
	t.Run("after the time in Retry-After it works again", func(t *testing.T) {
		time.Sleep(time.Until(limited.Add(wait)))
		require.Equal(t, http.StatusOK, ask(s.As(owner)).Status)
	})
}

func TestRateLimitOfFailures(t *testing.T) {
	const burst = 5
	s := aikeystest.Start(t, aikeystest.Options{
		FailureRate:    ratelimit.Rate{PerSecond: 0.1, Burst: burst},
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
	})
	from := func(address, token string) aikeystest.Reply {
		return s.Send(t, aikeystest.Request{Method: http.MethodGet, Path: "/v1/whoami", Token: token, Header: http.Header{"X-Forwarded-For": {address}}})
	}
	bad := s.As(owner).Token + "x"
	for range burst {
		require.Equal(t, http.StatusUnauthorized, from("203.0.113.7", bad).Status)
	}
	require.Equal(t, 10*time.Second, requireExhausted(t, from("203.0.113.7", bad)))
	requireExhausted(t, from("203.0.113.7", ""))
	requireExhausted(t, from("::ffff:203.0.113.7", bad))
	t.Run("a good credential from there goes on working", func(t *testing.T) {
		for range 3 * burst {
			require.Equal(t, http.StatusOK, from("203.0.113.7", s.As(owner).Token).Status)
		}
	})
	t.Run("another address is another", func(t *testing.T) {
		require.Equal(t, http.StatusUnauthorized, from("203.0.113.8", bad).Status)
	})
	t.Run("an IPv6 host's addresses are one", func(t *testing.T) {
		for i := range burst {
			require.Equal(t, http.StatusUnauthorized, from("2001:db8:0:1::"+strconv.Itoa(i), bad).Status)
		}
		requireExhausted(t, from("2001:db8:0:1:ffff::1", bad))
		require.Equal(t, http.StatusUnauthorized, from("2001:db8:0:2::1", bad).Status)
	})
	t.Run("what is not an address is the proxy's own", func(t *testing.T) {
		for i := range burst {
			require.Equal(t, http.StatusUnauthorized, from("made-up-"+strconv.Itoa(i), bad).Status)
		}
		requireExhausted(t, from("made-up-too", bad))
	})
}

// A client can't reset its own limit by writing another address into a header.
func TestRateLimitIgnoresForgedAddresses(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{FailureRate: ratelimit.Rate{PerSecond: 0.1, Burst: 3}})
	statuses := map[int]int{}
	for i := range 10 {
		reply := s.Send(t, aikeystest.Request{Method: http.MethodGet, Path: "/v1/whoami", Token: "bad",
			Header: http.Header{"X-Forwarded-For": {"203.0.113." + strconv.Itoa(i)}}})
		statuses[reply.Status]++
	}
	require.Equal(t, map[int]int{http.StatusUnauthorized: 3, http.StatusTooManyRequests: 7}, statuses)
}
