// Command aikeys-gateway is a data plane: it serves inference requests with the provider keys of their callers, which it gets
// from the control plane and forgets when they are revoked. It wires packages of dataplane together and does nothing else;
// see aikeys-gateway --help. Of ours it may import dataplane and what programs have in common, nothing of the server side.
package main

import (
	"context"
	"io"
	"os"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

// gcPercent is the default of GOGC here: Go's own.
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
