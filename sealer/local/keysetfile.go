package local

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"

	"github.com/agentrouter/aikeys/internal/filereload"
	"github.com/agentrouter/aikeys/sealer"
)

// keysetFile is the KEKs of a keyset file, which is read again when it changes. It implements sealer.KEKs.
type keysetFile struct {
	keks *filereload.Value[*keks]
}

func openKeysetFile(path string, log *slog.Logger) (*keysetFile, error) {
	value, err := filereload.Open(filereload.Source[*keks]{
		Name: "keyset file", Files: []string{path}, Log: log,
		Load: func() (*keks, error) { return readKEKs(path) },
		Describe: func(k *keks) []slog.Attr {
			return []slog.Attr{slog.String("file", path), slog.String("primary", k.primary), slog.Int("keks", len(k.all))}
		},
	})
	if err != nil {
		return nil, err
	}
	return &keysetFile{value}, nil
}

// Primary implements sealer.KEKs.
func (f *keysetFile) Primary(ctx context.Context) (string, error) {
	return f.keks.Get(ctx).primary, nil
}

// Wrap implements sealer.KEKs.
func (f *keysetFile) Wrap(ctx context.Context, kekID string, dataKey, associatedData []byte) ([]byte, error) {
	return f.keks.Current().Wrap(ctx, kekID, dataKey, associatedData)
}

// Unwrap implements sealer.KEKs. An unknown KEK may have been added since the last check of the file, so the file is checked
// at once.
func (f *keysetFile) Unwrap(ctx context.Context, kekID string, wrapped, associatedData []byte) ([]byte, error) {
	dataKey, err := f.keks.Get(ctx).Unwrap(ctx, kekID, wrapped, associatedData)
	if !errors.Is(err, sealer.ErrUnknownKEK) || f.keks.Refresh(ctx) != nil {
		return dataKey, err
	}
	return f.keks.Current().Unwrap(ctx, kekID, wrapped, associatedData)
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
