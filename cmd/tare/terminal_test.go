package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/stretchr/testify/require"
)

// terminalRun is tare running in a terminal.
type terminalRun struct {
	t    *testing.T
	cmd  *exec.Cmd
	tty  *os.File
	mu   sync.Mutex
	text strings.Builder
	read chan struct{} // closed when the output has ended
}

// runInTerminal runs a command line in a terminal. A single argument is split at spaces.
func (u *user) runInTerminal(columns uint16, args ...string) *terminalRun {
	u.t.Helper()
	if len(args) == 1 {
		args = strings.Fields(args[0])
	}
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	cmd := u.command(ctx, args...)
	tty, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 50, Cols: columns})
	require.NoError(u.t, err)
	s := &terminalRun{t: u.t, cmd: cmd, tty: tty, read: make(chan struct{})}
	go s.readAll()
	u.t.Cleanup(func() {
		cancel()
		<-s.read
		if cmd.ProcessState == nil {
			_ = cmd.Wait() // the cleanup has stopped it
		}
		_ = tty.Close()
	})
	return s
}

// readAll reads until the program and with it its terminal has ended.
func (s *terminalRun) readAll() {
	defer close(s.read)
	chunk := make([]byte, 4096)
	for {
		n, err := s.tty.Read(chunk)
		s.mu.Lock()
		s.text.Write(chunk[:n])
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// output returns the output so far with plain line ends.
func (s *terminalRun) output() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.ReplaceAll(s.text.String(), "\r\n", "\n")
}

// expect waits until the output contains a text.
func (s *terminalRun) expect(text string) *terminalRun {
	s.t.Helper()
	require.Eventually(s.t, func() bool { return strings.Contains(s.output(), text) }, testTimeout, 2*time.Millisecond,
		"never shown: %q", text)
	return s
}

// typeKeys sends key presses.
func (s *terminalRun) typeKeys(text string) *terminalRun {
	s.t.Helper()
	_, err := io.WriteString(s.tty, text)
	require.NoError(s.t, err)
	return s
}

// wait waits for the end and returns the exit code and the output.
func (s *terminalRun) wait() (code int, shown string) {
	s.t.Helper()
	<-s.read
	err := s.cmd.Wait()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		require.NoError(s.t, err)
	}
	return s.cmd.ProcessState.ExitCode(), s.output()
}

// controlCodes matches the control sequences of colours and of the progress line.
var controlCodes = regexp.MustCompile(`\x1b\[[0-9;]*[mK]`)
