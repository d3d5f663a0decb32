// Command tare is the command line for people: it registers, lists, revokes and explains provider keys, and minds the
// project around them; see tare --help. It is one face more on the Go SDK: of ours it may import that and what programs
// have in common, nothing of the server side.
//
// Whatever comes from a server passes clean before it is shown, and errors pass explain, which chooses the exit code.
package main

import (
	"context"
	"io"
	"os"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

func main() {
	os.Exit(run(cli.UntilSignal(), os.Args[1:], os.Environ(), os.Stdin, os.Stdout, os.Stderr))
}

// run is the whole program. It stops when ctx ends.
func run(ctx context.Context, args, environ []string, stdin io.Reader, stdout, stderr io.Writer) int {
	p := newProgram(environ, stdin, stdout, stderr)
	code := p.Run(ctx, p.root(), args)
	if p.failed != nil {
		return p.explain(ctx, p.failed)
	}
	return code
}
