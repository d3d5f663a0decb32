package aikeys_test

import (
	"crypto/rand"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/aikeys/aikeystest"
)

// hostileIDs are path segments, escaped, that are not valid ids.
func hostileIDs(s *aikeystest.Service, keyID string) map[string]string {
	secret := s.Secret()
	return map[string]string{
		"dots":                       "..",
		"a dot":                      ".",
		"escaped dots":               "%2e%2e",
		"escaped dots, twice":        "%252e%252e",
		"an escaped slash":           "a%2Fb",
		"up and down":                "..%2F..%2F" + keyID,
		"a slash":                    "a/b",
		"a NUL":                      "%00",
		"an id and a NUL":            keyID + "%00",
		"a space":                    "%20",
		"an id and a space":          keyID + "%20",
		"a space and an id":          "%20" + keyID,
		"an id and a line end":       keyID + "%0A",
		"an id and a trailing slash": keyID + "/",
		"an id and a parameter":      keyID + ";x=1",
		"two ids":                    keyID + "," + keyID,
		"Unicode":                    "%C3%A9",
		"invalid UTF-8":              "%ff%fe",
		"a wide digit":               "byok_" + "%EF%BC%90" + keyID[6:],
		"SQL":                        "'%20OR%20'1'='1",
		"a wildcard":                 "%25",
		"a pattern":                  "byok__________________________",
		"a template":                 "%7Bid%7D",
		"65 characters":              strings.Repeat("a", 65),
		"4 KiB":                      strings.Repeat("a", 4<<10),
		"a secret":                   secret,
		"an upper-case prefix":       "BYOK_" + keyID[5:],
		"a lower-case id":            strings.ToLower(keyID),
		"a bare lower-case id":       strings.ToLower(keyID[5:]),
		"a prefix twice":             "byok_" + keyID,
		"an id of an event":          "evt_" + keyID[5:],
		"an id past its time":        "byok_8" + keyID[6:],
		"an id of letters I, L, O":   "byok_01ILOU" + keyID[11:],
		"an id too short":            keyID[:30],
		"an id too long":             keyID + "0",
	}
}

func TestHostileKeyIDs(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{})
	key := s.As(owner).Register(t, s.Shared("kept"))
	for name, id := range hostileIDs(s, key.ID) {
		for _, method := range []string{http.MethodGet, http.MethodDelete} {
			t.Run(method+" "+name, func(t *testing.T) {
				reply := s.Send(t, aikeystest.Request{Method: method, Path: project + "/aikeys/" + id, Token: s.As(owner).Token})
				require.Contains(t, []int{http.StatusBadRequest, http.StatusNotFound}, reply.Status)
				if reply.Status == http.StatusBadRequest {
					require.Equal(t, []string{"id"}, reply.Fields(t))
				}
			})
		}
	}
	for _, method := range []string{http.MethodGet, http.MethodDelete} {
		for _, path := range []string{"/v1/aikeys/", project + "/aikeys/", "/v1/customers//projects//aikeys/"} {
			t.Run(method+" no id at all of "+path, func(t *testing.T) {
				reply := s.Send(t, aikeystest.Request{Method: method, Path: path, Token: s.As(owner).Token})
				require.Contains(t, []int{http.StatusBadRequest, http.StatusNotFound}, reply.Status)
			})
		}
	}
	keys := list(t, s, owner)
	require.Len(t, keys, 1)
	require.Equal(t, "active", keys[0].State)
}

