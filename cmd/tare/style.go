package main

import "io"

// style is how a cell looks where there are colours.
type style string

// The styles, as a terminal knows them (ECMA-48, SGR).
const (
	plain  style = ""
	bold   style = "1"
	dim    style = "2"
	red    style = "31"
	green  style = "32"
	yellow style = "33"
)

// painter puts a style around a text that is clean already.
type painter func(s style, text string) string

func (p *program) painter(stream io.Writer) painter {
	if !p.colours(stream) {
		return func(_ style, text string) string { return text }
	}
	return func(s style, text string) string {
		if s == plain || text == "" {
			return text
		}
		return "\x1b[" + string(s) + "m" + text + "\x1b[0m"
	}
}
