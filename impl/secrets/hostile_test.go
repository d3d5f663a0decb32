package secrets_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/stretchr/testify/require"

	gen "github.com/agentrouter/aikeys/gen/secrets"
	"github.com/agentrouter/aikeys/impl/secrets"
)

// past calls the handler directly, without an identity.
func (s *service) past(t testing.TB, method, path, body string) int {
	t.Helper()
	req := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
	req.Header.Set("Content-Type", "application/json")
	recorder := httptest.NewRecorder()
	s.handler.ServeHTTP(recorder, req)
	return recorder.Code
}

// ask calls the handler directly, with the identity of this process.
func (s *service) ask(t testing.TB, c net.Conn, path string, body []byte) *httptest.ResponseRecorder {
	t.Helper()
	req := httptest.NewRequestWithContext(secrets.ConnContext(t.Context(), c), http.MethodPost, path, bytes.NewReader(body))
	req.Header.Set("Content-Type", "application/json")
	recorder := httptest.NewRecorder()
	s.handler.ServeHTTP(recorder, req.Clone(req.Context()))
	resp := recorder.Result()
	require.NoError(t, resp.Body.Close())
	require.Empty(t, complaints(req, resp, recorder.Body.Bytes()))
	require.Less(t, resp.StatusCode, http.StatusInternalServerError)
	return recorder
}

// connection returns the accepted end of a connection of this process to itself, which knows its peer.
func connection(t testing.TB) net.Conn {
	t.Helper()
	dir, err := os.MkdirTemp("", "secrets") //nolint:usetesting // a socket's path has at most 108 bytes
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	unix, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "s"), Net: "unix"})
	require.NoError(t, err)
	listener := secrets.WithPeers(unix)
	ours, err := new(net.Dialer).DialContext(t.Context(), "unix", filepath.Join(dir, "s"))
	require.NoError(t, err)
	accepted, err := listener.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, errors.Join(ours.Close(), accepted.Close(), listener.Close())) })
	return accepted
}

// send sends a request over the socket.
func (s *service) send(t testing.TB, path, body string) (status int, answer string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://secrets-svc"+path, strings.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	reply, err := s.http.Do(req)
	require.NoError(t, err)
	text, err := io.ReadAll(reply.Body)
	require.NoError(t, err)
	require.NoError(t, reply.Body.Close())
	return reply.StatusCode, string(text)
}

const bindingText = `"binding": {"customer_id": "c", "project_id": "p", "key_id": "k", "provider": "openai", "version": 1}`

func TestInvalidBodyIsRefusedAndNotRepeated(t *testing.T) {
	s := start(t, options{})
	plain := s.marked()
	encoded := base64.StdEncoding.EncodeToString([]byte(plain))
	for name, body := range map[string]string{
		"no base64":           `{` + bindingText + `, "secret": "` + plain + `-"}`,
		"without padding":     `{` + bindingText + `, "secret": "` + strings.TrimRight(encoded, "=") + `"}`,
		"for URLs":            `{` + bindingText + `, "secret": "` + base64.URLEncoding.EncodeToString([]byte("\xff\xff\xff"+plain)) + `"}`,
		"with a line break":   `{` + bindingText + `, "secret": "` + encoded[:8] + `\n` + encoded[8:] + `"}`,
		"as a number":         `{` + bindingText + `, "secret": 12345678}`,
		"as a list":           `{` + bindingText + `, "secret": ["` + plain + `"]}`,
		"beside the binding":  `{` + bindingText + `, "secret": "` + encoded + `", "` + plain + `": 1}`,
		"in the binding":      `{"binding": {"customer_id": "` + plain + `", "` + plain + `": 1}, "secret": "` + encoded + `"}`,
		"cut off":             `{` + bindingText + `, "secret": "` + encoded,
		"twice":               `{` + bindingText + `, "secret": "` + encoded + `", "secret": "` + encoded + `"}`,
		"and more":            `{` + bindingText + `, "secret": "` + encoded + `"}{}`,
		"version 0":           `{` + strings.Replace(bindingText, `: 1}`, `: 0}`, 1) + `, "secret": "` + encoded + `"}`,
		"version 2^32":        `{` + strings.Replace(bindingText, `: 1}`, `: 4294967296}`, 1) + `, "secret": "` + encoded + `"}`,
		"version 1.5":         `{` + strings.Replace(bindingText, `: 1}`, `: 1.5}`, 1) + `, "secret": "` + encoded + `"}`,
		"a part of 256 bytes": `{` + strings.Replace(bindingText, `"c"`, `"`+strings.Repeat("ü", 128)+`"`, 1) + `, "secret": "` + encoded + `"}`,
	} {
		status, answer := s.send(t, "/v1/seal", body)
		require.Equal(t, http.StatusBadRequest, status, "%s: %s", name, answer)
	}
	for name, tc := range map[string]struct{ path, body string }{
		"no envelope":   {"/v1/open", `{` + bindingText + `, "envelope": ""}`},
		"no base64":     {"/v1/open", `{` + bindingText + `, "envelope": "?"}`},
		"no items":      {"/v1/rewrap", `{"items": []}`},
		"too many":      {"/v1/rewrap", `{"items": [` + strings.Repeat(`{`+bindingText+`, "envelope": "AAAA"},`, 256) + `{` + bindingText + `, "envelope": "AAAA"}]}`},
		"a strange one": {"/v1/rewrap", `{"items": [1]}`},
	} {
		status, answer := s.send(t, tc.path, tc.body)
		require.Equal(t, http.StatusBadRequest, status, "%s: %s", name, answer)
	}
	status, _ := s.send(t, "/v1/seal", `{"secret": "`+strings.Repeat("a", 1<<20)+`"}`)
	require.Equal(t, http.StatusRequestEntityTooLarge, status)
	require.Empty(t, s.audit.String())
}

