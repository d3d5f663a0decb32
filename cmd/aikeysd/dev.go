package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/agentrouter/aikeys/cmd/internal/child"
	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/cmd/internal/settings"
	"github.com/agentrouter/aikeys/internal/netaddr"
)

// devOptions are the flags of "aikeysd dev" that are not settings of the service.
type devOptions struct {
	data, gatewayListen string
	upstreams           []string
	standIn, mock       bool
}

func (p *program) devCommand() *cobra.Command {
	cfg := newConfig()
	cfg.Of("log-format").Preset(cli.LogText)
	cfg.Of("verify").Preset(verifyOff) // the keys of examples are made up
	var options devOptions
	cmd := &cobra.Command{
		Use:     "dev",
		Short:   "Start everything on this machine, with a session that is ready to use",
		GroupID: groupStart,
		Args:    cli.NoArguments(),
		Long: `Starts everything on this machine: SQLite, a local keyset, a project with an owner and a member, an API key for each,
and a gateway that serves inference requests with the project's keys. Then it prints commands to try. The gateway is
the program aikeys-gateway, which must be in the same folder as aikeysd, or in PATH.

Requests to the catalogue's providers go to a stand-in on this machine. It accepts any key and answers with a sentence,
so everything works without a network or a real key. --stand-in=false sends the requests to the real providers, and
--upstream sends those of one provider elsewhere. The stand-in is the program aikeys-demo, in the same folder or in PATH.
Custom providers may run on this machine, too.

All data is in the folder --data, and the next start uses it again; delete the folder to start from nothing. With
--sealer secrets+unix:<path>, the keyset is that of a secrets-svc on this machine; "make run-split" starts both.

With --mock it is a mock for people who build a client or a front end: it has example data, with a key in each state, in the
folder mock of --data. Any bearer token acts as the owner, and the token "bob" as the member. With the header "Prefer: code=404",
"Prefer: example=failing" or both, a valid request gets that example of the document; the page / lists them.

It is for development only: it listens on this machine only, and refuses production settings.`,
		Example: `  aikeysd dev
  aikeysd dev --stand-in=false
  aikeysd dev --mock --listen 127.0.0.1:4010 --cors-origins http://localhost:5173
  aikeysd dev --data /tmp/aikeys --listen 127.0.0.1:0 --ops-listen 127.0.0.1:0`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := errors.Join(cfg.Read(p.Environ, cfg.checkDevelopment), options.check()); err != nil {
				return err
			}
			if options.mock {
				options.data = filepath.Join(options.data, "mock") // not the data of real work: any token opens it
				var err error
				if cfg.mock, err = newMock(); err != nil {
					return err
				}
			}
			cfg.useFolder(options.data)
			cfg.useDownloads()
			return p.dev(cmd.Context(), cfg, options)
		},
	}
	cmd.Flags().StringVar(&options.data, "data", "data", "`folder` of the database, the keyset and the session; made if it is missing")
	cmd.Flags().StringVar(&options.gatewayListen, "gateway-listen", "127.0.0.1:8090", "`host:port` of the gateway, where inference requests go")
	cmd.Flags().StringArrayVar(&options.upstreams, "upstream", nil, "`provider=URL`: send a provider's requests, and keys, elsewhere; give it again for more")
	cmd.Flags().BoolVar(&options.standIn, "stand-in", true, "answer requests to all providers on this machine, for any key")
	cmd.Flags().BoolVar(&options.mock, "mock", false, "start with example data, for any bearer token, and answer with examples on request")
	cfg.AddFlags(cmd.Flags(), devSettings()...)
	return cmd
}

// devSettings returns the names of the settings that dev accepts. Any other setting would make dev a production
// service.
func devSettings() []string {
	return []string{"listen", "dataplane-listen", "ops-listen", "sealer", "cors-origins", "downloads", "verify", "log-level", "log-format"}
}

// checkDevelopment refuses production settings.
func (s *config) checkDevelopment() (complaints []string) {
	for _, d := range s.All() {
		scheme, _ := splitSealer(s.Sealer)
		isAllowed := slices.Contains(devSettings(), d.Name) && (d.Name != "sealer" || scheme == sealerSocket)
		if d.Origin() != settings.FromDefault && !isAllowed {
			complaints = append(complaints, d.Given()+": dev takes no production settings; unset it, or run: aikeysd serve")
		}
	}
	for _, name := range listenSettings() {
		if d := s.Of(name); d.IsPublic() {
			complaints = append(complaints, d.Given()+": dev listens on this machine only, such as on 127.0.0.1:8080; for others, run: aikeysd serve")
		}
	}
	return complaints
}

