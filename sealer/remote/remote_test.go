package remote_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/agentrouter/aikeys/internal/filereload/filereloadtest"
	"github.com/agentrouter/aikeys/internal/tlsfiles"
	"github.com/agentrouter/aikeys/internal/tlsfiles/tlsfilestest"
	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/local"
	"github.com/agentrouter/aikeys/sealer/remote"
	"github.com/agentrouter/aikeys/sealer/sealertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

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

// answer makes misbehave answer requests.
func (s *fakeService) answer(misbehave func(w http.ResponseWriter, r *http.Request) bool) {
	s.misbehave.Store(&misbehave)
}

// always makes the service answer each request with this status and body.
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

// operations returns all operations of a Sealer, each on an envelope of the service.
func operations(s *remote.Sealer, envelope []byte) map[string]func(ctx context.Context) error {
	item := sealer.Item{Binding: sealertest.Binding(), Envelope: envelope}
	seal := func(ctx context.Context) error {
		_, err := s.Seal(ctx, item.Binding, sealer.NewSecret([]byte(sealertest.Secret)))
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

func TestNewInvalidConfig(t *testing.T) {
	for name, cfg := range map[string]remote.Config{
		"nothing":                {},
		"both a socket and URL":  {Socket: "a.sock", URL: "https://a:1"},
		"plain HTTP":             {URL: "http://a:1"},
		"a path":                 {URL: "https://a:1/v1"},
		"a user":                 {URL: "https://u@a:1"},
		"no files":               {URL: "https://a:1"},
		"files that are missing": {URL: "https://a:1", CertFile: "none", KeyFile: "none", CAFile: "none"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := remote.New(cfg)
			require.ErrorContains(t, err, "secrets-svc: ")
		})
	}
}

func TestConnectionsAreReused(t *testing.T) {
	s := newFakeService(t)
	client := s.client(t)
	for range 20 {
		sealertest.MustSeal(t, client)
	}
	require.EqualValues(t, 1, s.conns.Load())
}

// Each request has a connection of its own, and waits for one if all are in use.
func TestMaxConns(t *testing.T) {
	const most = 64
	s := newFakeService(t)
	client := s.client(t, func(cfg *remote.Config) { cfg.Timeout = time.Minute })
	release := s.hang()
	errs := make(chan error, most)
	for range most {
		go func() {
			_, err := client.Seal(t.Context(), sealertest.Binding(), sealer.NewSecret([]byte(sealertest.Secret)))
			errs <- err
		}()
	}
	require.Eventually(t, func() bool { return s.requests.Load() == most }, 20*time.Second, time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := client.Seal(ctx, sealertest.Binding(), sealer.NewSecret([]byte(sealertest.Secret)))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.EqualValues(t, most, s.requests.Load(), "it was never sent")
	release()
	for range most {
		require.NoError(t, <-errs)
	}
	require.EqualValues(t, most, s.conns.Load())
}

// JSON can't carry bytes that are not UTF-8: it would send the same replacement for all of them.
func TestBindingNotUTF8(t *testing.T) {
	s := newFakeService(t)
	binding := sealertest.Binding()
	binding.KeyID = "byok_\xff"
	_, err := s.client(t).Seal(t.Context(), binding, sealer.NewSecret([]byte(sealertest.Secret)))
	require.ErrorIs(t, err, sealer.ErrInvalidBinding)
	require.Zero(t, s.requests.Load())
}

func TestInvalidInputSendsNoRequest(t *testing.T) {
	s := newFakeService(t)
	client := s.client(t)
	_, err := client.Open(t.Context(), sealertest.Binding(), []byte("none"))
	require.ErrorIs(t, err, sealer.ErrMalformed)
	_, err = client.Open(t.Context(), sealertest.Binding(), make([]byte, 1<<20))
	require.ErrorIs(t, err, sealer.ErrMalformed)
	results, err := client.RewrapAll(t.Context(), nil)
	require.NoError(t, err)
	require.Empty(t, results)
	require.Zero(t, s.requests.Load())
}

func TestKEKs(t *testing.T) {
	s := newFakeService(t)
	primary, err := s.backend.PrimaryKEK(t.Context())
	require.NoError(t, err)
	keks, err := s.client(t).KEKs(t.Context())
	require.NoError(t, err)
	require.Equal(t, []sealer.KEK{{ID: primary, State: sealer.KEKPrimary}, {ID: "local:00000000", State: sealer.KEKRetired}}, keks)
}

func TestRewrapAllBatches(t *testing.T) {
	s := newFakeService(t)
	client := s.client(t)
	old, err := local.Open(t.TempDir() + "/keyset.json")
	require.NoError(t, err)
	envelope, foreign := sealertest.MustSeal(t, client), sealertest.MustSeal(t, old)
	items := make([]sealer.Item, 600)
	for i := range items {
		items[i] = sealer.Item{Binding: sealertest.Binding(), Envelope: envelope.Bytes}
	}
	other := sealertest.Binding()
	other.CustomerID = "globex"
	items[7].Binding = other
	items[300].Envelope = foreign.Bytes
	items[301].Envelope = []byte("none")
	items[599].Binding = sealer.Binding{}

	s.requests.Store(0)
	results, err := client.RewrapAll(t.Context(), items)
	require.NoError(t, err)
	require.EqualValues(t, 3, s.requests.Load())
	want := map[int]error{7: sealer.ErrBinding, 300: sealer.ErrUnknownKEK, 301: sealer.ErrMalformed, 599: sealer.ErrInvalidBinding}
	require.Len(t, results, len(items))
	for i, result := range results {
		if err := want[i]; err != nil {
			require.ErrorIs(t, result.Err, err, i)
			require.Zero(t, result.Envelope)
			continue
		}
		require.NoError(t, result.Err)
		require.Equal(t, envelope, result.Envelope)
	}
}

// A request takes 1 MiB, which a few of the longest envelopes fill.
func TestRewrapAllLongEnvelopes(t *testing.T) {
	s := newFakeService(t)
	client := s.client(t)
	envelope, err := client.Seal(t.Context(), sealertest.Binding(), sealer.NewSecret(make([]byte, sealer.MaxSecretLen)))
	require.NoError(t, err)
	items := make([]sealer.Item, 24)
	for i := range items {
		items[i] = sealer.Item{Binding: sealertest.Binding(), Envelope: envelope.Bytes}
	}
	results, err := client.RewrapAll(t.Context(), items)
	require.NoError(t, err)
	for _, result := range results {
		require.NoError(t, result.Err)
		require.True(t, bytes.Equal(envelope.Bytes, result.Envelope.Bytes))
	}
}

func TestPrimaryKEKIsCached(t *testing.T) {
	t.Parallel()
	s := newFakeService(t)
	client := s.client(t)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			_, err := client.PrimaryKEK(t.Context())
			require.NoError(t, err)
		})
	}
	wg.Wait()
	require.EqualValues(t, 1, s.requests.Load())

	before, err := client.PrimaryKEK(t.Context())
	require.NoError(t, err)
	s.backend = sealertest.New(t) // another primary KEK
	require.Eventually(t, func() bool {
		after, err := client.PrimaryKEK(t.Context())
		return err == nil && after != before
	}, 5*time.Second, 10*time.Millisecond)
}

