package main

import (
	"strings"

	"github.com/clipperhouse/displaywidth"
)

// column is a table's column. In a terminal that is too narrow, columns are left out, those with the highest spare first,
// and then the flexible ones are cut.
type column struct {
	head     string
	spare    int // 0: never left out
	flexible bool
}

// cell is a text in a table, and how it looks.
type cell struct {
	text  string
	style style
}

// table is rows under columns.
type table struct {
	columns []column
	rows    [][]cell
}

const (
	gap      = 2  // between columns
	leastCut = 10 // columns that a flexible column keeps
)

func (t *table) row(cells ...cell) { t.rows = append(t.rows, cells) }

// print writes the table on standard output, so that no line is longer than the terminal is wide.
func (p *program) print(t *table) error {
	paint := p.painter(p.Stdout)
	for _, row := range t.rows {
		for i := range row {
			row[i].text = p.clean(row[i].text)
		}
	}
	widths, ok := t.fit(width(p.Stdout))
	if !ok {
		return p.printBlocks(t, paint)
	}
	var b strings.Builder
	heads := make([]cell, len(t.columns))
	for i, c := range t.columns {
		heads[i] = cell{c.head, bold}
	}
	for _, row := range append([][]cell{heads}, t.rows...) {
		writeRow(&b, row, widths, paint)
	}
	_, err := p.Stdout.Write([]byte(b.String()))
	return err
}

// writeRow writes a row; a column of width 0 is left out.
func writeRow(b *strings.Builder, row []cell, widths []int, paint painter) {
	pad := 0
	for i, c := range row {
		if widths[i] == 0 {
			continue
		}
		if c.text == "" {
			pad += widths[i] + gap // no line ends in spaces
			continue
		}
		text := displaywidth.TruncateString(c.text, widths[i], "…")
		b.WriteString(strings.Repeat(" ", pad))
		b.WriteString(paint(c.style, text))
		pad = widths[i] - displaywidth.String(text) + gap
	}
	b.WriteByte('\n')
}

// fit chooses the columns' widths, 0 for those to leave out. Not ok: there is no way to make it fit.
func (t *table) fit(width int) (widths []int, ok bool) {
	widths = make([]int, len(t.columns))
	for i, c := range t.columns {
		widths[i] = displaywidth.String(c.head)
		filled := false
		for _, row := range t.rows {
			widths[i] = max(widths[i], displaywidth.String(row[i].text))
			filled = filled || row[i].text != ""
		}
		if !filled && c.spare > 0 {
			widths[i] = 0 // nobody misses an empty column
		}
	}
	for width > 0 && total(widths) > width {
		if !t.leaveOut(widths) && !t.cut(widths, total(widths)-width) {
			return nil, false
		}
	}
	return widths, true
}

func total(widths []int) int {
	sum := -gap
	for _, w := range widths {
		if w > 0 {
			sum += w + gap
		}
	}
	return sum
}

// leaveOut takes the column away that can best be spared.
func (t *table) leaveOut(widths []int) bool {
	worst := -1
	for i, c := range t.columns {
		if c.spare > 0 && widths[i] > 0 && (worst < 0 || c.spare > t.columns[worst].spare) {
			worst = i
		}
	}
	if worst < 0 {
		return false
	}
	widths[worst] = 0
	return true
}

// cut takes columns from the widest flexible one.
func (t *table) cut(widths []int, much int) bool {
	widest := -1
	for i, c := range t.columns {
		if c.flexible && widths[i] > leastCut && (widest < 0 || widths[i] > widths[widest]) {
			widest = i
		}
	}
	if widest < 0 {
		return false
	}
	widths[widest] = max(leastCut, widths[widest]-much)
	return true
}

// printBlocks writes a block for each row: for terminals that are narrower than any table.
func (p *program) printBlocks(t *table, paint painter) error {
	for i, row := range t.rows {
		if i > 0 {
			if err := p.Say(""); err != nil {
				return err
			}
		}
		for j, c := range row {
			if c.text == "" {
				continue
			}
			if err := p.Say("%s", paint(bold, t.columns[j].head)+" "+paint(c.style, c.text)); err != nil {
				return err
			}
		}
	}
	return nil
}

// detail is one line about a thing.
type detail struct {
	label string
	cell  cell
}

// printDetails writes what is known of one thing, a line each; what is empty is left out.
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
		if err := p.Say("%s", label+paint(d.cell.style, p.clean(d.cell.text))); err != nil {
			return err
		}
	}
	return nil
}
