package aikeystest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/stretchr/testify/require"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/internal/problem"
)

// Request is a request that the generated client can't make.
type Request struct {
	Method string
	// Path is the escaped path with its query.
	Path string
	// Token goes into an Authorization header; empty sends none.
	Token  string
	Header http.Header
	// Body is sent unchanged; nil sends none. Its Content-Type is application/json unless Header says otherwise.
	Body []byte
	// Chunked sends the body without its length.
	Chunked bool
}

// Reply is the answer to a Request.
type Reply struct {
	Status int
	Header http.Header
	Body   []byte
}

// Problem returns the reply's problem document. Any other reply fails the test.
func (r Reply) Problem(t testing.TB) gen.Problem {
	p, err := parseProblem(r.Header, r.Body)
	require.NoError(t, err)
	return p
}

// Fields returns the fields that the reply's problem names.
func (r Reply) Fields(t testing.TB) []string {
	var names []string
	for _, field := range r.Problem(t).Errors {
		names = append(names, field.Field)
	}
	return names
}

func parseProblem(header http.Header, body []byte) (gen.Problem, error) {
	var p gen.Problem
	if got := header.Get("Content-Type"); got != problem.ContentType {
		return p, fmt.Errorf("content type is %q, want %s", got, problem.ContentType)
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&p); err != nil {
		return p, fmt.Errorf("not a problem document: %w", err)
	}
	return p, nil
}

// Response is a reply of any generated client.
type Response interface {
	StatusCode() int
	GetBody() []byte
}

// RequireRefused asserts that a request is answered with a problem of this status and type.
func RequireRefused(t testing.TB, reply Response, status int, slug string) problem.Document {
	t.Helper()
	require.Equal(t, status, reply.StatusCode(), "%s", reply.GetBody())
	var doc problem.Document
	require.NoError(t, json.Unmarshal(reply.GetBody(), &doc))
	require.Equal(t, "/problems/"+slug, doc.Type)
	return doc
}

// Send makes a request over the socket. Its reply is checked like any other.
func (s *Service) Send(t testing.TB, r Request) Reply {
	req, err := r.build(s.URL)
	require.NoError(t, err)
	return s.Do(t, req.WithContext(t.Context()))
}

// Do makes a request that the caller has built. Its reply is checked like any other.
func (s *Service) Do(t testing.TB, req *http.Request) Reply {
	resp, err := s.client.Do(req)
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return Reply{resp.StatusCode, resp.Header, body}
}

// Serve passes a request to the handler without a socket, and returns the reply and what is wrong with it.
func (s *Service) Serve(req *http.Request) (Reply, []string) {
	recorder := httptest.NewRecorder()
	s.Handler.ServeHTTP(recorder, req.Clone(req.Context())) // the handler may change its request
	resp := recorder.Result()
	body := recorder.Body.Bytes()
	s.Evidence.Keep(resp, body)
	return Reply{resp.StatusCode, resp.Header, body}, s.contract.Complaints(req, resp, body)
}

func (r Request) build(base string) (*http.Request, error) {
	var body io.Reader
	if r.Body != nil {
		body = bytes.NewReader(r.Body)
	}
	if r.Chunked {
		body = io.MultiReader(body) // net/http does not know its length
	}
	req, err := http.NewRequest(r.Method, base+r.Path, body) //nolint:noctx // Send adds the test's.
	if err != nil {
		return nil, err
	}
	if r.Body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for name, values := range r.Header {
		req.Header[name] = values
	}
	if r.Token != "" {
		req.Header.Set("Authorization", "Bearer "+r.Token)
	}
	return req, nil
}

// Operation is one of the document's operations, with a request made from the document's examples.
type Operation struct {
	*openapi3.Operation
	Request
}

var loadDocument = sync.OnceValues(gen.GetSpec)

// Operations returns the document's operations that need a credential. Tests share them, so they must not be changed.
func Operations(t testing.TB) []Operation {
	doc, err := loadDocument()
	require.NoError(t, err)
	var operations []Operation
	for _, path := range doc.Paths.InMatchingOrder() {
		item := doc.Paths.Value(path)
		for method, op := range item.Operations() {
			if op.Security != nil && len(*op.Security) == 0 {
				continue
			}
			o := Operation{Operation: op, Request: Request{Method: method, Path: path}}
			for _, ref := range append(item.Parameters[:len(item.Parameters):len(item.Parameters)], op.Parameters...) {
				o.addExample(ref.Value)
			}
			if op.RequestBody != nil {
				o.Body = exampleBody(t, op)
			}
			operations = append(operations, o)
		}
	}
	require.NotEmpty(t, operations)
	return operations
}

// addExample adds a parameter's example to a request if the parameter is required. Ids of customer and project are Self.
func (o *Operation) addExample(p *openapi3.Parameter) {
	value := fmt.Sprint(p.Example)
	switch {
	case p.In == openapi3.ParameterInPath && (p.Name == "customer_id" || p.Name == "project_id"):
		o.Path = strings.ReplaceAll(o.Path, "{"+p.Name+"}", Self)
	case p.In == openapi3.ParameterInPath:
		o.Path = strings.ReplaceAll(o.Path, "{"+p.Name+"}", value)
	case p.In == openapi3.ParameterInQuery && p.Required:
		o.Path += "?" + p.Name + "=" + value
	}
}

// exampleBody returns the example whose name sorts first.
func exampleBody(t testing.TB, op *openapi3.Operation) []byte {
	examples := op.RequestBody.Value.Content["application/json"].Examples
	require.NotEmpty(t, examples, "operation %s has no example of its body", op.OperationID)
	body, err := json.Marshal(examples[slices.Min(slices.Collect(maps.Keys(examples)))].Value.Value)
	require.NoError(t, err)
	return body
}
