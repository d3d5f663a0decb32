package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/cmd/internal/settings"
)

func (p *program) devCommand() *cobra.Command {
	cfg := newConfig()
	cfg.Of("log-format").Preset(cli.LogText)
	var data, gatewayListen string
	var upstreams []string
	cmd := &cobra.Command{
		Use:     "dev",
		Short:   "Start everything on this machine, with a session that is ready to use",
		GroupID: groupStart,
		Args:    cli.NoArguments(),
		Long: `Starts everything on this machine: SQLite, a local keyset, a project with an owner and a member, an API key for each,
and a gateway that serves inference requests with the project's keys. It prints commands to try. What it makes stays in
the folder --data, and the next start uses it again; delete the folder to begin anew. With --sealer secrets+unix:<path>
the keyset is that of a secrets-svc on this machine instead; "make run-split" starts both.

It is for development alone: it listens on this machine only, and refuses production settings.`,
		Example: `  aikeysd dev
  aikeysd dev --data /tmp/aikeys --listen 127.0.0.1:0 --ops-listen 127.0.0.1:0`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			destinations, wrong := parseUpstreams(upstreams)
			err := errors.Join(cfg.Read(p.Environ, cfg.checkDevelopment), checkGatewayListen(gatewayListen), wrong)
			if err != nil {
				return err
			}
			cfg.useFolder(data)
			cfg.useDownloads()
			return p.dev(cmd.Context(), cfg, data, devGatewayConfig{listen: gatewayListen, upstreams: destinations})
		},
	}
	cmd.Flags().StringVar(&data, "data", "data", "`folder` for the database, the keyset and the session; made if it is missing")
	cmd.Flags().StringVar(&gatewayListen, "gateway-listen", "127.0.0.1:8090", "`host:port` of the gateway, where inference requests go")
	cmd.Flags().StringArrayVar(&upstreams, "upstream", nil, "`provider=URL`: send a provider's requests, and keys, elsewhere; give it again for more")
	cfg.AddFlags(cmd.Flags(), devSettings()...)
	return cmd
}

// devSettings are those that dev takes. All others would make it something else than a playground.
func devSettings() []string {
	return []string{"listen", "dataplane-listen", "ops-listen", "sealer", "downloads", "log-level", "log-format"}
}

// checkDevelopment refuses production settings.
func (s *config) checkDevelopment() (complaints []string) {
	for _, d := range s.All() {
		scheme, _ := splitSealer(s.Sealer)
		mayBe := slices.Contains(devSettings(), d.Name) && (d.Name != "sealer" || scheme == sealerSocket)
		if d.Origin() != settings.FromDefault && !mayBe {
			complaints = append(complaints, d.Given()+": dev takes no production settings; unset it, or run: aikeysd serve")
		}
	}
	for _, name := range listenSettings() {
		if d := s.Of(name); reachesOthers(d) {
			complaints = append(complaints, d.Given()+": dev listens on this machine only, such as on 127.0.0.1:8080; for others, run: aikeysd serve")
		}
	}
	return complaints
}

// useFolder keeps everything in one folder, but for a keyset that is in another process.
func (s *config) useFolder(data string) {
	s.DatabaseURL = sqlitePrefix + filepath.Join(data, "aikeys.db")
	if s.Of("sealer").Origin() == settings.FromDefault {
		s.Sealer = sealerLocal + ":" + filepath.Join(data, "keyset.json")
	}
}

// devDownloads is where "make dist" leaves the SDKs, seen from the checkout that "make run" runs in.
const devDownloads = "dist"

// useDownloads offers the SDKs that have been packed, unless it is told of others.
func (s *config) useDownloads() {
	if info, err := os.Stat(devDownloads); s.Downloads == "" && err == nil && info.IsDir() {
		s.Downloads = devDownloads
	}
}

func (p *program) dev(ctx context.Context, cfg *config, data string, gatewayConfig devGatewayConfig) error {
	if err := os.MkdirAll(data, 0o700); err != nil {
		return fmt.Errorf("--data: %w", err)
	}
	s, err := p.newService(ctx, cfg)
	if err != nil {
		return err
	}
	var token string // the gateway runs when there is one
	gatewayConfig.controlPlane, gatewayConfig.token = s.dataplane.URL(), func() string { return token }
	gatewayConfig.log, gatewayConfig.drain = s.log, cfg.ShutdownTimeout
	inside, err := newDevGateway(ctx, gatewayConfig)
	if err != nil {
		return errors.Join(err, s.close())
	}
	defer inside.close()
	group, ctx := errgroup.WithContext(ctx)
	seeded := s.beside(ctx, group, inside.run)
	s.onReady = func(ctx context.Context) error {
		session, err := s.seed(ctx, filepath.Join(data, "session.env"), inside.URL())
		if err != nil {
			return err
		}
		if token, err = s.seedGateway(ctx, filepath.Join(data, "gateway.token")); err != nil {
			return err
		}
		close(seeded)
		return writeSummary(p.Stdout, session, s.ops.URL())
	}
	group.Go(func() error { return s.run(ctx) })
	return group.Wait()
}
