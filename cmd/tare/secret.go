package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

const (
	longestSecret = 16 << 10 // the contract's
	longestLine   = 4095     // what a terminal gives out of one line
)

// secretFrom says where a secret comes from: a file, "-" for standard input, or nothing for the prompt or pipe there is.
type secretFrom struct {
	file     string
	flag     string // its name, for messages
	question string // of the prompt
	what     string // for messages
}

// readSecret reads a secret and hides it from then on.
func (p *program) readSecret(ctx context.Context, from secretFrom) (secret, error) {
	text, err := p.secretText(ctx, from)
	if err != nil {
		return secret{}, err
	}
	if text.IsZero() {
		return secret{}, cli.Usagef("no %s came in: type it at the prompt, pipe it in, or name a file with %s", from.what, from.flag)
	}
	p.hide(text)
	return text, nil
}

func (p *program) secretText(ctx context.Context, from secretFrom) (secret, error) {
	switch asking := p.prompts(); {
	case from.file != "" && from.file != "-":
		return readSecretFile(ctx, from)
	case asking == nil || from.file == "-":
		return readBounded(ctx, p.stdin, from)
	default:
		text, err := asking.askHidden(ctx, from.question)
		if err == nil && len(text.reveal()) >= longestLine {
			return secret{}, cli.Usagef("a terminal can't take a line of that length; pipe the %s in, or use %s", from.what, from.flag)
		}
		return text, err
	}
}

func readSecretFile(ctx context.Context, from secretFrom) (secret, error) {
	file, err := os.Open(from.file)
	if err != nil {
		return secret{}, notRead(from, err)
	}
	defer func() { _ = file.Close() }() // it was only read
	return readBounded(ctx, file, from)
}

// notRead says why a file can't be read, and does not repeat its name: people give the secret in its place.
func notRead(from secretFrom, err error) error {
	if path := (*os.PathError)(nil); errors.As(err, &path) {
		err = path.Err
	}
	return cli.Usagef("%s: can't read the file: %s", from.flag, err)
}

// readBounded reads it all, but for the line end that editors and echo add.
func readBounded(ctx context.Context, in io.Reader, from secretFrom) (secret, error) {
	text, err := untilDone(ctx, func() ([]byte, error) { return io.ReadAll(io.LimitReader(in, longestSecret+3)) })
	switch {
	case errors.Is(err, errStopped):
		return secret{}, err
	case err != nil:
		return secret{}, notRead(from, err)
	}
	line := strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r")
	if len(line) > longestSecret {
		return secret{}, cli.Usagef("the %s is longer than any: %d KiB is the most", from.what, longestSecret>>10)
	}
	return newSecret(line), nil
}

// warnOfArgument tells who gives a secret on the command line.
func (p *program) warnOfArgument() {
	p.tell(fmt.Sprint("tare: warning: --secret shows in process lists and in the shell's history; ",
		"without it tare asks, or reads a pipe or --secret-file"))
}
