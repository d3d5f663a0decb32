package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// format is how results are printed.
type format string

// The formats.
const (
	asTable format = "table"
	asJSON  format = "json"
	asYAML  format = "yaml"
)

func formats() []string { return []string{string(asTable), string(asJSON), string(asYAML)} }

// choice is a flag that takes one of a few words.
type choice[T ~string] struct {
	to    *T
	words []string
}

func (c choice[T]) String() string {
	if c.to == nil {
		return ""
	}
	return string(*c.to)
}

// Set implements pflag.Value.
func (c choice[T]) Set(text string) error {
	if !slices.Contains(c.words, text) {
		return errors.New("must be one of " + strings.Join(c.words, ", "))
	}
	*c.to = T(text)
	return nil
}

// Type implements pflag.Value: what help calls the argument.
func (c choice[T]) Type() string { return strings.Join(c.words, "|") }

// period is a flag that takes a length of time.
type period struct {
	to    *time.Duration
	least time.Duration
}

func (d period) String() string {
	if d.to == nil {
		return ""
	}
	return d.to.String()
}

// Set implements pflag.Value.
func (d period) Set(text string) error {
	read, err := time.ParseDuration(text)
	if text == "0" {
		read, err = 0, nil
	}
	if err != nil || read < d.least {
		return errors.New("must be a length of time, such as 500ms or 5s")
	}
	*d.to = read
	return nil
}

// Type implements pflag.Value.
func (d period) Type() string { return "duration" }

// show prints an answer: as the service sent it, or for people.
func (p *program) show(s *session, people func() error) error {
	if p.flags.output == asTable {
		return people()
	}
	return p.showRaw(s.answers.last.Bytes())
}

// showRaw prints a JSON document in the format that was asked for.
func (p *program) showRaw(document []byte) error {
	if nested(document) > deepest {
		return fmt.Errorf("the answer is nested more than %d deep, as none of the service's is", deepest)
	}
	document = p.withoutSecretsIn(document)
	if p.flags.output == asYAML {
		return p.showYAML(document)
	}
	var b bytes.Buffer
	if err := json.Indent(&b, bytes.ToValidUTF8(bytes.TrimSpace(document), []byte("\ufffd")), "", "  "); err != nil {
		return err
	}
	return p.Say("%s", escapedJSON(b.String()))
}

// showValue prints a value of our own, one that no method of the service returns.
func (p *program) showValue(value any) error {
	document, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return p.showRaw(document)
}

// done prints what a command did to our own profiles: a line for people, or a value.
func (p *program) done(line string, value any) error {
	if p.flags.output == asTable {
		return p.line(line)
	}
	return p.showValue(value)
}

// deepest is how many arrays and objects an answer may have within each other. The layout indents each line by that, so
// that without a limit a few KiB become GiB.
const deepest = 32

// nested tells how deep a JSON document is.
func nested(document []byte) int {
	most, now := 0, 0
	for i := 0; i < len(document); i++ {
		switch document[i] {
		case '"':
			i = endOfString(document, i) - 1
		case '[', '{':
			now++
			most = max(most, now)
		case ']', '}':
			now--
		}
	}
	return most
}

// escapedJSON writes what a terminal would obey as JSON writes control characters, which changes nothing of the document:
// they can only be in strings. The line ends are the layout's own.
func escapedJSON(document string) string {
	return mapUnsafe(document, func(r rune) string {
		if r <= 0xffff {
			return escaped(r)
		}
		r -= 0x10000
		return fmt.Sprintf(`\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
	})
}

func mapUnsafe(document string, escape func(rune) string) string {
	obeyed := func(r rune) bool { return unsafe(r) && r != '\n' && r != '\ufffd' }
	if strings.IndexFunc(document, obeyed) < 0 {
		return document
	}
	var b strings.Builder
	for _, r := range document {
		if obeyed(r) {
			b.WriteString(escape(r))
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}
