package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/agentrouter/aikeys/impl/secrets"
	"github.com/agentrouter/aikeys/internal/lifecycle"
)

const (
	auditFileMode = 0o600
	// auditCheckInterval is how long lines may still go to a file after log rotation has moved it away.
	auditCheckInterval = time.Second
)

const lineEnd = '\n'

// openAudit opens the audit log: a file, or standard if the setting is standardOutput.
func (s *config) openAudit(standard io.Writer, closers *lifecycle.Closers) (*secrets.Audit, error) {
	audit := secrets.NewAudit(&wholeLines{to: standard})
	if s.AuditLog != standardOutput {
		file, err := openAudit(s.AuditLog)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.Of("audit-log").Given(), err)
		}
		closers.Add(file.Close)
		audit = secrets.NewAudit(file)
	}
	closers.Add(audit.Close)
	return audit, nil
}

// wholeLines writes lines. If a line was cut off, for example by a full disk, it writes a line end before the next
// line, so that the next line can be read.
type wholeLines struct {
	to   io.Writer
	torn bool // the last line was cut off
}

// Write implements io.Writer.
func (w *wholeLines) Write(line []byte) (int, error) {
	text := line
	if w.torn {
		text = append([]byte{lineEnd}, line...)
	}
	n, err := w.to.Write(text)
	if n > 0 {
		w.torn = text[n-1] != lineEnd
	}
	return max(0, n-(len(text)-len(line))), err
}

// auditFile appends lines to a file. After the file has been moved away, it appends to a new file at the same path.
// When Write returns, the operating system has the line, so the line survives a crash of the process, but not of the
// machine.
type auditFile struct {
	path string

	mu     sync.Mutex
	file   *os.File
	lines  wholeLines // to file
	looked time.Time
}

func openAudit(path string) (*auditFile, error) {
	a := &auditFile{path: path}
	err := a.open()
	return a, err
}

func (a *auditFile) open() (err error) {
	a.looked = time.Now()
	a.file, err = os.OpenFile(a.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, auditFileMode)
	a.lines = wholeLines{to: a.file, torn: err == nil && endsTorn(a.path)}
	return err
}

// endsTorn reports whether the last line of a file was cut off. It returns true for a file that can't be read; the worst result is an
// empty line.
func endsTorn(path string) bool {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // do not wait for the writer of a named pipe
	if err != nil {
		return true
	}
	defer func() { _ = file.Close() }() // it was only read
	info, err := file.Stat()
	if err == nil && (!info.Mode().IsRegular() || info.Size() == 0) {
		return false
	}
	last := make([]byte, 1)
	if err == nil {
		_, err = file.ReadAt(last, info.Size()-1)
	}
	return err != nil || last[0] != lineEnd
}

// Write implements io.Writer. It does not split a line between two files.
func (a *auditFile) Write(line []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if time.Since(a.looked) >= auditCheckInterval {
		if err := a.follow(); err != nil {
			return 0, err
		}
	}
	return a.lines.Write(line)
}

// follow opens the file at the path if that is no longer the open file.
func (a *auditFile) follow() error {
	at, err := os.Stat(a.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	own, ownErr := a.file.Stat()
	if err == nil && ownErr == nil && os.SameFile(at, own) {
		a.looked = time.Now()
		return nil
	}
	old, lines := a.file, a.lines
	if err := a.open(); err != nil {
		a.file, a.lines, a.looked = old, lines, time.Time{} // the next line tries again
		return err
	}
	return old.Close()
}

// Close closes the file.
func (a *auditFile) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.file.Close()
}