func TestPrimaryKEKAfterASeal(t *testing.T) {
	s := newFakeService(t)
	client := s.client(t)
	_, err := client.PrimaryKEK(t.Context())
	require.NoError(t, err)
	s.backend = sealertest.New(t)
	envelope := sealertest.MustSeal(t, client)
	primary, err := client.PrimaryKEK(t.Context())
	require.NoError(t, err)
	require.Equal(t, envelope.KEKID, primary)
}

// If the service hangs, callers that ask for the primary KEK must not each wait for it.
func TestPrimaryKEKErrorIsCached(t *testing.T) {
	t.Parallel()
	s := newFakeService(t)
	s.always(http.StatusInternalServerError, "")
	client := s.client(t)
	for range 10 {
		_, err := client.PrimaryKEK(t.Context())
		require.ErrorIs(t, err, sealer.ErrUnavailable)
	}
	require.EqualValues(t, 1, s.requests.Load())
	s.misbehave.Store(nil)
	require.Eventually(t, func() bool {
		_, err := client.PrimaryKEK(t.Context())
		return err == nil
	}, 5*time.Second, 10*time.Millisecond)
}

func TestErrorsHoldNoSecret(t *testing.T) {
	s := newFakeService(t)
	client := s.client(t, func(cfg *remote.Config) { cfg.Timeout = time.Second })
	envelope := sealertest.MustSeal(t, client)
	for name, misbehave := range map[string]func(){
		"an echo": func() { s.always(http.StatusOK, sealertest.Secret) },
		"a refusal": func() {
			s.always(http.StatusBadRequest, `{"detail":"`+sealertest.Secret+`","title":"`+sealertest.Secret+`"}`)
		},
		"an unknown type": func() { s.always(http.StatusUnprocessableEntity, `{"type":"/problems/`+sealertest.Secret+`"}`) },
		"a failure": func() {
			s.always(http.StatusInternalServerError, `{"request_id":"`+strings.Repeat(sealertest.Secret, 2)+`"}`)
		},
		"a KEK": func() {
			s.always(http.StatusOK, `{"kek_id":"`+sealertest.Secret+`","envelope":"`+sealertest.Secret+`"}`)
		},
	} {
		misbehave()
		for operation, run := range operations(client, envelope.Bytes) {
			err := run(context.WithoutCancel(t.Context()))
			require.Error(t, err, "%s %s", operation, name)
			require.NotContains(t, fmt.Sprintf("%+v", err), "canary", "%s %s", operation, name)
		}
	}
}

