package httpapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	gen "github.com/agentrouter/aikeys/gen/secrets"
	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/impl/problem"
)

// porter is a door that does as a test says.
type porter struct {
	admit, enter error
	inside       int
	left         []error
}

func (p *porter) Admit(ctx context.Context, call *httpapi.Call) (context.Context, error) {
	call.Client = "caller"
	return ctx, p.admit
}

func (p *porter) Enter(context.Context) (func(), error) {
	if p.enter != nil {
		return nil, p.enter
	}
	p.inside++
	return func() { p.inside-- }, nil
}

func (p *porter) Done(_ *httpapi.Call, err error) { p.left = append(p.left, err) }

const sealBody = `{"binding": {"customer_id": "c", "project_id": "p", "key_id": "k", "provider": "openai", "version": 1}, "secret": %s}`

// behind serves the operation sealSecret behind a door.
func behind(t *testing.T, p httpapi.Door, handler echo.HandlerFunc) func(body io.Reader) *httptest.ResponseRecorder {
	t.Helper()
	doc, err := gen.GetSpec()
	require.NoError(t, err)
	observer, err := httpapi.NewObserver("test", slog.New(slog.DiscardHandler), prometheus.NewRegistry(), nil)
	require.NoError(t, err)
	api, err := httpapi.NewAPI(httpapi.Config{Document: doc, Observer: observer, Door: p, MaxBody: httpapi.LargeBody})
	require.NoError(t, err)
	api.Echo.POST("/v1/seal", handler, api.Middlewares["sealSecret"]...)
	return func(body io.Reader) *httptest.ResponseRecorder {
		req := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/v1/seal", body)
		req.Header.Set("Content-Type", "application/json")
		recorder := httptest.NewRecorder()
		api.Echo.ServeHTTP(recorder, req)
		return recorder
	}
}

func TestASecretIsCutOutOfTheBodyBeforeAnythingElseReadsIt(t *testing.T) {
	for name, tc := range map[string]struct{ sent, secret string }{
		"plain":             {`"c2VjcmV0"`, "c2VjcmV0"},
		"with escapes":      {`"a\/b\u002Bc"`, "a/b+c"},
		"with long escapes": {`"\u0041\u0042\u0043\u0044"`, "ABCD"},
		"long":              {`"` + strings.Repeat("abcd", 20_000) + `"`, strings.Repeat("abcd", 20_000)},
		"not in ASCII":      {`"geheim\u00fc"`, "geheimü"},
	} {
		t.Run(name, func(t *testing.T) {
			p := &porter{}
			var kept []byte
			send := behind(t, p, func(c echo.Context) error {
				kept = httpapi.CutSecret(c.Request().Context(), "secret")
				require.Equal(t, tc.secret, string(kept))
				require.Nil(t, httpapi.CutSecret(c.Request().Context(), "binding"))
				body, ok := c.Request().Body.(interface{ ValidatedValue() any })
				require.True(t, ok)
				value, err := json.Marshal(body.ValidatedValue())
				require.NoError(t, err)
				require.NotContains(t, string(value), tc.secret)
				require.Contains(t, string(value), `"secret":"`+strings.Repeat("A", len(tc.secret))+`"`)
				require.Contains(t, string(value), `"key_id":"k"`)
				require.Equal(t, 1, p.inside)
				return c.NoContent(http.StatusNoContent)
			})
			require.Equal(t, http.StatusNoContent, send(strings.NewReader(fmt.Sprintf(sealBody, tc.sent))).Code)
			require.Equal(t, make([]byte, len(kept)), kept, "it is zeroed when the request is over")
			require.Zero(t, p.inside)
			require.Equal(t, []error{nil}, p.left)
		})
	}
}

func TestABodyBehindADoorIsCheckedLikeAnyOther(t *testing.T) {
	for name, tc := range map[string]struct {
		body, says string
		status     int
	}{
		"no secret":        {`{"binding": {}}`, "is required", 400},
		"a short secret":   {fmt.Sprintf(sealBody, `"abc"`), "must have at least 4 characters", 400},
		"a long secret":    {fmt.Sprintf(sealBody, `"`+strings.Repeat("a", 87_385)+`"`), "must have at most 87384 characters", 400},
		"another type":     {fmt.Sprintf(sealBody, `12345`), "must be a string", 400},
		"twice":            {`{"secret": "abcd", "secret": "efgh"}`, "has a member twice", 400},
		"no JSON":          {`{"secret": "abcd`, "is not one well-formed JSON document", 400},
		"no object":        {`["abcd"]`, "must be an object", 400},
		"more than one":    {fmt.Sprintf(sealBody, `"abcd"`) + "{}", "is not one well-formed JSON document", 400},
		"nothing":          {"", "is empty", 400},
		"over the limit":   {fmt.Sprintf(sealBody, `"`+strings.Repeat("a", 1<<20)+`"`), "The body is over the limit of 1 MiB.", 413},
		"another spelling": {strings.Replace(fmt.Sprintf(sealBody, `"abcd"`), "secret", "Secret", 1), "has a member that this method does not know", 400},
	} {
		t.Run(name, func(t *testing.T) {
			p := &porter{}
			send := behind(t, p, func(echo.Context) error { return errors.New("not reached") })
			reply := send(strings.NewReader(tc.body))
			require.Equal(t, tc.status, reply.Code)
			require.Contains(t, reply.Body.String(), tc.says)
			require.Zero(t, p.inside)
			require.Len(t, p.left, 1)
			require.Error(t, p.left[0])
		})
	}
}

