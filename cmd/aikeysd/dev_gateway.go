package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/cmd/internal/settings"
	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/gateway"
	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/models"
)

// devDataPlane is the name of the playground's data plane.
const devDataPlane = "dev"

// devGatewayConfig is what a gateway inside this process needs.
type devGatewayConfig struct {
	listen       string
	controlPlane string
	token        func() string
	client       *http.Client // for the control plane; nil is the resolver's own
	upstreams    map[string]*url.URL
	drain        time.Duration
	log          *slog.Logger
}

// devGateway is a gateway inside this process. It meets the control plane over HTTP alone, as any other.
type devGateway struct {
	resolver *dataplane.Resolver
	proxy    *gateway.Gateway
	listener net.Listener
	server   gateway.Server
}

// newDevGateway binds the gateway's address and makes its parts. run runs it, close undoes this if it never ran.
func newDevGateway(ctx context.Context, cfg devGatewayConfig) (g *devGateway, err error) {
	g = &devGateway{}
	g.resolver, err = dataplane.New(dataplane.Config{
		ControlPlane: cfg.controlPlane, Token: cfg.token, HTTPClient: cfg.client, Log: cfg.log,
	})
	if err != nil {
		return nil, err
	}
	if g.proxy, err = gateway.New(gateway.Config{Resolver: g.resolver, Log: cfg.log, Upstreams: cfg.upstreams}); err != nil {
		return nil, cli.Usagef("--upstream: %s", err)
	}
	g.listener, err = httpapi.Listen(ctx, cfg.listen)
	switch {
	case errors.Is(err, httpapi.ErrAddressTaken):
		return nil, fmt.Errorf("%s is taken, perhaps by another gateway: stop that program, or choose another address with --gateway-listen", cfg.listen)
	case err != nil:
		return nil, fmt.Errorf("--gateway-listen: %w", err)
	}
	g.server = gateway.Server{Listener: g.listener, Handler: g.proxy, Drain: cfg.drain, Log: cfg.log}
	return g, nil
}

// URL is where the gateway answers.
func (g *devGateway) URL() string { return "http://" + g.listener.Addr().String() }

func (g *devGateway) close() { _ = g.listener.Close() } // its server has closed it, if it came to run

// run serves until ctx ends, and returns when the requests in flight are answered.
func (g *devGateway) run(ctx context.Context) error {
	needed, release := context.WithCancel(context.WithoutCancel(ctx))
	defer release()
	var following errgroup.Group
	following.Go(func() error { return g.resolver.Run(needed) })
	err := g.server.Serve(ctx)
	release()
	err = errors.Join(err, following.Wait())
	g.proxy.Close()
	return err
}

// beside has something run in the group that needs the service: from when the channel is closed until the service begins to
// stop, which waits for it to end.
func (s *service) beside(ctx context.Context, group *errgroup.Group, run func(context.Context) error) (begin chan struct{}) {
	begin, ended := make(chan struct{}), make(chan struct{})
	ctx, stop := context.WithCancel(ctx)
	s.beforeDrain = func() {
		stop()
		<-ended
	}
	group.Go(func() error {
		defer stop()
		defer close(ended)
		select {
		case <-begin:
			return run(ctx)
		case <-ctx.Done():
			return nil
		}
	})
	return begin
}

func checkGatewayListen(address string) error {
	if !settings.IsLoopback(address) {
		return cli.Usagef("--gateway-listen: must be an address of this machine, such as 127.0.0.1:8090; for others, run: aikeys-gateway serve")
	}
	return nil
}

// parseUpstreams takes items of the form provider=URL. What the URLs may be is the gateway's to say.
func parseUpstreams(items []string) (map[string]*url.URL, error) {
	found := map[string]*url.URL{}
	for _, item := range items {
		provider, address, _ := strings.Cut(item, "=")
		target, err := url.Parse(address)
		if err != nil || provider == "" || target.Host == "" || found[provider] != nil {
			return nil, cli.Usagef("--upstream: must be provider=URL, each provider once, such as openai=http://127.0.0.1:9000/v1")
		}
		found[provider] = target
	}
	if err := gateway.CheckUpstreams(found); err != nil {
		return nil, cli.Usagef("--upstream: %s", cli.OneLine(err.Error()))
	}
	return found, nil
}

// seedGateway returns the credential of the playground's data plane: that of the last start when it still works, else a new
// one, which it puts into the file.
func (s *service) seedGateway(ctx context.Context, path string) (string, error) {
	last, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("gateway's credential: %w", err)
	}
	token := strings.TrimSpace(string(last))
	known := auth.New(auth.Config{DataPlanes: s.store})
	_, err = known.Authenticate(ctx, "Bearer "+token)
	if err == nil || !errors.Is(err, auth.ErrUnauthenticated) {
		return token, err
	}
	err = s.store.Transact(ctx, func(tx *models.Tx) error {
		_, err := tx.RevokeDataPlane(devDataPlane, "aikeysd dev") // its credential is lost
		return err
	})
	if err == nil || errors.Is(err, models.ErrNotFound) {
		token, _, err = createDataPlane(ctx, s.store, models.DataPlane{Name: devDataPlane}, 0)
	}
	if err != nil {
		return "", err
	}
	return token, writePrivate(path, token+"\n")
}
