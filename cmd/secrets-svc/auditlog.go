package main

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	auditFileMode = 0o600
	// auditLook is how long lines may go to a file that has been moved away, as log rotation does.
	auditLook = time.Second
)

const lineEnd = '\n'

// wholeLines writes lines. One that was cut off, as by a disk that is full, ends where it broke: the next one would be
// part of it otherwise, and could not be read either.
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

// auditFile adds lines to a file, and to a new one when the file has been moved away. The lines are the system's when Write
// returns: they outlive the process, not the machine.
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

// endsTorn tells whether the last line of a file was cut off. Of what can't be read it takes the worse: that leaves an
// empty line.
func endsTorn(path string) bool {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a named pipe must not keep us waiting
	if err != nil {
		return true
	}
	defer func() { _ = file.Close() }() // it is only read
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

// Write implements io.Writer. A line goes whole into one file.
func (a *auditFile) Write(line []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if time.Since(a.looked) >= auditLook {
		if err := a.follow(); err != nil {
			return 0, err
		}
	}
	return a.lines.Write(line)
}

// follow opens the file anew if it is no longer the one at the path.
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
