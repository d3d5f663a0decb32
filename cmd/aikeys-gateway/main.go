// Command aikeys-gateway is a data plane. It serves inference requests with the provider keys of their callers. It gets
// these keys from the control plane, and forgets a key when the key is revoked. The command only wires packages of
// dataplane together, and imports nothing of the server side. See aikeys-gateway --help.
package main

import (
	"context"
	"io"
	"os"

	"github.com/spf13/cobra"
	_ "golang.org/x/crypto/x509roots/fallback" // public authorities for machines without any, such as the container images

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

// gcPercent is the program's default for GOGC. It equals Go's own default.
const gcPercent = 100

func main() {
	cli.TuneMemory(gcPercent, os.DirFS("/"), os.Getenv)
	os.Exit(run(cli.UntilSignal(), os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}

// run is the whole program. It stops in order when ctx ends.
func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int {
	p := newProgram(environ, stdout, stderr)
	return p.Run(ctx, p.root(), args)
}

// program has what the commands share.
type program struct{ cli.Program }

func newProgram(environ []string, stdout, stderr io.Writer) *program {
	return &program{cli.Program{Name: "aikeys-gateway", Environ: environ, Stdout: stdout, Stderr: stderr}}
}

func (p *program) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "aikeys-gateway",
		Short: "Serve inference requests with the provider keys of their callers",
		Long: `aikeys-gateway is a data plane of AgentRouter AI Keys. Callers send it the requests that they would send to a provider,
with their API key of AI Keys instead of the provider's key. It puts the provider key that serves the caller into the
request, and passes it on: /openai/chat/completions goes to OpenAI, /anthropic/v1/messages to Anthropic. The SDKs of
both work with their base URL changed and nothing else. Streams are not buffered.

A revoked key stops serving within a second: the gateway follows the control plane's stream of changes. Without the
stream, it asks before each request, or refuses. --max-stale allows more time while the control plane does not answer.

It needs a credential of its own, which the control plane makes:

  (umask 077; aikeysd admin dataplane create --name edge-1 --customer acme > edge-1.token)

It can also answer other proxies that ask which header to set: nginx, Caddy and Traefik (--forward-auth-listen), and
Envoy (--ext-authz-listen). "aikeys-gateway agent" answers programs of this machine on a unix socket.

New here? "aikeysd dev" starts a control plane and a gateway on this machine, and prints commands to try.

Settings are flags or AIKEYS_GATEWAY_* variables; a flag wins. "aikeys-gateway serve --help" lists them all.

Exit codes: 0 all is well, 1 it failed, 2 the command line or a setting is wrong.`,
		Example: `  aikeys-gateway serve --token-file edge-1.token
  curl http://127.0.0.1:8090/openai/models --oauth2-bearer "$AGENTROUTER_API_KEY"`,
	}
	root.AddCommand(p.serveCommand(), p.agentCommand())
	return root
}
