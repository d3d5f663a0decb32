package main

import (
	"github.com/spf13/cobra"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

func (p *program) serveCommand() *cobra.Command {
	cfg := newConfig()
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Seal, open and re-wrap for the clients that are listed",
		Args:  cli.NoArguments(),
		Long: `Serves the clients that the clients file lists, on a unix socket or with mutual TLS. On a socket a client is told by the
user of its process; with TLS, by a name in its certificate. Each open is in the audit log before it is answered.

Keysets and the clients file are read again when they change; nothing needs a restart. A file that is broken leaves
what was read before in force, and is logged. A namespace without a keyset answers 503 until it has one.

SIGTERM or SIGINT stops it: requests in flight are answered, then it exits. A second signal ends it at once.`,
		Example: `  # On one machine
  secrets-svc keys create --namespace main
  secrets-svc serve --listen unix:/run/secrets-svc/api.sock --socket-group aikeys

  # On a machine of its own
  secrets-svc serve --listen 10.0.0.5:8443 --tls-cert tls.crt --tls-key tls.key --tls-client-ca clients-ca.crt`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := cfg.load(p.Environ); err != nil {
				return err
			}
			s, err := p.newService(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			return s.run(cmd.Context())
		},
	}
	cfg.AddFlags(cmd.Flags())
	return cmd
}
