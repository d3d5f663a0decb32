package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/impl/aikeys"
	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/impl/feed"
	"github.com/agentrouter/aikeys/impl/keysetcheck"
	"github.com/agentrouter/aikeys/impl/telemetry"
	"github.com/agentrouter/aikeys/impl/telemetry/tracing"
	"github.com/agentrouter/aikeys/impl/verification"
	"github.com/agentrouter/aikeys/internal/lifecycle"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/database"
	"github.com/agentrouter/aikeys/sealer"
)

func (p *program) serveCommand() *cobra.Command {
	cfg := newConfig()
	cmd := &cobra.Command{
		Use:     "serve",
		Short:   "Serve the public API, the data-plane API or both",
		GroupID: groupServe,
		Args:    cli.NoArguments(),
		Long: `Serves the public API; the data-plane API, which gateways alone may reach; and /healthz, /readyz and /metrics: each on a
listener of its own.

--role public and --role dataplane serve one of the two APIs each, from two processes. The process with the public API
then opens no secret, and secrets-svc can enforce that: this process needs only the right "seal", and the process with
the data-plane API needs "open" and "status". The first start needs both processes.

It keeps no state: run as many processes as you like on one Postgres. It starts without its database, answers 503 until
the database is there, and then becomes ready. The first start creates the schema and, for a local sealer, the keyset.
Back the keyset up, apart from the database: without it no key opens again.

SIGTERM or SIGINT stops it: /readyz turns 503, requests in flight are answered, the gateways' streams end, then it
exits. A second signal ends it at once.

GOGC and GOMEMLIMIT work as in every Go program; GOGC's default is 400 here. Traces are sent by OTLP over HTTP when
OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is set.`,
		Example: `  # On this machine alone: SQLite, a local keyset, no TLS
  aikeysd serve

  # In production
  export AIKEYS_DATABASE_URL_FILE=/run/secrets/database-url AIKEYS_SEALER=local:/etc/aikeys/keyset.json
  aikeysd serve --listen 0.0.0.0:8443 --dataplane-listen 0.0.0.0:8444 \
    --tls-cert /etc/aikeys/tls.crt --tls-key /etc/aikeys/tls.key`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := cfg.loadToServe(p.Environ); err != nil {
				return err
			}
			s, err := p.newService(cmd.Context(), cfg, cmd.CommandPath())
			if err != nil {
				return err
			}
			return s.run(cmd.Context())
		},
	}
	cfg.AddFlags(cmd.Flags())
	return cmd
}

// flushTimeout bounds the time to send the last traces to the collector.
const flushTimeout = 5 * time.Second

// service is one running control plane.
type service struct {
	cfg     *config
	log     *slog.Logger
	getenv  func(name string) string // for variables that are not settings, such as OTEL_*
	process models.Process           // for the system trail

	publicListener, dataplaneListener, opsListener net.Listener // those of APIs that the role does not serve are nil

	traces              *sdktrace.TracerProvider // nil if none are exported
	sealer              sealer.Sealer
	madeKeyset          bool // the keyset file was missing, so a new keyset was made
	store               *models.Store
	keyset              *keysetcheck.Checker
	denials             *aikeys.Denials
	issuer              *auth.OIDC // nil if no session tokens are accepted
	sessions            *auth.Authenticator
	uses                *auth.TokenUses
	tests               *verification.Keys
	feed                *feed.Feed
	api, dataplane, ops *lifecycle.Server // api or dataplane is nil if the role does not serve it
	probeKeyset         telemetry.Probe

	state    state
	notified prometheus.Gauge
	prepared chan struct{} // closed when the service is ready
	closers  lifecycle.Closers
}

// newService binds the listeners first, so that a taken address is reported before anything is touched. Then it opens what
// the service needs and makes its servers. It waits for nothing: the database may be down.
func (p *program) newService(ctx context.Context, cfg *config, command string) (*service, error) {
	s := &service{cfg: cfg, log: cli.NewLogger(p.Stderr, cfg.LogFormat, cfg.LogLevel), getenv: p.Getenv, prepared: make(chan struct{}),
		process: models.Process{Operator: cli.Operator(p.Getenv), Command: command},
		notified: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "aikeys_db_notifications", Help: "1 if the database's notifications arrived when the service started, else 0.",
		})}
	for _, step := range []func(context.Context) error{s.listen, s.openTraces, s.openSealer, s.openStore, s.makeServers} {
		if err := step(ctx); err != nil {
			return nil, errors.Join(err, s.closers.Close())
		}
	}
	return s, nil
}

func (s *service) listen(ctx context.Context) (err error) {
	listeners := map[string]*net.Listener{"listen": &s.publicListener, "dataplane-listen": &s.dataplaneListener, "ops-listen": &s.opsListener}
	for _, name := range append(s.cfg.apiListenSettings(), "ops-listen") {
		if *listeners[name], err = s.cfg.Of(name).Listen(ctx); err != nil {
			return err
		}
		s.closers.AddListener(*listeners[name])
	}
	return nil
}

// openTraces starts the export of traces if the environment asks for it.
func (s *service) openTraces(ctx context.Context) error {
	endpoint, err := tracing.Endpoint(s.getenv)
	if err != nil {
		return cli.Usagef("%s", err)
	}
	if endpoint == "" {
		return nil
	}
	s.traces, err = tracing.New(ctx, tracing.Config{Endpoint: endpoint, Service: "aikeysd", Version: cli.Version(), Log: s.log})
	if err != nil {
		return err
	}
	s.closers.Add(func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
		defer cancel()
		if err := s.traces.Shutdown(ctx); err != nil {
			return fmt.Errorf("flush traces: %w", err)
		}
		return nil
	})
	return nil
}

