// Package filereload reads a value from files and reads it again when the files change, so that certificates, tokens and
// keysets can be renewed without a restart.
package filereload

import (
	"cmp"
	"context"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// checkInterval is the minimum time between two checks of the files by Get. It bounds how long a change goes unnoticed.
const checkInterval = 500 * time.Millisecond

// Source describes a value and the files that hold it. Name, Files and Load are required.
type Source[T any] struct {
	// Name is what the log calls the value, such as "TLS certificate".
	Name  string
	Files []string
	// Load reads the files. Its error must not quote what they hold, since it is logged.
	Load func() (T, error)
	// Describe returns attributes for the log line that says that the files have been read again. It is optional.
	Describe func(T) []slog.Attr
	// Log is optional.
	Log *slog.Logger
}

// Value is a value that files hold. Get checks the files; there is no goroutine. If changed files can't be used, the previous value
// stays in force, and every check reads the files again until they can.
type Value[T any] struct {
	source  Source[T]
	current atomic.Pointer[T]
	checked atomic.Pointer[time.Time] // start of the last check

	mu      sync.Mutex    // held during a check; guards the fields below
	stamps  []fs.FileInfo // of the files that current was read from; nil if a file was missing before the read
	failure string        // text of the error of the last check, "" if it succeeded; a failure is logged once
}

// Open reads the value for the first time.
func Open[T any](source Source[T]) (*Value[T], error) {
	source.Log = cmp.Or(source.Log, slog.New(slog.DiscardHandler))
	v := &Value[T]{source: source}
	if err := v.Refresh(context.Background()); err != nil {
		return nil, err
	}
	return v, nil
}

// Get returns the value. It checks the files first, at most twice a second; while one caller checks, others get the current value at
// once.
func (v *Value[T]) Get(ctx context.Context) T {
	if time.Since(*v.checked.Load()) >= checkInterval && v.mu.TryLock() {
		_ = v.refreshLocked(ctx) // logged; the previous value stays in force
		v.mu.Unlock()
	}
	return v.Current()
}

// Current returns the value without a check of the files.
func (v *Value[T]) Current() T { return *v.current.Load() }

// Refresh checks the files now. Its error says why they can't be used; the previous value stays in force.
func (v *Value[T]) Refresh(ctx context.Context) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.refreshLocked(ctx)
}

// refreshLocked reads the files if they have changed or could not be used the last time. The caller holds mu.
func (v *Value[T]) refreshLocked(ctx context.Context) error {
	now := time.Now()
	v.checked.Store(&now)
	stamps := statFiles(v.source.Files) // before the read, so that the next check sees a change during it
	isFirst := v.current.Load() == nil
	if !isFirst && v.failure == "" && stamps != nil && slices.EqualFunc(stamps, v.stamps, isUnchanged) {
		return nil
	}
	value, err := v.source.Load()
	if err != nil {
		if text := err.Error(); !isFirst && text != v.failure { // the first failure is the caller's to report
			v.failure = text
			v.source.Log.WarnContext(ctx, "a file has changed and can't be used; the old one stays in force",
				slog.String("what", v.source.Name), slog.String("error", text))
		}
		return err
	}
	v.current.Store(&value)
	v.stamps, v.failure = stamps, ""
	if !isFirst {
		v.logReload(ctx, value)
	}
	return nil
}

func (v *Value[T]) logReload(ctx context.Context, value T) {
	attrs := []slog.Attr{slog.String("what", v.source.Name)}
	if v.source.Describe != nil {
		attrs = append(attrs, v.source.Describe(value)...)
	}
	v.source.Log.LogAttrs(ctx, slog.LevelInfo, "a file has changed and was read again", attrs...)
}

// statFiles returns nil if a file is missing or can't be examined.
func statFiles(files []string) []fs.FileInfo {
	stamps := make([]fs.FileInfo, len(files))
	for i, file := range files {
		var err error
		if stamps[i], err = os.Stat(file); err != nil {
			return nil
		}
	}
	return stamps
}

// isUnchanged reports whether two stamps are of the same file and the file was not written in between. A file that replaces another is
// not the same.
func isUnchanged(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}
