package secrets_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	gen "github.com/agentrouter/aikeys/gen/secrets"
	"github.com/agentrouter/aikeys/impl/aikeys/aikeystest"
	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/impl/secrets"
	"github.com/agentrouter/aikeys/internal/identity"
	"github.com/agentrouter/aikeys/internal/secret"
	"github.com/agentrouter/aikeys/internal/unixsocket"
	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/sealertest"
)

const bindingText = `"binding": {"customer_id": "c", "project_id": "p", "key_id": "k", "provider": "openai", "version": 1}`

func TestInvalidBodyIsRefusedAndNotRepeated(t *testing.T) {
	s := start(t, nil)
	plain := s.Secret()
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
		status, answer := s.post(t.Context(), t, "/v1/seal", strings.NewReader(body))
		require.Equal(t, http.StatusBadRequest, status, "%s: %s", name, answer)
	}
	for name, tc := range map[string]struct{ path, body string }{
		"no envelope":   {"/v1/open", `{` + bindingText + `, "envelope": ""}`},
		"no base64":     {"/v1/open", `{` + bindingText + `, "envelope": "?"}`},
		"no items":      {"/v1/rewrap", `{"items": []}`},
		"too many":      {"/v1/rewrap", `{"items": [` + strings.Repeat(`{`+bindingText+`, "envelope": "AAAA"},`, 256) + `{` + bindingText + `, "envelope": "AAAA"}]}`},
		"a strange one": {"/v1/rewrap", `{"items": [1]}`},
	} {
		status, answer := s.post(t.Context(), t, tc.path, strings.NewReader(tc.body))
		require.Equal(t, http.StatusBadRequest, status, "%s: %s", name, answer)
	}
	require.Zero(t, s.audit.Len())
}

func TestLargestRequestsAreAccepted(t *testing.T) {
	s := start(t, nil)
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

func TestNamespacesAreSeparate(t *testing.T) {
	sealers := map[string]sealer.Sealer{"main": sealertest.New(t), "other": sealertest.New(t)}
	s := start(t, func(cfg *secrets.Config) {
		cfg.Sealer = func(_ context.Context, name string) (sealer.Sealer, error) {
			if found := sealers[name]; found != nil {
				return found, nil
			}
			return nil, sealer.ErrUnavailable
		}
	})
	plain := s.Secret()
	sealed := s.seal(plain)
	envelope := sealed.Envelope
	s.clients = clientsOf(t, "other", everything)
	requireRefused(t, s.open(envelope), http.StatusUnprocessableEntity, "unknown-kek")
	rewrapped, err := s.client.RewrapEnvelopesWithResponse(t.Context(), gen.RewrapRequest{Items: []gen.OpenRequest{openRequest(envelope)}})
	require.NoError(t, err)
	require.Equal(t, "unknown-kek", *rewrapped.JSON200.Results[0].Problem)
	keks, err := s.client.ListKEKsWithResponse(t.Context())
	require.NoError(t, err)
	require.Len(t, keks.JSON200.Keks, 1)
	require.Equal(t, s.seal(plain).KekID, keks.JSON200.Primary)
	require.NotEqual(t, sealed.KekID, keks.JSON200.Primary)

	s.clients = clientsOf(t, "missing", everything)
	for permission, operation := range operations(s, envelope) {
		reply, err := operation()
		require.NoError(t, err)
		require.NotContains(t, requireRefused(t, reply, http.StatusServiceUnavailable, "unavailable").Detail, "missing", permission)
	}
	s.clients = clientsOf(t, "main", everything)
	s.requireOpens(envelope, plain)
}

// FuzzSealBody checks that the response to any body is documented, is not an internal error and repeats nothing of the
// body. "SECRET" in a body stands for a text that must not appear anywhere, and "BASE64" for the same text in base64.
func FuzzSealBody(f *testing.F) {
	for _, seed := range []string{
		`{` + bindingText + `, "secret": "BASE64"}`, `{` + bindingText + `, "secret": "SECRET"}`, `{"SECRET": 1}`, `{"secret": "\u0041BASE64"}`,
		`{"secret": "BASE64", "secret": "BASE64"}`, `{"secret": ["BASE64"], ` + bindingText + `}`, `[{"secret": "BASE64"}]`, `"BASE64"`, "null", "", "{",
		`{` + bindingText + `, "secret": "BASE64"}{"secret": "BASE64"}`, `{"secret": "BASE64`, `{"secret": "\ud800"}`, `{"sec\u0072et": "BASE64", ` + bindingText + `}`,
	} {
		f.Add([]byte(seed))
	}
	s := start(f, nil)
	f.Fuzz(func(t *testing.T, body []byte) {
		plain := s.Secret()
		body = bytes.ReplaceAll(body, []byte("SECRET"), []byte(plain))
		body = bytes.ReplaceAll(body, []byte("BASE64"), []byte(base64.StdEncoding.EncodeToString([]byte(plain))))
		status, answer := s.post(t.Context(), t, "/v1/seal", bytes.NewReader(body))
		require.Less(t, status, http.StatusInternalServerError)
		require.Empty(t, aikeystest.FindIn([]byte(answer), plain))
		require.Empty(t, aikeystest.FindIn([]byte(s.Log()), plain))
		s.Forget()
	})
}

// FuzzOpenBody checks that the response to any body is documented and not an internal error. "ENVELOPE" in a body
// stands for a valid envelope.
func FuzzOpenBody(f *testing.F) {
	s := start(f, nil)
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
			status, _ := s.post(t.Context(), t, path, bytes.NewReader(body))
			require.Less(t, status, http.StatusInternalServerError)
		}
		s.audit.Reset()
		s.Forget()
	})
}

