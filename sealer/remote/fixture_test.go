package remote_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/agentrouter/aikeys/gen/secrets"
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
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/seal", s.seal)
	mux.HandleFunc("POST /v1/open", s.open)
	mux.HandleFunc("POST /v1/rewrap", s.rewrap)
	mux.HandleFunc("GET /v1/keks", s.keks)
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s.requests.Add(1)
			if misbehave := s.misbehave.Load(); misbehave == nil || !(*misbehave)(w, r) {
				mux.ServeHTTP(w, r)
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

func (s *fakeService) behave() { s.misbehave.Store(nil) }

func (s *fakeService) seal(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Binding secrets.Binding `json:"binding"`
		Secret  []byte          `json:"secret"`
	}
	if json.NewDecoder(r.Body).Decode(&body) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	envelope, err := s.backend.Seal(r.Context(), bindingOf(body.Binding), sealer.NewSecret(body.Secret))
	reply(w, secrets.Envelope{KekID: envelope.KEKID, Envelope: base64.StdEncoding.EncodeToString(envelope.Bytes)}, err)
}

func (s *fakeService) open(w http.ResponseWriter, r *http.Request) {
	var body secrets.OpenRequest
	if json.NewDecoder(r.Body).Decode(&body) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	envelope, err := base64.StdEncoding.DecodeString(body.Envelope)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	secret, err := s.backend.Open(r.Context(), bindingOf(body.Binding), envelope)
	reply(w, map[string][]byte{"secret": secret.Reveal()}, err)
}

func (s *fakeService) rewrap(w http.ResponseWriter, r *http.Request) {
	var body secrets.RewrapRequest
	if json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&body) != nil || len(body.Items) == 0 || len(body.Items) > 256 {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	var results secrets.RewrapResponse
	for _, item := range body.Items {
		envelope, _ := base64.StdEncoding.DecodeString(item.Envelope)
		rewrapped, err := s.backend.Rewrap(r.Context(), bindingOf(item.Binding), envelope)
		if slug := slugOf(err); slug != "" {
			results.Results = append(results.Results, secrets.RewrapResult{Problem: &slug})
			continue
		}
		encoded := base64.StdEncoding.EncodeToString(rewrapped.Bytes)
		results.Results = append(results.Results, secrets.RewrapResult{KekID: &rewrapped.KEKID, Envelope: &encoded})
	}
	reply(w, results, nil)
}

func (s *fakeService) keks(w http.ResponseWriter, r *http.Request) {
	primary, err := s.backend.PrimaryKEK(r.Context())
	reply(w, secrets.KEKList{Primary: primary, Keks: []secrets.KEK{
		{ID: primary, State: "primary"}, {ID: "local:00000000", State: "retired"},
	}}, err)
}

func bindingOf(b secrets.Binding) sealer.Binding {
	return sealer.Binding{
		CustomerID: b.CustomerID, ProjectID: b.ProjectID, KeyID: b.KeyID, Provider: b.Provider, Version: uint32(b.Version),
	}
}

func slugOf(err error) string {
	switch {
	case errors.Is(err, sealer.ErrBinding):
		return "does-not-open"
	case errors.Is(err, sealer.ErrUnknownKEK):
		return "unknown-kek"
	case errors.Is(err, sealer.ErrMalformed):
		return "malformed-envelope"
	}
	return ""
}

func reply(w http.ResponseWriter, body any, err error) {
	if slug := slugOf(err); slug != "" {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusUnprocessableEntity)
		body = secrets.Problem{Type: "/problems/" + slug, Status: http.StatusUnprocessableEntity}
	}
	_ = json.NewEncoder(w).Encode(body)
}

// client returns a Sealer that asks the stand-in.
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

func within(d time.Duration) func(*remote.Config) {
	return func(cfg *remote.Config) { cfg.Timeout = d }
}

func mustSeal(t testing.TB, s sealer.Sealer) sealer.Envelope {
	t.Helper()
	envelope, err := s.Seal(t.Context(), exampleBinding(), sealer.NewSecret([]byte(canary)))
	require.NoError(t, err)
	return envelope
}

// operations are all that a Sealer does, each with an envelope of the stand-in's.
func operations(s *remote.Sealer, envelope []byte) map[string]func(ctx context.Context) error {
	return map[string]func(ctx context.Context) error{
		"Seal": func(ctx context.Context) error {
			_, err := s.Seal(ctx, exampleBinding(), sealer.NewSecret([]byte(canary)))
			return err
		},
		"Open": func(ctx context.Context) error {
			_, err := s.Open(ctx, exampleBinding(), envelope)
			return err
		},
		"Rewrap": func(ctx context.Context) error {
			_, err := s.Rewrap(ctx, exampleBinding(), envelope)
			return err
		},
		"RewrapAll": func(ctx context.Context) error {
			_, err := s.RewrapAll(ctx, []sealer.Item{{Binding: exampleBinding(), Envelope: envelope}})
			return err
		},
		"KEKs": func(ctx context.Context) error {
			_, err := s.KEKs(ctx)
			return err
		},
		"PrimaryKEK": func(ctx context.Context) error {
			_, err := s.PrimaryKEK(ctx)
			return err
		},
	}
}
