//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package main

import (
	"os"

	"golang.org/x/term"
)

// readHidden reads a line that the terminal does not show, or io.EOF if the input is ended.
func readHidden(in *os.File) ([]byte, error) { return term.ReadPassword(int(in.Fd())) }