// Fields marked as secret must never be shown. The list is repeated here so that a reviewer sees every change to it.
func TestSecretFieldsOfTheDocument(t *testing.T) {
	doc, err := gen.GetSpec()
	require.NoError(t, err)
	var found []string
	var walk func(path string, ref *openapi3.SchemaRef)
	walk = func(path string, ref *openapi3.SchemaRef) {
		if marked, _ := ref.Value.Extensions["x-secret"].(bool); marked {
			found = append(found, path)
		}
		for name, property := range ref.Value.Properties {
			walk(path+"."+name, property)
		}
		if ref.Value.Items != nil {
			walk(path+"[]", ref.Value.Items)
		}
	}
	for _, item := range doc.Paths.Map() {
		for _, op := range item.Operations() {
			if op.RequestBody != nil {
				walk("request "+op.OperationID, op.RequestBody.Value.Content["application/json"].Schema)
			}
			for status, response := range op.Responses.Map() {
				for _, media := range response.Value.Content {
					walk("response "+op.OperationID+" "+status, media.Schema)
				}
			}
		}
	}
	slices.Sort(found)
	require.Equal(t, []string{"request sealSecret.secret", "response openEnvelope 200.secret"}, found)
}

func TestTypesWithSecretsPrintRedacted(t *testing.T) {
	const plain = "sk-0123456789abcdef"
	request := sealRequest(plain)
	for name, value := range map[string]any{"request": request, "response": gen.OpenResponse{Secret: request.Secret}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			require.Empty(t, aikeystest.FindIn(fmt.Appendf(nil, verb, value), plain), "%s %s", name, verb)
		}
	}
}

