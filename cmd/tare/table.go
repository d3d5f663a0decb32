package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/clipperhouse/displaywidth"
)

// style is how a cell looks where there are colours: parameters of the control sequence SGR (ECMA-48).
type style string

const (
	plain  style = ""
	bold   style = "1"
	dim    style = "2"
	red    style = "31"
	green  style = "32"
	yellow style = "33"
)

// painter adds a style to a sanitized text.
type painter func(s style, text string) string

func (p *program) painter(stream io.Writer) painter {
	hasColours := p.hasColours(stream)
	return func(s style, text string) string {
		if !hasColours || s == plain || text == "" {
			return text
		}
		return "\x1b[" + string(s) + "m" + text + "\x1b[0m"
	}
}

// cell is a text in a table and its style.
type cell struct {
	text  string
	style style
}

// table is a table that fits the terminal. text/tabwriter can't do that, nor does it know the width of coloured text.
type table struct {
	columns []column
	rows    []row
}

// row is a row of a table. A row that continues the one above has a cell in only one column.
type row struct {
	cells     []cell
	continues bool
}

// column is a column of a table. If the terminal is too narrow, columns are dropped first, then others shrink.
type column struct {
	head      string
	dropRank  int  // the highest rank is dropped first; 0 is never dropped
	canShrink bool // whether texts may be cut
}

const (
	gap         = 2  // spaces between columns
	shrunkWidth = 10 // the least width of a column that shrinks
)

func (t *table) addRow(cells ...cell) { t.rows = append(t.rows, row{cells: cells}) }

// continueRow adds a line to a cell of the last row.
func (t *table) continueRow(column int, c cell) {
	cells := make([]cell, len(t.columns))
	cells[column] = c
	t.rows = append(t.rows, row{cells, true})
}

// printTable prints a table that fits the terminal, and names the columns that it leaves out. If the table can't fit, it prints a
// block of lines for each row.
func (p *program) printTable(t *table) error {
	for _, row := range t.rows {
		for i := range row.cells {
			row.cells[i].text = p.sanitize(row.cells[i].text)
		}
	}
	heads := make([]cell, len(t.columns))
	for i, c := range t.columns {
		heads[i] = cell{c.head, bold}
	}
	paint := p.painter(p.Stdout)
	var b strings.Builder
	widths, dropped, ok := t.fitWidths(terminalWidth(p.Stdout))
	if ok {
		writeRow(&b, heads, widths, paint)
		for _, row := range t.rows {
			writeRow(&b, row.cells, widths, paint)
		}
	} else {
		writeBlocks(&b, heads, t.rows, paint)
	}
	_, err := io.WriteString(p.Stdout, b.String())
	if ok && len(dropped) > 0 {
		p.printNote("The terminal is too narrow for " + strings.Join(dropped, ", ") + "; -o json shows everything.")
	}
	return err
}

// writeRow writes a line without trailing spaces. It leaves out columns of width 0.
func writeRow(b *strings.Builder, row []cell, widths []int, paint painter) {
	padding := 0
	for i, c := range row {
		if widths[i] == 0 {
			continue
		}
		if c.text == "" {
			padding += widths[i] + gap
			continue
		}
		text := displaywidth.TruncateString(c.text, widths[i], "…")
		b.WriteString(strings.Repeat(" ", padding))
		b.WriteString(paint(c.style, text))
		padding = widths[i] - displaywidth.String(text) + gap
	}
	b.WriteByte('\n')
}

func writeBlocks(b *strings.Builder, heads []cell, rows []row, paint painter) {
	for i, row := range rows {
		if i > 0 && !row.continues {
			b.WriteByte('\n')
		}
		for j, c := range row.cells {
			if c.text != "" {
				b.WriteString(paint(bold, heads[j].text) + " " + paint(c.style, c.text) + "\n")
			}
		}
	}
}

