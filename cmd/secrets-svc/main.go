// Command secrets-svc is the secrets service: the only process that holds key-encryption keys. It seals and opens for the clients that
// its operator lists, over a unix socket or mutual TLS, and has the commands that manage the keys. See secrets-svc --help.
package main

import (
	"context"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

// gcPercent is the program's default for GOGC. The live heap is small, and every request allocates.
const gcPercent = 400

func main() {
	cli.TuneMemory(gcPercent, os.DirFS("/"), os.Getenv)
	os.Exit(run(cli.UntilSignal(), os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}

// run is the whole program. It shuts down when ctx ends.
func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int {
	p := &program{cli.Program{Name: "secrets-svc", Environ: environ, Stdout: stdout, Stderr: stderr}}
	return p.Run(ctx, p.root(), args)
}

// program has what the commands share.
type program struct{ cli.Program }

func (p *program) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "secrets-svc",
		Short: "Seal and open secrets, in the only process that holds their keys",
		Long: `secrets-svc holds the key-encryption keys of AgentRouter AI Keys, so that aikeysd, which faces the network, does not. It
seals, opens and re-wraps for the clients that its clients file lists, each in its own namespace, over a unix socket or
mutual TLS. It stores no secrets: the envelopes are in aikeysd's database, and the keys in a folder with a keyset file
for each namespace.

  secrets-svc keys create --namespace main     # the first key of a namespace
  secrets-svc check                            # check settings, clients and keys
  secrets-svc serve
  aikeysd serve --sealer secrets+unix:data/secrets-svc.sock

Settings are flags or SECRETS_SVC_* variables; a flag wins. "secrets-svc serve --help" lists them all.

Exit codes: 0 success, 1 failure, 2 the command line or a setting is wrong.`,
	}
	root.AddCommand(p.serveCommand(), p.keysCommand(), p.checkCommand())
	return root
}
