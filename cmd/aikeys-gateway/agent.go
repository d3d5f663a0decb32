package main

import (
	"github.com/spf13/cobra"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

// agentSocket is where the agent listens unless the operator says otherwise.
const agentSocket = "unix:/run/aikeys-gateway/agent.sock"

func (p *program) agentCommand() *cobra.Command {
	cfg := newConfig()
	cfg.Of("agent-listen").Preset(agentSocket)
	cfg.Of("key-tests").Preset("false") // it sends nothing to providers
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Answer programs of this machine: which key serves a request, and how to send it",
		Args:  cli.NoArguments(),
		Long: `Tells programs of this machine, on a unix socket, which provider key serves a request and how to send it: the header to
set, the base URL, and for how long the answer may be used. A gateway of another vendor, in any language, asks before
each request. Within a second of its revocation, a key is no longer named.

It answers only processes of its own user and of --auth-socket-users, which the kernel identifies. It serves no requests
itself: "aikeys-gateway serve --agent-listen" does both. It reads the variables of "serve" and ignores those of the other
listeners.`,
		Example: `  aikeys-gateway agent --token-file edge-1.token --auth-socket-users litellm
  curl --unix-socket /run/aikeys-gateway/agent.sock http://agent/v1/key --json @question.json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.serve(cmd.Context(), cfg, "agent-listen")
		},
	}
	cfg.AddFlags(cmd.Flags(), "control-plane", "control-plane-ca", "token-file", "client-cert", "client-key", "max-stale", "cache-size", "upstream",
		"agent-listen", "auth-socket-users", "ops-listen", "failed-auth-limit", "insecure", "log-level", "log-format", "shutdown-timeout")
	return cmd
}
