package dataplane_test

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
	"github.com/stretchr/testify/require"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/impl/aikeys/aikeystest"
	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/impl/dataplane"
	"github.com/agentrouter/aikeys/impl/feed"
	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/impl/providers"
	"github.com/agentrouter/aikeys/impl/secrets/secretstest"
	"github.com/agentrouter/aikeys/internal/lifecycle"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
	"github.com/agentrouter/aikeys/sealer"
)

// options adjust a service; the zero value will do.
type options struct {
	sealer sealer.Sealer
	oidc   *auth.OIDC
	now    func() time.Time
	ready  func() bool
	// store stands between the handlers and the database.
	store func(*models.Store) dataplane.Store
	// callers stand between the handlers and the callers' sessions.
	callers func(httpapi.Sessions) httpapi.Sessions
}

// service is the data planes' API beside the public one, over one database. Whatever it answers is checked against the
// document, and whatever it logs, measures, traces or refuses with is searched for the secrets that the test used.
type service struct {
	t      testing.TB
	public *aikeystest.Service
	url    string
	dbURL  string
	// handler is what the socket serves.
	handler  http.Handler
	store    *models.Store
	feed     *feed.Feed
	client   *http.Client
	log      buffer
	refusals buffer
	registry *prometheus.Registry
	spans    *tracetest.InMemoryExporter

	mu     sync.Mutex
	hidden []string
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

// each runs a test on a service of its own over every engine, all engines at once.
func each(t *testing.T, test func(t *testing.T, s *service), changes ...func(t *testing.T, o *options)) {
	t.Helper()
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		t.Parallel()
		var opts options
		for _, change := range changes {
			change(t, &opts)
		}
		test(t, start(t, e, opts))
	})
}

func start(t testing.TB, e modelstest.Engine, opts options) *service {
	t.Helper()
	s := &service{t: t, dbURL: e.URL(t), registry: prometheus.NewRegistry(), spans: tracetest.NewInMemoryExporter()}
	s.store = modelstest.OpenStore(t, s.dbURL, models.Options{})
	_, err := s.store.Migrate(t.Context())
	require.NoError(t, err)
	if opts.sealer == nil {
		opts.sealer = secretstest.Backend(t)
	}
	s.public = aikeystest.Start(t, aikeystest.Options{Store: s.store, Sealer: opts.sealer, OIDC: opts.oidc, Now: opts.now})
	s.handler = s.newHandler(opts)
	t.Cleanup(s.requireNoLeaks)
	s.serve()
	transport := &http.Transport{MaxIdleConnsPerHost: 32}
	t.Cleanup(transport.CloseIdleConnections)
	s.client = &http.Client{Transport: &checkedTransport{service: s, base: transport}}
	return s
}

// maxStale is the longest grace that data planes may declare in these tests.
const maxStale = 20 * time.Second

func (s *service) newHandler(opts options) http.Handler {
	s.t.Helper()
	catalogue, err := providers.Load()
	require.NoError(s.t, err)
	log := slog.New(slog.NewJSONHandler(&s.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	tracing := sdktrace.NewTracerProvider(sdktrace.WithSyncer(s.spans))
	observer, err := httpapi.NewObserver("dataplane", log, s.registry, tracing.Tracer("aikeys"))
	require.NoError(s.t, err)
	s.feed, err = feed.New(feed.Config{Store: s.store, Log: log})
	require.NoError(s.t, err)
	cfg := dataplane.Config{
		Store: s.store, Sealer: opts.sealer, Providers: catalogue, Feed: s.feed, Now: opts.now, MaxStale: maxStale,
		Sessions: auth.New(auth.Config{Tokens: s.store, OIDC: opts.oidc, Now: opts.now}),
		API: httpapi.Config{Observer: observer, Ready: opts.ready, Sessions: auth.New(auth.Config{
			DataPlanes: s.store, Now: opts.now,
		})},
	}
	if opts.store != nil {
		cfg.Store = opts.store(s.store)
	}
	if opts.callers != nil {
		cfg.Sessions = opts.callers(cfg.Sessions)
	}
	handler, err := dataplane.NewHandler(cfg)
	require.NoError(s.t, err)
	return handler
}

// serve listens until the test ends.
func (s *service) serve() {
	s.t.Helper()
	listener, err := lifecycle.Listen(context.Background(), "127.0.0.1:0")
	require.NoError(s.t, err)
	server := httpapi.NewServer(httpapi.ServerConfig{Listener: listener, Handler: s.handler, Log: slog.New(slog.DiscardHandler)})
	served := make(chan error, 1)
	go func() { served <- server.Serve() }()
	s.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		require.NoError(s.t, server.Shutdown(ctx))
		require.NoError(s.t, <-served)
	})
	s.url = server.URL()
}

