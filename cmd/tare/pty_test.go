package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/stretchr/testify/require"
)

// screen is tare at a terminal.
type screen struct {
	t    *testing.T
	cmd  *exec.Cmd
	tty  *os.File
	mu   sync.Mutex
	text strings.Builder
	read chan struct{} // closed when all has been read
}

// at runs a command line in a terminal of that many columns.
func (u *person) at(columns uint16, args ...string) *screen {
	u.t.Helper()
	if len(args) == 1 {
		args = strings.Fields(args[0])
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	cmd := u.command(ctx, args...)
	tty, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 50, Cols: columns})
	require.NoError(u.t, err)
	s := &screen{t: u.t, cmd: cmd, tty: tty, read: make(chan struct{})}
	go s.follow()
	u.t.Cleanup(func() {
		cancel()
		<-s.read
		if cmd.ProcessState == nil {
			_ = cmd.Wait() // it was ended
		}
		_ = tty.Close()
	})
	return s
}

// follow reads until the program has gone, and its terminal with it.
func (s *screen) follow() {
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

// shown is all that was written so far, with the terminal's line ends made plain.
func (s *screen) shown() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.ReplaceAll(s.text.String(), "\r\n", "\n")
}

// expect waits until a text is shown.
func (s *screen) expect(text string) *screen {
	s.t.Helper()
	require.Eventually(s.t, func() bool { return strings.Contains(s.shown(), text) }, patience, 2*time.Millisecond,
		"never shown: %q", text)
	return s
}

// types is somebody at the keyboard.
func (s *screen) types(text string) *screen {
	s.t.Helper()
	_, err := io.WriteString(s.tty, text)
	require.NoError(s.t, err)
	return s
}

// ends waits for the end, and returns the exit code and all that was shown.
func (s *screen) ends() (code int, shown string) {
	s.t.Helper()
	<-s.read
	err := s.cmd.Wait()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		require.NoError(s.t, err)
	}
	return s.cmd.ProcessState.ExitCode(), s.shown()
}