func TestHostileProjectIDs(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{})
	key := s.As(owner).Register(t, s.Shared("kept"))
	paths := map[string]string{
		"a customer that ends in a path":  "/v1/customers/acme%2Fprojects%2Fweb/projects/web/aikeys",
		"a project that ends in a path":   "/v1/customers/acme/projects/web%2Faikeys/aikeys",
		"projects within a customer":      "/v1/customers/acme/projects/web/projects/web/aikeys",
		"an escaped method":               "/v1/%61ikeys/" + key.ID,
		"an upper-case path":              "/V1/aikeys",
		"a double slash":                  "//v1/aikeys",
		"two empty customers":             "/v1/customers///projects/web/aikeys",
		"no projects":                     "/v1/customers//aikeys",
		"a longer method":                 "/v1/aikeysx",
		"a method beside it":              "/v1/aikeys%2F" + key.ID,
		"a short form of another method":  "/v1/members",
		"a short form within":             "/v1/customers/acme/projects/web/v1/aikeys",
		"a trailing slash":                "/v1/whoami/",
		"a resource below a key":          "/v1/aikeys/" + key.ID + "/rotate/x",
		"nothing":                         "/",
		"a version that is not there":     "/v2/aikeys",
		"the data planes' API":            "/v1/fetch",
		"an operator's page":              "/metrics",
		"a profile":                       "/debug/pprof/",
		"a file":                          "/..%2f..%2fetc%2fpasswd",
		"the document's own placeholders": "/v1/customers/:customer_id/projects/:project_id/aikeys",
	}
	for name, id := range hostileIDs(s, key.ID) {
		paths["as customer, "+name] = "/v1/customers/" + id + "/projects/web/aikeys"
		paths["as project, "+name] = "/v1/customers/acme/projects/" + id + "/aikeys"
		paths["as customer of a key, "+name] = "/v1/customers/" + id + "/projects/web/aikeys/" + key.ID
		paths["as project of a key, "+name] = "/v1/customers/acme/projects/" + id + "/aikeys/" + key.ID
	}
	for name, path := range paths {
		t.Run(name, func(t *testing.T) {
			reply := get(t, s, owner, path)
			require.Contains(t, []int{http.StatusBadRequest, http.StatusForbidden, http.StatusNotFound}, reply.Status)
		})
	}
}

func TestHostileMemberIDs(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{})
	before := get(t, s, owner, project+"/members").Body
	hostile := hostileIDs(s, exampleKey)
	for _, name := range []string{
		"a pattern", "an upper-case prefix", "a lower-case id", "a bare lower-case id", "a prefix twice", "an id of an event",
		"an id past its time", "an id of letters I, L, O", "an id too short", "an id too long",
	} {
		delete(hostile, name) // no key's, but as good a user's id as any
	}
	hostile["a dash"] = "-"
	for name, id := range hostile {
		t.Run(name, func(t *testing.T) {
			require.Contains(t, []int{http.StatusBadRequest, http.StatusNotFound}, del(t, s, owner, project+"/members/"+id).Status)
			if name == "a secret" {
				return // which is a user's id like any other: it would be listed, and rightly so
			}
			reply := put(t, s, owner, project+"/members/"+id, map[string]any{"role": "owner"})
			require.Equal(t, http.StatusBadRequest, reply.Status)
			require.Equal(t, []string{"user_id"}, reply.Fields(t))
		})
	}
	require.Equal(t, before, get(t, s, owner, project+"/members").Body)
}

