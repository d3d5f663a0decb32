package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/internal/secret"
	"github.com/agentrouter/aikeys/internal/secretfile"
)

// maxSecret is the longest secret that the API accepts, in bytes.
const maxSecret = 16 << 10

// secretSource says where to read a secret from.
type secretSource struct {
	file     string // "-" means standard input, and "" the prompt on a terminal, standard input elsewhere
	flag     string // the flag that names the file, for messages
	question string // what the prompt asks
	what     string // what the secret is, for messages
	optional bool   // an empty answer at the prompt is one
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
			return "", fileError(from, err)
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
		err = fileError(from, err)
	}
	// Editors and echo add a line end, and some a byte order mark at the beginning. They are not part of the secret.
	withoutMark := strings.TrimPrefix(string(text), "\ufeff")
	return strings.TrimSuffix(strings.TrimSuffix(withoutMark, "\n"), "\r"), err
}

// isRegular reports whether a file is stored on a disk, unlike a pipe from another program.
func isRegular(file *os.File) bool {
	info, err := file.Stat()
	return err == nil && info.Mode().IsRegular()
}

// fileError says why a file can't be read. It does not repeat the name, in case the flag was given the secret itself.
func fileError(from secretSource, err error) error {
	if path := (*os.PathError)(nil); errors.As(err, &path) {
		err = path.Err
	}
	return cli.Usagef("%s: can't read the file: %s", from.flag, err)
}
