package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

func (p *program) serveCommand() *cobra.Command {
	cfg := newConfig()
	cmd := &cobra.Command{
		Use:     "serve",
		Short:   "Serve the public API and the data-plane API",
		GroupID: groupServe,
		Args:    cli.NoArguments(),
		Long: `Serves the public API; the data-plane API, which gateways alone may reach; and /healthz, /readyz and /metrics: each on a
listener of its own.

It holds no state: run as many as you like on one Postgres. It starts without its database, answers 503 until it has
it, and becomes ready by itself. The first start makes the database's schema and, for a local sealer, the keyset: back
the keyset up, apart from the database, since without it no key opens again.

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
			return p.serve(cmd.Context(), cfg)
		},
	}
	cfg.AddFlags(cmd.Flags())
	return cmd
}

func (p *program) serve(ctx context.Context, cfg *config) error {
	s, err := p.newService(ctx, cfg)
	if err != nil {
		return err
	}
	return s.run(ctx)
}