// fitWidths returns the widths of the columns, and the heads of the columns that are left out for lack of room. A
// column that is left out has the width 0. A terminal width of 0 means no limit. If the columns can't fit, ok is false.
func (t *table) fitWidths(terminal int) (widths []int, dropped []string, ok bool) {
	widths = make([]int, len(t.columns))
	for i, c := range t.columns {
		isEmpty := true
		for _, row := range t.rows {
			widths[i] = max(widths[i], displaywidth.String(row.cells[i].text))
			isEmpty = isEmpty && row.cells[i].text == ""
		}
		widths[i] = max(widths[i], displaywidth.String(c.head))
		if isEmpty && c.dropRank > 0 {
			widths[i] = 0
		}
	}
	full := slices.Clone(widths)
	ok = terminal == 0 || t.narrow(widths, terminal)
	for i, c := range t.columns {
		if full[i] > 0 && widths[i] == 0 {
			dropped = append(dropped, c.head)
		}
	}
	return widths, dropped, ok
}

// narrow drops and shrinks columns until they fit the terminal. It reports whether they do.
func (t *table) narrow(widths []int, terminal int) bool {
	for totalWidth(widths) > terminal {
		drop, shrink := -1, -1 // the column of the highest rank, and the widest that can shrink
		for i, c := range t.columns {
			if c.dropRank > 0 && widths[i] > 0 && (drop < 0 || c.dropRank > t.columns[drop].dropRank) {
				drop = i
			}
			if c.canShrink && widths[i] > shrunkWidth && (shrink < 0 || widths[i] > widths[shrink]) {
				shrink = i
			}
		}
		switch {
		case drop >= 0:
			widths[drop] = 0
		case shrink >= 0:
			widths[shrink] = max(shrunkWidth, widths[shrink]-(totalWidth(widths)-terminal))
		default:
			return false
		}
	}
	return true
}

func totalWidth(widths []int) int {
	sum := -gap
	for _, w := range widths {
		if w > 0 {
			sum += w + gap
		}
	}
	return sum
}

// detail is a labelled line about one thing.
type detail struct {
	label string
	cell  cell
}

// printDetails prints a line for each detail. It leaves out empty ones.
func (p *program) printDetails(details []detail) error {
	longest := 0
	for _, d := range details {
		if d.cell.text != "" {
			longest = max(longest, len(d.label))
		}
	}
	paint := p.painter(p.Stdout)
	for _, d := range details {
		if d.cell.text == "" {
			continue
		}
		label := paint(bold, d.label) + strings.Repeat(" ", longest-len(d.label)+gap)
		if err := p.Say("%s", label+paint(d.cell.style, p.sanitize(d.cell.text))); err != nil {
			return err
		}
	}
	return nil
}

// formatNonZero formats a value. The zero value is "".
func formatNonZero[T comparable](format string, value T) string {
	var zero T
	if value == zero {
		return ""
	}
	return fmt.Sprintf(format, value)
}

// relativeTime says how far a time is from now: "just now", "5h ago", "in 2d". The zero time is "".
func relativeTime(t, now time.Time) string {
	if t.IsZero() {
		return ""
	}
	d := now.Sub(t)
	switch {
	case d < -time.Second:
		return "in " + formatDuration(-d)
	case d < time.Second:
		return "just now"
	default:
		return formatDuration(d) + " ago"
	}
}

// formatDuration returns a duration in its largest unit: 42s, 3m, 5h, 12d, 4mo, 2y.
func formatDuration(d time.Duration) string {
	const day = 24 * time.Hour
	for _, unit := range []struct {
		below, one time.Duration
		name       string
	}{
		{time.Minute, time.Second, "s"}, {time.Hour, time.Minute, "m"}, {day, time.Hour, "h"},
		{60 * day, day, "d"}, {730 * day, 30 * day, "mo"},
	} {
		if d < unit.below {
			return fmt.Sprintf("%d%s", d/unit.one, unit.name)
		}
	}
	return fmt.Sprintf("%dy", d/(365*day))
}

// formatTime returns a time in UTC and how far it is from now. The zero time is "".
func formatTime(t, now time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05 UTC") + " (" + relativeTime(t, now) + ")"
}

// formatTimeBy returns a time as formatTime does, and who acted at that time. The zero time is "".
func formatTimeBy(t time.Time, by string, now time.Time) string {
	if t.IsZero() {
		return ""
	}
	return formatTime(t, now) + " by " + by
}
