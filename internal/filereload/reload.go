// Package filereload reads files, and reads them again when they have changed, so that what is in them can be renewed without a
// restart. It imports nothing of ours.
package filereload

import (
	"context"
	"log/slog"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
)

// lookInterval is the least time between two looks at files.
const lookInterval = time.Second

// Value is what is read from files, and again when they have changed. It looks when it is asked, and owns no
// goroutine. While what the files hold can't be used, the old value goes on.
type Value[T any] struct {
	what  string // for the log
	files []string
	load  func() (T, error)
	log   *slog.Logger

	mu      sync.Mutex
	current T
	stamps  []stamp // of the files that current is from; nil when they may have changed since
	failing string  // why they can't be used, so that it is logged once
	looked  time.Time
}

// stamp tells one state of a file from another: a file that is put in another's place has an inode of its own.
type stamp struct {
	device, inode uint64
	size          int64
	modified      int64 // in nanoseconds
}

// New reads the value, or says why it can't be used.
func New[T any](what string, log *slog.Logger, load func() (T, error), files ...string) (*Value[T], error) {
	r := &Value[T]{what: what, files: files, load: load, log: log, looked: time.Now()}
	r.stamps = r.look() // before the reading: a change in between is seen at the next look
	var err error
	r.current, err = load()
	return r, err
}

// Get returns the value.
func (r *Value[T]) Get(ctx context.Context) T {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := time.Now(); now.Sub(r.looked) >= lookInterval {
		r.looked = now
		r.renew(ctx)
	}
	return r.current
}

func (r *Value[T]) renew(ctx context.Context) {
	stamps := r.look()
	if stamps != nil && slices.Equal(stamps, r.stamps) {
		return
	}
	value, err := r.load()
	if err != nil {
		if text := err.Error(); text != r.failing {
			r.failing = text
			r.log.ErrorContext(ctx, "a file has changed and can't be used; the old one stays in force",
				slog.String("what", r.what), slog.String("error", text))
		}
		return
	}
	r.current, r.stamps, r.failing = value, stamps, ""
	r.log.InfoContext(ctx, "file read again", slog.String("what", r.what))
}

// look returns nil when a file is missing.
func (r *Value[T]) look() []stamp {
	stamps := make([]stamp, len(r.files))
	for i, file := range r.files {
		info, err := os.Stat(file)
		if err != nil {
			return nil
		}
		stamps[i] = stamp{size: info.Size(), modified: info.ModTime().UnixNano()}
		if stat, ok := info.Sys().(*syscall.Stat_t); ok {
			stamps[i].device, stamps[i].inode = uint64(stat.Dev), stat.Ino //nolint:unconvert // its type differs between systems
		}
	}
	return stamps
}
