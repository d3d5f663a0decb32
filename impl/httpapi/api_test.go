package httpapi_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/internal/lifecycle"
	"github.com/agentrouter/aikeys/internal/problem"
	"github.com/agentrouter/aikeys/internal/ratelimit"
	"github.com/agentrouter/aikeys/internal/tlsfiles"
	"github.com/agentrouter/aikeys/internal/tlsfiles/tlsfilestest"
)

const policyPath = "/v1/customers/acme/projects/web/policy"

// answering answers one operation and panics on the others.
type answering struct{ gen.StrictServerInterface }

func (answering) WhoAmI(context.Context, gen.WhoAmIRequestObject) (gen.WhoAmIResponseObject, error) {
	return gen.WhoAmI200JSONResponse{}, nil
}

// sessions is a double of an Authenticator. It refuses credentials that end in "bad" and certificates without the name
// edge.internal, and accepts all others. For a credential that begins with "slow", it waits until the test closes
// answer, and counts how many such look-ups run at once.
type sessions struct {
	looking, most atomic.Int64
	answer        chan struct{}
	names         atomic.Pointer[[]string] // of the last certificate
}

func (s *sessions) Authenticate(ctx context.Context, authorization string) (auth.Principal, error) {
	credential := strings.TrimPrefix(authorization, "Bearer ")
	if strings.HasPrefix(credential, "slow") {
		n := s.looking.Add(1)
		defer s.looking.Add(-1)
		for most := s.most.Load(); n > most && !s.most.CompareAndSwap(most, n); most = s.most.Load() {
		}
		select {
		case <-s.answer:
		case <-ctx.Done():
			return auth.Principal{}, ctx.Err()
		}
	}
	if strings.HasSuffix(credential, "bad") {
		return auth.Principal{}, auth.ErrUnauthenticated
	}
	return auth.Principal{CustomerID: "acme", UserID: "olga", ProjectID: "web"}, nil
}

func (s *sessions) AuthenticateCertificate(_ context.Context, names []string) (auth.Principal, error) {
	s.names.Store(&names)
	if !slices.Contains(names, "dns:edge.internal") {
		return auth.Principal{}, auth.ErrUnauthenticated
	}
	return auth.Principal{CustomerID: "acme", UserID: "edge"}, nil
}

func (*sessions) Cached(credential string) (auth.Principal, bool) {
	return auth.Principal{CustomerID: "acme", UserID: "olga"}, credential == "Bearer cached"
}

func (*sessions) Drop(string) {}

// document is the public API's. Tests share it, since parsing it takes long.
var document = sync.OnceValues(gen.GetSpec)

// newAPI returns the shared part of the API of doc, or of the public API if doc is nil. authentication may be nil.
func newAPI(t *testing.T, authentication *auth.MiddlewareConfig, doc *openapi3.T) (*httpapi.API, error) {
	if doc == nil {
		var err error
		doc, err = document()
		require.NoError(t, err)
	}
	if authentication == nil {
		authentication = &auth.MiddlewareConfig{Sessions: &sessions{}}
	}
	observer, err := httpapi.NewObserver("test", slog.New(slog.DiscardHandler), prometheus.NewRegistry(), nil)
	require.NoError(t, err)
	return httpapi.NewAPI(httpapi.Config{
		Document: doc, Problems: httpapi.Problems(auth.Problems()...), Authenticate: auth.Middleware(*authentication), Observer: observer,
	})
}

// newHandler returns the whole API, with handlers that answer one operation. The operations in forget have no
// middlewares.
func newHandler(t *testing.T, authentication auth.MiddlewareConfig, forget ...string) http.Handler {
	api, err := newAPI(t, &authentication, nil)
	require.NoError(t, err)
	for _, operation := range forget {
		delete(api.Middlewares, operation)
	}
	gen.RegisterHandlersWithOptions(api.Echo, gen.NewStrictHandler(answering{}, []gen.StrictMiddlewareFunc{httpapi.RequireChecked[gen.StrictHandlerFunc]}),
		gen.RegisterHandlersOptions{OperationMiddlewares: api.Middlewares})
	return api.Echo
}

