package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// NoArguments refuses arguments, and names the flags to use instead. It doesn't repeat the argument, which may be an API key.
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

// Group returns a command that only has subcommands.
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

// strictHelp makes "help" refuse an unknown command or topic, as the program refuses an unknown command. The error doesn't
// repeat the word, which may be an API key.
func strictHelp(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	help, _, err := root.Find([]string{"help"})
	if err != nil || help == root {
		return // a program without commands has no help command
	}
	show := help.Run
	help.Run, help.RunE = nil, func(cmd *cobra.Command, args []string) error {
		about, rest, err := root.Find(args)
		if err == nil && len(rest) == 0 {
			show(cmd, args)
			return nil
		}
		var names []string
		for _, child := range about.Commands() {
			if child.IsAvailableCommand() || child.IsAdditionalHelpTopicCommand() {
				names = append(names, child.Name())
			}
		}
		if len(names) == 0 {
			return Usagef("%s has no commands of its own; see %s --help", about.CommandPath(), about.CommandPath())
		}
		return Usagef("%s has no such command to help with; it has %s", about.CommandPath(), strings.Join(names, ", "))
	}
}
