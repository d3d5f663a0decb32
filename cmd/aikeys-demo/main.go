// Command aikeys-demo shows in a few seconds what AgentRouter AI Keys does: it runs aikeysd and three gateways on this
// machine, has a key registered, used and revoked, and prints what happened when. It drives the programs as an operator
// and a user would, by their commands and over HTTP, and links no code of the server side.
package main

import (
	"context"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

func main() { os.Exit(run(cli.UntilSignal(), os.Args[1:], os.Environ(), os.Stdout, os.Stderr)) }

// run is the whole program. It stops when ctx ends.
func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int {
	p := cli.Program{Name: "aikeys-demo", Environ: environ, Stdout: stdout, Stderr: stderr}
	root := &cobra.Command{
		Use:   "aikeys-demo",
		Short: "Watch a provider key being shared, used and revoked, in a few seconds",
		Args:  cli.NoArguments(),
		Long: `Shows in a few seconds what AgentRouter AI Keys does, on this machine only and without a network. It starts aikeysd,
three gateways and a stand-in for a provider; registers a key; has the gateways serve streamed requests with it; and
revokes it while each gateway gets up to one request a millisecond. Then it prints what happened when.

It takes no settings, uses free ports, and leaves nothing behind. It needs the programs aikeysd and aikeys-gateway in
its own folder, or in PATH.

Exits with 1 if a gateway served a request that was sent after the receipt said that all gateways had confirmed the
revocation.`,
		Example: `  aikeys-demo`,
		RunE:    func(cmd *cobra.Command, _ []string) error { return demo(cmd.Context(), &p) },
	}
	root.AddCommand(providerCommand(&p))
	return p.Run(ctx, root, args)
}
