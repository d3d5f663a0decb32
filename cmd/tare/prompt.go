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

	"golang.org/x/term"
)

var (
	errStopped  = errors.New("stopped")
	errDeclined = errors.New("nothing was done")
	errEnded    = fmt.Errorf("the input was ended (Ctrl-D) before an answer: %w", errDeclined)
)

// prompting is one question at a terminal. Answers are read a byte at a time, so that what is typed ahead stays for the
// next question.
type prompting struct {
	p  *program
	in *os.File
}

// prompts returns who can ask, or nil where standard input is no terminal.
func (p *program) prompts() *prompting {
	if in := terminal(p.stdin); in != nil {
		return &prompting{p, in}
	}
	return nil
}

// put shows the question. Who can't see it can't answer, so it doesn't matter whether that fails.
func (a *prompting) put(question string) { _, _ = io.WriteString(a.p.Stderr, a.p.clean(question)+" ") }

// ask asks for a line.
func (a *prompting) ask(ctx context.Context, question string) (string, error) {
	a.put(question)
	text, err := a.answer(ctx, func() ([]byte, error) { return readLine(a.in) })
	return strings.TrimSpace(string(text)), err
}

// askHidden asks for a line that is not shown. Signals that would end the process stop it in order, or the terminal would
// not show what is typed afterwards either.
func (a *prompting) askHidden(ctx context.Context, question string) (secret, error) {
	ctx, cancel := signal.NotifyContext(ctx, syscall.SIGHUP, syscall.SIGQUIT)
	defer cancel()
	a.put(question)
	text, err := a.answer(ctx, func() ([]byte, error) { return readHidden(a.in) })
	if !errors.Is(err, errStopped) {
		a.p.Note("")
	}
	return newSecret(strings.TrimSpace(string(text))), err
}

// confirm asks for a yes.
func (a *prompting) confirm(ctx context.Context, question string) error {
	text, err := a.ask(ctx, question+" [y/N]")
	if err != nil {
		return err
	}
	if answer := strings.ToLower(text); answer != "y" && answer != "yes" {
		return errDeclined
	}
	return nil
}

// answer reads, and leaves the terminal as it was when ctx ends before.
func (a *prompting) answer(ctx context.Context, read func() ([]byte, error)) ([]byte, error) {
	before, err := term.GetState(int(a.in.Fd()))
	if err != nil {
		return nil, err
	}
	text, err := untilDone(ctx, read)
	switch {
	case errors.Is(err, errStopped):
		a.p.Note("")
		return nil, errors.Join(err, term.Restore(int(a.in.Fd()), before))
	case errors.Is(err, io.EOF):
		return nil, errEnded
	}
	return text, err
}

// untilDone reads what may never come, or returns errStopped when ctx ends.
func untilDone(ctx context.Context, read func() ([]byte, error)) ([]byte, error) {
	type result struct {
		text []byte
		err  error
	}
	done := make(chan result, 1)
	go func() { // ends with the input, or with the process
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

// readLine reads up to the end of a line.
func readLine(in io.Reader) ([]byte, error) {
	var line []byte
	for one := make([]byte, 1); ; {
		n, err := in.Read(one)
		switch {
		case n == 1 && one[0] == '\n':
			return line, nil
		case n == 1:
			line = append(line, one[0])
		case err != nil:
			return line, err
		}
	}
}
