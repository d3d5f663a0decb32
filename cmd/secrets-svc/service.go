package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/cmd/internal/settings"
	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/impl/secrets"
)

// lastMoment is what the ops listener has to end in.
const lastMoment = time.Second

// perCPU is how many operations may be at work for each CPU, unless it is set.
const perCPU = 4

// service is one running secrets service.
type service struct {
	cfg    *config
	log    *slog.Logger
	stdout io.Writer

	listener, opsListener net.Listener
	clients               *secrets.ClientsFile
	namespaces            *namespaces
	audit                 *secrets.Audit
	api, ops              *httpapi.Server

	draining atomic.Bool
	// closers undo the opening, last first.
	closers []func() error
}

// newService hides its memory, binds the listeners, opens the parts and wires them.
func (p *program) newService(ctx context.Context, cfg *config) (*service, error) {
	s := &service{cfg: cfg, log: cli.NewLogger(p.Stderr, cfg.LogFormat, cfg.LogLevel), stdout: p.Stdout}
	if cfg.MaxConcurrent == 0 {
		cfg.MaxConcurrent = perCPU * runtime.GOMAXPROCS(0)
	}
	for _, step := range []func(context.Context) error{s.hide, s.openClients, s.openAudit, s.openKeysets, s.bind, s.wire} {
		if err := step(ctx); err != nil {
			return nil, errors.Join(err, s.close())
		}
	}
	return s, nil
}

// hide keeps the memory out of core dumps and swap.
func (s *service) hide(ctx context.Context) error {
	if err := hideMemory(); err != nil {
		return err
	}
	if s.cfg.LockMemory == lockOff {
		return nil
	}
	err := lockMemory()
	switch {
	case err != nil && s.cfg.LockMemory == lockRequire:
		return fmt.Errorf("%s: %w", s.cfg.Of("lock-memory").Given(), err)
	case err != nil:
		s.log.WarnContext(ctx, "memory is not locked and may get into swap", slog.String("error", err.Error()))
	}
	return nil
}

func (s *service) openClients(context.Context) (err error) {
	if s.clients, err = secrets.OpenClients(s.cfg.Clients, s.log); err != nil {
		return fmt.Errorf("%s: %w", s.cfg.Of("clients").Given(), err)
	}
	return nil
}

func (s *service) openAudit(context.Context) error {
	if s.cfg.AuditLog == standardOutput {
		s.audit = secrets.NewAudit(&wholeLines{to: s.stdout})
		return nil
	}
	file, err := openAudit(s.cfg.AuditLog)
	if err != nil {
		return fmt.Errorf("%s: %w", s.cfg.Of("audit-log").Given(), err)
	}
	s.closers = append(s.closers, file.Close)
	s.audit = secrets.NewAudit(file)
	return nil
}

// openKeysets opens what there is. What there is not is logged, and may come.
func (s *service) openKeysets(ctx context.Context) error {
	s.namespaces = newNamespaces(s.cfg.Keys, s.log)
	for _, name := range s.clients.List(ctx).Namespaces() {
		_, _ = s.namespaces.Sealer(ctx, name) // it is logged
	}
	return nil
}

func (s *service) bind(ctx context.Context) (err error) {
	if s.listener, err = s.listen(ctx); err != nil {
		return s.unbound(s.cfg.Of("listen"), err)
	}
	s.closers = append(s.closers, closerOf(s.listener))
	if s.opsListener, err = httpapi.Listen(ctx, s.cfg.OpsListen); err != nil {
		return s.unbound(s.cfg.Of("ops-listen"), err)
	}
	s.closers = append(s.closers, closerOf(s.opsListener))
	return nil
}

// closerOf closes a listener that no server has closed.
func closerOf(l net.Listener) func() error {
	return func() error {
		_ = l.Close()
		return nil
	}
}

func (s *service) listen(ctx context.Context) (net.Listener, error) {
	path, isSocket := s.cfg.socketPath()
	if !isSocket {
		return httpapi.Listen(ctx, s.cfg.Listen)
	}
	group, err := groupID(s.cfg.SocketGroup)
	if err != nil {
		return nil, err
	}
	return listenUnix(ctx, path, group)
}

func (s *service) unbound(setting *settings.Setting, err error) error {
	if errors.Is(err, httpapi.ErrAddressTaken) {
		return fmt.Errorf("%s is taken, perhaps by another secrets-svc: stop that program, or choose another address with --%s or %s",
			setting.String(), setting.Name, setting.Variable())
	}
	return fmt.Errorf("%s: %w", setting.Given(), err)
}

// run serves until ctx ends, or until a part fails that the service can't be without. It returns when everything is closed.
func (s *service) run(ctx context.Context) error {
	s.log.InfoContext(ctx, "listening", slog.String("api", s.api.URL()), slog.String("ops", s.ops.URL()),
		slog.String("version", cli.Version()))
	group, ctx := errgroup.WithContext(ctx)
	group.Go(s.api.Serve)
	group.Go(s.ops.Serve)
	group.Go(func() error {
		<-ctx.Done()
		return s.drain(context.WithoutCancel(ctx))
	})
	err := errors.Join(group.Wait(), s.close())
	if err == nil {
		s.log.InfoContext(ctx, "stopped")
	}
	return err
}

// drain lets the requests in flight end. The ops listener goes last, so that probes see why.
func (s *service) drain(ctx context.Context) error {
	s.log.InfoContext(ctx, "stopping: requests in flight are answered first", slog.Duration("timeout", s.cfg.ShutdownTimeout))
	s.draining.Store(true)
	patience, cancel := context.WithTimeout(ctx, s.cfg.ShutdownTimeout)
	defer cancel()
	err := s.api.Shutdown(patience)
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
