// Package cli has what all programs need around their own work: running a command and reporting its result, exit codes,
// signals, help, version, the log, and the pace of the garbage collector. Package settings has the settings.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// The exit codes of all programs.
const (
	ExitOK      = 0
	ExitFailure = 1
	ExitUsage   = 2
)

// Program is one run of a program. Its commands share it.
type Program struct {
	Name           string // begins every line about an error
	Environ        []string
	Stdout, Stderr io.Writer
}

// Run runs the command that args name, reports its error, and returns the exit code. The command stops in order when ctx is
// done.
func (p *Program) Run(ctx context.Context, root *cobra.Command, args []string) int {
	err := p.Execute(ctx, root, args)
	if err == nil {
		return ExitOK
	}
	usage := (*UsageError)(nil)
	if !errors.As(err, &usage) {
		p.Note("%s: %s", p.Name, OneLine(err.Error()))
		return ExitFailure
	}
	for line := range strings.Lines(err.Error()) {
		p.Note("%s: %s", p.Name, strings.TrimSpace(line))
	}
	return ExitUsage
}

// Execute runs the command that args name and returns its error; a program with more exit codes than Run has calls it
// instead of Run. An error that arises before the command begins is a UsageError.
func (p *Program) Execute(ctx context.Context, root *cobra.Command, args []string) error {
	p.configure(root)
	log.SetOutput(io.Discard) // net/http logs unexpected data of servers there, which may be a request with its key
	begun := false
	root.PersistentPreRun = func(*cobra.Command, []string) { begun = true }
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err != nil && !begun {
		return Usagef("%s; see %s --help", OneLine(err.Error()), cmd.CommandPath())
	}
	return err
}

// configure sets the outputs, the version and the width of help. Run reports errors, so cobra does not.
func (p *Program) configure(root *cobra.Command) {
	root.Version = Version()
	root.SilenceErrors, root.SilenceUsage = true, true
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetOut(p.Stdout)
	root.SetErr(p.Stderr)
	strictHelp(root)
	addManual(root)
	wrapHelp(root, helpWidth(p.Stdout))
}

// Getenv returns a variable that is not one of the program's settings.
func (p *Program) Getenv(name string) string {
	for _, entry := range p.Environ {
		if text, ok := strings.CutPrefix(entry, name+"="); ok {
			return text
		}
	}
	return ""
}

// UsageError is an error in the command line or the settings. Run exits with ExitUsage for it.
type UsageError struct{ Complaints []string }

// Error returns the complaints, one a line.
func (e *UsageError) Error() string { return strings.Join(e.Complaints, "\n") }

// Usagef returns a UsageError with one complaint.
func Usagef(format string, args ...any) error {
	return &UsageError{[]string{fmt.Sprintf(format, args...)}}
}

// UntilSignal returns a context that is done at the first SIGINT or SIGTERM. The second one ends the process: its default
// effect is restored before the context is done, so no signal is lost in between.
func UntilSignal() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() { // for as long as the process lives
		<-signals
		signal.Stop(signals)
		cancel()
	}()
	return ctx
}

// release is the version and the commit that "make dist" links into a program; empty in other builds. Only the linker sets it.
var release string

// Version returns the release and the Go version. Without a release, it returns what the Go toolchain recorded in the program: the
// module's version, the commit and the Go version.
func Version() string {
	if release != "" {
		return release + " " + runtime.Version()
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	text := info.Main.Version
	if text == "" {
		text = "(devel)"
	}
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" {
			text += " " + setting.Value
		}
	}
	return text + " " + info.GoVersion
}
