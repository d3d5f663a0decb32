//go:build !unix

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
)

// execute runs a program and ends with its exit code. Windows can't replace a process.
func execute(file string, args, environ []string) error {
	cmd := &exec.Cmd{Path: file, Args: args, Env: environ, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}
	err := cmd.Run()
	if ended := (*exec.ExitError)(nil); errors.As(err, &ended) {
		os.Exit(ended.ExitCode())
	}
	if err != nil {
		return fmt.Errorf("run %s: %w", file, err)
	}
	os.Exit(exitOK)
	return nil
}
