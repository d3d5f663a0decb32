package secrets_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	gen "github.com/agentrouter/aikeys/gen/secrets"
	"github.com/agentrouter/aikeys/impl/aikeys/aikeystest"
	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/impl/secrets"
	"github.com/agentrouter/aikeys/impl/secrets/secretstest"
	"github.com/agentrouter/aikeys/internal/problem"
	"github.com/agentrouter/aikeys/internal/secret"
	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/sealertest"
)

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
	t          testing.TB
	handler    http.Handler
	clients    secretstest.Clients
	log, audit bytes.Buffer
	registry   *prometheus.Registry
	contract   *aikeystest.Contract
	client     *gen.ClientWithResponses

	mu       sync.Mutex // guards the following
	refusals bytes.Buffer
	hidden   []string
}

// start returns a service with one client and the namespace "main", unless change says otherwise.
func start(t testing.TB, change func(*secrets.Config)) *service {
	t.Helper()
	doc, err := gen.GetSpec()
	require.NoError(t, err)
	s := &service{t: t, registry: prometheus.NewRegistry(), contract: aikeystest.NewContract(doc)}
	s.clients.ClientList = clientsOf(t, "main", everything)
	observer, err := httpapi.NewObserver("secrets", slog.New(slog.NewJSONHandler(&s.log, &slog.HandlerOptions{Level: slog.LevelDebug})), s.registry, nil)
	require.NoError(t, err)
	cfg := secrets.Config{
		Clients: &s.clients, Namespaces: secretstest.Namespaces{"main": sealertest.New(t)}, Audit: secrets.NewAudit(&s.audit),
		Metrics: s.registry, MaxConcurrent: 16, MaxQueue: 256, API: httpapi.Config{Observer: observer},
	}
	if change != nil {
		change(&cfg)
	}
	s.handler, err = secrets.NewHandler(cfg)
	require.NoError(t, err)
	s.client, err = gen.NewClientWithResponses("http://secrets-svc", gen.WithHTTPClient(&http.Client{Transport: s}))
	require.NoError(t, err)
	t.Cleanup(s.requireNoLeaks)
	return s
}

// over returns a change of the configuration that serves a sealer as the namespace "main".
func over(backend sealer.Sealer) func(*secrets.Config) {
	return func(cfg *secrets.Config) { cfg.Namespaces = secretstest.Namespaces{"main": backend} }
}

// RoundTrip passes a request to the handler, as the user of this process unless its context has another.
func (s *service) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	if secrets.Identities(ctx) == nil {
		ctx = secrets.ConnContext(ctx, secrets.PeerConn(uint32(os.Geteuid())))
	}
	recorder := httptest.NewRecorder()
	s.handler.ServeHTTP(recorder, req.Clone(ctx))
	resp, body := recorder.Result(), recorder.Body.Bytes()
	if found := s.contract.Complaints(req, resp, body); len(found) > 0 {
		return nil, fmt.Errorf("not as documented: %q", found)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if resp.StatusCode >= http.StatusBadRequest {
		s.refusals.Write(body)
	}
	return resp, nil
}

// post sends a body, whose length is unknown unless it is a reader of a string or of bytes.
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

// marked returns a new secret that the test's end searches for in all output.
func (s *service) marked() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hidden = append(s.hidden, "sk-"+hex.EncodeToString(b[:]))
	return s.hidden[len(s.hidden)-1]
}

func (s *service) requireNoLeaks() {
	gathered, err := s.registry.Gather()
	require.NoError(s.t, err)
	var metrics bytes.Buffer
	for _, family := range gathered {
		_, err := expfmt.MetricFamilyToText(&metrics, family)
		require.NoError(s.t, err)
	}
	for place, text := range map[string]*bytes.Buffer{"log": &s.log, "audit": &s.audit, "refusals": &s.refusals, "metrics": &metrics} {
		for _, hidden := range s.hidden {
			require.Empty(s.t, aikeystest.FindIn(text.Bytes(), hidden), place)
		}
	}
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

// answer is any reply of the generated client.
type answer interface {
	StatusCode() int
	GetBody() []byte
}

func requireRefused(t testing.TB, reply answer, status int, slug string) problem.Document {
	t.Helper()
	require.Equal(t, status, reply.StatusCode(), "%s", reply.GetBody())
	var doc problem.Document
	require.NoError(t, json.Unmarshal(reply.GetBody(), &doc))
	require.Equal(t, "/problems/"+slug, doc.Type)
	return doc
}

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