func (s *service) openSealer(ctx context.Context) (err error) {
	path, isFile := s.cfg.keysetPath()
	isMissing := false
	if isFile {
		isMissing, _ = fileMissing(path) // opening it reports any other error
	}
	if s.sealer, err = s.cfg.openSealer(s.log, &s.closers); err != nil {
		return err
	}
	if s.madeKeyset = isMissing; isMissing {
		s.log.WarnContext(ctx, "made a new keyset: back it up, apart from the database; without it no key opens again",
			slog.String("file", path))
	}
	if isFile && s.cfg.Role == rolePublic {
		s.log.WarnContext(ctx, "this process could open secrets, because it has the keyset file; with secrets-svc it could not")
	}
	return nil
}

func (s *service) openStore(context.Context) (err error) {
	options := s.cfg.storeOptions()
	options.Process = s.process
	if s.store, err = database.Open(s.cfg.DatabaseURL, options); err != nil {
		return err
	}
	s.closers.Add(s.store.Close)
	s.keyset = keysetcheck.New(s.store, s.sealer, s.cfg.keysetUse())
	s.denials = aikeys.NewDenials(s.store, s.log)
	return nil
}

// run serves until ctx is done or an essential part of the service fails.
func (s *service) run(ctx context.Context) error {
	var addresses []any
	var public []lifecycle.Part
	dataPlanes := []lifecycle.Part{s.onceReady(s.feed.Run), lifecycle.Task(s.denials.Run), lifecycle.Task(s.uses.Run), lifecycle.Task(s.tests.Run)}
	if s.api != nil {
		addresses, public = append(addresses, slog.String("api", s.api.URL())), append(public, s.api.Run)
	}
	if s.dataplane != nil {
		addresses, dataPlanes = append(addresses, slog.String("dataplane", s.dataplane.URL())), append(dataPlanes, s.dataplane.Run)
	}
	s.log.InfoContext(ctx, "listening", append(addresses, slog.String("ops", s.ops.URL()), slog.String("role", s.cfg.Role),
		slog.String("version", cli.Version()))...)
	program := lifecycle.Program{
		Stages: [][]lifecycle.Part{
			{
				lifecycle.Task(s.start), lifecycle.Task(s.probeIssuer), s.onceReady(s.checkNotifications), s.onceReady(s.watchKeyset),
				s.onceReady(s.recordKEKs), s.onceReady(s.announceExpiries), s.onceReady(s.destroyRemoved),
			},
			public,     // before the feed: a revocation may be waiting for data planes to acknowledge it
			dataPlanes, // together: data planes' streams last as long as the feed; after the API, which counts denied attempts
		},
		Ops: s.ops.Run, DrainTimeout: s.cfg.ShutdownTimeout, OnDrain: func() { s.state.draining.Store(true) }, Closers: s.closers, Log: s.log,
	}
	return program.Run(ctx)
}

// onceReady returns a part that begins when the service is ready.
func (s *service) onceReady(run func(ctx context.Context) error) lifecycle.Part {
	return lifecycle.Task(func(ctx context.Context) error {
		select {
		case <-s.prepared:
			return run(ctx)
		case <-ctx.Done():
			return nil
		}
	})
}

// watchKeyset checks the keyset once every pingInterval, until ctx is done. A process that may only seal depends on the
// result.
func (s *service) watchKeyset(ctx context.Context) error {
	return every(ctx, pingInterval, func() { s.probeKeyset(ctx) })
}

// kekInterval is the time between two looks at the sealer's key-encryption keys.
const kekInterval = 5 * time.Second

// recordKEKs records changes of the sealer's key-encryption keys in the system trail, at the start and while the
// service runs. A process that may only seal records nothing, because it can't list the key-encryption keys.
func (s *service) recordKEKs(ctx context.Context) error {
	if s.cfg.Role == rolePublic {
		return nil
	}
	recorded := map[string]string{}
	return every(ctx, kekInterval, func() {
		keks, err := s.sealer.KEKs(ctx)
		states := make(map[string]string, len(keks))
		for _, kek := range slices.Backward(keks) { // if several sealers have a KEK, the state at the first one counts
			states[kek.ID] = string(kek.State)
		}
		if err != nil || maps.Equal(states, recorded) {
			return
		}
		if _, err = s.store.RecordKEKs(ctx, states); err == nil {
			recorded = states
		} else if ctx.Err() == nil {
			s.log.WarnContext(ctx, "a change of the key-encryption keys is not in the system trail yet", slog.String("error", err.Error()))
		}
	})
}

// checkNotifications logs a warning, and sets a metric, if notifications of the database do not arrive.
func (s *service) checkNotifications(ctx context.Context) error {
	switch err := s.store.CheckNotifications(ctx); {
	case err == nil:
		s.notified.Set(1)
	case errors.Is(err, models.ErrNoNotifications):
		s.log.WarnContext(ctx, "changes that other replicas make are found up to 0.4 s late", slog.String("error", err.Error()))
	}
	return nil
}

// probeIssuer logs a warning if the OIDC issuer can't be read. The service starts all the same: API keys need no issuer.
func (s *service) probeIssuer(ctx context.Context) error {
	if s.issuer == nil {
		return nil
	}
	if err := s.issuer.Probe(ctx); err != nil && ctx.Err() == nil {
		s.log.WarnContext(ctx, "the OIDC issuer can't be read; until it can, session tokens get a 503",
			slog.String("issuer", s.cfg.OIDCIssuer), slog.String("error", err.Error()))
	}
	return nil
}
