//go:build unix

package main

import (
	"fmt"
	"syscall"
)

// execute replaces this process by a program, which thus gets its terminal, its signals and its exit code.
func execute(file string, args, environ []string) error {
	return fmt.Errorf("run %s: %w", file, syscall.Exec(file, args, environ)) //nolint:gosec // G204: it is what the user asks for
}
