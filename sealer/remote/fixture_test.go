package remote_test

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/remote"
	"github.com/agentrouter/aikeys/sealer/sealertest"
)

const canary = "sk-canary-0123456789"

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func exampleBinding() sealer.Binding {
	return sealer.Binding{CustomerID: "acme", ProjectID: "p1", KeyID: "byok_1", Provider: "openai", Version: 1}
}

// fakeService is a secrets-svc on top of a local sealer, which can be made to misbehave.
type fakeService struct {
	socket   string
	backend  sealer.Sealer
	requests atomic.Int64
	conns    atomic.Int64
	// misbehave answers instead of the service if it returns true; nil never does.
	misbehave atomic.Pointer[func(w http.ResponseWriter, r *http.Request) bool]
}

func newFakeService(t testing.TB) *fakeService {
	t.Helper()
	s := &fakeService{socket: filepath.Join(t.TempDir(), "api.sock"), backend: sealertest.New(t)}
	s.serve(t)
	return s
}

// serve listens until the test ends or the returned server is closed.
func (s *fakeService) serve(t testing.TB) *http.Server {
	t.Helper()
	listener, err := net.Listen("unix", s.socket)
	require.NoError(t, err)
	return s.serveOn(t, listener)
}

func (s *fakeService) serveOn(t testing.TB, listener net.Listener) *http.Server {
	t.Helper()
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s.requests.Add(1)
			if misbehave := s.misbehave.Load(); misbehave == nil || !(*misbehave)(w, r) {
				s.handle(w, r)
			}
		}),
		ConnState: func(_ net.Conn, state http.ConnState) {
			if state == http.StateNew {
				s.conns.Add(1)
			}
		},
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		_ = server.Close() // unless the test has
		<-served
	})
	return server
}

// answer makes it answer each request in its own way.
func (s *fakeService) answer(misbehave func(w http.ResponseWriter, r *http.Request) bool) {
	s.misbehave.Store(&misbehave)
}

// always makes it answer each request the same.
func (s *fakeService) always(status int, body string) {
	s.answer(func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
		return true
	})
}

// item is an item of a request.
type item struct {
	Binding struct {
		CustomerID string `json:"customer_id"`
		ProjectID  string `json:"project_id"`
		KeyID      string `json:"key_id"`
		Provider   string `json:"provider"`
		Version    uint32 `json:"version"`
	} `json:"binding"`
	Envelope []byte `json:"envelope"`
}

func (s *fakeService) handle(w http.ResponseWriter, r *http.Request) {
	var request struct {
		item
		Secret []byte `json:"secret"`
		Items  []item `json:"items"`
	}
	invalid := r.Method == http.MethodPost && json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&request) != nil
	if invalid || len(request.Items) > 256 {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	var answer any
	var err error
	switch r.URL.Path {
	case "/v1/seal":
		var envelope sealer.Envelope
		envelope, err = s.backend.Seal(r.Context(), sealer.Binding(request.Binding), sealer.NewSecret(request.Secret))
		answer = map[string]any{"kek_id": envelope.KEKID, "envelope": envelope.Bytes}
	case "/v1/open":
		var secret sealer.Secret
		secret, err = s.backend.Open(r.Context(), sealer.Binding(request.Binding), request.Envelope)
		answer = map[string]any{"secret": secret.Reveal()}
	case "/v1/rewrap":
		results := make([]map[string]any, len(request.Items))
		for i, item := range request.Items {
			envelope, err := s.backend.Rewrap(r.Context(), sealer.Binding(item.Binding), item.Envelope)
			results[i] = map[string]any{"kek_id": envelope.KEKID, "envelope": envelope.Bytes}
			switch {
			case errors.Is(err, sealer.ErrBinding):
				results[i] = map[string]any{"problem": "does-not-open"}
			case errors.Is(err, sealer.ErrUnknownKEK):
				results[i] = map[string]any{"problem": "unknown-kek"}
			}
		}
		answer = map[string]any{"results": results}
	case "/v1/keks":
		var primary string
		primary, err = s.backend.PrimaryKEK(r.Context())
		keks := []map[string]string{{"id": primary, "state": "primary"}, {"id": "local:00000000", "state": "retired"}}
		answer = map[string]any{"primary": primary, "keks": keks}
	}
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	_ = json.NewEncoder(w).Encode(answer)
}

// client returns a Sealer that asks the service.
func (s *fakeService) client(t testing.TB, changes ...func(*remote.Config)) *remote.Sealer {
	t.Helper()
	cfg := remote.Config{Socket: s.socket}
	for _, change := range changes {
		change(&cfg)
	}
	client, err := remote.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	return client
}

func mustSeal(t testing.TB, s sealer.Sealer) sealer.Envelope {
	t.Helper()
	envelope, err := s.Seal(t.Context(), exampleBinding(), sealer.NewSecret([]byte(canary)))
	require.NoError(t, err)
	return envelope
}

// operations are all that a Sealer does, each with an envelope of the service's.
func operations(s *remote.Sealer, envelope []byte) map[string]func(ctx context.Context) error {
	item := sealer.Item{Binding: exampleBinding(), Envelope: envelope}
	seal := func(ctx context.Context) error {
		_, err := s.Seal(ctx, item.Binding, sealer.NewSecret([]byte(canary)))
		return err
	}
	return map[string]func(ctx context.Context) error{
		"Seal":       seal,
		"Open":       func(ctx context.Context) error { _, err := s.Open(ctx, item.Binding, envelope); return err },
		"Rewrap":     func(ctx context.Context) error { _, err := s.Rewrap(ctx, item.Binding, envelope); return err },
		"RewrapAll":  func(ctx context.Context) error { _, err := s.RewrapAll(ctx, []sealer.Item{item}); return err },
		"KEKs":       func(ctx context.Context) error { _, err := s.KEKs(ctx); return err },
		"PrimaryKEK": func(ctx context.Context) error { _, err := s.PrimaryKEK(ctx); return err },
	}
}
