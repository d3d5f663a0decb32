package aikeystest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/stretchr/testify/require"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/httpapi"
)

// Contract checks replies against an OpenAPI document, more strictly than clients should. It also rejects members that
// the document does not name, and values that are missing from a list of values, even if that list may grow. So a
// service under test can't answer anything undocumented.
type Contract struct {
	// Doc is the document, with all schemas closed.
	Doc *openapi3.T
}

// NewContract returns the contract of a document. It changes the document.
func NewContract(doc *openapi3.T) *Contract {
	closed := map[*openapi3.Schema]bool{}
	for _, ref := range doc.Components.Schemas {
		closeSchema(ref, closed)
	}
	return &Contract{Doc: doc}
}

// loadContract reads the document once for all services of a test run, since that takes time.
var loadContract = sync.OnceValues(func() (*Contract, error) {
	doc, err := gen.GetSpec()
	if err != nil {
		return nil, err
	}
	return NewContract(doc), nil
})

func newContract(t testing.TB) *Contract {
	c, err := loadContract()
	require.NoError(t, err)
	return c
}

func closeSchema(ref *openapi3.SchemaRef, closed map[*openapi3.Schema]bool) {
	if ref == nil || closed[ref.Value] {
		return
	}
	s := ref.Value
	closed[s] = true
	if known, ok := s.Extensions["x-extensible-enum"].([]any); ok {
		s.Enum = known
	}
	if slices.Contains(s.Enum, any("openai")) && slices.Contains(s.Enum, any("bedrock")) { // customers' own providers are allowed, too
		s.Pattern, s.Enum = "^("+strings.Trim(strings.ReplaceAll(fmt.Sprint(s.Enum), " ", "|"), "[]")+"|x-[a-z0-9-]+)$", nil
	}
	if s.Type.Is("object") && s.AdditionalProperties.Schema == nil {
		none := false
		s.AdditionalProperties.Has = &none
	}
	closeSchema(s.Items, closed)
	closeSchema(s.AdditionalProperties.Schema, closed)
	for _, property := range s.Properties {
		closeSchema(property, closed)
	}
}

// Complaints returns what is wrong with a reply. Its texts quote nothing from the request. It does not check the body
// of a stream.
func (c *Contract) Complaints(req *http.Request, resp *http.Response, body []byte) []string {
	var found []string
	complain := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	route := c.route(req)
	for name, want := range map[string]string{"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"} {
		if documentsHeader(route, resp.StatusCode, name) {
			continue
		}
		if got := resp.Header.Values(name); !slices.Equal(got, []string{want}) {
			complain("header %s is %q, want %q", name, got, want)
		}
	}
	if resp.StatusCode >= http.StatusBadRequest && req.Method != http.MethodHead {
		found = append(found, problemComplaints(resp, body)...)
	}
	if route == nil {
		unrouted := []int{http.StatusNotFound, http.StatusMethodNotAllowed}
		if req.Method == http.MethodOptions {
			unrouted = append(unrouted, http.StatusNoContent)
		}
		if !slices.Contains(unrouted, resp.StatusCode) {
			complain("status %d for a request that is not in the document", resp.StatusCode)
		}
		return found
	}
	err := openapi3filter.ValidateResponse(context.Background(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: req, Route: route},
		Status:                 resp.StatusCode, Header: resp.Header, Body: io.NopCloser(bytes.NewReader(body)),
		Options: &openapi3filter.Options{
			IncludeResponseStatus:   true,
			ExcludeResponseBody:     resp.Header.Get("Content-Type") == "text/event-stream",
			SchemaValidationOptions: []openapi3.SchemaValidationOption{openapi3.EnableFormatValidation(), openapi3.DisableSchemaErrorDetails()},
		},
	})
	if err != nil {
		complain("%s, status %d: %v", route.Operation.OperationID, resp.StatusCode, err)
	}
	return found
}

// documentsHeader reports whether the document describes a header of this answer.
func documentsHeader(route *routers.Route, status int, name string) bool {
	if route == nil {
		return false
	}
	response := route.Operation.Responses.Status(status)
	return response != nil && response.Value.Headers[name] != nil
}

// problemComplaints checks what the document can't express about problems.
func problemComplaints(resp *http.Response, body []byte) []string {
	var found []string
	p, err := parseProblem(resp.Header, body)
	if err != nil {
		return []string{fmt.Sprintf("status %d: %v", resp.StatusCode, err)}
	}
	if p.Status != resp.StatusCode {
		found = append(found, fmt.Sprintf("problem says status %d, the reply %d", p.Status, resp.StatusCode))
	}
	if id := resp.Header.Get("X-Request-Id"); len(id) != 26 || p.RequestID != id || p.Instance == nil || *p.Instance != "urn:request:"+id {
		found = append(found, "problem's request_id and instance are not the X-Request-Id")
	}
	switch resp.StatusCode {
	case http.StatusUnauthorized:
		if !strings.HasPrefix(resp.Header.Get("WWW-Authenticate"), "Bearer ") {
			found = append(found, "401 without WWW-Authenticate")
		}
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		if wait, err := strconv.Atoi(resp.Header.Get("Retry-After")); err != nil || wait < 1 {
			found = append(found, fmt.Sprintf("%d without Retry-After of a second or more", resp.StatusCode))
		}
	case http.StatusMethodNotAllowed:
		if resp.Header.Get("Allow") == "" {
			found = append(found, "405 without Allow")
		}
	}
	return found
}

// route returns the operation that answers a request, or nil.
func (c *Contract) route(req *http.Request) *routers.Route {
	path := httpapi.CanonicalPath(req.URL.EscapedPath())
	longest := 0 // a longer path than a key's is the key's, unless the document has it
	for template := range c.Doc.Paths.Map() {
		if matches(template, path) {
			longest = max(longest, strings.Count(template, "/"))
		}
	}
	for template, item := range c.Doc.Paths.Map() {
		op := item.GetOperation(req.Method)
		if op != nil && strings.Count(template, "/") == longest && matches(template, path) {
			return &routers.Route{Spec: c.Doc, Path: template, PathItem: item, Method: req.Method, Operation: op}
		}
	}
	return nil
}

// matches reports whether a path matches a template. A parameter at the end matches the rest of the path, including
// slashes. No id contains a slash, so the operation refuses a value with one.
func matches(template, path string) bool {
	want, got := strings.Split(template, "/"), strings.Split(path, "/")
	last := len(want) - 1
	if strings.HasPrefix(want[last], "{") && len(got) > len(want) {
		got = append(got[:last:last], strings.Join(got[last:], "/"))
	}
	return slices.EqualFunc(want, got, func(w, g string) bool { return w == g || (strings.HasPrefix(w, "{") && g != "") })
}

// checkedTransport checks every reply on its way to the client and keeps it as evidence.
type checkedTransport struct {
	service *Service
	base    http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (c *checkedTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := c.base.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	var body []byte
	if resp.Header.Get("Content-Type") != "text/event-stream" {
		body, err = io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil {
			return nil, err
		}
		resp.Body = io.NopCloser(bytes.NewReader(body))
	}
	holdsSecret := (req.URL.Path == "/v1/fetch" || req.URL.Path == "/v1/claims") && resp.StatusCode == http.StatusOK
	if !holdsSecret {
		c.service.Evidence.Keep(resp, body)
	}
	for _, complaint := range c.service.contract.Complaints(req, resp, body) {
		c.service.t.Errorf("aikeystest: %s", complaint)
	}
	return resp, nil
}