// runFeed runs the channel until the test ends, and returns when it takes streams.
func (s *service) runFeed(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- s.feed.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ran)
	})
	dp := s.dataPlane()
	require.Eventually(t, func() bool {
		resp, err := dp.StreamEvents(t.Context(), nil)
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	}, 10*time.Second, 10*time.Millisecond)
}

// hide adds a text that nothing but the answer to a fetch may hold.
func (s *service) hide(text string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hidden = append(s.hidden, text)
	return text
}

func (s *service) requireNoLeaks() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for place, text := range s.evidence() {
		for i, secret := range s.hidden {
			if form := aikeystest.FindIn([]byte(text), secret); form != "" {
				s.t.Errorf("%s holds hidden text %d, %s", place, i, form)
			}
		}
	}
}

// evidence is all that the service has let out, but for the answers that hold keys.
func (s *service) evidence() map[string]string {
	var metrics bytes.Buffer
	families, err := s.registry.Gather()
	require.NoError(s.t, err)
	for _, family := range families {
		_, err := expfmt.MetricFamilyToText(&metrics, family)
		require.NoError(s.t, err)
	}
	var spans strings.Builder
	for _, span := range s.spans.GetSpans() {
		spans.WriteString(span.Name)
		for _, attribute := range span.Attributes {
			spans.WriteString(" " + string(attribute.Key) + "=" + attribute.Value.String())
		}
		for _, event := range span.Events {
			spans.WriteString(" " + event.Name)
		}
		spans.WriteString(" " + span.Status.Description + "\n")
	}
	return map[string]string{"the log": s.log.String(), "a refusal": s.refusals.String(), "a metric": metrics.String(), "a span": spans.String()}
}

// dataPlane is one's credential, and the generated client that uses it.
type dataPlane struct {
	*gen.ClientWithResponses
	id, name, token string
}

// dataPlane makes a data plane for all customers, changed as the caller likes.
func (s *service) dataPlane(changes ...func(*models.DataPlane)) *dataPlane {
	s.t.Helper()
	now := time.Now()
	text, id, hash, err := auth.MintDataPlane(now)
	require.NoError(s.t, err)
	row := models.DataPlane{ID: id, Name: "dp-" + id, Hash: hash, CreatedAt: now.UnixMicro()}
	for _, change := range changes {
		change(&row)
	}
	require.NoError(s.t, s.store.Transact(context.Background(), func(tx *models.Tx) error { return tx.CreateDataPlane(row) }))
	return &dataPlane{ClientWithResponses: s.clientOf(s.hide(text)), id: id, name: row.Name, token: text}
}

// serving limits a data plane to the customers given, which may be none.
func serving(customers ...string) func(*models.DataPlane) {
	return func(d *models.DataPlane) { d.Customers = append([]string{}, customers...) }
}

func (s *service) revoke(dp *dataPlane) {
	s.t.Helper()
	require.NoError(s.t, s.store.Transact(context.Background(), func(tx *models.Tx) error {
		_, err := tx.RevokeDataPlane(dp.name, "")
		return err
	}))
}

func (s *service) clientOf(token string) *gen.ClientWithResponses {
	s.t.Helper()
	client, err := gen.NewClientWithResponses(s.url, gen.WithHTTPClient(s.client),
		gen.WithRequestEditorFn(func(_ context.Context, req *http.Request) error {
			req.Header.Set("Authorization", "Bearer "+token)
			return nil
		}))
	require.NoError(s.t, err)
	return client
}
