package gateway_test

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/gateway"
)

func limited(perMinute float64, proxies ...string) func(*gateway.Config) {
	return func(cfg *gateway.Config) {
		cfg.FailedAuthLimit = perMinute
		for _, proxy := range proxies {
			cfg.TrustedProxies = append(cfg.TrustedProxies, netip.MustParsePrefix(proxy))
		}
	}
}

// guess sends a request with a credential that is wrong, from whom a proxy says it is.
func guess(t testing.TB, url, credential, forwarded string) (answer, string) {
	t.Helper()
	r := request(t, http.MethodGet, url+"/openai/models", nil)
	r.Header.Set("Authorization", "Bearer "+credential)
	if forwarded != "" {
		r.Header.Set("X-Forwarded-For", forwarded)
	}
	return do(t, r)
}

func nothing(http.ResponseWriter, *http.Request) {}

func TestGuessersAreToldToComeLaterAndTheirNeighboursAreServed(t *testing.T) {
	gw := openAI(t, nothing, limited(3))
	for i := range 6 {
		res, body := guess(t, gw.URL, fmt.Sprint("MARKED-", i), "")
		if i < 3 {
			require.Equal(t, 401, res.StatusCode)
			continue
		}
		require.Equal(t, 429, res.StatusCode)
		require.Equal(t, "too_many_failures", problemOf(t, res, body).Error.Code)
		require.Equal(t, "20", res.Header.Get("Retry-After"), "three a minute")
	}
	res, body := do(t, request(t, http.MethodGet, gw.URL+"/openai/models", nil))
	require.Equal(t, 200, res.StatusCode, "a good credential from the same address: %s", body)
	requireNoSecrets(t, gw.log.String())
}

func TestWhatIsWrongWithProjectAndProviderCountsToo(t *testing.T) {
	for _, err := range []error{dataplane.ErrNotMember, dataplane.ErrInvalid} {
		gw := start(t, refusing(err), limited(1))
		first, _ := guess(t, gw.URL, "a", "")
		second, _ := guess(t, gw.URL, "a", "")
		require.NotEqual(t, 429, first.StatusCode)
		require.Equal(t, 429, second.StatusCode)
	}
	for _, err := range []error{dataplane.ErrNoKey, dataplane.ErrUnavailable, dataplane.ErrKeyRevoked} {
		gw := start(t, refusing(err), limited(1))
		for range 3 {
			res, _ := guess(t, gw.URL, "a", "")
			require.NotEqual(t, 429, res.StatusCode, "%v is no guesser's doing", err)
		}
	}
}

// Guesses are looked up two at a time. What was served before waits for none of them; what was not gets its turn.
func TestAFloodOfGuessesKeepsNobodyWaitingWhoWasServedBefore(t *testing.T) {
	key := newKey(t, "openai", dataplane.AuthBearer, provider(t, nothing)+"/v1", secret)
	looking, release := make(chan struct{}, 10), make(chan struct{})
	gw := start(t, &fakeResolver{resolve: func(request dataplane.Request) (*dataplane.Key, error) {
		switch request.Credential {
		case callersKey, "good":
			return key, nil
		case "slow":
			looking <- struct{}{}
			<-release
		}
		return nil, dataplane.ErrCallerUnauthenticated
	}}, limited(1))
	serves := func(credential string) int {
		res, _ := guess(t, gw.URL, credential, "")
		return res.StatusCode
	}
	require.Equal(t, 200, serves(callersKey))
	require.Equal(t, 401, serves("bad"))
	for range 2 {
		go func() {
			r, err := http.NewRequestWithContext(context.WithoutCancel(t.Context()), http.MethodGet, gw.URL+"/openai/models", nil)
			if err == nil {
				r.Header.Set("Authorization", "Bearer slow")
				if res, err := http.DefaultTransport.RoundTrip(r); err == nil {
					_ = res.Body.Close()
				}
			}
		}()
		<-looking
	}
	require.Equal(t, 200, serves(callersKey), "though both places are taken")
	require.Equal(t, 429, serves("good"), "nobody waits for ever")
	close(release)
	require.Equal(t, 200, serves("good"))
}

func TestFailuresCountForTheClientThatATrustedProxyNames(t *testing.T) {
	for name, tc := range map[string]struct {
		proxies       []string
		first, second string
		shared        bool
	}{
		"two clients of a trusted proxy":      {[]string{"127.0.0.0/8"}, "192.0.2.1", "192.0.2.2", false},
		"one client":                          {[]string{"127.0.0.0/8"}, "192.0.2.1", "192.0.2.1", true},
		"what a client says of itself":        {[]string{"127.0.0.0/8"}, "10.0.0.1, 192.0.2.1", "10.0.0.2, 192.0.2.1", true},
		"a client behind two trusted proxies": {[]string{"127.0.0.0/8", "10.0.0.0/8"}, "192.0.2.1, 10.0.0.1", "192.0.2.2, 10.0.0.1", false},
		"two addresses of one IPv6 network":   {[]string{"127.0.0.0/8"}, "2001:db8::1", "2001:db8::2", true},
		"two IPv6 networks":                   {[]string{"127.0.0.0/8"}, "2001:db8::1", "2001:db8:0:1::1", false},
		"what is no address":                  {[]string{"127.0.0.0/8"}, "unknown", "nonsense", true},
		"a proxy that nobody trusts":          {nil, "192.0.2.1", "192.0.2.2", true},
	} {
		t.Run(name, func(t *testing.T) {
			gw := openAI(t, nothing, limited(1, tc.proxies...))
			first, _ := guess(t, gw.URL, "a", tc.first)
			second, _ := guess(t, gw.URL, "b", tc.second)
			require.Equal(t, 401, first.StatusCode)
			require.Equal(t, tc.shared, second.StatusCode == http.StatusTooManyRequests)
		})
	}
}

func TestWithoutALimitGuessesAreRefusedAsTheyCome(t *testing.T) {
	gw := openAI(t, nothing)
	for range 200 {
		res, _ := guess(t, gw.URL, "bad", "")
		require.Equal(t, 401, res.StatusCode)
	}
}

func TestGuessesThroughForwardAuthCountToo(t *testing.T) {
	gw := forwardAuth(t, serving(nil), nil, limited(1))
	ask := func() (answer, string) {
		r := request(t, http.MethodGet, gw.URL+"/auth/openai", nil)
		r.Header.Set("Authorization", "Bearer MARKED")
		return do(t, r)
	}
	res, _ := ask()
	require.Equal(t, 401, res.StatusCode)
	began := time.Now()
	res, body := ask()
	require.Equal(t, "too_many_failures", problemOf(t, res, body).Error.Code)
	require.Less(t, time.Since(began), time.Second)
}
