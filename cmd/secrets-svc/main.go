// Command secrets-svc is the secrets service: the one process that holds key-encryption keys. It seals and opens for the
// clients that its operator lists, over a unix socket or mutual TLS, and has the commands that manage the keys. It wires
// packages together and does nothing else; see secrets-svc --help. Of ours it may import impl, models, sealer, and what
// programs have in common, nothing of the client side.
package main

import (
	"context"
	"io"
	"os"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

// gcPercent is the default of GOGC here: the live heap is small, and every request makes garbage.
const gcPercent = 400

func main() {
	cli.TuneMemory(gcPercent, os.DirFS("/"), os.Getenv)
	os.Exit(run(cli.UntilSignal(), os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}

// run is the whole program. It stops in order when ctx ends.
func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int {
	p := newProgram(environ, stdout, stderr)
	return p.Run(ctx, p.root(), args)
}
