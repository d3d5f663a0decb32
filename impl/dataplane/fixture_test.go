package dataplane_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
	"github.com/stretchr/testify/require"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.uber.org/goleak"

	pub "github.com/agentrouter/aikeys/gen/aikeys"
	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/impl/aikeys/aikeystest"
	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/impl/dataplane"
	"github.com/agentrouter/aikeys/impl/feed"
	"github.com/agentrouter/aikeys/impl/feed/feedtest"
	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/impl/providers"
	"github.com/agentrouter/aikeys/impl/secrets/secretstest"
	"github.com/agentrouter/aikeys/internal/lifecycle"
	"github.com/agentrouter/aikeys/internal/problem"
	gensecret "github.com/agentrouter/aikeys/internal/secret"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
	"github.com/agentrouter/aikeys/sealer"
)

func TestMain(m *testing.M) {
	code := modelstest.Main(m)
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, "every service is closed, but:", err)
		code = 1
	}
	os.Exit(code)
}

// options change a service; the zero value is one as in production.
type options struct {
	sealer sealer.Sealer
	oidc   *auth.OIDC
	now    func() time.Time
	ready  func() bool
	// store stands between the handlers and the database.
	store func(*models.Store) dataplane.Store
	// callers stand between the handlers and the callers' sessions.
	callers func(auth.Sessions) auth.Sessions
}

// service is the data planes' API and the public API over one database. All replies are checked against the document. Logs,
// metrics, spans and refusals are searched for the secrets that the test used.
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

// each runs a test on every engine, with a service of its own.
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

