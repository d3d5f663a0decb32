package secrets_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	gen "github.com/agentrouter/aikeys/gen/secrets"
	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/impl/secrets"
	"github.com/agentrouter/aikeys/internal/identity"
	"github.com/agentrouter/aikeys/internal/problem"
	"github.com/agentrouter/aikeys/internal/secret"
	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/sealertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// everything is the default permissions of a client in these tests.
const everything = `["seal", "open", "rewrap", "status"]`

// clientsOf returns a list with one client, the user of this process.
func clientsOf(t testing.TB, may string) *secrets.ClientList {
	t.Helper()
	list, err := secrets.ParseClients(fmt.Appendf(nil,
		`{"clients": [{"name": "tests", "uids": [%d], "namespace": "main", "may": %s}]}`, os.Geteuid(), may))
	require.NoError(t, err)
	return list
}

// listed is a client list that a test can replace.
type listed struct {
	mu   sync.Mutex
	list *secrets.ClientList
}

func (l *listed) Find(_ context.Context, identities []identity.Identity) (secrets.Client, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.list.Find(identities)
}

func (l *listed) set(list *secrets.ClientList) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = list
}

// spaces are the namespaces of a service.
type spaces map[string]sealer.Sealer

func (s spaces) Sealer(_ context.Context, name string) (sealer.Sealer, error) {
	if found := s[name]; found != nil {
		return found, nil
	}
	return nil, sealer.ErrUnavailable
}

// buffer is a bytes.Buffer for concurrent use.
type buffer struct {
	mu   sync.Mutex
	data bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.data.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.data.String()
}

func (b *buffer) reset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.data.Reset()
}

// options configure a service. The zero value is valid.
type options struct {
	clients                 *secrets.ClientList
	spaces                  spaces
	audit                   io.Writer
	maxConcurrent, maxQueue int
}

// service is the secrets service on a unix socket. Every response is checked against the document, and the log, audit, metrics
// and refusals are searched for the secrets that the test used.
type service struct {
	t                    testing.TB
	socket               string
	handler              http.Handler
	clients              *listed
	log, audit, refusals buffer
	registry             *prometheus.Registry
	client               *gen.ClientWithResponses
	http                 *http.Client

	mu     sync.Mutex
	hidden []string
}

func start(t testing.TB, o options) *service {
	t.Helper()
	s := &service{t: t, registry: prometheus.NewRegistry(), clients: &listed{list: o.clients}}
	if o.clients == nil {
		s.clients.list = clientsOf(t, everything)
	}
	if o.spaces == nil {
		o.spaces = spaces{"main": sealertest.New(t)}
	}
	if o.audit == nil {
		o.audit = &s.audit
	}
	if o.maxConcurrent == 0 {
		o.maxConcurrent, o.maxQueue = 16, 256
	}
	log := slog.New(slog.NewJSONHandler(&s.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	observer, err := httpapi.NewObserver("secrets", log, s.registry, nil)
	require.NoError(t, err)
	s.handler, err = secrets.NewHandler(secrets.Config{
		Clients: s.clients, Namespaces: o.spaces, Audit: secrets.NewAudit(o.audit), Metrics: s.registry,
		MaxConcurrent: o.maxConcurrent, MaxQueue: o.maxQueue, API: httpapi.Config{Observer: observer},
	})
	require.NoError(t, err)
	s.serve(log)
	t.Cleanup(s.requireNoLeaks)
	transport := &http.Transport{MaxIdleConnsPerHost: 256, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", s.socket)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	s.http = &http.Client{Transport: &checkedTransport{service: s, base: transport}}
	s.client, err = gen.NewClientWithResponses("http://secrets-svc", gen.WithHTTPClient(s.http))
	require.NoError(t, err)
	return s
}

func (s *service) serve(log *slog.Logger) {
	s.t.Helper()
	dir, err := os.MkdirTemp("", "secrets") // t.TempDir() would be too long for a socket
	require.NoError(s.t, err)
	s.t.Cleanup(func() { require.NoError(s.t, os.RemoveAll(dir)) })
	s.socket = filepath.Join(dir, "api.sock")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: s.socket, Net: "unix"})
	require.NoError(s.t, err)
	server := httpapi.NewServer(httpapi.ServerConfig{
		Listener: secrets.WithPeers(listener), Handler: s.handler, ConnContext: secrets.ConnContext, Log: log,
	})
	served := make(chan error, 1)
	go func() { served <- server.Serve() }()
	s.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		require.NoError(s.t, server.Shutdown(ctx))
		require.NoError(s.t, <-served)
	})
}

// marked returns a new secret that the test's end searches for in all output.
func (s *service) marked() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return s.hide("sk-" + hex.EncodeToString(b[:]))
}

func (s *service) hide(text string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hidden = append(s.hidden, text)
	return text
}

// forms returns the encodings in which a secret could appear.
func forms(text string) []string {
	return []string{text, base64.StdEncoding.EncodeToString([]byte(text)), hex.EncodeToString([]byte(text))}
}

func (s *service) requireNoLeaks() {
	gathered, err := s.registry.Gather()
	require.NoError(s.t, err)
	var metrics bytes.Buffer
	for _, family := range gathered {
		_, err := expfmt.MetricFamilyToText(&metrics, family)
		require.NoError(s.t, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for place, text := range map[string]string{
		"log": s.log.String(), "audit": s.audit.String(), "refusals": s.refusals.String(), "metrics": metrics.String(),
	} {
		for _, hidden := range s.hidden {
			for _, form := range forms(hidden) {
				require.NotContains(s.t, text, form, place)
			}
		}
	}
}

func exampleBinding() gen.Binding {
	return gen.Binding{CustomerID: "acme", ProjectID: "chat", KeyID: "byok_1", Provider: "openai", Version: 1}
}

func (s *service) seal(plaintext string) gen.Envelope {
	s.t.Helper()
	reply, err := s.client.SealSecretWithResponse(context.Background(), sealRequest(plaintext))
	require.NoError(s.t, err)
	require.Equal(s.t, http.StatusOK, reply.StatusCode(), "%s", reply.Body)
	return *reply.JSON200
}

func sealRequest(plaintext string) gen.SealRequest {
	return gen.SealRequest{Binding: exampleBinding(), Secret: secret.New(base64.StdEncoding.EncodeToString([]byte(plaintext)))}
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

var errLost = errors.New("lost")
