package gateway

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
)

// The proxy removes every query parameter that contains the caller's credential or that Gemini would read as a key.
// Envoy gets the names of these parameters and removes them by name. The proxy leaves all other parameters.
func FuzzQuery(f *testing.F) {
	const credential = "ak_EXAMPLE"
	for _, query := range []string{
		"key=" + credential, "%6bey=" + credential, "alt=sse&k%65y=" + credential + "&key", "a=b&&key=%61k_EXAMPLE", "key=a&key=b",
		"%6b%65%79=%61%6b", "%4bey=x", "k+ey=x", "a=x" + credential, credential + "=a", "key;x=1", "%zzkey=1", "=", "&", "a=b=c",
	} {
		f.Add(query)
	}
	f.Fuzz(func(t *testing.T, query string) {
		for _, provider := range []string{QueryKeyProvider, "openai"} {
			_, _ = CallerOf(http.Header{}, query, provider) // does not panic
			names := credentialParameters(query, provider, credential)
			var byName []string
			for pair := range parameters(query) {
				if name, _, _ := strings.Cut(pair, "="); !slices.Contains(names, name) {
					byName = append(byName, pair)
				}
			}
			proxied := withoutCredential(query, provider, credential)
			for _, left := range []string{proxied, strings.Join(byName, "&")} {
				require.NotContains(t, left, credential)
				values, _ := url.ParseQuery(left) // as lenient servers do
				require.False(t, provider == QueryKeyProvider && values.Has(QueryKey), left)
			}
			if names == nil {
				kept := strings.FieldsFunc(proxied, func(r rune) bool { return r == '&' })
				require.ElementsMatch(t, byName, kept)
			}
		}
	})
}

func TestNoOtherCredentialGoesInTheQuery(t *testing.T) {
	for provider, queries := range map[string][]string{
		"gemini":       {"key=other", "%6bey=x", "access_token=x", "oauth_token", "$access_token=x", "%24httpHeaders=Authorization:Bearer+x", "$httpMethod=DELETE"},
		"vertex":       {"key=other", "access_token=x"},
		"azure_openai": {"api-key=other", "api%2Dkey=x", "API-Key=x", "Subscription-Key=x"},
		"bedrock":      {"X-Amz-Credential=AKIDEXAMPLE%2F20261129", "X-Amz-Signature=x", "x-amz-security-token=x"},
	} {
		for _, query := range queries {
			require.Equal(t, "alt=sse&a=b", withoutCredential("alt=sse&"+query+"&a=b", provider, "ak_EXAMPLE"), provider)
		}
	}
	require.Equal(t, "key=a&access_token=b", withoutCredential("key=a&access_token=b", "openai", "ak_EXAMPLE"), "names that mean nothing there")
}

// Claude's programs add their own token, and SDKs add a key that they find in the environment.
func TestOurKeyCountsBesideForeignOnes(t *testing.T) {
	const ours, second = "ak_01M8H8236WYX8787KJMGSKFAWB_x_y", "ak_01M8H8236WYX8787KJMGSKFAWC_x_y"
	for _, header := range []http.Header{
		{"Authorization": {"Bearer sk-ant-oat01-EXAMPLE"}, "X-Api-Key": {ours}},
		{"Authorization": {"Bearer " + ours}, "X-Api-Key": {"sk-ant-EXAMPLE"}, "Api-Key": {"EXAMPLE"}},
	} {
		caller, err := CallerOf(header, "", "anthropic")
		require.NoError(t, err)
		require.Equal(t, ours, caller.Credential)
		stripRequest(header, ours)
		require.Empty(t, header)
	}
	caller, err := CallerOf(http.Header{"X-Goog-Api-Key": {ours}}, "key=AIza-EXAMPLE", QueryKeyProvider)
	require.NoError(t, err)
	require.Equal(t, ours, caller.Credential)
	for _, header := range []http.Header{
		{"Authorization": {"Bearer " + ours}, "X-Api-Key": {second}},
		{"Authorization": {"Bearer session"}, "X-Api-Key": {"sk-ant-EXAMPLE"}},
	} {
		_, err := CallerOf(header, "", "anthropic")
		require.ErrorIs(t, err, errTwoCredentials)
	}
}

func limited(perMinute float64, proxies ...string) func(*Config) {
	return func(cfg *Config) {
		cfg.FailedAuthLimit = perMinute
		for _, proxy := range proxies {
			cfg.TrustedProxies = append(cfg.TrustedProxies, netip.MustParsePrefix(proxy))
		}
	}
}

