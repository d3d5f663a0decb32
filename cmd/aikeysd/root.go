package main

import (
	"context"
	"fmt"
	"io"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
)

// program is what the commands share.
type program struct {
	environ        []string
	stdout, stderr io.Writer
}

func newProgram(environ []string, stdout, stderr io.Writer) *program {
	return &program{environ: environ, stdout: stdout, stderr: stderr}
}

// The groups of the root command's help.
const (
	groupStart   = "start"
	groupServe   = "serve"
	groupOperate = "operate"
)

// helpWidth is how wide help is, in columns.
const helpWidth = 120

// execute runs the command that args name. Whatever goes wrong before the command itself begins is a usageError.
func (p *program) execute(ctx context.Context, args []string) error {
	root, begun := p.root(), false
	root.PersistentPreRun = func(*cobra.Command, []string) { begun = true }
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err != nil && !begun {
		return usagef("%s; see %s --help", oneLine(err.Error()), cmd.CommandPath())
	}
	return err
}

// noArguments refuses what is neither command nor flag, and names the flags that take its place. It doesn't repeat the
// argument, which may be an API key.
func noArguments(flags ...string) cobra.PositionalArgs {
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

func (p *program) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "aikeysd",
		Short: "Keep teams' LLM-provider keys: sealed, shared, revocable",
		Long: `aikeysd is the control plane of AgentRouter AI Keys. Teams register their own provider keys with it; it seals
them at once, lets nobody read them back, and revokes them for good.

New here? Run "aikeysd dev": it starts everything on this machine and prints commands to try.
In production, run "aikeysd serve", add the first member with "aikeysd admin member set", and give them an API key with
"aikeysd admin token create".

Settings are flags or AIKEYS_* variables; a flag wins. "aikeysd serve --help" lists them all.

Exit codes: 0 all is well, 1 it failed, 2 the command line or a setting is wrong.`,
		Example: `  aikeysd dev
  aikeysd serve --database-url sqlite:data/aikeys.db --sealer local:data/keyset.json
  aikeysd check`,
		Version:           version(),
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.SetOut(p.stdout)
	root.SetErr(p.stderr)
	root.AddGroup(
		&cobra.Group{ID: groupStart, Title: "Start here:"},
		&cobra.Group{ID: groupServe, Title: "Serve:"},
		&cobra.Group{ID: groupOperate, Title: "Operate:"},
	)
	root.SetHelpCommandGroupID(groupStart)
	root.SetUsageTemplate(strings.ReplaceAll(root.UsageTemplate(), "LocalFlags.FlagUsages", fmt.Sprintf("LocalFlags.FlagUsagesWrapped %d", helpWidth)))
	root.AddCommand(p.devCommand(), p.serveCommand(), p.migrateCommand(), p.adminCommand(), p.checkCommand())
	return root
}

// group returns a command that only holds others.
func group(cmd *cobra.Command, children ...*cobra.Command) *cobra.Command {
	cmd.AddCommand(children...)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		names := make([]string, len(children))
		for i, child := range children {
			names[i] = child.Name()
		}
		return usagef("%s has no command %q; it has %s", cmd.CommandPath(), args[0], strings.Join(names, ", "))
	}
	return cmd
}

// version is what the Go toolchain stamped into the program: the module's version, and the commit that it came from.
func version() string {
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
