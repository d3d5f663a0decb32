package secrets

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/agentrouter/aikeys/internal/filereload"
	"github.com/agentrouter/aikeys/internal/identity"
	"github.com/agentrouter/aikeys/internal/secretfile"
)

// ClientsFile is a clients file, which is read again when it changes.
type ClientsFile struct {
	list *filereload.Value[*ClientList]
}

// OpenClients reads a clients file. It must be as secretfile.Read requires, since write access to it is enough to open secrets.
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

// ReadClients reads a clients file once, with the checks of OpenClients.
func ReadClients(path string) (*ClientList, error) {
	text, err := secretfile.Read(path)
	switch {
	case errors.Is(err, secretfile.ErrInsecure), errors.Is(err, secretfile.ErrTooLarge):
		return nil, fmt.Errorf("%w: %w", ErrClients, err)
	case err != nil:
		return nil, fmt.Errorf("clients file: %w", err)
	}
	list, err := ParseClients(text)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", path, err)
	}
	return list, nil
}