// A client that may only seal can open the canary, from which the key of fingerprints is derived, but no envelope with
// another binding.
func TestAClientThatSealsOpensTheCanaryAlone(t *testing.T) {
	s := start(t, nil)
	canary := sealer.CanaryBinding()
	binding := gen.Binding{CustomerID: canary.CustomerID, ProjectID: canary.ProjectID, KeyID: canary.KeyID, Provider: canary.Provider, Version: int64(canary.Version)}
	plain := s.Secret()
	request := sealRequest(plain)
	request.Binding = binding
	sealed, err := s.client.SealSecretWithResponse(t.Context(), request)
	require.NoError(t, err)
	other := s.seal(s.Secret())
	for _, may := range []string{`["seal"]`, `["rewrap", "status"]`} {
		s.clients = clientsOf(t, "main", may)
		requireRefused(t, s.open(other.Envelope), http.StatusForbidden, "client-not-allowed")
		reply, err := s.client.OpenEnvelopeWithResponse(t.Context(), gen.OpenRequest{Binding: binding, Envelope: sealed.JSON200.Envelope})
		require.NoError(t, err)
		if may != `["seal"]` {
			requireRefused(t, reply, http.StatusForbidden, "client-not-allowed")
			continue
		}
		require.Equal(t, http.StatusOK, reply.StatusCode())
		require.Equal(t, base64.StdEncoding.EncodeToString([]byte(plain)), reply.JSON200.Secret.Reveal())
		audited := s.audited()
		require.Equal(t, "client-not-allowed", audited[0]["outcome"])
		last := audited[len(audited)-1]
		require.Equal(t, []any{"canary", "opened"}, []any{last["key_id"], last["outcome"]})
		reply, err = s.client.OpenEnvelopeWithResponse(t.Context(), gen.OpenRequest{Binding: binding, Envelope: other.Envelope})
		require.NoError(t, err)
		requireRefused(t, reply, http.StatusUnprocessableEntity, "does-not-open")
	}
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clientsOf returns a list with one client, the user of this process.
func clientsOf(t testing.TB, namespace, may string) *secrets.ClientList {
	t.Helper()
	list, err := secrets.ParseClients(fmt.Appendf(nil,
		`{"clients": [{"name": "tests", "uids": [%d], "namespace": %q, "may": %s}]}`, os.Geteuid(), namespace, may))
	require.NoError(t, err)
	return list
}

// everything is the default permissions of a client in these tests.
const everything = `["seal", "open", "rewrap", "status"]`

// service is the secrets service and its client, without a socket between them. Every response is checked against the document,
// and the log, audit, metrics and refusals are searched for the secrets that the test used.
type service struct {
	*aikeystest.Evidence
	t        testing.TB
	handler  http.Handler
	clients  *secrets.ClientList
	audit    bytes.Buffer
	contract *aikeystest.Contract
	client   *gen.ClientWithResponses
}

// start returns a service with one client and the namespace "main", unless change says otherwise.
func start(t testing.TB, change func(*secrets.Config)) *service {
	t.Helper()
	doc, err := gen.GetSpec()
	require.NoError(t, err)
	s := &service{Evidence: aikeystest.NewEvidence(t), t: t, contract: aikeystest.NewContract(doc), clients: clientsOf(t, "main", everything)}
	observer, err := httpapi.NewObserver("secrets", s.Logger(), s.Registry, nil)
	require.NoError(t, err)
	cfg := secrets.Config{
		Clients: func(context.Context) *secrets.ClientList { return s.clients }, Audit: secrets.NewAudit(&s.audit),
		Metrics: s.Registry, MaxConcurrent: 16, MaxQueue: 256, API: httpapi.Config{Observer: observer},
	}
	over(sealertest.New(t))(&cfg)
	if change != nil {
		change(&cfg)
	}
	s.handler, err = secrets.NewHandler(cfg)
	require.NoError(t, err)
	s.client, err = gen.NewClientWithResponses("http://secrets-svc", gen.WithHTTPClient(&http.Client{Transport: s}))
	require.NoError(t, err)
	t.Cleanup(func() { _, _ = s.Write(s.audit.Bytes()) }) // so that it is searched, too
	return s
}

// over returns a change of the configuration that serves a sealer as every namespace.
func over(backend sealer.Sealer) func(*secrets.Config) {
	return func(cfg *secrets.Config) {
		cfg.Sealer = func(context.Context, string) (sealer.Sealer, error) { return backend, nil }
	}
}

// peerConn is a connection of a user.
type peerConn struct {
	net.Conn
	uid int
}

// RemoteAddr implements net.Conn.
func (c peerConn) RemoteAddr() net.Addr { return unixsocket.PeerAddr(c.uid) }

// RoundTrip passes a request to the handler, as the user of this process unless its context has another.
func (s *service) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	if secrets.Identities(ctx) == nil {
		ctx = secrets.ConnContext(ctx, peerConn{uid: os.Geteuid()})
	}
	recorder := httptest.NewRecorder()
	s.handler.ServeHTTP(recorder, req.Clone(ctx))
	resp, body := recorder.Result(), recorder.Body.Bytes()
	if found := s.contract.Complaints(req, resp, body); len(found) > 0 {
		return nil, fmt.Errorf("not as documented: %q", found)
	}
	if resp.StatusCode >= http.StatusBadRequest {
		s.Keep(resp, body)
	}
	return resp, nil
}

// post sends a body. Its length is unknown unless it is a reader of a string or of bytes.
func (s *service) post(ctx context.Context, t testing.TB, path string, body io.Reader) (status int, answer string) {
	t.Helper()
	request := httptest.NewRequestWithContext(ctx, http.MethodPost, path, body)
	request.Header.Set("Content-Type", "application/json")
	reply, err := s.RoundTrip(request)
	require.NoError(t, err)
	defer func() { _ = reply.Body.Close() }()
	text, err := io.ReadAll(reply.Body)
	require.NoError(t, err)
	return reply.StatusCode, string(text)
}