func TestMutualTLS(t *testing.T) {
	t.Parallel()
	ours, other := tlsfilestest.NewAuthority(t), tlsfilestest.NewAuthority(t)
	named := func(name string) func(*x509.Certificate) { // for name and 127.0.0.1, for clients and servers
		return func(c *x509.Certificate) {
			c.Subject.CommonName, c.IPAddresses = name, []net.IP{net.IPv4(127, 0, 0, 1)}
			c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
		}
	}
	s := &fakeService{backend: sealertest.New(t)}
	own := ours.Issue(t, t.TempDir(), named("secrets-svc"))
	pair, err := tlsfiles.ReadPair(own.CertFile, own.KeyFile)
	require.NoError(t, err)
	caFile := ours.Write(t, filepath.Join(t.TempDir(), "ca.crt"))
	trusted, err := tlsfiles.ReadPool(caFile)
	require.NoError(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s.serveOn(t, tls.NewListener(listener, &tls.Config{
		Certificates: []tls.Certificate{*pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: trusted,
	}))
	url := "https://" + listener.Addr().String()
	connect := func(signer, trusted *tlsfilestest.Authority) *remote.Sealer {
		own := signer.Issue(t, t.TempDir(), named("aikeysd"))
		return s.client(t, func(cfg *remote.Config) {
			*cfg = remote.Config{URL: url, CertFile: own.CertFile, KeyFile: own.KeyFile, CAFile: trusted.Write(t, filepath.Join(t.TempDir(), "ca.crt"))}
		})
	}
	_, err = connect(ours, other).Seal(t.Context(), sealertest.Binding(), sealer.NewSecret([]byte(sealertest.Secret)))
	require.ErrorIs(t, err, sealer.ErrUnavailable, "the server is of another authority")
	require.ErrorContains(t, err, "certificate")
	_, err = connect(other, ours).Seal(t.Context(), sealertest.Binding(), sealer.NewSecret([]byte(sealertest.Secret)))
	require.ErrorIs(t, err, sealer.ErrUnavailable, "the client is of another authority")
	require.Zero(t, s.requests.Load())

	client := connect(ours, ours)
	for name, run := range operations(client, sealertest.MustSeal(t, client).Bytes) {
		require.NoError(t, run(t.Context()), name)
	}

	// Renewed files are read again. A half-finished renewal is not used.
	f, next := ours.Issue(t, t.TempDir(), named("before")), ours.Issue(t, t.TempDir(), named("after"))
	var log bytes.Buffer // written by the calls, which follow one another
	client = s.client(t, func(cfg *remote.Config) {
		*cfg = remote.Config{URL: url, CertFile: f.CertFile, KeyFile: f.KeyFile, CAFile: caFile,
			Log: slog.New(slog.NewTextHandler(&log, nil))}
	})
	connectedAs := func() (name string) {
		require.NoError(t, client.Close()) // so that the next call makes a connection
		s.answer(func(_ http.ResponseWriter, r *http.Request) bool {
			name = r.TLS.PeerCertificates[0].Subject.CommonName
			return false
		})
		sealertest.MustSeal(t, client)
		return name
	}
	require.Equal(t, "before", connectedAs())

	certificate, err := os.ReadFile(next.CertFile)
	require.NoError(t, err)
	key, err := os.ReadFile(next.KeyFile)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(f.CertFile, certificate, 0o600)) // half a renewal
	filereloadtest.ReplaceAfterFailure(t, f.KeyFile, key, func() bool {
		require.Equal(t, "before", connectedAs())
		return strings.Contains(log.String(), "failed to find any PEM data in key input")
	})
	require.Eventually(t, func() bool { return connectedAs() == "after" }, 5*time.Second, 10*time.Millisecond)
}
