package cli

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Say prints a result on standard output.
func (p *Program) Say(format string, args ...any) error {
	_, err := fmt.Fprintf(p.Stdout, format+"\n", args...)
	return err
}

// Note prints a message on standard error.
func (p *Program) Note(format string, args ...any) {
	_, _ = fmt.Fprintf(p.Stderr, format+"\n", args...) // a failure could not be reported anywhere
}

// Table prints rows in columns.
type Table struct{ writer *tabwriter.Writer }

// NewTable returns a table on standard output.
func (p *Program) NewTable(head ...string) Table {
	t := Table{tabwriter.NewWriter(p.Stdout, 0, 0, 2, ' ', 0)}
	t.Row(head...)
	return t
}

// Row adds a row.
func (t Table) Row(cells ...string) {
	_, _ = io.WriteString(t.writer, strings.Join(cells, "\t")+"\n") // Flush returns the error
}

// Flush prints the rows.
func (t Table) Flush() error { return t.writer.Flush() }

// OneLine joins the lines of an error that a library has broken into several.
func OneLine(text string) string { return strings.Join(strings.Fields(text), " ") }
