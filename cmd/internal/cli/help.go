package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// The bounds of the width of help texts, in columns. Between the bounds, help is as wide as the terminal. A narrower
// terminal wraps the lines.
const (
	minHelpWidth = 40
	maxHelpWidth = 100
	// HelpWidth is the width where there is no terminal.
	HelpWidth = 80
)

// helpWidth returns the width of help texts that are written to a stream.
func helpWidth(to io.Writer) int {
	file, ok := to.(*os.File)
	if !ok {
		return HelpWidth
	}
	columns, _, err := term.GetSize(int(file.Fd()))
	if err != nil || columns <= 0 {
		return HelpWidth
	}
	return min(max(columns, minHelpWidth), maxHelpWidth)
}

// wrapHelp makes the help of root and of the commands under it fit a width.
func wrapHelp(root *cobra.Command, width int) {
	show := root.HelpFunc()
	root.SetHelpFunc(func(cmd *cobra.Command, args []string) {
		cmd.Long = wrapText(cmd.Long, width)
		show(cmd, args)
	})
	root.SetUsageTemplate(strings.ReplaceAll(root.UsageTemplate(), "Flags.FlagUsages", fmt.Sprintf("Flags.FlagUsagesWrapped %d", width)))
}

// wrapText joins the lines of each paragraph, and breaks them at a width. An indented line is a row of a list, NAME  TEXT;
// lines that begin below the row's text continue the row.
func wrapText(text string, width int) string {
	var wrapped []string
	line, hanging := "", 0 // the line being read, and the column of its further lines
	end := func() {
		if line != "" {
			wrapped = append(wrapped, wrapLine(line, hanging, width)...)
		}
		line = ""
	}
	for next := range strings.SplitSeq(text, "\n") {
		words := strings.TrimLeft(next, " ")
		indentation := len(next) - len(words)
		switch {
		case words == "":
			end()
			wrapped = append(wrapped, "")
		case line != "" && indentation == hanging:
			line += " " + words
		default:
			end()
			line, hanging = next, textColumn(words, indentation)
		}
	}
	end()
	return strings.Join(wrapped, "\n")
}

// textColumn returns the column at which the text of a row begins. If the row has only a name, it returns the
// indentation plus two.
func textColumn(words string, indentation int) int {
	if indentation == 0 {
		return 0
	}
	name, text, ok := strings.Cut(words, "  ")
	if !ok {
		return indentation + 2
	}
	gap := len("  ") + len(text) - len(strings.TrimLeft(text, " "))
	return indentation + utf8.RuneCountInString(name) + gap
}

// wrapLine breaks a line at spaces. Its further lines are indented, unless that leaves them less than half of the width.
func wrapLine(line string, hanging, width int) []string {
	var lines []string
	if hanging > width/2 {
		hanging = 4
	}
	for utf8.RuneCountInString(line) > width {
		end, columns := 0, 0 // of the last word that fits, or of the first one
		for i, r := range line {
			if columns++; columns > width+1 && end > 0 {
				break
			}
			if r == ' ' && i > hanging {
				end = i
			}
		}
		if end == 0 {
			break
		}
		lines = append(lines, strings.TrimRight(line[:end], " "))
		line = strings.Repeat(" ", hanging) + strings.TrimLeft(line[end:], " ")
	}
	return append(lines, line)
}