// unreadable is a body that fails the test when it is read.
type unreadable struct{ t *testing.T }

func (u unreadable) Read([]byte) (int, error) {
	require.Fail(u.t, "the body was read")
	return 0, io.EOF
}

func TestWhoIsNotAdmittedHasNoBodyRead(t *testing.T) {
	p := &porter{admit: problem.ErrClientNotAllowed}
	send := behind(t, p, func(echo.Context) error { return errors.New("not reached") })
	require.Equal(t, http.StatusForbidden, send(unreadable{t}).Code)
	require.Equal(t, []error{problem.ErrClientNotAllowed}, p.left)
}

func TestWhoFindsNoPlaceIsSentAway(t *testing.T) {
	p := &porter{enter: problem.ErrBusy}
	send := behind(t, p, func(echo.Context) error { return errors.New("not reached") })
	reply := send(strings.NewReader(fmt.Sprintf(sealBody, `"abcd"`)))
	require.Equal(t, http.StatusServiceUnavailable, reply.Code)
	require.Equal(t, "1", reply.Header().Get("Retry-After"))
}

func TestAPanicGivesThePlaceBackAndZeroesTheSecret(t *testing.T) {
	p := &porter{}
	var kept []byte
	send := behind(t, p, func(c echo.Context) error {
		kept = httpapi.CutSecret(c.Request().Context(), "secret")
		panic(string(kept))
	})
	reply := send(strings.NewReader(fmt.Sprintf(sealBody, `"c2VjcmV0"`)))
	require.Equal(t, http.StatusInternalServerError, reply.Code)
	require.NotContains(t, reply.Body.String(), "c2VjcmV0")
	require.Equal(t, make([]byte, 8), kept)
	require.Zero(t, p.inside)
	require.Equal(t, []error{problem.ErrInternal}, p.left)
}

func TestABodyThatBreaksOffIsTheCallersFault(t *testing.T) {
	p := &porter{}
	send := behind(t, p, func(echo.Context) error { return errors.New("not reached") })
	reply := send(io.MultiReader(strings.NewReader(`{"secret": "abcd`), brokenReader{}))
	require.Equal(t, http.StatusBadRequest, reply.Code)
	require.Contains(t, reply.Body.String(), "did not come whole")
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// ajar is a door that lets everybody in, many at once.
type ajar struct{}

func (ajar) Admit(ctx context.Context, _ *httpapi.Call) (context.Context, error) { return ctx, nil }
func (ajar) Enter(context.Context) (func(), error)                               { return func() {}, nil }
func (ajar) Done(*httpapi.Call, error)                                           {}

func TestBodiesThatAreHeldTakeABoundedAmountOfMemory(t *testing.T) {
	const most = 64 << 20
	send := behind(t, ajar{}, func(c echo.Context) error { return c.NoContent(http.StatusNoContent) })
	long := fmt.Sprintf(sealBody, `"`+strings.Repeat("abcd", 20_000)+`"`) + strings.Repeat(" ", httpapi.LargeBody*3/4)
	var (
		held     sync.WaitGroup
		let      []io.Closer
		sentAway atomic.Int64
	)
	answered := make(chan int)
	for range most/httpapi.LargeBody + 1 {
		body, rest := io.Pipe()
		let = append(let, rest)
		read := make(chan struct{})
		held.Go(func() {
			code := send(io.MultiReader(strings.NewReader(long), &telling{read: read}, body)).Code
			if code == http.StatusServiceUnavailable {
				sentAway.Add(1)
				answered <- code
			}
		})
		select {
		case <-read:
		case <-answered:
		}
	}
	require.EqualValues(t, 1, sentAway.Load(), "those that fit are held, and no more")
	require.Equal(t, http.StatusNoContent, send(strings.NewReader(fmt.Sprintf(sealBody, `"abcd"`))).Code, "short ones need no more room")
	for _, rest := range let {
		require.NoError(t, rest.Close())
	}
	held.Wait()
	require.Equal(t, http.StatusNoContent, send(strings.NewReader(long)).Code, "the room was given back")
}

// telling tells when it is read, and holds nothing.
type telling struct{ read chan struct{} }

func (r *telling) Read([]byte) (int, error) {
	close(r.read)
	return 0, io.EOF
}
