//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package main

import (
	"bytes"
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// readHidden reads a line that the terminal does not show, or io.EOF if the input is ended (Ctrl-D), which
// term.ReadPassword does not notice here. The terminal still edits the line, and turns keys into signals.
func readHidden(in *os.File) (text []byte, err error) {
	fd := int(in.Fd())
	before, err := unix.IoctlGetTermios(fd, getTermios)
	if err != nil {
		return nil, err
	}
	hidden := *before
	hidden.Lflag = hidden.Lflag&^unix.ECHO | unix.ICANON | unix.ISIG
	hidden.Iflag |= unix.ICRNL
	if err := unix.IoctlSetTermios(fd, setTermios, &hidden); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, unix.IoctlSetTermios(fd, setTermios, before)) }()
	text, err = readLine(in)
	return erased(text), err
}

// erased carries backspaces out where the terminal's own key for that is another.
func erased(text []byte) []byte {
	for {
		at := bytes.IndexByte(text, '\b')
		if at < 0 {
			return text
		}
		text = append(text[:max(at-1, 0)], text[at+1:]...)
	}
}
