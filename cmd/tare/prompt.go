package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

var (
	errStopped    = errors.New("stopped")
	errDeclined   = errors.New("nothing was done")
	errInputEnded = fmt.Errorf("the input was ended (Ctrl-D) before an answer: %w", errDeclined)
)

// prompter asks questions at a terminal. It reads answers byte by byte, so that what is typed ahead is left for the next
// question.
type prompter struct {
	p  *program
	in *os.File
}

// newPrompter returns nil if standard input is not a terminal.
func (p *program) newPrompter() *prompter {
	if in := terminalFile(p.stdin); in != nil {
		return &prompter{p, in}
	}
	return nil
}

// confirm asks for a yes to what can't be undone. Without a terminal the command needs --yes.
func (p *program) confirm(ctx context.Context, question string) error {
	prompt := p.newPrompter()
	if prompt == nil {
		return cli.Usagef("there is no terminal to ask on: %s needs --yes", p.command.CommandPath())
	}
	return prompt.confirm(ctx, question)
}

func (a *prompter) writeQuestion(question string) {
	_, _ = io.WriteString(a.p.Stderr, a.p.sanitize(question)+" ") // without a question there is no answer, so a failure needs no handling
}

// ask asks for a line.
func (a *prompter) ask(ctx context.Context, question string) (string, error) {
	text, err := a.readAnswer(ctx, func() ([]byte, error) { return a.readLine(question) })
	return strings.TrimSpace(text), err
}

// askHidden asks for a line that the terminal does not show. Signals that would end the process cancel the prompt instead,
// so that the terminal is restored.
func (a *prompter) askHidden(ctx context.Context, question string) (string, error) {
	ctx, cancel := signal.NotifyContext(ctx, syscall.SIGHUP, syscall.SIGQUIT)
	defer cancel()
	text, err := a.readAnswer(ctx, func() ([]byte, error) { return a.readHiddenLine(question) })
	if !errors.Is(err, errStopped) {
		a.p.Note("")
	}
	return strings.TrimSpace(text), err
}

// confirm asks for a yes. It returns errDeclined for any other answer.
func (a *prompter) confirm(ctx context.Context, question string) error {
	text, err := a.ask(ctx, question+" [y/N]")
	if err != nil {
		return err
	}
	if answer := strings.ToLower(text); answer != "y" && answer != "yes" {
		return errDeclined
	}
	return nil
}

// readAnswer reads a line, and restores the terminal if ctx ends first.
func (a *prompter) readAnswer(ctx context.Context, read func() ([]byte, error)) (string, error) {
	before, err := term.GetState(int(a.in.Fd()))
	if err != nil {
		return "", err
	}
	text, err := readUntilDone(ctx, read)
	switch {
	case errors.Is(err, errStopped):
		err = errors.Join(err, term.Restore(int(a.in.Fd()), before))
		a.p.Note("")
		return "", err
	case errors.Is(err, io.EOF):
		return "", errInputEnded
	}
	return string(text), err
}

// readUntilDone reads from an input that may never answer. It returns errStopped when ctx ends.
func readUntilDone(ctx context.Context, read func() ([]byte, error)) ([]byte, error) {
	type result struct {
		text []byte
		err  error
	}
	done := make(chan result, 1)
	go func() { // ends with the input or the process
		text, err := read()
		done <- result{text, err}
	}()
	select {
	case got := <-done:
		return got.text, got.err
	case <-ctx.Done():
		return nil, errStopped
	}
}

// readLine reads to the end of a line. The terminal shows and edits it.
func (a *prompter) readLine(question string) ([]byte, error) {
	a.writeQuestion(question)
	var line []byte
	for one := make([]byte, 1); ; {
		if _, err := io.ReadFull(a.in, one); err != nil {
			return line, err
		}
		if one[0] == '\n' {
			return line, nil
		}
		line = append(line, one[0])
	}
}

// What keys send in a terminal's raw mode.
const (
	ctrlC     = 0x03
	ctrlD     = 0x04
	backspace = 0x7f
)

// readHiddenLine reads a line that the terminal does not show. It returns io.EOF on Ctrl-D, which term.ReadPassword ignores,
// so it reads in raw mode and handles the keys itself.
func (a *prompter) readHiddenLine(question string) (line []byte, err error) {
	before, err := term.MakeRaw(int(a.in.Fd()))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, term.Restore(int(a.in.Fd()), before)) }()
	a.writeQuestion(question)
	for one := make([]byte, 1); ; {
		if _, err := io.ReadFull(a.in, one); err != nil {
			return nil, err
		}
		switch one[0] {
		case '\r', '\n':
			return line, nil
		case ctrlC:
			return nil, errStopped
		case ctrlD:
			return nil, io.EOF
		case '\b', backspace:
			_, size := utf8.DecodeLastRune(line)
			line = line[:len(line)-size]
		default:
			line = append(line, one[0])
		}
	}
}