// An operation registered without its middlewares would be neither authenticated nor validated.
func TestOperationWithoutMiddlewaresIsRefused(t *testing.T) {
	for status, handler := range map[int]http.Handler{
		http.StatusOK:                  newHandler(t, auth.MiddlewareConfig{Sessions: &sessions{}}),
		http.StatusInternalServerError: newHandler(t, auth.MiddlewareConfig{Sessions: &sessions{}}, "whoAmI"),
	} {
		recorder := httptest.NewRecorder()
		req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/v1/whoami", http.NoBody)
		req.Header.Set("Authorization", "Bearer x")
		handler.ServeHTTP(recorder, req)
		require.Equal(t, status, recorder.Code)
	}
}

func TestEveryOperationHasMiddlewaresAndNoOther(t *testing.T) {
	api, err := newAPI(t, nil, nil)
	require.NoError(t, err)
	doc, err := document()
	require.NoError(t, err)
	var operations, having []string
	for _, item := range doc.Paths.Map() {
		for _, op := range item.Operations() {
			operations = append(operations, op.OperationID)
		}
	}
	for id, chain := range api.Middlewares {
		having = append(having, id)
		require.NotEmpty(t, chain)
	}
	require.ElementsMatch(t, operations, having)
}

// NewAPI refuses documents with features that the validator does not check.
func TestUncheckableDocumentIsRefused(t *testing.T) {
	for name, change := range map[string]func(op *openapi3.Operation){
		"a parameter in a cookie": func(op *openapi3.Operation) {
			op.AddParameter(openapi3.NewCookieParameter("c").WithSchema(openapi3.NewStringSchema()))
		},
		"a parameter that is a list": func(op *openapi3.Operation) {
			op.AddParameter(openapi3.NewQueryParameter("l").WithSchema(openapi3.NewArraySchema()))
		},
		"a body that is optional": func(op *openapi3.Operation) { op.RequestBody.Value.Required = false },
		"a body that is no JSON": func(op *openapi3.Operation) {
			op.RequestBody.Value.Content = openapi3.NewContentWithSchema(openapi3.NewStringSchema(), []string{"text/plain"})
		},
	} {
		t.Run(name, func(t *testing.T) {
			doc, err := gen.GetSpec()
			require.NoError(t, err)
			change(doc.Paths.Value("/v1/customers/{customer_id}/projects/{project_id}/policy").Put)
			_, err = newAPI(t, nil, doc)
			require.ErrorContains(t, err, "setPolicy")
		})
	}
}

func TestCallFromWithoutARequest(t *testing.T) {
	require.Equal(t, &httpapi.Call{}, httpapi.CallFrom(t.Context()))
	_, err := httpapi.RequireChecked(func(echo.Context, any) (any, error) { return "handled", nil }, "")(
		echo.New().NewContext(httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", http.NoBody), httptest.NewRecorder()), nil)
	require.Error(t, err)
}

// FuzzCanonicalPaths checks that rewriting a path never fails, and that rewriting the result again changes nothing.
// First, it checks a table of paths.
func FuzzCanonicalPaths(f *testing.F) {
	canonical := func(t testing.TB, escaped string) string { // the path that a request is routed by
		u, err := url.Parse("http://h" + escaped)
		require.NoError(t, err)
		req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", http.NoBody)
		req.URL = u
		c := echo.New().NewContext(req, httptest.NewRecorder())
		require.NoError(t, httpapi.CanonicalPaths(func(echo.Context) error { return nil })(c))
		return echo.GetPath(c.Request())
	}
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
		require.Equal(f, want, canonical(f, path), path)
		require.Equal(f, want, canonical(f, want), "once is enough")
	}
	for _, seed := range []string{"/v1/aikeys/%2F", "/v1/customers//projects//aikeys", "/v1/customers/%2F/projects///projects//"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, path string) {
		if u, err := url.Parse("http://h" + path); err != nil || u.Host != "h" {
			return
		}
		once := canonical(t, path)
		if u, err := url.Parse("http://h" + once); err != nil || echo.GetPath(&http.Request{URL: u}) != once {
			return // no client writes such a path
		}
		require.Equal(t, once, canonical(t, once))
	})
}