func TestWrongMethod(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{})
	allowed := map[string][]string{}
	for _, o := range aikeystest.Operations(t) {
		path, _, _ := strings.Cut(o.Path, "?")
		allowed[path] = append(allowed[path], o.Method)
	}
	key := s.As(owner).Register(t, s.Shared("kept"))
	for path, methods := range allowed {
		path = strings.ReplaceAll(path, exampleKey, key.ID)
		for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "TRACE", "PROPFIND", "get", "QUERY"} {
			if slices.Contains(methods, method) {
				continue
			}
			t.Run(method+" "+path, func(t *testing.T) {
				reply := s.Send(t, aikeystest.Request{Method: method, Path: path, Token: s.As(owner).Token})
				require.Equal(t, http.StatusMethodNotAllowed, reply.Status)
				require.ElementsMatch(t, append(methods, http.MethodOptions), strings.Split(reply.Header.Get("Allow"), ", "))
			})
		}
		t.Run("OPTIONS "+path, func(t *testing.T) {
			reply := s.Send(t, aikeystest.Request{Method: http.MethodOptions, Path: path})
			require.Equal(t, http.StatusNoContent, reply.Status)
			require.ElementsMatch(t, append(methods, http.MethodOptions), strings.Split(reply.Header.Get("Allow"), ", "))
			require.Empty(t, reply.Header.Get("Access-Control-Allow-Origin"))
		})
	}
	t.Run("a header can't make it another", func(t *testing.T) {
		for _, name := range []string{"X-Http-Method-Override", "X-Http-Method", "X-Method-Override"} {
			reply := s.Send(t, aikeystest.Request{Method: http.MethodGet, Path: project + "/aikeys/" + key.ID, Token: s.As(owner).Token,
				Header: http.Header{name: {http.MethodDelete}}})
			require.Equal(t, http.StatusOK, reply.Status)
			reply = s.Send(t, aikeystest.Request{Method: http.MethodPost, Path: project + "/aikeys/" + key.ID + "?_method=DELETE", Token: s.As(owner).Token,
				Header: http.Header{name: {http.MethodDelete}}})
			require.Equal(t, http.StatusMethodNotAllowed, reply.Status)
		}
		require.Equal(t, "active", list(t, s, owner)[0].State)
	})
}

func TestMalformedRequests(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{})
	secret, token := s.Secret(), s.As(owner).Token
	const end = "\r\nHost: x\r\nConnection: close\r\n"
	auth := "Authorization: Bearer " + token + "\r\n"
	for name, text := range map[string]string{
		"a space in the path":     "GET /v1/aikeys/" + secret + " x HTTP/1.1" + end + auth + "\r\n",
		"Unicode in the path":     "GET /v1/aikeys/é" + secret + " HTTP/1.1" + end + auth + "\r\n",
		"a NUL in the path":       "GET /v1/aikeys/\x00" + secret + " HTTP/1.1" + end + auth + "\r\n",
		"a NUL in a header":       "GET /v1/aikeys HTTP/1.1" + end + auth + "Idempotency-Key: a\x00" + secret + "\r\n\r\n",
		"no host":                 "GET /v1/aikeys HTTP/1.1\r\n" + auth + "\r\n",
		"an absolute URL":         "GET http://" + secret + "/v1/nowhere HTTP/1.1" + end + auth + "\r\n",
		"every path at once":      "OPTIONS * HTTP/1.1" + end + auth + "\r\n",
		"a tunnel":                "CONNECT " + secret + ":443 HTTP/1.1" + end + auth + "\r\n",
		"length and chunks":       "POST /v1/aikeys HTTP/1.1" + end + auth + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"another transfer coding": "POST /v1/aikeys HTTP/1.1" + end + auth + "Transfer-Encoding: gzip\r\n\r\n" + secret,
		"two lengths":             "POST /v1/aikeys HTTP/1.1" + end + auth + "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
		"a broken chunk":          "POST /v1/aikeys HTTP/1.1" + end + auth + "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" + secret + "\r\n",
		"HTTP of the future":      "GET /v1/aikeys HTTP/9.9" + end + "\r\n",
		"no HTTP":                 secret + "\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			reply := s.Raw(t, text)
			require.NotEqual(t, http.StatusInternalServerError, reply.Status)
			require.GreaterOrEqual(t, reply.Status, http.StatusOK)
			require.NotContains(t, string(reply.Body), secret)
		})
	}
}