// maxStale is the longest grace that data planes may declare in tests.
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
		API: httpapi.Config{Observer: observer, Ready: opts.ready, Authenticate: auth.Middleware(auth.MiddlewareConfig{
			Sessions: auth.New(auth.Config{
				DataPlanes: s.store, Now: opts.now,
			}),
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

// serve runs a server until the test ends.
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

// runFeed runs the feed until the test ends, and returns when it accepts streams.
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

// hide marks a text that only the answer to a fetch may hold, and returns it.
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

// evidence returns everything that the service has emitted, except for answers that hold keys.
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

// dataPlane is a data plane's credential, and a generated client that uses it.
type dataPlane struct {
	*gen.ClientWithResponses
	id, name, token string
}

// dataPlane stores a data plane that serves all customers, after the changes.
func (s *service) dataPlane(changes ...func(*models.DataPlane)) *dataPlane {
	s.t.Helper()
	now := time.Now()
	text, id, hash, err := auth.MintDataPlane(now)
	require.NoError(s.t, err)
	row := models.DataPlane{ID: id, Name: "dp-" + id, Hash: hash, CreatedAt: now.UnixMicro()}
	for _, change := range changes {
		change(&row)
	}
	feedtest.StoreDataPlane(s.t, s.store, row)
	return &dataPlane{ClientWithResponses: s.clientOf(s.hide(text)), id: id, name: row.Name, token: text}
}

// serving limits a data plane to customers, of which there may be none.
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

// contract is the document that every reply is checked against.
var contract = sync.OnceValues(func() (*aikeystest.Contract, error) {
	doc, err := gen.GetSpec()
	if err != nil {
		return nil, err
	}
	return aikeystest.NewContract(doc), nil
})

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
	checked, err := contract()
	if err != nil {
		return nil, err
	}
	for _, complaint := range checked.Complaints(req, resp, body) {
		c.service.t.Error(complaint)
	}
	return resp, nil
}

// Short names for what most tests use.
const (
	acme   = aikeystest.Customer
	globex = aikeystest.OtherCustomer
	web    = aikeystest.Project
	ops    = aikeystest.OtherProject
	owner  = aikeystest.Owner
	member = aikeystest.Member
	other  = aikeystest.OtherMember
	sam    = aikeystest.Stranger
)

// ownersView is the owner, as the store knows them.
var ownersView = models.Caller{CustomerID: acme, ProjectID: web, UserID: owner}

func ptr[T any](v T) *T { return &v }

func decode[T any](t testing.TB, text []byte) T {
	t.Helper()
	var value T
	require.NoError(t, json.Unmarshal(text, &value))
	return value
}

// marked returns a random text that is searched for at the end of the test.
func (s *service) marked() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return s.hide(hex.EncodeToString(b[:]))
}

// held is a registered key and its secret.
type held struct {
	pub.Key
	secret string
}

// register registers a key with a random secret in the default project of a user.
func (s *service) register(user, provider string, own bool) held {
	s.t.Helper()
	secret := s.marked()
	return held{s.registerAs(s.public.As(user), pub.RegisterRequest{
		Provider: provider, Name: secret[:8], Secret: gensecret.New(secret), UserScope: &own,
	}), secret}
}

func (s *service) registerAs(as *aikeystest.Session, body pub.RegisterRequest) pub.Key {
	s.t.Helper()
	reply, err := as.RegisterKeyWithResponse(context.Background(), aikeystest.Self, aikeystest.Self, nil, body)
	require.NoError(s.t, err)
	require.Equal(s.t, http.StatusCreated, reply.StatusCode(), "%s", reply.Body)
	return reply.JSON201.Key
}

// shared registers a project key, own a user's own key.
func (s *service) shared(provider string) held    { return s.register(owner, provider, false) }
func (s *service) own(user, provider string) held { return s.register(user, provider, true) }

// credential returns the API key of a user's session.
func (s *service) credential(user string) string { return s.hide(s.public.As(user).Token) }

func (s *service) policy(body pub.PolicyRequest) { s.policyOf(s.public.As(owner), body) }

func (s *service) policyOf(as *aikeystest.Session, body pub.PolicyRequest) {
	s.t.Helper()
	reply, err := as.SetPolicyWithResponse(context.Background(), aikeystest.Self, aikeystest.Self, body)
	require.NoError(s.t, err)
	require.Equal(s.t, http.StatusOK, reply.StatusCode(), "%s", reply.Body)
}

func forKey(id string) gen.FetchRequest { return gen.FetchRequest{KeyID: &id} }

func forCaller(token, provider string) gen.FetchRequest { return forCallerIn(token, "", provider) }

func forCallerIn(token, project, provider string) gen.FetchRequest {
	r := gen.FetchRequest{Credential: ptr(gensecret.New(token)), Provider: &provider}
	if project != "" {
		r.ProjectID = &project
	}
	return r
}

// forUser asks for the key of a user in a project of acme's; an empty user asks for the project's key.
func forUser(project, user, provider string) gen.FetchRequest {
	r := gen.FetchRequest{CustomerID: ptr(acme), ProjectID: &project, Provider: &provider}
	if user != "" {
		r.UserID = &user
	}
	return r
}

func fetch(t testing.TB, dp *dataPlane, body gen.FetchRequest) *gen.FetchKeyResult {
	t.Helper()
	reply, err := dp.FetchKeyWithResponse(t.Context(), body)
	require.NoError(t, err)
	return reply
}

// requireKey asserts that a fetch is answered with this key for this reason.
func requireKey(t testing.TB, reply *gen.FetchKeyResult, key held, reason string) gen.FetchResponse {
	t.Helper()
	require.Equal(t, http.StatusOK, reply.StatusCode(), "%s", reply.Body)
	got := *reply.JSON200
	require.Equal(t, key.ID, got.KeyID)
	require.Equal(t, key.secret, got.Secret.Reveal())
	require.Equal(t, reason, got.Reason)
	scope := "project"
	if key.UserScope {
		scope = "user"
	}
	require.Equal(t, scope, got.Scope)
	return got
}

// answer is a reply of the generated client.
type answer interface {
	StatusCode() int
	GetBody() []byte
}

// requireRefused asserts that a request is answered with a problem of this status and type.
func requireRefused(t testing.TB, reply answer, status int, slug string) problem.Document {
	t.Helper()
	require.Equal(t, status, reply.StatusCode(), "%s", reply.GetBody())
	doc := decode[problem.Document](t, reply.GetBody())
	require.Equal(t, "/problems/"+slug, doc.Type)
	return doc
}

// records returns a project's fetches, newest first.
func (s *service) records(customer, project string) []models.FetchRecord {
	s.t.Helper()
	page, err := s.store.ListFetches(context.Background(), customer, project, 0, 100)
	require.NoError(s.t, err)
	return page
}

func (s *service) exec(t testing.TB, statement string, args ...any) {
	t.Helper()
	done, err := feedtest.Open(t, s.dbURL).ExecContext(t.Context(), statement, args...)
	require.NoError(t, err)
	changed, err := done.RowsAffected()
	require.NoError(t, err)
	require.EqualValues(t, 1, changed)
}

// report reports that a provider accepted or refused a key some time ago.
func report(t testing.TB, dp *dataPlane, id string, bad bool, ago time.Duration) {
	t.Helper()
	r, ms := gen.KeyReport{KeyID: id}, int(ago.Milliseconds())
	if bad {
		r.FailedMsAgo, r.FailureStatus = &ms, ptr(http.StatusUnauthorized)
	} else {
		r.UsedMsAgo = &ms
	}
	reply, err := dp.ReportKeysWithResponse(t.Context(), gen.ReportRequest{Keys: []gen.KeyReport{r}})
	require.NoError(t, err)
	require.Equal(t, http.StatusNoContent, reply.StatusCode(), "%s", reply.Body)
}