func TestGuessersShareTwoLookups(t *testing.T) {
	const guesser, neighbour = "203.0.113.7", "203.0.113.8"
	source := &sessions{answer: make(chan struct{})}
	handler := newHandler(t, auth.MiddlewareConfig{Sessions: source, Guesses: auth.NewGuesses(ratelimit.Rate{PerSecond: 0.0001, Burst: 1}, nil, nil)})
	ask := func(ctx context.Context, address, credential string) int {
		req := httptest.NewRequestWithContext(ctx, http.MethodGet, "/v1/whoami", http.NoBody)
		req.RemoteAddr = net.JoinHostPort(address, "1234")
		req.Header.Set("Authorization", "Bearer "+credential)
		recorder := httptest.NewRecorder()
		handler.ServeHTTP(recorder, req)
		return recorder.Code
	}
	later := func(ctx context.Context, address, credential string) <-chan int {
		status := make(chan int, 1)
		go func() { status <- ask(ctx, address, credential) }()
		return status
	}
	require.Equal(t, http.StatusUnauthorized, ask(t.Context(), guesser, "bad"))
	require.Equal(t, http.StatusTooManyRequests, ask(t.Context(), guesser, "bad"))

	guesses := make([]<-chan int, 2) // an address over its limit has five look-ups per second
	for i := range guesses {
		guesses[i] = later(t.Context(), guesser, "slow and bad")
	}
	require.Eventually(t, func() bool { return source.looking.Load() == 2 }, 5*time.Second, time.Millisecond)
	good := later(t.Context(), guesser, "good")

	t.Run("who leaves while waiting is gone at once", func(t *testing.T) {
		ctx, leave := context.WithCancel(t.Context())
		gone := later(ctx, guesser, "slow and bad")
		require.Never(t, func() bool { return len(gone) > 0 }, 50*time.Millisecond, 10*time.Millisecond)
		leave()
		select {
		case <-gone:
		case <-time.After(5 * time.Second):
			t.Fatal("is waiting still")
		}
	})
	require.Empty(t, good, "it waits for its turn")
	require.EqualValues(t, 2, source.looking.Load())
	require.Equal(t, http.StatusOK, ask(t.Context(), guesser, "cached"), "a session in the cache needs no turn")
	t.Run("other addresses are not held up", func(t *testing.T) {
		ctx, leave := context.WithTimeout(t.Context(), 5*time.Second)
		defer leave()
		require.Equal(t, http.StatusOK, ask(ctx, neighbour, "good"))
		require.Equal(t, http.StatusUnauthorized, ask(ctx, neighbour, "bad"))
	})
	close(source.answer)
	for _, guess := range guesses {
		require.Equal(t, http.StatusTooManyRequests, <-guess)
	}
	require.Equal(t, http.StatusOK, <-good, "a good credential from there is served")
	require.EqualValues(t, 2, source.most.Load(), "looks at a time")
	require.Eventually(t, func() bool { return ask(t.Context(), guesser, "good") == http.StatusOK }, 5*time.Second, 50*time.Millisecond,
		"the places are given back, and look-ups come back with time")
}

func TestNoLookupQueueBelowTheLimit(t *testing.T) {
	const many = 20
	source := &sessions{answer: make(chan struct{})}
	handler := newHandler(t, auth.MiddlewareConfig{Sessions: source, Guesses: auth.NewGuesses(ratelimit.Rate{PerSecond: 0.0001, Burst: many}, nil, nil)})
	statuses := make(chan int, many)
	for range many {
		go func() {
			req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/v1/whoami", http.NoBody)
			req.Header.Set("Authorization", "Bearer slow")
			recorder := httptest.NewRecorder()
			handler.ServeHTTP(recorder, req)
			statuses <- recorder.Code
		}()
	}
	require.Eventually(t, func() bool { return source.looking.Load() == many }, 5*time.Second, time.Millisecond)
	close(source.answer)
	for range many {
		require.Equal(t, http.StatusOK, <-statuses)
	}
}

