//go:build unix

package main

import (
	"fmt"
	"syscall"
)

// execute replaces this process with a program, which thereby gets the terminal, signals and exit code.
func execute(file string, args, environ []string) error {
	return fmt.Errorf("run %s: %w", file, syscall.Exec(file, args, environ)) //nolint:gosec // G204: it is what the user asks for
}
