package main

import (
	"context"
	"io"
	"os"
	"runtime"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

// program is one run, as the commands share it.
type program struct {
	cli.Program
	stdin   io.Reader
	flags   globalFlags
	failed  error    // why the command failed; package cli tells only what is wrong with the command line
	session *session // once there is one
	meant   string   // the provider that was named, for hints
	hidden  []secret // secrets that this run has seen: they are cut out of whatever is shown
	quiet   bool     // while the shell completes a word, nothing but words may come out
}

func newProgram(environ []string, stdin io.Reader, stdout, stderr io.Writer) *program {
	return &program{
		Program: cli.Program{Name: "tare", Environ: environ, Stdout: stdout, Stderr: stderr},
		stdin:   stdin,
	}
}

// doing is what a command does. It keeps the error for explain, since package cli knows two exit codes and tare has more.
func (p *program) doing(do func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		p.failed = do(cmd.Context(), args)
		return nil
	}
}

// online is doing for commands that need a session.
func (p *program) online(do func(ctx context.Context, s *session, args []string) error) func(*cobra.Command, []string) error {
	return p.doing(func(ctx context.Context, args []string) error {
		s, err := p.connect(ctx)
		if err != nil {
			return err
		}
		return do(ctx, s, args)
	})
}

// tell tells people something on standard error, apart from the result.
func (p *program) tell(text string) {
	if !p.quiet {
		p.Note("%s", p.clean(text))
	}
}

// line prints a line of the result.
func (p *program) line(text string) error { return p.Say("%s", p.clean(text)) }

// terminal returns the file behind a stream if it is a terminal, else nil.
func terminal(stream any) *os.File {
	file, ok := stream.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return nil
	}
	return file
}

// width is how many columns a stream has; 0 where it is no terminal, and nothing need fit.
func width(stream any) int {
	file := terminal(stream)
	if file == nil {
		return 0
	}
	if columns, _, err := term.GetSize(int(file.Fd())); err == nil && columns > 0 {
		return columns
	}
	return 80
}

// dumb tells a terminal that knows no control sequences, as Windows had them.
func (p *program) dumb() bool {
	kind := p.Getenv("TERM")
	return kind == "dumb" || runtime.GOOS == "windows" && kind == "" && p.Getenv("WT_SESSION") == ""
}

// colours tells whether a stream is to have colours: https://no-color.org.
func (p *program) colours(stream any) bool {
	return !p.flags.noColor && p.Getenv("NO_COLOR") == "" && !p.dumb() && terminal(stream) != nil
}

// within bounds one call to the service.
func (p *program) within(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, p.flags.timeout)
}

// briefly bounds a call that only makes an error more helpful.
func briefly(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, 2*time.Second)
}