// Otherwise the server would send the refusal only at the read timeout, and hold the connection until then.
func TestRefusalDoesNotWaitForTheBody(t *testing.T) {
	// exchange sends the head of a request whose body never comes, and returns the reply once the server has closed the
	// connection.
	exchange := func(t *testing.T, server *lifecycle.Server, head string) *http.Response {
		conn := dial(t, server)
		fmt.Fprintf(conn, "PUT %s HTTP/1.1\r\nHost: a\r\n%s\r\n", policyPath, head)
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		require.NoError(t, err)
		_, err = io.ReadAll(response.Body)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		return response
	}
	once := ratelimit.Rate{PerSecond: 0.0001, Burst: 1}
	for name, tc := range map[string]struct {
		cfg    auth.MiddlewareConfig
		head   string
		before int // requests before it, to be over a limit
		status int
	}{
		"without a credential":      {auth.MiddlewareConfig{}, "Content-Type: application/json\r\n", 0, http.StatusUnauthorized},
		"of another media type":     {auth.MiddlewareConfig{}, "Authorization: Bearer good\r\nContent-Type: text/plain\r\n", 0, http.StatusUnsupportedMediaType},
		"over the user's limit":     {auth.MiddlewareConfig{PrincipalRate: once}, "Authorization: Bearer good\r\nContent-Type: text/plain\r\n", 1, http.StatusTooManyRequests},
		"over the address's limit":  {auth.MiddlewareConfig{Guesses: auth.NewGuesses(once, nil, nil)}, "Authorization: Bearer bad\r\n", 1, http.StatusTooManyRequests},
		"with a bad credential too": {auth.MiddlewareConfig{}, "Authorization: Bearer bad\r\n", 0, http.StatusUnauthorized},
	} {
		for kind, length := range map[string]string{
			"a length": "Content-Length: 100\r\n", "chunks": "Transfer-Encoding: chunked\r\n", "much": "Content-Length: 10000000\r\n",
			"a question": "Content-Length: 100\r\nExpect: 100-continue\r\n",
		} {
			t.Run(name+", announced by "+kind, func(t *testing.T) {
				tc.cfg.Sessions = &sessions{}
				server := startServer(t, newHandler(t, tc.cfg).ServeHTTP, nil)
				for range tc.before {
					require.NoError(t, exchange(t, server, tc.head+length).Body.Close())
				}
				began := time.Now()
				response := exchange(t, server, tc.head+length)
				defer func() { _ = response.Body.Close() }()
				require.Equal(t, tc.status, response.StatusCode)
				require.True(t, response.Close, "Connection: close")
				require.Less(t, time.Since(began), 5*time.Second, "long before the read timeout")
			})
		}
	}
}

// A connection without unread data can be reused.
func TestRefusalWithoutBodyKeepsTheConnection(t *testing.T) {
	server := startServer(t, newHandler(t, auth.MiddlewareConfig{Sessions: &sessions{}}).ServeHTTP, nil)
	conn := dial(t, server)
	reader := bufio.NewReader(conn)
	for range 3 {
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: a\r\n\r\n", policyPath)
		response, err := http.ReadResponse(reader, nil)
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, response.Body)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.Equal(t, http.StatusUnauthorized, response.StatusCode)
		require.False(t, response.Close)
	}
}

func TestBodyErrorsNameTheFieldNotItsValue(t *testing.T) {
	const canary = "CANARY7Q"
	handler := newHandler(t, auth.MiddlewareConfig{Sessions: &sessions{}})
	const malformed, empty, twice = "is not one well-formed JSON document in UTF-8", "is empty; send a JSON object", "has a member twice"
	for name, tc := range map[string]struct{ body, message string }{
		"no body":                {"", empty},
		"white space alone":      {" \n", malformed + "; it goes wrong at byte 2"},
		"a member twice":         {`{"` + canary + `":1,"` + canary + `":2}`, twice},
		"an inner one":           {`{"a":{"` + canary + `":1,"` + canary + `":2}}`, twice},
		"twice, escaped":         {`{"CANARY":1,"\u0043ANARY":2}`, twice},
		"no value":               {`{"a": ` + canary + `}`, malformed + "; it goes wrong at byte 6"},
		"no document":            {canary, malformed + "; it goes wrong at byte 0"},
		"an end too early":       {`{"a":"` + canary, malformed + "; it goes wrong at byte"},
		"something after it":     {`{}` + canary, malformed + "; it goes wrong at byte 2"},
		"a control character":    {"{\"a\":\"" + canary + "\n\"}", malformed + "; it goes wrong at byte"},
		"bytes that no text has": {"{\"" + canary + "\":\"\xff\"}", malformed + "; it goes wrong at byte"},
	} {
		t.Run(name, func(t *testing.T) {
			req := httptest.NewRequestWithContext(t.Context(), http.MethodPut, policyPath, strings.NewReader(tc.body))
			req.Header.Set("Authorization", "Bearer x")
			req.Header.Set("Content-Type", "application/json")
			recorder := httptest.NewRecorder()
			handler.ServeHTTP(recorder, req)
			require.Equal(t, http.StatusBadRequest, recorder.Code)
			var doc problem.Document
			require.NoError(t, json.Unmarshal(recorder.Body.Bytes(), &doc))
			require.Len(t, doc.Errors, 1)
			require.Equal(t, "body", doc.Errors[0].Field)
			if strings.HasSuffix(tc.message, "byte") {
				require.Contains(t, doc.Errors[0].Message, tc.message)
			} else {
				require.Equal(t, tc.message, doc.Errors[0].Message)
			}
			require.NotContains(t, recorder.Body.String(), canary[:6])
		})
	}
}

