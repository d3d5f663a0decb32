package secrets

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"syscall"

	"github.com/agentrouter/aikeys/internal/filereload"
	"github.com/agentrouter/aikeys/internal/identity"
)

// ClientsFile is a clients file, which is read again when it changes.
type ClientsFile struct {
	list *filereload.Value[*ClientList]
}

// OpenClients reads a clients file. It must be a regular file that belongs to the user of this process and that no other user
// can read or write, since write access to it is enough to open secrets.
func OpenClients(path string, log *slog.Logger) (*ClientsFile, error) {
	list, err := filereload.Open(filereload.Source[*ClientList]{
		Name: "clients file", Files: []string{path}, Load: func() (*ClientList, error) { return ReadClients(path) }, Log: log,
	})
	if err != nil {
		return nil, err
	}
	return &ClientsFile{list}, nil
}

// Find implements Clients.
func (f *ClientsFile) Find(ctx context.Context, identities []identity.Identity) (client Client, ok bool) {
	return f.list.Get(ctx).Find(identities)
}

// List returns the current clients.
func (f *ClientsFile) List(ctx context.Context) *ClientList { return f.list.Get(ctx) }

// maxClientsFile is the largest size of a clients file, in bytes.
const maxClientsFile = 1 << 20

// ReadClients reads a clients file once, with the checks of OpenClients.
func ReadClients(path string) (*ClientList, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // opening a named pipe must not block
	if err != nil {
		return nil, fmt.Errorf("clients file: %w", err)
	}
	defer func() { _ = file.Close() }() // it is only read
	info, err := file.Stat()            // of the open file: the path may name another by now
	if err != nil {
		return nil, fmt.Errorf("clients file: %w", err)
	}
	const othersMode = 0o077
	stat, ok := info.Sys().(*syscall.Stat_t)
	switch mode := info.Mode(); {
	case !mode.IsRegular():
		return nil, fmt.Errorf("%w: %q is not a regular file", ErrClients, path)
	case mode.Perm()&othersMode != 0:
		return nil, fmt.Errorf("%w: %q has mode %#o, which gives group or others access; run: chmod 600 %q", ErrClients, path, mode.Perm(), path)
	case !ok || int(stat.Uid) != os.Geteuid():
		return nil, fmt.Errorf("%w: %q belongs to another user; run: chown %d %q", ErrClients, path, os.Geteuid(), path)
	case info.Size() > maxClientsFile:
		return nil, fmt.Errorf("%w: %q has more than 1 MiB", ErrClients, path)
	}
	text, err := io.ReadAll(io.LimitReader(file, maxClientsFile))
	if err != nil {
		return nil, fmt.Errorf("clients file: %w", err)
	}
	list, err := ParseClients(text)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", path, err)
	}
	return list, nil
}
