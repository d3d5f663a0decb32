// Command aikeysd is the control plane: it serves the public API, and holds the operator's commands. It wires the packages
// of impl, models and sealer together and does nothing else; see aikeysd --help.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

// The exit codes, as the root command's help has them.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
)

func main() {
	tuneMemory(os.DirFS("/"), os.Getenv)
	os.Exit(run(untilSignal(), os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}

// untilSignal returns a context that ends with the first signal to stop. The second has its default effect, which ends the
// process: that is restored before the context ends, so that no signal is lost in between.
func untilSignal() context.Context {
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

// run is the whole program. It stops in order when ctx ends.
func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int {
	p := newProgram(environ, stdout, stderr)
	err := p.execute(ctx, args)
	if err == nil {
		return exitOK
	}
	usage := (*usageError)(nil)
	if !errors.As(err, &usage) {
		p.note("aikeysd: %s", oneLine(err.Error()))
		return exitFailure
	}
	for line := range strings.Lines(err.Error()) {
		p.note("aikeysd: %s", strings.TrimSpace(line))
	}
	return exitUsage
}

// usageError says what is wrong with the command line or the settings, one complaint a line.
type usageError struct{ complaints []string }

// Error returns the complaints, each on a line of its own.
func (e *usageError) Error() string { return strings.Join(e.complaints, "\n") }

func usagef(format string, args ...any) error {
	return &usageError{[]string{fmt.Sprintf(format, args...)}}
}
