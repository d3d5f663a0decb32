package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/cmd/internal/settings"
	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/impl/feed"
	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/impl/keysetcheck"
	"github.com/agentrouter/aikeys/impl/telemetry"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/sealer"
)

// flushTimeout is how long a collector may take for the last traces, lastMoment what a server has to end in after the time to
// shut down is up.
const (
	flushTimeout = 5 * time.Second
	lastMoment   = time.Second
)

// service is one running control plane.
type service struct {
	cfg    *config
	log    *slog.Logger
	getenv func(name string) string // for variables that are none of our settings

	publicListener, dataplaneListener, opsListener net.Listener

	traces              *telemetry.Provider // nil when there are none
	sealer              sealer.Sealer
	madeKeyset          bool // whether there was a keyset file to be, and was none
	store               *models.Store
	canary              *keysetcheck.Checker
	issuer              *auth.OIDC // nil when there is none
	sessions            *auth.Authenticator
	feed                *feed.Feed
	api, dataplane, ops *httpapi.Server

	state    state
	prepared chan struct{} // closed when the service is ready
	// closers undo the opening, last first.
	closers []func() error
}

// newService binds the listeners, so that a taken port is told before anything is touched, opens the parts and wires
// them. It waits for nothing: the database may be down.
func (p *program) newService(ctx context.Context, cfg *config) (*service, error) {
	s := &service{cfg: cfg, log: cli.NewLogger(p.Stderr, cfg.LogFormat, cfg.LogLevel), getenv: p.Getenv}
	s.prepared = make(chan struct{})
	for _, step := range []func(context.Context) error{s.bind, s.openTraces, s.openSealer, s.openStore, s.wire} {
		if err := step(ctx); err != nil {
			return nil, errors.Join(err, s.close())
		}
	}
	return s, nil
}

func (s *service) bind(ctx context.Context) (err error) {
	if s.publicListener, err = s.listen(ctx, s.cfg.Listen, s.cfg.Of("listen")); err != nil {
		return err
	}
	if s.dataplaneListener, err = s.listen(ctx, s.cfg.DataplaneListen, s.cfg.Of("dataplane-listen")); err != nil {
		return err
	}
	s.opsListener, err = s.listen(ctx, s.cfg.OpsListen, s.cfg.Of("ops-listen"))
	return err
}

func (s *service) listen(ctx context.Context, address string, setting *settings.Setting) (net.Listener, error) {
	listener, err := httpapi.Listen(ctx, address)
	switch {
	case errors.Is(err, httpapi.ErrAddressTaken):
		return nil, fmt.Errorf("%s is taken, perhaps by another aikeysd: stop that program, or choose another address with --%s or %s",
			address, setting.Name, setting.Variable())
	case err != nil:
		return nil, fmt.Errorf("%s: %w", setting.Given(), err)
	}
	s.closers = append(s.closers, func() error {
		_ = listener.Close() // its server has closed it, unless it never came to have one
		return nil
	})
	return listener, nil
}

// openTraces starts the export of traces if the environment asks for it.
func (s *service) openTraces(ctx context.Context) error {
	endpoint, err := telemetry.Endpoint(s.getenv)
	if err != nil {
		return cli.Usagef("%s", err)
	}
	if endpoint == "" {
		return nil
	}
	s.traces, err = telemetry.New(ctx, telemetry.Config{Endpoint: endpoint, Service: "aikeysd", Version: cli.Version(), Log: s.log})
	if err != nil {
		return err
	}
	s.closers = append(s.closers, func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
		defer cancel()
		return s.traces.Shutdown(ctx)
	})
	return nil
}

func (s *service) openSealer(ctx context.Context) (err error) {
	path, isFile := s.cfg.keysetPath()
	missing := false
	if isFile {
		missing, _ = fileMissing(path) // what else is wrong with it, opening it tells
	}
	var closeSealer func() error
	if s.sealer, closeSealer, err = s.cfg.openSealer(s.log); err != nil {
		return err
	}
	s.closers = append(s.closers, closeSealer)
	if s.madeKeyset = missing; missing {
		s.log.WarnContext(ctx, "made a new keyset: back it up, apart from the database; without it no key opens again",
			slog.String("file", path))
	}
	return nil
}

