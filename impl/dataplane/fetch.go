package dataplane

import (
	"context"
	"errors"
	"fmt"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/impl/providers"
	"github.com/agentrouter/aikeys/impl/resolution"
	gensecret "github.com/agentrouter/aikeys/internal/secret"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/sealer"
)

// fetch is one under way: what the reply and the record say of it.
type fetch struct {
	dataPlaneID string
	now         int64
	caller      models.Caller
	who         *gen.Caller // nil where neither a caller nor a user was named
	provider    string
	choice      resolution.Choice
	asOf        string
	// found is what the choice was made of; zero for a fetch by id.
	found models.Fetched
	// anew is not to rest on memory.
	anew bool
}

// FetchKey returns a key in plain text. Whatever was decided is on record before it is answered. What rested on memory and
// turns out to have changed is decided anew.
func (s *server) FetchKey(ctx context.Context, req gen.FetchKeyRequestObject) (gen.FetchKeyResponseObject, error) {
	way, err := s.wayOf(req.Body)
	if err != nil {
		return nil, err
	}
	reply, err := s.fetch(ctx, way, req.Body, false)
	if errors.Is(err, models.ErrChanged) {
		reply, err = s.fetch(ctx, way, req.Body, true)
	}
	return reply, err
}

// fetch decides, and records what it decided. Unless it is made anew, it may rest on memory: models.ErrChanged.
func (s *server) fetch(ctx context.Context, way string, body *gen.FetchRequest, anew bool) (gen.FetchKeyResponseObject, error) {
	f := &fetch{dataPlaneID: httpapi.CallFrom(ctx).Principal.TokenID, now: s.now().UnixMicro(), anew: anew}
	var err error
	if way == byKeyID {
		err = s.findByID(ctx, f, *body.KeyID)
	} else {
		err = s.findFor(ctx, f, body)
	}
	var key opened
	if err == nil {
		key, err = s.open(ctx, f)
	}
	if unrecorded := s.record(ctx, f, err); unrecorded != nil {
		return nil, unrecorded
	}
	if err != nil {
		return nil, err
	}
	return wireFetch(f, key), nil
}

// findByID finds a key by its id alone.
func (s *server) findByID(ctx context.Context, f *fetch, id string) error {
	f.choice = resolution.Choice{Key: models.Key{ID: id}, Reason: resolution.ByID}
	key, asOf, err := s.store.FetchByID(ctx, f.dataPlaneID, id, f.now)
	if err != nil {
		return err
	}
	f.caller = models.Caller{CustomerID: key.CustomerID, ProjectID: key.ProjectID}
	f.provider, f.choice.Key, f.asOf = key.Provider, key, asOf
	if key.UserID != "" {
		f.who = &gen.Caller{UserID: key.UserID}
	}
	if key.RevokedAt != 0 {
		return resolution.ErrKeyRevoked
	}
	return nil
}

// findFor finds the key that serves a caller, or a user.
func (s *server) findFor(ctx context.Context, f *fetch, body *gen.FetchRequest) error {
	f.provider = *body.Provider
	if body.Credential != nil {
		if err := s.authenticate(ctx, f, body.Credential.Reveal()); err != nil {
			return err
		}
	} else {
		f.caller.CustomerID = *body.CustomerID
	}
	if body.ProjectID != nil {
		f.caller.ProjectID = *body.ProjectID
	}
	if body.UserID != nil {
		f.caller.UserID, f.who = *body.UserID, &gen.Caller{UserID: *body.UserID}
	}
	found, err := s.find(ctx, f)
	if errors.Is(err, models.ErrSessionEnded) {
		s.callers.Drop(f.caller.TokenID)
		return resolution.ErrCallerUnauthenticated
	}
	if err != nil {
		return err
	}
	f.found = found
	newest := models.Serving{Own: found.Own, Project: found.Project}
	f.choice, err = resolution.Resolve(ctx, s.store, f.caller, f.provider, found.Policy, newest, f.now)
	if err != nil {
		return err
	}
	// Of a key that was read after it, the position may say too little, never too much.
	f.asOf = found.AsOf
	return f.choice.Err()
}

// find returns what could serve, from memory where it may.
func (s *server) find(ctx context.Context, f *fetch) (models.Fetched, error) {
	if !f.anew {
		if found, known := s.store.Remembered(f.dataPlaneID, f.caller, f.provider, f.now); known {
			return found, nil
		}
	}
	return s.store.Fetch(ctx, f.dataPlaneID, f.caller, f.provider, f.now)
}

// authenticate finds out who bears a credential. Why one is refused stays here: a 401 would speak of the data plane's own.
func (s *server) authenticate(ctx context.Context, f *fetch, credential string) error {
	p, err := s.callers.Authenticate(ctx, "Bearer "+credential)
	if errors.Is(err, auth.ErrUnauthenticated) {
		return resolution.ErrCallerUnauthenticated
	}
	if err != nil {
		return err
	}
	f.caller = models.Caller{CustomerID: p.CustomerID, ProjectID: p.ProjectID, UserID: p.UserID, TokenID: p.TokenID}
	f.who = wireCaller(p, s.now())
	return nil
}

// errUnreadable says that a key's row does not open, or opens to what can't be used.
var errUnreadable = errors.New("key is unreadable")

// opened is a key in plain text, with where it may go.
type opened struct {
	secret    gensecret.Text
	baseURL   string
	authStyle providers.AuthStyle
}

// open opens the key that was chosen. One from memory that does not open may have another envelope by now.
func (s *server) open(ctx context.Context, f *fetch) (opened, error) {
	key, err := s.unseal(ctx, f.choice.Key)
	if errors.Is(err, errUnreadable) && f.found.Remembered() {
		return opened{}, models.ErrChanged
	}
	return key, err
}

// unseal opens a key. Its plaintext is in the reply from here on, and nowhere else.
func (s *server) unseal(ctx context.Context, key models.Key) (opened, error) {
	provider, known := s.providers.Lookup(key.Provider)
	if !known {
		return opened{}, fmt.Errorf("%w: its provider is not in the catalogue", errUnreadable)
	}
	plain, err := s.sealer.Open(ctx, sealer.Binding{
		CustomerID: key.CustomerID, ProjectID: key.ProjectID, KeyID: key.ID, Provider: key.Provider, Version: key.Version,
	}, key.Envelope)
	if err != nil {
		if errors.Is(err, sealer.ErrUnavailable) || ctx.Err() != nil {
			return opened{}, err
		}
		return opened{}, fmt.Errorf("%w: %w", errUnreadable, err)
	}
	defer plain.Wipe()
	baseURL, secret, err := provider.Destination(string(plain.Reveal()))
	if err != nil {
		return opened{}, fmt.Errorf("%w: %w", errUnreadable, err)
	}
	return opened{gensecret.New(secret), baseURL, provider.AuthStyle}, nil
}
