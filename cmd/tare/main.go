// Command tare is the command line for people: it registers, lists, revokes and explains provider keys, and manages the
// project's members and policy; see tare --help. It is built on the Go SDK. Of this repository's packages, it may
// import the SDK, internal and cmd/internal, and none of the server.
//
// Text from a server goes through sanitize before it is shown. Errors go through reportError, which chooses the exit code.
package main

import (
	"context"
	"io"
	"os"
	"runtime"
	"time"

	"github.com/spf13/cobra"
	agentrouter "github.com/tetrateio/agentrouter-go"
	"golang.org/x/term"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/internal/secret"
)

func main() {
	os.Exit(run(cli.UntilSignal(), os.Args[1:], os.Environ(), os.Stdin, os.Stdout, os.Stderr))
}

// run runs the command that args name and returns the exit code. It stops early when ctx ends.
func run(ctx context.Context, args, environ []string, stdin io.Reader, stdout, stderr io.Writer) int {
	p := newProgram(environ, stdin, stdout, stderr)
	if err := p.Execute(ctx, p.rootCommand(), args); err != nil {
		return p.reportError(ctx, err)
	}
	return exitOK
}

// program is one run of tare, which its commands share.
type program struct {
	cli.Program
	stdin     io.Reader
	flags     globalFlags
	session   *session       // nil until a command opens it
	command   *cobra.Command // the running command, for hints; nil until it starts
	providers []string       // the providers on the command line, for hints
	redacted  []secret.Text  // the secrets that this run has seen, for which output shows [redacted]
	keyring   keyringStore
	// keyringFailure is the reason why this run can't use the system's keyring. It is nil before the first use.
	keyringFailure error
	yes            bool // --yes: confirm asks nothing
	quiet          bool // set while the shell completes a word: standard error must stay empty
}

func newProgram(environ []string, stdin io.Reader, stdout, stderr io.Writer) *program {
	return &program{
		Program: cli.Program{Name: "tare", Environ: environ, Stdout: stdout, Stderr: stderr},
		stdin:   stdin,
		keyring: systemKeyring{},
	}
}

// withSession returns a RunE that opens a session for the command.
func (p *program) withSession(command func(ctx context.Context, s *session, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		p.command = cmd
		s, err := p.connect(cmd.Context())
		if err != nil {
			return err
		}
		return command(cmd.Context(), s, args)
	}
}

// runCall returns a RunE for a command that makes one call to the service and prints its response.
func runCall[T any](p *program, call func(ctx context.Context, s *session, args []string) (T, error), printTable func(reply T) error) func(*cobra.Command, []string) error {
	return p.withSession(func(ctx context.Context, s *session, args []string) error {
		ctx, cancel := p.withTimeout(ctx)
		defer cancel()
		reply, err := call(ctx, s, args)
		if err != nil {
			return err
		}
		return p.printResponse(s, func() error { return printTable(reply) })
	})
}

// printNote prints a line for people on standard error, unless the shell completes a word.
func (p *program) printNote(text string) {
	if !p.quiet {
		p.Note("%s", p.sanitize(text))
	}
}

// printLine prints a line of the result on standard output.
func (p *program) printLine(text string) error { return p.Say("%s", p.sanitize(text)) }

// terminalFile returns the file behind a stream if it is a terminal, nil otherwise.
func terminalFile(stream any) *os.File {
	file, ok := stream.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return nil
	}
	return file
}

// terminalWidth returns the columns of a terminal, 0 if the stream is not one.
func terminalWidth(stream any) int {
	file := terminalFile(stream)
	if file == nil {
		return 0
	}
	if columns, _, err := term.GetSize(int(file.Fd())); err == nil && columns > 0 {
		return columns
	}
	return 80
}

// isDumbTerminal reports whether the terminal lacks ANSI support, as old Windows consoles do.
func (p *program) isDumbTerminal() bool {
	kind := p.Getenv("TERM")
	return kind == "dumb" || runtime.GOOS == "windows" && kind == "" && p.Getenv("WT_SESSION") == ""
}

// hasColours reports whether output to a stream has colours (https://no-color.org).
func (p *program) hasColours(stream any) bool {
	return !p.flags.noColor && p.Getenv("NO_COLOR") == "" && !p.isDumbTerminal() && terminalFile(stream) != nil
}

// withTimeout limits one call to the service to --timeout.
func (p *program) withTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, p.flags.timeout)
}

// withHold limits one call to --timeout plus held. The service may hold its response for the time held, which withHold
// reduces to at most maxHold. withHold also returns the option that asks the service to hold the response.
func (p *program) withHold(ctx context.Context, held time.Duration) (context.Context, context.CancelFunc, agentrouter.CallOption) {
	held = min(held, maxHold).Truncate(time.Millisecond)
	ctx, cancel := context.WithTimeout(ctx, p.flags.timeout+held)
	return ctx, cancel, when(held > 0, agentrouter.Wait(held))
}

// when returns the option if it applies, and otherwise nil, which calls ignore.
func when(applies bool, option agentrouter.CallOption) agentrouter.CallOption {
	if !applies {
		return nil
	}
	return option
}

// withShortTimeout limits a call that only makes an error message more helpful.
func withShortTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, 2*time.Second)
}
