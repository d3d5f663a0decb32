// Command aikeysd is the control plane: it serves the public API and the data-plane API, and has the operator's commands. It
// only wires packages of impl, models and sealer together; see aikeysd --help.
package main

import (
	"context"
	"io"
	"os"

	"github.com/spf13/cobra"
	_ "golang.org/x/crypto/x509roots/fallback" // public authorities for machines without any, such as the container images

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

// gcPercent is the program's default for GOGC. The live heap is small, below 10 MiB, and every request allocates. In a
// measurement, collecting garbage a quarter as often gave 18 % more reads a second, and used 13 MiB more memory.
const gcPercent = 400

func main() {
	cli.TuneMemory(gcPercent, os.DirFS("/"), os.Getenv)
	os.Exit(run(cli.UntilSignal(), os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}

// run is the whole program. It stops in order when ctx ends.
func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int {
	p := newProgram(environ, stdout, stderr)
	code := p.Run(ctx, p.root(), args)
	if code == cli.ExitFailure && p.exit != 0 {
		return p.exit
	}
	return code
}

// program has what the commands share.
type program struct {
	cli.Program
	// exit is the exit code of a failure that needs its own code; zero means the usual code.
	exit int
}

func newProgram(environ []string, stdout, stderr io.Writer) *program {
	return &program{Program: cli.Program{Name: "aikeysd", Environ: environ, Stdout: stdout, Stderr: stderr}}
}

// The groups of the root command's help.
const (
	groupStart   = "start"
	groupServe   = "serve"
	groupOperate = "operate"
)

func (p *program) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "aikeysd",
		Short: "Keep teams' LLM-provider keys: sealed, shared, revocable",
		Long: `aikeysd is the control plane of AgentRouter AI Keys. Teams register their own provider keys with it; it seals
them at once, lets nobody read them back, and revokes them permanently.

New here? Run "aikeys-demo" to watch it for a few seconds, and "aikeysd dev" to try it: that starts everything on this
machine, a gateway included, and prints commands.
In production, run "aikeysd serve", add the first member with "aikeysd admin member set", and give them an API key with
"aikeysd admin token create". A gateway, aikeys-gateway, serves inference requests with the keys; it needs a credential
from "aikeysd admin dataplane create".

Settings are flags or AIKEYS_* variables; a flag wins. "aikeysd serve --help" lists them all.

Exit codes: 0 all is well, 1 it failed, 2 the command line or a setting is wrong.`,
		Example: `  aikeysd dev
  aikeysd serve --database-url sqlite:data/aikeys.db --sealer local:data/keyset.json
  aikeysd check`,
	}
	root.AddGroup(
		&cobra.Group{ID: groupStart, Title: "Start here:"},
		&cobra.Group{ID: groupServe, Title: "Serve:"},
		&cobra.Group{ID: groupOperate, Title: "Operate:"},
	)
	root.SetHelpCommandGroupID(groupStart)
	root.AddCommand(p.devCommand(), p.serveCommand(), p.migrateCommand(), p.adminCommand(), p.checkCommand(), p.rewrapCommand(), p.keysCommand())
	return root
}
