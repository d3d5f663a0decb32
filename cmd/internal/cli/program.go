package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

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
	root.SetUsageTemplate(strings.ReplaceAll(root.UsageTemplate(),
		"LocalFlags.FlagUsages", fmt.Sprintf("LocalFlags.FlagUsagesWrapped %d", HelpWidth)))
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
