package crossorigin_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/internal/crossorigin"
)

func TestOriginsAreNamedWhole(t *testing.T) {
	for _, origin := range []string{
		"https://app.example.com", "https://app.example.com:8443", "http://localhost:3000", "http://127.0.0.1", "http://[::1]:5173", "https://192.0.2.1",
	} {
		require.NoError(t, crossorigin.Check(origin), origin)
	}
	for _, origin := range []string{
		"", "*", "null", "https://*", "https://*.example.com", "app.example.com", "http://app.example.com", "https://app.example.com/",
		"https://app.example.com/page", "https://app.example.com?a=b", "https://app.example.com#a", "https://user@app.example.com",
		"https://app.example.com:443", "http://localhost:80", "HTTPS://app.example.com", "https://App.example.com", "file://", "https://", "ftp://localhost",
	} {
		require.ErrorIs(t, crossorigin.Check(origin), crossorigin.ErrOrigin, origin)
	}
}

func TestOnlyNamedOriginsAreAllowed(t *testing.T) {
	asked := 0
	next := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked++
		w.WriteHeader(http.StatusUnauthorized)
	})
	const named = "https://app.example.com"
	for name, tc := range map[string]struct {
		origins        []string
		origin, method string
		asked, allowed bool
	}{
		"a named one's preflight":            {[]string{named}, named, http.MethodOptions, false, true},
		"a named one's request":              {[]string{"http://localhost:3000", named}, named, http.MethodPost, true, true},
		"another's preflight":                {[]string{named}, "https://evil.example", http.MethodOptions, false, false},
		"another's request":                  {[]string{named}, "https://app.example.com.evil.example", http.MethodPost, true, false},
		"the same host over http":            {[]string{named}, "http://app.example.com", http.MethodPost, true, false},
		"a page without an origin":           {[]string{named}, "null", http.MethodPost, true, false},
		"any preflight, where none is named": {nil, named, http.MethodOptions, true, false},
		"any request, where none is named":   {nil, named, http.MethodPost, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			asked = 0
			r := httptest.NewRequest(tc.method, "/v1/whoami", nil)
			r.Header.Set("Origin", tc.origin)
			if tc.method == http.MethodOptions {
				r.Header.Set("Access-Control-Request-Method", http.MethodPost)
				r.Header.Set("Access-Control-Request-Headers", "authorization,x-stainless-lang")
			}
			w := httptest.NewRecorder()
			crossorigin.Allow(tc.origins, next).ServeHTTP(w, r)
			require.Equal(t, tc.asked, asked == 1)
			header := w.Result().Header
			if !tc.allowed {
				for field := range header {
					require.False(t, strings.HasPrefix(field, "Access-Control-"), field)
				}
				return
			}
			require.Equal(t, tc.origin, header.Get("Access-Control-Allow-Origin"))
			require.Contains(t, header.Get("Vary"), "Origin")
			require.NotContains(t, header, "Access-Control-Allow-Credentials")
			if tc.method == http.MethodOptions {
				require.Equal(t, http.StatusNoContent, w.Code)
				require.Equal(t, "authorization,x-stainless-lang", header.Get("Access-Control-Allow-Headers"))
				require.Equal(t, "POST", header.Get("Access-Control-Allow-Methods"))
			} else {
				require.Equal(t, "*", header.Get("Access-Control-Expose-Headers"), "refusals too can be read")
			}
		})
	}
}
