package local

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/agentrouter/aikeys/sealer"
)

// lookInterval is the most time for which a change of the file goes unnoticed while it is used.
const lookInterval = time.Second / 2

// ring is the KEKs of a file as they are now. It implements sealer.KEKs, and owns no goroutine: callers look.
type ring struct {
	path string
	log  *slog.Logger // nil is none

	current atomic.Pointer[keks]
	looked  atomic.Pointer[time.Time]

	mu      sync.Mutex // held while the file is looked at
	stamp   stamp      // of the file that current is from
	failing string     // why the file can't be used, so that it is logged once
}

// stamp tells one state of the file from another. A file that is put in another's place has an inode of its own.
type stamp struct {
	device, inode uint64
	size          int64
	modified      time.Time
}

func newRing(path string, log *slog.Logger) (*ring, error) {
	r := &ring{path: path, log: log}
	err := r.look(context.Background())
	return r, err
}

// fresh returns the KEKs, and looks at the file first if nobody has for a while. One caller looks; others go on.
func (r *ring) fresh(ctx context.Context) *keks {
	if time.Since(*r.looked.Load()) >= lookInterval && r.mu.TryLock() {
		defer r.mu.Unlock()
		_ = r.reread(ctx) // it is logged, and the old KEKs are in force
	}
	return r.current.Load()
}

// look looks at the file now.
func (r *ring) look(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.reread(ctx)
}

// reread reads the file if it has changed, or could not be used the last time. The caller holds mu.
func (r *ring) reread(ctx context.Context) error {
	now := time.Now()
	r.looked.Store(&now)
	found, err := stampOf(r.path) // before the file is read: a change in between is seen at the next look
	if err == nil && r.failing == "" && r.current.Load() != nil && found == r.stamp {
		return nil
	}
	var read *keks
	if err == nil {
		read, err = readKEKs(r.path)
	}
	if err != nil {
		r.tell(ctx, err)
		return err
	}
	again := r.current.Swap(read) != nil
	r.stamp, r.failing = found, ""
	if again && r.log != nil {
		r.log.InfoContext(ctx, "keyset file read again", slog.String("file", r.path), slog.String("primary", read.primary),
			slog.Int("keks", len(read.all)))
	}
	return nil
}

// tell logs why the file can't be used, once for each cause.
func (r *ring) tell(ctx context.Context, err error) {
	text := err.Error()
	if r.log != nil && text != r.failing && r.current.Load() != nil {
		r.log.ErrorContext(ctx, "the keyset file can't be used; the keys that were read before stay in force",
			slog.String("file", r.path), slog.String("error", text))
	}
	r.failing = text
}

func stampOf(path string) (stamp, error) {
	info, err := os.Stat(path)
	if err != nil {
		return stamp{}, err
	}
	found := stamp{size: info.Size(), modified: info.ModTime()}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		found.device, found.inode = uint64(stat.Dev), stat.Ino //nolint:unconvert // its type differs between systems
	}
	return found, nil
}

// Primary implements sealer.KEKs.
func (r *ring) Primary(ctx context.Context) (string, error) { return r.fresh(ctx).primary, nil }

// Wrap implements sealer.KEKs.
func (r *ring) Wrap(ctx context.Context, kekID string, dataKey, associatedData []byte) ([]byte, error) {
	return r.current.Load().Wrap(ctx, kekID, dataKey, associatedData)
}

// Unwrap implements sealer.KEKs. A KEK that is not known may have been added since the last look.
func (r *ring) Unwrap(ctx context.Context, kekID string, wrapped, associatedData []byte) ([]byte, error) {
	dataKey, err := r.fresh(ctx).Unwrap(ctx, kekID, wrapped, associatedData)
	if !errors.Is(err, sealer.ErrUnknownKEK) || r.look(ctx) != nil {
		return dataKey, err
	}
	return r.current.Load().Unwrap(ctx, kekID, wrapped, associatedData)
}

// readKEKs reads the KEKs of the file at path.
func readKEKs(path string) (*keks, error) {
	handle, err := readKeyset(path)
	if err != nil {
		return nil, err
	}
	read, err := newKEKs(handle)
	if err != nil {
		return nil, &fs.PathError{Op: "read keyset file", Path: path, Err: err}
	}
	return read, nil
}