func TestSourceIP(t *testing.T) {
	source := func(t *testing.T, s *aikeystest.Service, headers http.Header) string {
		t.Helper()
		reply := s.Send(t, register(t, s, rand.Text(), func(r *aikeystest.Request) { r.Header = headers }))
		require.Equal(t, http.StatusCreated, reply.Status)
		event := events(t, s, owner)[0]
		require.Equal(t, reply.Header.Get("X-Request-Id"), event.RequestID)
		lines := s.Evidence.Lines(event.RequestID)
		require.Len(t, lines, 1)
		require.Equal(t, event.SourceIP, lines[0]["source_ip"])
		return event.SourceIP
	}
	forwarded := func(values ...string) http.Header { return http.Header{"X-Forwarded-For": values} }

	t.Run("nobody's word is taken for it by default", func(t *testing.T) {
		s := aikeystest.Start(t, aikeystest.Options{})
		for _, name := range []string{"X-Forwarded-For", "X-Real-Ip", "Forwarded", "True-Client-Ip", "Cf-Connecting-Ip"} {
			require.Equal(t, "127.0.0.1", source(t, s, http.Header{name: {"203.0.113.7"}}), name)
		}
	})
	t.Run("a trusted proxy's is", func(t *testing.T) {
		s := aikeystest.Start(t, aikeystest.Options{TrustedProxies: []netip.Prefix{
			netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8:1::/48"),
		}})
		for name, tc := range map[string]struct {
			headers http.Header
			want    string
		}{
			"no header":                       {http.Header{}, "127.0.0.1"},
			"one address":                     {forwarded("203.0.113.7"), "203.0.113.7"},
			"the nearest that is no proxy":    {forwarded("198.51.100.9, 203.0.113.7, 10.1.2.3"), "203.0.113.7"},
			"one with a port, as Azure sends": {forwarded("203.0.113.7:4711"), "203.0.113.7"},
			"over two headers":                {forwarded("198.51.100.9, 203.0.113.7", "10.1.2.3"), "203.0.113.7"},
			"what the caller put before it":   {forwarded("10.0.0.1, 203.0.113.7"), "203.0.113.7"},
			"IPv6":                            {forwarded("2001:db8:2::7, 2001:db8:1::1"), "2001:db8:2::7"},
			"a private one that is no proxy":  {forwarded("192.168.1.2"), "192.168.1.2"},
			"a secret":                        {forwarded(s.Secret()), "127.0.0.1"},
			"a name":                          {forwarded("localhost"), "127.0.0.1"},
			"another header":                  {http.Header{"X-Real-Ip": {"203.0.113.7"}}, "127.0.0.1"},
		} {
			t.Run(name, func(t *testing.T) { require.Equal(t, tc.want, source(t, s, tc.headers)) })
		}
	})
	t.Run("and no other's", func(t *testing.T) {
		s := aikeystest.Start(t, aikeystest.Options{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
		require.Equal(t, "127.0.0.1", source(t, s, forwarded("203.0.113.7, 10.1.2.3")))
	})
}

// A caller's own request id could be anything; ours is minted.
func TestRequestID(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{})
	secret := s.Secret()
	seen := map[string]bool{}
	for range 10 {
		reply := s.Send(t, aikeystest.Request{Method: http.MethodGet, Path: "/v1/whoami", Token: s.As(owner).Token,
			Header: http.Header{"X-Request-Id": {secret}, "X-Correlation-Id": {secret}, "Traceparent": {secret}, "Baggage": {"a=" + secret},
				"User-Agent": {secret}, "Referer": {secret}, "Cookie": {secret}, "Accept-Language": {secret}}})
		require.Equal(t, http.StatusOK, reply.Status)
		seen[reply.Header.Get("X-Request-Id")] = true
	}
	require.Len(t, seen, 10)
	t.Run("and a caller's trace goes on without what it carries", func(t *testing.T) {
		const traceID = "4bf92f3577b34da6a3ce929d0e0e4736"
		reply := s.Send(t, aikeystest.Request{Method: http.MethodGet, Path: "/v1/whoami", Token: s.As(owner).Token, Header: http.Header{
			"Traceparent": {"00-" + traceID + "-00f067aa0ba902b7-01"}, "Tracestate": {"vendor=" + secret}, "Baggage": {"a=" + secret},
		}})
		require.Equal(t, http.StatusOK, reply.Status)
		require.Contains(t, s.Evidence.Spans(), traceID)
	})
}
