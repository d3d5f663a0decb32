//go:build manual

package cli

import (
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
	"github.com/spf13/pflag"
)

// addManual adds the command with which tools/dist.sh writes the manual pages. It is behind a build tag, because it brings a
// Markdown parser that the programs do not need otherwise.
func addManual(root *cobra.Command) {
	root.AddCommand(&cobra.Command{
		Use:    "manual FOLDER",
		Short:  "Write a manual page for each command",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil { //nolint:gosec // everyone may read manual pages
				return err
			}
			root.DisableAutoGenTag = true // it has today's date
			escapeTexts(root)
			return doc.GenManTree(root, &doc.GenManHeader{Section: "1", Source: root.Name(), Manual: "AgentRouter AI Keys"}, args[0])
		},
	})
}

// escapeTexts prepares the texts of a command and of its subcommands for the generator, which reads them as Markdown.
func escapeTexts(cmd *cobra.Command) {
	cmd.Use, cmd.Short, cmd.Long = escapeMarkdown(cmd.Use), escapeMarkdown(cmd.Short), escapeMarkdown(cmd.Long)
	escape := func(flag *pflag.Flag) { flag.Usage = escapeMarkdown(flag.Usage) }
	cmd.LocalNonPersistentFlags().VisitAll(escape)
	cmd.PersistentFlags().VisitAll(escape)
	for _, child := range cmd.Commands() {
		escapeTexts(child)
	}
}

// escapeMarkdown escapes a text. Indented lines become code blocks, which keep their line breaks.
func escapeMarkdown(text string) string {
	var out strings.Builder
	wasCode := false
	for line := range strings.Lines(text) {
		isCode := strings.HasPrefix(line, "  ")
		if isCode != wasCode {
			out.WriteByte('\n')
		}
		if isCode {
			out.WriteString("  " + line)
		} else {
			out.WriteString(strings.NewReplacer(`\`, `\\`, "<", `\<`, "*", `\*`).Replace(line))
		}
		wasCode = isCode
	}
	return out.String()
}