func TestLargestRequestsAreAccepted(t *testing.T) {
	s := start(t, options{})
	plain := strings.Repeat("x", 64<<10)
	sealed := s.seal(plain)
	s.requireOpens(sealed.Envelope, plain)

	small := s.seal("sk-0123456789").Envelope
	items := make([]gen.OpenRequest, 256)
	for i := range items {
		items[i] = openRequest(small)
	}
	items[7].Envelope = "not in base64"
	reply, err := s.client.RewrapEnvelopesWithResponse(t.Context(), gen.RewrapRequest{Items: items})
	require.NoError(t, err)
	require.Len(t, reply.JSON200.Results, len(items))
	for i, result := range reply.JSON200.Results {
		if i == 7 {
			require.Equal(t, "malformed-envelope", *result.Problem)
			continue
		}
		require.Equal(t, small, *result.Envelope)
	}
}

// FuzzSealBody checks that the response to any body is documented, is no internal error and repeats nothing of the body. "SECRET" in a
// body stands for text that nothing may show, and "BASE64" for the same in base64.
func FuzzSealBody(f *testing.F) {
	for _, seed := range []string{
		`{` + bindingText + `, "secret": "BASE64"}`, `{` + bindingText + `, "secret": "SECRET"}`, `{"SECRET": 1}`, `{"secret": "\u0041BASE64"}`,
		`{"secret": "BASE64", "secret": "BASE64"}`, `{"secret": ["BASE64"], ` + bindingText + `}`, `[{"secret": "BASE64"}]`, `"BASE64"`, "null", "", "{",
		`{` + bindingText + `, "secret": "BASE64"}{"secret": "BASE64"}`, `{"secret": "BASE64`, `{"secret": "\ud800"}`, `{"sec\u0072et": "BASE64", ` + bindingText + `}`,
	} {
		f.Add([]byte(seed))
	}
	s, c := start(f, options{}), connection(f)
	f.Fuzz(func(t *testing.T, body []byte) {
		plain := s.marked()
		body = bytes.ReplaceAll(body, []byte("SECRET"), []byte(plain))
		body = bytes.ReplaceAll(body, []byte("BASE64"), []byte(base64.StdEncoding.EncodeToString([]byte(plain))))
		answer := s.ask(t, c, "/v1/seal", body).Body.String()
		for _, form := range forms(plain) {
			require.NotContains(t, answer, form)
			require.NotContains(t, s.log.String(), form)
		}
		s.log.reset()
		s.mu.Lock()
		defer s.mu.Unlock()
		s.hidden = nil
	})
}

// FuzzOpenBody checks that the response to any body is documented and no internal error. "ENVELOPE" in a body stands for a
// valid envelope.
func FuzzOpenBody(f *testing.F) {
	s, c := start(f, options{}), connection(f)
	envelope := s.seal("sk-0123456789").Envelope
	for _, seed := range []string{
		`{` + bindingText + `, "envelope": "ENVELOPE"}`, `{` + bindingText + `, "envelope": "AAAA"}`, `{"envelope": 1}`,
		`{` + bindingText + `, "envelope": "AAENVELOPE"}`, `{"items": [{` + bindingText + `, "envelope": "ENVELOPE"}]}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		body = bytes.ReplaceAll(body, []byte("ENVELOPE"), []byte(envelope))
		for _, path := range []string{"/v1/open", "/v1/rewrap"} {
			s.ask(t, c, path, body)
		}
		s.log.reset()
		s.audit.reset()
	})
}

// Fields marked as secret must never be shown. The list is repeated here so that a reviewer sees every change to it.
func TestSecretFieldsOfTheDocument(t *testing.T) {
	doc, err := gen.GetSpec()
	require.NoError(t, err)
	var found []string
	for _, item := range doc.Paths.Map() {
		for _, op := range item.Operations() {
			if op.RequestBody != nil {
				walk(op.RequestBody.Value.Content["application/json"].Schema, func(path string) { found = append(found, "request "+op.OperationID+path) })
			}
			for status, response := range op.Responses.Map() {
				for _, media := range response.Value.Content {
					walk(media.Schema, func(path string) { found = append(found, "response "+op.OperationID+" "+status+path) })
				}
			}
		}
	}
	slices.Sort(found)
	require.Equal(t, []string{"request sealSecret.secret", "response openEnvelope 200.secret"}, found)
}

// walk calls secret with the path of each secret schema within a schema.
func walk(ref *openapi3.SchemaRef, secret func(path string)) {
	if marked, _ := ref.Value.Extensions["x-secret"].(bool); marked {
		secret("")
	}
	for name, property := range ref.Value.Properties {
		walk(property, func(path string) { secret("." + name + path) })
	}
	if ref.Value.Items != nil {
		walk(ref.Value.Items, func(path string) { secret("[]" + path) })
	}
}

func TestTypesWithSecretsPrintRedacted(t *testing.T) {
	const plain = "sk-0123456789abcdef"
	request := sealRequest(plain)
	for name, value := range map[string]any{"request": request, "response": gen.OpenResponse{Secret: request.Secret}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			for _, form := range forms(plain) {
				require.NotContains(t, fmt.Sprintf(verb, value), form, "%s %s", name, verb)
			}
		}
	}
}