// Errors of Echo and of the generated code have their own texts, which may quote the request.
func TestFrameworkErrors(t *testing.T) {
	const secret = "sk-0123456789abcdef"
	for status, want := range map[int]int{400: 400, 404: 404, 405: 405, 413: 413, 415: 415, 429: 429, 500: 500, 418: 500, 0: 500} {
		api, err := newAPI(t, nil, nil)
		require.NoError(t, err)
		api.Echo.GET("/fails", func(echo.Context) error {
			return echo.NewHTTPError(status, secret).SetInternal(errors.New(secret))
		})
		recorder := httptest.NewRecorder()
		api.Echo.ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, "/fails", http.NoBody))
		require.Equal(t, want, recorder.Code)
		body, err := io.ReadAll(recorder.Body)
		require.NoError(t, err)
		require.NotContains(t, string(body), secret)
	}
}

func TestClientCertificates(t *testing.T) {
	issuer := tlsfilestest.NewAuthority(t)
	authorities, err := tlsfiles.OpenPool("client CA file", issuer.Write(t, filepath.Join(t.TempDir(), "ca.crt")), nil)
	require.NoError(t, err)
	certificate := tlsfilestest.WriteCertificate(t, t.TempDir(), 1)
	own, err := tlsfiles.OpenPair("TLS certificate", certificate.CertFile, certificate.KeyFile, nil)
	require.NoError(t, err)
	source := &sessions{}
	handler := newHandler(t, auth.MiddlewareConfig{Sessions: source, Certificates: source})
	server := startServer(t, handler.ServeHTTP, func(cfg *httpapi.ServerConfig) {
		cfg.TLS = tlsfiles.MutualConfig(own, authorities, tls.VerifyClientCertIfGiven, tls.VersionTLS12, "h2", "http/1.1")
	})
	// show returns an HTTP client with a certificate that the authority issues and change alters.
	show := func(authority *tlsfilestest.Authority, change func(*x509.Certificate)) *http.Client {
		shown := authority.Issue(t, t.TempDir(), change)
		settings := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: certificate.Pool(t), GetClientCertificate: shown.Show(t)}
		transport := &http.Transport{TLSClientConfig: settings}
		t.Cleanup(transport.CloseIdleConnections)
		return &http.Client{Transport: transport, Timeout: 5 * time.Second}
	}
	newClient := func(change func(*x509.Certificate)) *http.Client { return show(issuer, change) }
	// ask sends a request with Authorization headers. Status 0 means no response.
	ask := func(t *testing.T, client *http.Client, authorization ...string) (status int, closed bool) {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL()+"/v1/whoami", http.NoBody)
		require.NoError(t, err)
		request.Header["Authorization"] = authorization
		response, err := client.Do(request)
		if err != nil {
			return 0, true
		}
		require.NoError(t, response.Body.Close())
		return response.StatusCode, response.Close
	}
	t.Run("a token takes precedence", func(t *testing.T) {
		bare := newClient(tlsfilestest.Named("edge.internal"))
		bare.Transport.(*http.Transport).TLSClientConfig.GetClientCertificate = nil //nolint:forcetypeassert // the helper's own
		known, unknown := newClient(tlsfilestest.Named("edge.internal")), newClient(tlsfilestest.Named("other.internal"))
		for name, c := range map[string]struct {
			client *http.Client
			tokens []string
			status int
		}{
			"a token":                             {bare, []string{"Bearer good"}, http.StatusOK},
			"a certificate":                       {known, nil, http.StatusOK},
			"nothing":                             {bare, nil, http.StatusUnauthorized},
			"a certificate that is nobody's":      {unknown, nil, http.StatusUnauthorized},
			"a token, and nobody's certificate":   {unknown, []string{"Bearer good"}, http.StatusOK},
			"a bad token, and a good certificate": {known, []string{"Bearer bad"}, http.StatusUnauthorized},
			"two tokens, and a good certificate":  {known, []string{"Bearer good", "Bearer good"}, http.StatusUnauthorized},
			"one without a name":                  {newClient(func(*x509.Certificate) {}), nil, http.StatusUnauthorized},
			"one of an authority that is not known": {
				show(tlsfilestest.NewAuthority(t), tlsfilestest.Named("edge.internal")), nil, 0},
			"expired certificate": {newClient(func(c *x509.Certificate) {
				tlsfilestest.Named("edge.internal")(c)
				c.NotAfter = time.Now().Add(-time.Minute)
			}), nil, 0},
			"server certificate": {newClient(func(c *x509.Certificate) {
				tlsfilestest.Named("edge.internal")(c)
				c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
			}), nil, 0},
		} {
			status, _ := ask(t, c.client, c.tokens...)
			require.Equal(t, c.status, status, name)
		}
	})
	t.Run("the names are the verified ones", func(t *testing.T) {
		client := newClient(func(c *x509.Certificate) {
			c.DNSNames, c.Subject.CommonName = []string{"a.internal", "edge.internal"}, "Edge 1"
			c.URIs = []*url.URL{{Scheme: "spiffe", Host: "acme", Path: "/edge"}}
		})
		status, _ := ask(t, client)
		require.Equal(t, http.StatusOK, status)
		require.Equal(t, []string{"dns:a.internal", "dns:edge.internal", "uri:spiffe://acme/edge", "cn:Edge 1"}, *source.names.Load())
	})
	t.Run("over HTTP/2", func(t *testing.T) {
		client := newClient(tlsfilestest.Named("edge.internal"))
		client.Transport.(*http.Transport).ForceAttemptHTTP2 = true //nolint:forcetypeassert // the helper's own
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL()+"/v1/whoami", http.NoBody)
		require.NoError(t, err)
		response, err := client.Do(request)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.Equal(t, 2, response.ProtoMajor)
		require.Equal(t, http.StatusOK, response.StatusCode)
	})
	t.Run("it expires on an open connection", func(t *testing.T) {
		expires := time.Now().Truncate(time.Second).Add(3 * time.Second)
		client := newClient(func(c *x509.Certificate) {
			tlsfilestest.Named("edge.internal")(c)
			c.NotAfter = expires
		})
		status, closed := ask(t, client)
		require.Equal(t, http.StatusOK, status)
		require.True(t, closed, "in its last minute the connection is closed, so that a renewed one is shown")
		_, closed = ask(t, newClient(tlsfilestest.Named("edge.internal")))
		require.False(t, closed)

		// On this connection, the first request is sent only after the certificate has expired.
		conn, err := (&tls.Dialer{Config: client.Transport.(*http.Transport).TLSClientConfig}).DialContext(t.Context(), "tcp", hostOf(server)) //nolint:forcetypeassert // the helper's own
		require.NoError(t, err)
		defer func() { _ = conn.Close() }()
		time.Sleep(time.Until(expires) + 100*time.Millisecond)
		_, err = conn.Write([]byte("GET /v1/whoami HTTP/1.1\r\nHost: a\r\n\r\n"))
		require.NoError(t, err)
		head := make([]byte, len("HTTP/1.1 401"))
		_, err = conn.Read(head)
		require.NoError(t, err)
		require.Equal(t, "HTTP/1.1 401", string(head))
	})
}
