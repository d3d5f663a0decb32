package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// HelpWidth is how wide help is, in columns.
const HelpWidth = 120

// NoArguments refuses what is neither command nor flag, and names the flags that take its place. It doesn't repeat the
// argument, which may be an API key.
func NoArguments(flags ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) == 0:
			return nil
		case len(flags) == 0:
			return fmt.Errorf("%s takes no arguments", cmd.CommandPath())
		}
		return fmt.Errorf("%s takes no arguments; use %s", cmd.CommandPath(), strings.Join(flags, ", "))
	}
}

// Group returns a command that only holds others.
func Group(cmd *cobra.Command, children ...*cobra.Command) *cobra.Command {
	cmd.AddCommand(children...)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		names := make([]string, len(children))
		for i, child := range children {
			names[i] = child.Name()
		}
		return Usagef("%s has no command %q; it has %s", cmd.CommandPath(), args[0], strings.Join(names, ", "))
	}
	return cmd
}
