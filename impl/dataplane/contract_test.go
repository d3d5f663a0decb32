package dataplane_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/stretchr/testify/require"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/internal/problem"
)

// contract is the document, closed: members that it does not name and values that its growing lists do not have are errors.
var contract = sync.OnceValues(func() (*openapi3.T, error) {
	doc, err := gen.GetSpec()
	if err != nil {
		return nil, err
	}
	closed := map[*openapi3.Schema]bool{}
	for _, ref := range doc.Components.Schemas {
		closeSchema(ref, closed)
	}
	return doc, nil
})

func closeSchema(ref *openapi3.SchemaRef, closed map[*openapi3.Schema]bool) {
	if ref == nil || closed[ref.Value] {
		return
	}
	s := ref.Value
	closed[s] = true
	if known, ok := s.Extensions["x-extensible-enum"].([]any); ok {
		s.Enum = known
	}
	if s.Type.Is("object") {
		none := false
		s.AdditionalProperties.Has = &none
	}
	closeSchema(s.Items, closed)
	for _, property := range s.Properties {
		closeSchema(property, closed)
	}
}

// complaints says what is wrong with a reply, whose body is that of a stream only up to where it was read.
func complaints(req *http.Request, resp *http.Response, body []byte) []string {
	doc, err := contract()
	if err != nil {
		return []string{err.Error()}
	}
	var found []string
	if got := resp.Header.Get("Cache-Control"); got != "no-store" {
		found = append(found, "Cache-Control is "+got)
	}
	item := doc.Paths.Value(req.URL.Path)
	if item == nil || item.GetOperation(req.Method) == nil {
		return found
	}
	stream := resp.Header.Get("Content-Type") == eventStream
	err = openapi3filter.ValidateResponse(context.Background(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: req, Route: &routers.Route{
			Spec: doc, Path: req.URL.Path, PathItem: item, Method: req.Method, Operation: item.GetOperation(req.Method),
		}},
		Status: resp.StatusCode, Header: resp.Header, Body: io.NopCloser(bytes.NewReader(body)),
		Options: &openapi3filter.Options{
			IncludeResponseStatus: true, ExcludeResponseBody: stream,
			SchemaValidationOptions: []openapi3.SchemaValidationOption{openapi3.EnableFormatValidation(), openapi3.DisableSchemaErrorDetails()},
		},
	})
	if err != nil {
		found = append(found, fmt.Sprintf("%s %s, status %d: %v", req.Method, req.URL.Path, resp.StatusCode, err))
	}
	if resp.StatusCode < http.StatusBadRequest {
		return found
	}
	var p problem.Document
	if err := json.Unmarshal(body, &p); err != nil || p.Status != resp.StatusCode || p.RequestID != resp.Header.Get("X-Request-Id") {
		found = append(found, fmt.Sprintf("status %d: the problem document is of another reply, or none", resp.StatusCode))
	}
	if resp.StatusCode == http.StatusUnauthorized && !strings.HasPrefix(resp.Header.Get("WWW-Authenticate"), "Bearer ") {
		found = append(found, "401 without WWW-Authenticate")
	}
	if resp.StatusCode == http.StatusServiceUnavailable && resp.Header.Get("Retry-After") == "" {
		found = append(found, "503 without Retry-After")
	}
	return found
}

const eventStream = "text/event-stream"

// checkedTransport checks every reply on its way to the client, and keeps refusals to be searched for secrets.
type checkedTransport struct {
	service *service
	base    http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (c *checkedTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := c.base.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	var body []byte
	if resp.Header.Get("Content-Type") != eventStream {
		body, err = io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil {
			return nil, err
		}
		resp.Body = io.NopCloser(bytes.NewReader(body))
	}
	if resp.StatusCode >= http.StatusBadRequest {
		_, _ = c.service.refusals.Write(body)
	}
	for _, complaint := range complaints(req, resp, body) {
		c.service.t.Error(complaint)
	}
	return resp, nil
}

// A check that notices nothing passes on everything.
func TestTheContractCheckNotices(t *testing.T) {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://h/v1/fetch", http.NoBody)
	require.NoError(t, err)
	const id = "01JD8Q6Z3VQW2E4R6T8Y0A1S3D"
	const good = `{"key_id":"byok_` + id + `","version":1,"customer_id":"acme","project_id":"web","provider":"openai","scope":"project",` +
		`"reason":"project_key","secret":"s","base_url":"https://x","auth_style":"bearer","as_of":"1:1:"}`
	reply := func(status int, body string) []string {
		header := http.Header{"Content-Type": {"application/json"}, "Cache-Control": {"no-store"}, "X-Request-Id": {id}}
		if status >= http.StatusBadRequest {
			header.Set("Content-Type", problem.ContentType)
		}
		return complaints(req, &http.Response{StatusCode: status, Header: header}, []byte(body))
	}
	require.Empty(t, reply(200, good))
	require.NotEmpty(t, reply(200, `{}`))
	require.NotEmpty(t, reply(200, strings.Replace(good, "project_key", "whim", 1)))
	require.NotEmpty(t, reply(200, strings.Replace(good, "{", `{"more":1,`, 1)))
	require.NotEmpty(t, reply(202, good))
	require.NotEmpty(t, reply(404, `{"type":"x","title":"x","status":403,"detail":"d","code":"not_found","request_id":"`+id+`"}`))
	require.NotEmpty(t, reply(503, `{"type":"x","title":"x","status":503,"detail":"d","code":"unavailable","request_id":"`+id+`"}`))
}