func exampleBinding() gen.Binding {
	return gen.Binding{CustomerID: "acme", ProjectID: "chat", KeyID: "byok_1", Provider: "openai", Version: 1}
}

func sealRequest(plaintext string) gen.SealRequest {
	return gen.SealRequest{Binding: exampleBinding(), Secret: secret.New(base64.StdEncoding.EncodeToString([]byte(plaintext)))}
}

func (s *service) seal(plaintext string) gen.Envelope {
	s.t.Helper()
	reply, err := s.client.SealSecretWithResponse(context.Background(), sealRequest(plaintext))
	require.NoError(s.t, err)
	require.Equal(s.t, http.StatusOK, reply.StatusCode(), "%s", reply.Body)
	return *reply.JSON200
}

func openRequest(envelope string) gen.OpenRequest {
	return gen.OpenRequest{Binding: exampleBinding(), Envelope: envelope}
}

func (s *service) open(envelope string) *gen.OpenEnvelopeResult {
	s.t.Helper()
	reply, err := s.client.OpenEnvelopeWithResponse(context.Background(), openRequest(envelope))
	require.NoError(s.t, err)
	return reply
}

func (s *service) requireOpens(envelope, plaintext string) {
	s.t.Helper()
	reply := s.open(envelope)
	require.Equal(s.t, http.StatusOK, reply.StatusCode(), "%s", reply.Body)
	require.Equal(s.t, base64.StdEncoding.EncodeToString([]byte(plaintext)), reply.JSON200.Secret.Reveal())
}

type answer = aikeystest.Response

var requireRefused = aikeystest.RequireRefused

// operations are all operations of the API document, each called with a valid envelope.
func operations(s *service, envelope string) map[secrets.Permission]func() (answer, error) {
	ctx := context.Background()
	return map[secrets.Permission]func() (answer, error){
		secrets.Seal:   func() (answer, error) { return s.client.SealSecretWithResponse(ctx, sealRequest("sk-0123456789")) },
		secrets.Open:   func() (answer, error) { return s.client.OpenEnvelopeWithResponse(ctx, openRequest(envelope)) },
		secrets.Status: func() (answer, error) { return s.client.ListKEKsWithResponse(ctx) },
		secrets.Rewrap: func() (answer, error) {
			return s.client.RewrapEnvelopesWithResponse(ctx, gen.RewrapRequest{Items: []gen.OpenRequest{openRequest(envelope)}})
		},
	}
}

// audited returns the audit's lines.
func (s *service) audited() (found []map[string]any) {
	s.t.Helper()
	for text := range strings.Lines(s.audit.String()) {
		var line map[string]any
		require.NoError(s.t, json.Unmarshal([]byte(text), &line))
		found = append(found, line)
	}
	return found
}

func TestAuditLinePerOpen(t *testing.T) {
	s := start(t, nil)
	sealed := s.seal(s.Secret())
	foreign := start(t, nil).seal(s.Secret())
	other := openRequest(sealed.Envelope)
	other.Binding.CustomerID = "globex"

	reply := s.open(sealed.Envelope)
	require.Equal(t, http.StatusOK, reply.StatusCode())
	require.Equal(t, map[string]any{
		"time": s.audited()[0]["time"], "level": "INFO", "msg": "open", "client": "tests", "namespace": "main",
		"customer_id": "acme", "project_id": "chat", "key_id": "byok_1", "provider": "openai", "version": 1.0,
		"kek_id": sealed.KekID, "outcome": "opened", "request_id": reply.HTTPResponse.Header.Get("X-Request-Id"),
	}, s.audited()[0])

	refused, err := s.client.OpenEnvelopeWithResponse(t.Context(), other)
	require.NoError(t, err)
	requireRefused(t, refused, http.StatusUnprocessableEntity, "does-not-open")
	requireRefused(t, s.open(foreign.Envelope), http.StatusUnprocessableEntity, "unknown-kek")
	requireRefused(t, s.open("AAAA"), http.StatusUnprocessableEntity, "malformed-envelope")
	var outcomes []string
	for _, line := range s.audited() {
		outcomes = append(outcomes, fmt.Sprint(line["customer_id"], " ", line["outcome"]))
	}
	require.Equal(t, []string{"acme opened", "globex does-not-open", "acme unknown-kek", "acme malformed-envelope"}, outcomes)
	require.Equal(t, foreign.KekID, s.audited()[2]["kek_id"])

	s.seal(s.Secret())
	require.Len(t, s.audited(), 4, "nothing else is audited")
}

