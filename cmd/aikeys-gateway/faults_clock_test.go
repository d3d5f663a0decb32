package main

import (
	"context"
	"log/slog"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane/gateway/gatewaytest"
	pub "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/aikeys/aikeystest"
	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/impl/dataplane"
	"github.com/agentrouter/aikeys/impl/feed"
	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/impl/providers"
	"github.com/agentrouter/aikeys/internal/lifecycle"
	gensecret "github.com/agentrouter/aikeys/internal/secret"
	"github.com/agentrouter/aikeys/models"
)

// stepped is a control plane in this process, whose time of day can be set.
type stepped struct {
	*aikeystest.Service

	t     *testing.T
	step  atomic.Int64
	edges string // where it serves data planes
}

func (s *stepped) now() time.Time { return time.Now().Add(time.Duration(s.step.Load())) }

func newStepped(t *testing.T) *stepped {
	t.Helper()
	s := &stepped{t: t}
	s.Service = aikeystest.Start(t, aikeystest.Options{Now: s.now})
	changes, err := feed.New(feed.Config{Store: s.Store})
	require.NoError(t, err)
	catalogue, err := providers.Load()
	require.NoError(t, err)
	observer, err := httpapi.NewObserver("dataplane", slog.New(slog.DiscardHandler), prometheus.NewRegistry(), nil)
	require.NoError(t, err)
	handler, err := dataplane.NewHandler(dataplane.Config{
		Store: s.Store, Sealer: s.Sealer, Providers: catalogue, Feed: changes, Now: s.now, MaxStale: time.Minute,
		Sessions: auth.New(auth.Config{Tokens: s.Store, Now: s.now}),
		API: httpapi.Config{Observer: observer, Authenticate: auth.Middleware(auth.MiddlewareConfig{
			Sessions: auth.New(auth.Config{
				DataPlanes: s.Store, Now: s.now,
			}),
		})},
	})
	require.NoError(t, err)
	listener, err := lifecycle.Listen(t.Context(), "127.0.0.1:0")
	require.NoError(t, err)
	server := httpapi.NewServer(httpapi.ServerConfig{Listener: listener, Handler: handler, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 2)
	go func() { ran <- changes.Run(ctx) }()
	go func() { ran <- server.Serve() }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ran)
		ending, done := context.WithTimeout(context.Background(), patience)
		defer done()
		require.NoError(t, server.Shutdown(ending))
		require.NoError(t, <-ran)
	})
	s.edges = server.URL()
	return s
}

// edge returns a data plane's credential.
func (s *stepped) edge() string {
	s.t.Helper()
	text, id, hash, err := auth.MintDataPlane(time.Now())
	require.NoError(s.t, err)
	require.NoError(s.t, s.Store.Transact(s.t.Context(), func(tx *models.Tx) error {
		return tx.CreateDataPlane(models.DataPlane{ID: id, Name: id, Hash: hash, CreatedAt: time.Now().UnixMicro()})
	}))
	return text
}

func (s *stepped) register(provider *gatewaytest.Provider) string {
	s.t.Helper()
	secret := s.Secret()
	provider.Accept(secret)
	key := s.As(aikeystest.Owner).Register(s.t, pub.RegisterRequest{
		Provider: "openai", Name: "key " + secret[:8], Secret: gensecret.New(secret),
	})
	return key.ID
}

// The control plane's clock is set forward and back by an hour. No request is refused because of that, keys registered
// afterwards serve, and a key revoked afterwards is refused within the bound.
func TestClockSetByAnHour(t *testing.T) {
	t.Parallel()
	s := newStepped(t)
	provider := gatewaytest.StartProvider(t, gatewaytest.WithoutRecords())
	first := s.register(provider)
	caller := s.As(aikeystest.Member).Token
	var planes []*plane
	for _, maxStale := range []time.Duration{0, 5 * time.Second} {
		planes = append(planes, newPlane(t, planeOptions{
			name: "max_stale " + maxStale.String(), provider: provider, control: s.edges, edge: s.edge(), caller: caller,
			maxStale: maxStale,
		}))
	}
	for _, p := range planes {
		p.awaitKey(first)
	}
	began := time.Now()
	for _, step := range []time.Duration{time.Hour, -time.Hour, 0} {
		s.step.Store(int64(step))
		stepped := time.Now()
		second := s.register(provider)
		for _, p := range planes {
			p.awaitKey(second)
		}
		s.As(aikeystest.Owner).RevokeKey(t, second)
		revoked := time.Now()
		for _, p := range planes {
			p.awaitKey(first)
		}
		time.Sleep(time.Until(stepped.Add(2 * lease))) // so that leases are extended by the clock as it is now
		for _, p := range planes {
			t.Logf("%s, %v", p.name, step)
			p.requireNone(second, revoked.Add(lease+margin), revoked)
			require.True(t, p.resolver.Status().Leased)
		}
		reply, err := s.Client(s.As(aikeystest.Owner).Token).GetKeyWithResponse(t.Context(), aikeystest.Self, aikeystest.Self, second)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, reply.StatusCode())
		require.Equal(t, "complete", reply.JSON200.Key.Receipt.State)
	}
	for _, p := range planes {
		p.requireServed(began, time.Now())
	}
}