func (s *service) openStore(context.Context) (err error) {
	if s.store, err = models.Open(s.cfg.DatabaseURL, models.Options{MaxConns: s.cfg.DBMaxConns}); err != nil {
		return err
	}
	s.closers = append(s.closers, s.store.Close)
	s.canary = keysetcheck.New(s.store, s.sealer)
	return nil
}

// run serves until ctx ends, or until a part fails that the service can't be without. It returns when everything is
// closed.
func (s *service) run(ctx context.Context) error {
	s.log.InfoContext(ctx, "listening", slog.String("api", s.api.URL()), slog.String("dataplane", s.dataplane.URL()),
		slog.String("ops", s.ops.URL()), slog.String("version", cli.Version()))
	feeding, endFeed := context.WithCancel(context.WithoutCancel(ctx)) // requests in flight need it
	defer endFeed()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(s.api.Serve)
	group.Go(s.dataplane.Serve)
	group.Go(s.ops.Serve)
	group.Go(func() error { return s.runFeed(feeding) })
	group.Go(func() error { return s.start(ctx) })
	group.Go(func() error {
		s.probeIssuer(ctx)
		return nil
	})
	group.Go(func() error {
		<-ctx.Done()
		return s.drain(context.WithoutCancel(ctx), endFeed)
	})
	err := errors.Join(group.Wait(), s.close())
	if err == nil {
		s.log.InfoContext(ctx, "stopped")
	}
	return err
}

// runFeed tells data planes of changes, from when there is a database to read them from until ctx ends.
func (s *service) runFeed(ctx context.Context) error {
	select {
	case <-s.prepared:
		return s.feed.Run(ctx)
	case <-ctx.Done():
		return nil
	}
}

// probeIssuer warns of an issuer that can't be read. The service starts all the same: API keys work without it.
func (s *service) probeIssuer(ctx context.Context) {
	if s.issuer == nil {
		return
	}
	if err := s.issuer.Probe(ctx); err != nil && ctx.Err() == nil {
		s.log.WarnContext(ctx, "the OIDC issuer can't be read; until it can, session tokens get a 503",
			slog.String("issuer", s.cfg.OIDCIssuer), slog.String("error", err.Error()))
	}
}

// drain lets the requests in flight end: first those of the public API, among which a revoke may be waiting for data planes
// to acknowledge it; then the data planes' streams, which would not end by themselves, and their other requests. The ops
// listener goes last, so that probes see why.
func (s *service) drain(ctx context.Context, endFeed func()) error {
	s.log.InfoContext(ctx, "stopping: requests in flight are answered first", slog.Duration("timeout", s.cfg.ShutdownTimeout))
	s.state.draining.Store(true)
	patience, cancel := context.WithTimeout(ctx, s.cfg.ShutdownTimeout)
	defer cancel()
	err := s.api.Shutdown(patience)
	endFeed()
	if patience.Err() != nil {
		patience, cancel = context.WithTimeout(ctx, lastMoment) // none of it is the data planes' fault
		defer cancel()
	}
	err = errors.Join(err, s.dataplane.Shutdown(patience))
	if err != nil {
		err = fmt.Errorf("requests in flight were cut after %s: %w", s.cfg.ShutdownTimeout, err)
	}
	moment, cancelMoment := context.WithTimeout(ctx, lastMoment)
	defer cancelMoment()
	_ = s.ops.Shutdown(moment) // a probe that is cut loses nothing
	return err
}

func (s *service) close() error {
	var err error
	for i := len(s.closers) - 1; i >= 0; i-- {
		err = errors.Join(err, s.closers[i]())
	}
	return err
}