// writerFunc is a writer by its Write.
type writerFunc func(line []byte) (int, error)

func (f writerFunc) Write(line []byte) (int, error) { return f(line) }

func TestNoOpenWithoutAuditLine(t *testing.T) {
	var audit bytes.Buffer
	lost := false
	s := start(t, func(cfg *secrets.Config) {
		cfg.Audit = secrets.NewAudit(writerFunc(func(line []byte) (int, error) {
			if lost {
				return 0, errors.New("lost")
			}
			return audit.Write(line)
		}))
	})
	plain := s.Secret()
	envelope := s.seal(plain).Envelope
	lost = true
	requireRefused(t, s.open(envelope), http.StatusServiceUnavailable, "unavailable")
	requireRefused(t, s.open("AAAA"), http.StatusServiceUnavailable, "unavailable")
	require.Contains(t, s.Log(), `"level":"ERROR"`)
	require.Contains(t, s.Log(), "audit: lost")
	s.clients = clientsOf(t, "main", `["seal"]`)
	requireRefused(t, s.open(envelope), http.StatusForbidden, "client-not-allowed")
	s.clients = clientsOf(t, "main", everything)

	lost = false
	s.requireOpens(envelope, plain)
	require.Contains(t, audit.String(), `"outcome":"opened"`)
}

func TestAuditCountsRepeatedRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		written := make(chan string, 8)
		audit := secrets.NewAudit(writerFunc(func(line []byte) (int, error) {
			written <- string(line)
			return len(line), nil
		}))
		s := start(t, func(cfg *secrets.Config) { cfg.Audit = audit })
		s.clients = clientsOf(t, "main", `["seal"]`)
		refuse := func(times int) {
			for range times {
				requireRefused(t, s.open("AAAA"), http.StatusForbidden, "client-not-allowed")
			}
		}
		refuse(100)
		require.NotContains(t, <-written, "repeated")
		require.Empty(t, written)

		time.Sleep(time.Minute)
		line := <-written
		require.Contains(t, line, `"outcome":"client-not-allowed","repeated":99,"first_at":`)
		require.Contains(t, line, `"peer":["`)

		refuse(2)
		require.Empty(t, written)
		require.NoError(t, audit.Close())
		require.Contains(t, <-written, `"repeated":2`)
	})
}