// guess sends a request with a credential, and with an address in X-Forwarded-For if there is one.
func guess(t testing.TB, url, credential, forwarded string) (answer, string) {
	t.Helper()
	r := request(t, http.MethodGet, url+"/openai/models", nil)
	r.Header.Set("Authorization", "Bearer "+credential)
	if forwarded != "" {
		r.Header.Set("X-Forwarded-For", forwarded)
	}
	return do(t, r)
}

func TestFailedAuthLimit(t *testing.T) {
	gw := openAI(t, func(http.ResponseWriter, *http.Request) {}, limited(3))
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
	requireUnmarked(t, gw.log.String())
}

func TestFailuresThatCount(t *testing.T) {
	for _, err := range []error{dataplane.ErrNotMember, dataplane.ErrInvalid} {
		gw := start(t, dataplanetest.Refusing(err), limited(1))
		first, _ := guess(t, gw.URL, "a", "")
		second, _ := guess(t, gw.URL, "a", "")
		require.NotEqual(t, 429, first.StatusCode)
		require.Equal(t, 429, second.StatusCode)
	}
	for _, err := range []error{dataplane.ErrNoKey, dataplane.ErrUnavailable, dataplane.ErrKeyRevoked} {
		gw := start(t, dataplanetest.Refusing(err), limited(1))
		for range 3 {
			res, _ := guess(t, gw.URL, "a", "")
			require.NotEqual(t, 429, res.StatusCode, "%v does not count", err)
		}
	}
}

// Requests over the limit are looked up two at a time, within two seconds. Requests that were served before do not wait.
func TestThrottlingDelaysNoServedRequest(t *testing.T) {
	key := newKey(t, "openai", "https://p.example")
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		handler, err := NewForwardAuth(Config{
			FailedAuthLimit: 1, Log: slog.New(slog.DiscardHandler),
			Resolver: dataplanetest.NewFakeResolver(func(request dataplane.Request) (*dataplane.Key, error) {
				switch request.Credential {
				case callersKey, "good":
					return key, nil
				case "slow":
					<-release
				}
				return nil, dataplane.ErrCallerUnauthenticated
			}),
		})
		require.NoError(t, err)
		status := func(credential string) int {
			r := httptest.NewRequest(http.MethodGet, "/auth/openai", http.NoBody)
			r.Header.Set("Authorization", "Bearer "+credential)
			r.Header.Set("X-Original-Uri", "/openai/chat")
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, r)
			return w.Code
		}
		require.Equal(t, 200, status(callersKey))
		require.Equal(t, 401, status("bad"))
		for range 2 {
			go status("slow")
		}
		synctest.Wait()
		began := time.Now()
		require.Equal(t, 200, status(callersKey), "although both places are taken")
		require.Zero(t, time.Since(began))
		require.Equal(t, 429, status("good"), "no request waits for ever")
		require.Equal(t, 2*time.Second, time.Since(began))
		close(release)
		require.Equal(t, 200, status("good"))
	})
}

func TestFailuresCountByClientAddress(t *testing.T) {
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
			gw := openAI(t, func(http.ResponseWriter, *http.Request) {}, limited(1, tc.proxies...))
			first, _ := guess(t, gw.URL, "a", tc.first)
			second, _ := guess(t, gw.URL, "b", tc.second)
			require.Equal(t, 401, first.StatusCode)
			require.Equal(t, tc.shared, second.StatusCode == http.StatusTooManyRequests)
		})
	}
}

func TestNoFailedAuthLimit(t *testing.T) {
	gw := openAI(t, func(http.ResponseWriter, *http.Request) {})
	for range 200 {
		res, _ := guess(t, gw.URL, "bad", "")
		require.Equal(t, 401, res.StatusCode)
	}
}

func TestFailedAuthLimitOfForwardAuth(t *testing.T) {
	gw := startForwardAuth(t, dataplanetest.Serving(callersKey, nil), nil, limited(1))
	ask := func() (answer, string) {
		r := request(t, http.MethodGet, gw.URL+"/auth/openai", nil)
		r.Header.Set("Authorization", "Bearer MARKED")
		return do(t, r)
	}
	res, _ := ask()
	require.Equal(t, 401, res.StatusCode)
	res, body := ask()
	require.Equal(t, "too_many_failures", problemOf(t, res, body).Error.Code)
}
