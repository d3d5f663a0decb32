package httpapi_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/impl/httpapi"
)

// open is an authenticator that accepts every request.
type open struct{}

func (open) Authenticate(context.Context, string) (auth.Principal, error) {
	return auth.Principal{CustomerID: "acme", UserID: "olga", ProjectID: "web"}, nil
}
func (open) Drop(string) {}

// answering answers one operation and panics on the others.
type answering struct{ gen.StrictServerInterface }

func (answering) WhoAmI(context.Context, gen.WhoAmIRequestObject) (gen.WhoAmIResponseObject, error) {
	return gen.WhoAmI200JSONResponse{}, nil
}

func newAPI(t *testing.T, change func(doc *openapi3.T)) (*httpapi.API, error) {
	t.Helper()
	doc, err := gen.GetSpec()
	require.NoError(t, err)
	if change != nil {
		change(doc)
	}
	observer, err := httpapi.NewObserver("test", slog.New(slog.DiscardHandler), prometheus.NewRegistry(), nil)
	require.NoError(t, err)
	return httpapi.NewAPI(httpapi.Config{Document: doc, Problems: httpapi.Problems(auth.Problems()...), Authenticate: auth.Middleware(auth.MiddlewareConfig{Sessions: open{}}), Observer: observer})
}

// An operation registered without its middlewares would be neither authenticated nor validated.
func TestOperationWithoutMiddlewaresIsRefused(t *testing.T) {
	ask := func(t *testing.T, forget string) int {
		t.Helper()
		api, err := newAPI(t, nil)
		require.NoError(t, err)
		delete(api.Middlewares, forget)
		gen.RegisterHandlersWithOptions(api.Echo, gen.NewStrictHandler(answering{}, []gen.StrictMiddlewareFunc{httpapi.RequireChecked[gen.StrictHandlerFunc]}),
			gen.RegisterHandlersOptions{OperationMiddlewares: api.Middlewares})
		recorder := httptest.NewRecorder()
		req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/v1/whoami", http.NoBody)
		req.Header.Set("Authorization", "Bearer x")
		api.Echo.ServeHTTP(recorder, req)
		return recorder.Code
	}
	require.Equal(t, http.StatusOK, ask(t, ""))
	require.Equal(t, http.StatusInternalServerError, ask(t, "whoAmI"))
}

func TestEveryOperationHasMiddlewaresAndNoOther(t *testing.T) {
	api, err := newAPI(t, nil)
	require.NoError(t, err)
	doc, err := gen.GetSpec()
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
			_, err := newAPI(t, func(doc *openapi3.T) {
				change(doc.Paths.Value("/v1/customers/{customer_id}/projects/{project_id}/policy").Put)
			})
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