// check checks the form of the flags. aikeys-gateway checks the rest.
func (o devOptions) check() (err error) {
	if !netaddr.IsLoopbackAddress(o.gatewayListen) {
		err = cli.Usagef("--gateway-listen: must be an address of this machine, such as 127.0.0.1:8090; for others, run: aikeys-gateway serve")
	}
	for _, item := range o.upstreams {
		if provider, address, _ := strings.Cut(item, "="); provider == "" || !strings.Contains(address, "://") {
			return errors.Join(err, cli.Usagef("--upstream: must be provider=URL, such as openai=http://127.0.0.1:9000/v1"))
		}
	}
	return err
}

// useFolder keeps the database in a folder, and the keyset too unless secrets-svc holds it. It lets owners add custom
// providers, because anyone who can read the folder is both operator and owner.
func (s *config) useFolder(data string) {
	s.DatabaseURL = sqlitePrefix + filepath.Join(data, "aikeys.db")
	if s.Of("sealer").Origin() == settings.FromDefault {
		s.Sealer = sealerLocal + ":" + filepath.Join(data, "keyset.json")
	}
	if s.Of("custom-providers").Origin() == settings.FromDefault {
		s.CustomProviders = customByOwner
	}
}

// devDownloads is where "make dist" writes the SDKs, relative to the checkout that "make run" runs in.
const devDownloads = "dist"

// useDownloads offers the SDKs that "make dist" has packed, unless the settings name another folder.
func (s *config) useDownloads() {
	if info, err := os.Stat(devDownloads); s.Downloads == "" && err == nil && info.IsDir() {
		s.Downloads = devDownloads
	}
}

// dev runs the service in this process and a gateway in another, until ctx ends or either fails. The service stops last,
// because requests in flight at the gateway need it.
func (p *program) dev(ctx context.Context, cfg *config, options devOptions) error {
	gateway, err := newDevGateway(p, cfg, options)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(options.data, 0o700); err != nil {
		return fmt.Errorf("--data: %w", err)
	}
	s, err := p.newService(ctx, cfg, "aikeysd dev")
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	serving, stopService := context.WithCancel(context.WithoutCancel(ctx))
	group.Go(func() error { return s.run(serving) })
	group.Go(func() error {
		defer stopService()
		select {
		case <-s.prepared:
			return p.devBeside(ctx, s, gateway, newDevStandIn(p, options), options)
		case <-ctx.Done():
			return nil
		}
	})
	return group.Wait()
}

// devBeside makes the project and its credentials, runs the stand-in and the gateway, and prints the summary once everything
// is ready. The stand-in stops last, because requests in flight at the gateway need it.
func (p *program) devBeside(ctx context.Context, s *service, gateway, standIn *devChild, options devOptions) error {
	tokenFile := filepath.Join(options.data, "gateway.token")
	if err := s.seedGatewayToken(ctx, tokenFile); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	answering, stopStandIn := context.WithCancel(context.WithoutCancel(ctx))
	if standIn != nil {
		group.Go(func() error {
			if err := standIn.process.Run(answering); err != nil {
				return fmt.Errorf("the stand-in for providers has ended: %w", err)
			}
			return nil
		})
	}
	group.Go(func() error {
		defer stopStandIn()
		upstreams := options.upstreams
		if standIn != nil {
			urls, err := standIn.awaitListening(ctx)
			if err != nil {
				return nil // ctx has ended; the stand-in's own goroutine returns the error
			}
			if upstreams, err = options.standInUpstreams(urls[0]); err != nil {
				return err
			}
		}
		return gateway.runGateway(ctx, s.dataplane.URL(), tokenFile, upstreams)
	})
	group.Go(func() error {
		urls, err := gateway.awaitListening(ctx)
		if err != nil || child.AwaitReady(ctx, urls[1]) != nil {
			return nil //nolint:nilerr // ctx has ended, and the gateway says why
		}
		session, err := s.seedSession(ctx, filepath.Join(options.data, "session.env"), urls[0])
		if err != nil {
			return err
		}
		if s.cfg.mock == nil {
			return writeSummary(p.Stdout, session, s.ops.URL(), standIn != nil && options.usesStandIn(summaryProvider))
		}
		if err := s.seedMock(ctx, session, tokenFile); err != nil {
			return err
		}
		s.cfg.mock.session.Store(&session)
		return writeMockSummary(p.Stdout, session, options.data)
	})
	return group.Wait()
}
