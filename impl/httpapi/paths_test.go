package httpapi_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/labstack/echo/v4"
	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/httpapi"
)

// canonical returns the path that a request is routed by.
func canonical(t *testing.T, escaped string) string {
	t.Helper()
	u, err := url.Parse("http://h" + escaped)
	require.NoError(t, err)
	req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", http.NoBody)
	req.URL = u
	c := echo.New().NewContext(req, httptest.NewRecorder())
	require.NoError(t, httpapi.CanonicalPaths(func(echo.Context) error { return nil })(c))
	return echo.GetPath(c.Request())
}

func TestCanonicalPaths(t *testing.T) {
	const keys, dashes = "/v1/customers/acme/projects/web/aikeys", "/v1/customers/-/projects/-/aikeys"
	for path, want := range map[string]string{
		keys:                                   keys,
		keys + "/x":                            keys + "/x",
		"/v1/aikeys":                           dashes,
		"/v1/aikeys/":                          dashes + "/",
		"/v1/aikeys/x":                         dashes + "/x",
		"/v1/aikeys/x/rotate":                  dashes + "/x/rotate",
		"/v1/aikeys/a%2Fb":                     dashes + "/a%2Fb",
		"/v1/aikeysx":                          "/v1/aikeysx",
		"/v1/aikeys%2Fx":                       "/v1/aikeys%2Fx",
		"/v1/AIKEYS":                           "/v1/AIKEYS",
		"/v1/members":                          "/v1/members",
		"/v1/whoami":                           "/v1/whoami",
		"/v1/customers":                        "/v1/customers",
		"/v1/customers/":                       "/v1/customers/",
		"/v1/customers//aikeys":                "/v1/customers//aikeys",
		"//v1/aikeys":                          "//v1/aikeys",
		"/":                                    "/",
		"/v1/customers//projects/":             "/v1/customers/-/projects/",
		"/v1/customers//projects//aikeys":      "/v1/customers/-/projects/-/aikeys",
		"/v1/customers//projects//members/bob": "/v1/customers/-/projects/-/members/bob",
		"/v1/customers/acme/projects//aikeys":  "/v1/customers/acme/projects/-/aikeys",
		"/v1/customers//projects/web/aikeys":   "/v1/customers/-/projects/web/aikeys",
		"/v1/customers///projects/web/aikeys":  "/v1/customers///projects/web/aikeys",
		"/v1/customers/projects//aikeys":       "/v1/customers/projects//aikeys",
		"/v1/customers/a%2Fprojects%2F/projects//aikeys": "/v1/customers/a%2Fprojects%2F/projects/-/aikeys",
	} {
		t.Run(path, func(t *testing.T) {
			require.Equal(t, want, canonical(t, path))
			require.Equal(t, want, canonical(t, want), "once is enough")
		})
	}
}

// FuzzCanonicalPaths: rewriting never fails, and a second time changes nothing.
func FuzzCanonicalPaths(f *testing.F) {
	for _, seed := range []string{"/v1/aikeys/%2F", "/v1/customers//projects//aikeys", "/v1/customers/%2F/projects///projects//"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, path string) {
		if u, err := url.Parse("http://h" + path); err != nil || u.Host != "h" {
			return
		}
		once := canonical(t, path)
		if u, err := url.Parse("http://h" + once); err != nil || echo.GetPath(&http.Request{URL: u}) != once {
			return // not a path as a client would write it
		}
		require.Equal(t, once, canonical(t, once))
	})
}
