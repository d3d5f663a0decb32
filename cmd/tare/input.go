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

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/internal/secret"
	"github.com/agentrouter/aikeys/internal/secretfile"
)

var (
	errStopped    = errors.New("stopped")
	errDeclined   = errors.New("nothing was done")
	errInputEnded = fmt.Errorf("the input was ended (Ctrl-D) before an answer: %w", errDeclined)
)

// prompter asks questions at a terminal. It reads answers byte by byte, so that text typed ahead is left for the next question.
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

// addYes adds the flag of the commands that ask for confirmation.
func (p *program) addYes(cmd *cobra.Command) {
	cmd.Flags().BoolVarP(&p.yes, "yes", "y", false, "do not ask for confirmation")
}

// confirm asks a question, unless --yes is given. It returns errDeclined for any answer but yes. Without a terminal, the command
// needs --yes.
func (p *program) confirm(ctx context.Context, question string) error {
	prompt := p.newPrompter()
	switch {
	case p.yes:
		return nil
	case prompt == nil:
		return cli.Usagef("there is no terminal to ask on: %s needs --yes", p.command.CommandPath())
	}
	text, err := prompt.ask(ctx, question+" [y/N]")
	if answer := strings.ToLower(text); err != nil || answer == "y" || answer == "yes" {
		return err
	}
	return errDeclined
}

func (a *prompter) writeQuestion(question string) {
	_, _ = io.WriteString(a.p.Stderr, a.p.sanitize(question)+" ") // if it fails, reading the answer fails too
}

// ask asks for a line.
func (a *prompter) ask(ctx context.Context, question string) (string, error) {
	text, err := a.readAnswer(ctx, func() ([]byte, error) { return a.readLine(question) })
	return strings.TrimSpace(text), err
}

// askHidden asks for a line that the terminal does not show. SIGHUP and SIGQUIT cancel the prompt instead of ending the
// process, so that readAnswer can restore the terminal.
func (a *prompter) askHidden(ctx context.Context, question string) (string, error) {
	ctx, cancel := signal.NotifyContext(ctx, syscall.SIGHUP, syscall.SIGQUIT)
	defer cancel()
	text, err := a.readAnswer(ctx, func() ([]byte, error) { return a.readHiddenLine(question) })
	if !errors.Is(err, errStopped) {
		a.p.Note("")
	}
	return strings.TrimSpace(text), err
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

// The bytes that keys send in a terminal's raw mode.
const (
	ctrlC     = 0x03
	ctrlD     = 0x04
	backspace = 0x7f
)

// readHiddenLine reads a line that the terminal does not show. It returns io.EOF on Ctrl-D. Because term.ReadPassword
// ignores Ctrl-D, readHiddenLine reads in raw mode and handles the keys itself.
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

// maxSecret is the longest secret that the API accepts, in bytes.
const maxSecret = 16 << 10

// secretSource says where to read a secret from.
type secretSource struct {
	file     string // "-" means standard input; "" means the prompt on a terminal, and standard input elsewhere
	flag     string // the flag that names the file, for messages
	question string // what the prompt asks
	what     string // what the secret is, for messages
	optional bool   // whether an empty answer at the prompt is valid
}

// readSecret reads a secret, and has later output redact it.
func (p *program) readSecret(ctx context.Context, from secretSource) (secret.Text, error) {
	text, err := p.readSecretText(ctx, from)
	switch {
	case err != nil:
		return secret.Text{}, err
	case text == "" && from.optional:
		return secret.Text{}, nil
	case text == "":
		return secret.Text{}, cli.Usagef("no %s was given: type it at the prompt, pipe it in, or name a file with %s", from.what, from.flag)
	case len(text) > maxSecret:
		return secret.Text{}, cli.Usagef("the %s is too long: at most %d KiB", from.what, maxSecret>>10)
	}
	s := secret.New(text)
	p.registerSecret(s)
	return s, nil
}

func (p *program) readSecretText(ctx context.Context, from secretSource) (string, error) {
	if from.file == "" {
		if prompt := p.newPrompter(); prompt != nil {
			return prompt.askHidden(ctx, from.question)
		}
	}
	in := p.stdin
	if from.file != "" && from.file != "-" {
		file, err := os.Open(from.file)
		if err != nil {
			return "", fileError(from.flag, "read", err)
		}
		defer func() { _ = file.Close() }() // nothing was written
		if errors.Is(secretfile.Check(from.file), secretfile.ErrInsecure) && isRegular(file) {
			p.printNote(fmt.Sprintf("tare: warning: others on this machine can read the file of %s; delete it, or run chmod 600 on it", from.flag))
		}
		in = file
	}
	text, err := readUntilDone(ctx, func() ([]byte, error) {
		return io.ReadAll(io.LimitReader(in, maxSecret+int64(len("\ufeff\r\n"))+1))
	})
	if err != nil && !errors.Is(err, errStopped) {
		err = fileError(from.flag, "read", err)
	}
	// Editors and echo add a line end, and some editors a byte order mark at the start. Neither is part of the secret.
	withoutMark := strings.TrimPrefix(string(text), "\ufeff")
	return strings.TrimSuffix(strings.TrimSuffix(withoutMark, "\n"), "\r"), err
}

// isRegular reports whether a file is a regular file, not a pipe from another program.
func isRegular(file *os.File) bool {
	info, err := file.Stat()
	return err == nil && info.Mode().IsRegular()
}

// fileError says why a flag's file can't be used. It does not repeat the name, which may be a secret in the wrong place.
func fileError(flag, use string, err error) error {
	if path := (*os.PathError)(nil); errors.As(err, &path) {
		err = path.Err
	}
	return cli.Usagef("%s: can't %s the file: %s", flag, use, err)
}
