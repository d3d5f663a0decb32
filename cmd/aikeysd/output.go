package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// say prints a result on standard output.
func (p *program) say(format string, args ...any) error {
	_, err := fmt.Fprintf(p.stdout, format+"\n", args...)
	return err
}

// note tells people something on standard error, apart from the result.
func (p *program) note(format string, args ...any) {
	_, _ = fmt.Fprintf(p.stderr, format+"\n", args...) // there is no place left to report that it failed
}

// table prints rows in columns.
type table struct{ writer *tabwriter.Writer }

func (p *program) newTable(head ...string) table {
	t := table{tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)}
	t.row(head...)
	return t
}

func (t table) row(cells ...string) {
	_, _ = io.WriteString(t.writer, strings.Join(cells, "\t")+"\n") // flush reports what fails
}

// flush prints the rows.
func (t table) flush() error { return t.writer.Flush() }

// oneLine joins the lines of a text that libraries have broken.
func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

// moment shows a time in microseconds, never when it is zero.
func moment(micros int64) string {
	if micros == 0 {
		return "never"
	}
	return time.UnixMicro(micros).UTC().Format(time.RFC3339)
}
