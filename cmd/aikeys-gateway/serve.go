package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

func (p *program) serveCommand() *cobra.Command {
	cfg := newConfig()
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve inference requests, and answer other proxies",
		Args:  cli.NoArguments(),
		Long: `Serves inference requests: what comes to /{provider} goes to that provider, with the provider key that serves the
caller. Answers to other proxies, and /healthz, /readyz and /metrics, are on listeners of their own.

It starts without its control plane, answers 503 until it has it, and becomes ready by itself. When it loses it, keys
serve on for --max-stale, none by default; that is also how much longer the control plane then waits before it calls a
revocation complete. Providers are reached through the proxy that HTTPS_PROXY names, if any.

SIGTERM or SIGINT stops it: /readyz turns 503, requests in flight are answered, then it exits. A second signal ends it
at once.`,
		Example: `  # On this machine alone, beside "aikeysd serve"
  aikeys-gateway serve --token-file edge-1.token

  # In production
  export AIKEYS_GATEWAY_CONTROL_PLANE=https://aikeys-dataplane.example.com AIKEYS_GATEWAY_TOKEN_FILE=/run/secrets/edge-1
  aikeys-gateway serve --listen 0.0.0.0:8443 --tls-cert /etc/aikeys/tls.crt --tls-key /etc/aikeys/tls.key`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := cfg.load(p.Environ); err != nil {
				return err
			}
			return p.serve(cmd.Context(), cfg)
		},
	}
	cfg.addFlags(cmd.Flags())
	return cmd
}

func (p *program) serve(ctx context.Context, cfg *config) error {
	s, err := p.newService(ctx, cfg)
	if err != nil {
		return err
	}
	return s.run(ctx)
}