func TestAuditIsCompleteUnderLoad(t *testing.T) {
	const callers, each = 16, 25
	s := start(t, nil)
	envelope := s.seal(s.Secret()).Envelope
	var mu sync.Mutex
	answered := map[string]bool{} // by request id
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for range each {
				reply, err := s.client.OpenEnvelopeWithResponse(context.Background(), openRequest(envelope))
				if err != nil || reply.StatusCode() != http.StatusOK {
					t.Error(err)
					return
				}
				mu.Lock()
				answered[reply.HTTPResponse.Header.Get("X-Request-Id")] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	lines := s.audited()
	require.Len(t, answered, callers*each)
	require.Len(t, lines, callers*each)
	for _, line := range lines {
		require.Equal(t, "opened", line["outcome"])
		delete(answered, fmt.Sprint(line["request_id"]))
	}
	require.Empty(t, answered)
}

func TestPanicIsAuditedWithoutTheSecret(t *testing.T) {
	backend := sealertest.New(t)
	s := start(t, over(sealertest.Fake{Sealer: backend, OpenFunc: func(ctx context.Context, b sealer.Binding, envelope []byte) (sealer.Secret, error) {
		plain, err := backend.Open(ctx, b, envelope)
		require.NoError(t, err)
		panic(string(plain.Reveal()))
	}}))
	requireRefused(t, s.open(s.seal(s.Secret()).Envelope), http.StatusInternalServerError, "internal")
	require.Equal(t, "failed", s.audited()[0]["outcome"])
	require.Contains(t, s.Log(), "sealertest.Fake.Open", "where it happened")
}

func TestSecretsAreWipedAfterTheResponse(t *testing.T) {
	backend := sealertest.New(t)
	var passed []sealer.Secret
	s := start(t, over(sealertest.Fake{
		Sealer: backend,
		SealFunc: func(ctx context.Context, b sealer.Binding, plain sealer.Secret) (sealer.Envelope, error) {
			passed = append(passed, plain)
			return backend.Seal(ctx, b, plain)
		},
		OpenFunc: func(ctx context.Context, b sealer.Binding, envelope []byte) (sealer.Secret, error) {
			plain, err := backend.Open(ctx, b, envelope)
			passed = append(passed, plain)
			return plain, err
		},
	}))
	plain := s.Secret()
	s.requireOpens(s.seal(plain).Envelope, plain)
	require.Len(t, passed, 2)
	for _, secret := range passed {
		require.Zero(t, secret.Len())
	}
	require.Equal(t, 1, strings.Count(s.audit.String(), "\n"))
}

const twoClients = `
clients:
  - name: aikeysd
    uids: [1001, 1002]
    namespace: main
    may: [seal, open, status]
  - name: rewrap
    certificates: ["dns:rewrap.internal", "uri:spiffe://acme/rewrap", "cn:Re-wrap"]
    namespace: main
    may: [rewrap, status]
`

func TestFindClientByIdentity(t *testing.T) {
	list, err := secrets.ParseClients([]byte(twoClients))
	require.NoError(t, err)
	require.Equal(t, []string{"main"}, list.Namespaces())
	require.Equal(t, []string{"uid:1001", "uid:1002"}, list.Identities("aikeysd"))
	for who, name := range map[identity.Identity]string{
		{Kind: identity.UID, Name: "1001"}: "aikeysd", {Kind: identity.UID, Name: "1002"}: "aikeysd",
		{Kind: identity.DNSName, Name: "rewrap.internal"}: "rewrap", {Kind: identity.URI, Name: "spiffe://acme/rewrap"}: "rewrap",
		{Kind: identity.CommonName, Name: "Re-wrap"}: "rewrap",
	} {
		client, ok := list.Find([]identity.Identity{{Kind: identity.DNSName, Name: "other"}, who})
		require.True(t, ok, who)
		require.Equal(t, name, client.Name)
	}
	for _, strangers := range [][]identity.Identity{
		nil, {{Kind: identity.UID, Name: "0"}}, {{Kind: identity.CommonName, Name: "rewrap.internal"}}, {{Kind: identity.DNSName, Name: "REWRAP.internal"}},
		{{Kind: identity.UID, Name: "1001"}, {Kind: identity.CommonName, Name: "Re-wrap"}}, // they belong to two clients
	} {
		_, ok := list.Find(strangers)
		require.False(t, ok, strangers)
	}
	client, _ := list.Find([]identity.Identity{{Kind: identity.CommonName, Name: "Re-wrap"}})
	require.Equal(t, map[secrets.Permission]bool{secrets.Rewrap: true, secrets.Status: true}, client.May)
}

func TestParseClientsRefusesInvalidFiles(t *testing.T) {
	entry := func(text string) string { return `{"clients": [` + text + `]}` }
	const good = `{"name": "a", "uids": [1], "namespace": "main", "may": ["seal"]}`
	for name, tc := range map[string]struct{ text, says string }{
		"nothing":                    {"", "it is empty, and must list the clients that may connect"},
		"comments alone":             {"# nobody yet\n", "it is empty, and must list the clients that may connect"},
		"no clients":                 {"{}", "it lists no clients"},
		"no YAML":                    {"clients: [", "invalid clients file"},
		"another member":             {entry(`{"name": "a", "uid": 1, "namespace": "main", "may": ["seal"]}`), "field uid not found"},
		"a member twice":             {entry(`{"name": "a", "name": "b", "uids": [1], "namespace": "main", "may": ["seal"]}`), "already defined"},
		"two documents":              {entry(good) + "\n---\n" + entry(good), "more than one document"},
		"no name":                    {entry(`{"uids": [1], "namespace": "main", "may": ["seal"]}`), "name must be"},
		"a name that is taken":       {entry(good + "," + `{"name": "a", "uids": [2], "namespace": "main", "may": ["seal"]}`), "the name is taken by another client"},
		"the name for nobody":        {entry(`{"name": "none", "uids": [1], "namespace": "main", "may": ["seal"]}`), "name must be"},
		"no namespace":               {entry(`{"name": "a", "uids": [1], "may": ["seal"]}`), "namespace must be"},
		"a namespace that is a path": {entry(`{"name": "a", "uids": [1], "namespace": "../main", "may": ["seal"]}`), "namespace must be"},
		"nothing that it may":        {entry(`{"name": "a", "uids": [1], "namespace": "main"}`), "may must list"},
		"an unknown permission":      {entry(`{"name": "a", "uids": [1], "namespace": "main", "may": ["seal", "all"]}`), `may has "all"`},
		"nobody":                     {entry(`{"name": "a", "namespace": "main", "may": ["seal"]}`), "it needs uids or certificates"},
		"a certificate of no kind":   {entry(`{"name": "a", "certificates": ["aikeysd"], "namespace": "main", "may": ["seal"]}`), "each of certificates must be"},
		"a certificate of no name":   {entry(`{"name": "a", "certificates": ["dns:"], "namespace": "main", "may": ["seal"]}`), "each of certificates must be"},
		"a uid of two clients":       {entry(good + "," + `{"name": "b", "uids": [1], "namespace": "main", "may": ["open"]}`), "uid:1 belongs to client 1 already"},
		"a negative uid":             {entry(`{"name": "a", "uids": [-1], "namespace": "main", "may": ["seal"]}`), "cannot unmarshal"},
	} {
		t.Run(name, func(t *testing.T) {
			list, err := secrets.ParseClients([]byte(tc.text))
			require.ErrorIs(t, err, secrets.ErrClients)
			require.ErrorContains(t, err, tc.says)
			require.Nil(t, list)
		})
	}
	_, err := secrets.ParseClients([]byte(entry(good)))
	require.NoError(t, err)
}

func FuzzClientsFile(f *testing.F) {
	f.Add([]byte(twoClients))
	f.Add([]byte(`{"clients": [{"name": "a", "uids": [1], "namespace": "main", "may": ["seal"]}]}`))
	f.Add([]byte("clients: &a [*a]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		list, err := secrets.ParseClients(text)
		if err != nil {
			require.ErrorIs(t, err, secrets.ErrClients)
			return
		}
		for _, client := range list.All() {
			require.True(t, secrets.IsNamespace(client.Namespace))
			require.NotEmpty(t, list.Identities(client.Name))
			require.NotEmpty(t, client.May)
		}
	})
}

func TestClientsFilePermissions(t *testing.T) {
	path := filepath.Join(t.TempDir(), "clients.yaml")
	require.NoError(t, os.WriteFile(path, []byte(twoClients), 0o600))
	_, err := secrets.ReadClients(path)
	require.NoError(t, err)
	for _, mode := range []os.FileMode{0o640, 0o604, 0o660, 0o601} {
		require.NoError(t, os.Chmod(path, mode))
		_, err := secrets.ReadClients(path)
		require.ErrorIs(t, err, secrets.ErrClients)
		require.ErrorContains(t, err, "chmod 600")
	}
	_, err = secrets.ReadClients(t.TempDir())
	require.ErrorIs(t, err, secrets.ErrClients)
	_, err = secrets.ReadClients(path + "x")
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestClientsFileReload(t *testing.T) {
	path := filepath.Join(t.TempDir(), "clients.yaml")
	require.NoError(t, os.WriteFile(path, []byte(twoClients), 0o600))
	var log bytes.Buffer // Get writes it when it reads the file again
	file, err := secrets.OpenClients(path, slog.New(slog.NewTextHandler(&log, nil)))
	require.NoError(t, err)
	known := func(uid string) bool {
		_, ok := file.Get(t.Context()).Find([]identity.Identity{{Kind: identity.UID, Name: uid}})
		return ok
	}
	require.True(t, known("1001"))

	require.NoError(t, os.WriteFile(path, []byte("clients: ["), 0o600))
	require.Eventually(t, func() bool {
		known("1001")
		return bytes.Contains(log.Bytes(), []byte("the old one stays in force"))
	}, 10*time.Second, 20*time.Millisecond)
	require.True(t, known("1001"))

	require.NoError(t, os.WriteFile(path, []byte(`{"clients": [{"name": "a", "uids": [7], "namespace": "main", "may": ["seal"]}]}`), 0o600))
	require.Eventually(t, func() bool { return known("7") }, 10*time.Second, 20*time.Millisecond)
	require.False(t, known("1001"))
}
