package main

import (
	"errors"
	"io/fs"
	"os"
	"sync"
	"time"
)

const (
	auditFileMode = 0o600
	// auditLook is how long lines may go to a file that has been moved away, as log rotation does.
	auditLook = time.Second
)

// auditFile adds lines to a file, and to a new one when the file has been moved away. The lines are the system's when Write
// returns: they outlive the process, not the machine.
type auditFile struct {
	path string

	mu     sync.Mutex
	file   *os.File
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
	return err
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
	return a.file.Write(line)
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
	old := a.file
	if err := a.open(); err != nil {
		a.file, a.looked = old, time.Time{} // the next line tries again
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
