package dataplane

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/impl/providers"
	"github.com/agentrouter/aikeys/impl/resolution"
	gensecret "github.com/agentrouter/aikeys/internal/secret"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/sealer"
)

// FetchKey returns the key that serves a request, in plain text. The decision is on record before it is answered.
func (s *server) FetchKey(ctx context.Context, req gen.FetchKeyRequestObject) (gen.FetchKeyResponseObject, error) {
	lookup, err := s.parseLookup(req.Body)
	if err != nil {
		return nil, err
	}
	now := s.now()
	found, err := s.find(ctx, auth.PrincipalFrom(ctx).DataPlaneID, lookup, now)
	var key plaintextKey
	if err == nil {
		key, err = s.open(ctx, found.choice.Key)
	}
	if unrecorded := s.record(ctx, fetchRecord(ctx, now, found, err), err); unrecorded != nil {
		return nil, unrecorded
	}
	if err != nil {
		return nil, err
	}
	return wireFetch(found, key), nil
}

// found is what was found for a fetch. After an error it holds what was known by then, for the record.
type found struct {
	// caller is on whose behalf the data plane asks, or whose key it asks for by its id.
	caller models.Caller
	// wireCaller is the caller as the answer has it; nil for a fetch that is not about one user.
	wireCaller *gen.Caller
	provider   string
	choice     resolution.Choice
	// asOf is the position of the statement that found the choice.
	asOf string
}

// find looks up the key that a data plane asks for, in one statement, and chooses among what serves.
func (s *server) find(ctx context.Context, dataPlaneID string, l lookup, now time.Time) (found, error) {
	if l.keyID != "" {
		return s.findByID(ctx, dataPlaneID, l.keyID, now)
	}
	f := found{provider: l.provider, caller: models.Caller{CustomerID: l.customerID, ProjectID: l.projectID, UserID: l.userID}}
	if l.userID != "" {
		f.wireCaller = &gen.Caller{UserID: l.userID}
	}
	if l.credential != "" {
		session, err := s.authenticate(ctx, l.credential)
		if err != nil {
			return f, err
		}
		f.caller = models.Caller{CustomerID: session.CustomerID, ProjectID: cmp.Or(l.projectID, session.ProjectID),
			UserID: session.UserID, TokenID: session.TokenID}
		f.wireCaller = wireCaller(session, now)
	}
	serving, err := s.store.Fetch(ctx, dataPlaneID, f.caller, f.provider, now.UnixMicro())
	if errors.Is(err, models.ErrSessionEnded) {
		s.callers.Drop(f.caller.TokenID)
		return f, resolution.ErrCallerUnauthenticated
	}
	if err != nil {
		return f, err
	}
	// A key that Resolve reads later is newer than the position says, never older.
	f.asOf = serving.AsOf
	newest := models.Serving{Own: serving.Own, Project: serving.Project}
	f.choice, err = resolution.Resolve(ctx, s.store, f.caller, f.provider, serving.Policy, newest, now.UnixMicro())
	return f, cmp.Or(err, f.choice.Err())
}

// findByID looks up a key by its id alone.
func (s *server) findByID(ctx context.Context, dataPlaneID, id string, now time.Time) (found, error) {
	key, asOf, err := s.store.FetchByID(ctx, dataPlaneID, id, now.UnixMicro())
	if err != nil {
		return found{choice: resolution.Choice{Key: models.Key{ID: id}, Reason: resolution.ByID}}, err
	}
	f := found{
		caller:   models.Caller{CustomerID: key.CustomerID, ProjectID: key.ProjectID},
		provider: key.Provider, choice: resolution.Choice{Key: key, Reason: resolution.ByID}, asOf: asOf,
	}
	if key.UserID != "" {
		f.wireCaller = &gen.Caller{UserID: key.UserID}
	}
	if key.RevokedAt != 0 {
		return f, resolution.ErrKeyRevoked
	}
	return f, nil
}

// authenticate opens the session of a caller's credential. The reason for a refusal is not passed on: the caller of this API
// is the data plane, and a 401 would be about its own credential.
func (s *server) authenticate(ctx context.Context, credential string) (auth.Principal, error) {
	p, err := s.callers.Authenticate(ctx, "Bearer "+credential)
	if errors.Is(err, auth.ErrUnauthenticated) {
		return auth.Principal{}, resolution.ErrCallerUnauthenticated
	}
	return p, err
}

// errUnreadable is returned for a key whose envelope does not open, or opens to something that can't be used.
var errUnreadable = errors.New("key is unreadable")

// plaintextKey is a key in plain text, and where it may be sent.
type plaintextKey struct {
	secret    gensecret.Text
	baseURL   string
	authStyle providers.AuthStyle
}

// open unseals a key. From here on its plaintext is in the answer, and nowhere else.
func (s *server) open(ctx context.Context, key models.Key) (plaintextKey, error) {
	provider, known := s.providers.Lookup(key.Provider)
	if !known {
		return plaintextKey{}, fmt.Errorf("%w: its provider is not in the catalogue", errUnreadable)
	}
	plain, err := s.sealer.Open(ctx, sealer.Binding{
		CustomerID: key.CustomerID, ProjectID: key.ProjectID, KeyID: key.ID, Provider: key.Provider, Version: key.Version,
	}, key.Envelope)
	if err != nil {
		if errors.Is(err, sealer.ErrUnavailable) || ctx.Err() != nil {
			return plaintextKey{}, err
		}
		return plaintextKey{}, fmt.Errorf("%w: %w", errUnreadable, err)
	}
	defer plain.Wipe()
	baseURL, secret, err := provider.Destination(string(plain.Reveal()))
	if err != nil {
		return plaintextKey{}, fmt.Errorf("%w: %w", errUnreadable, err)
	}
	return plaintextKey{gensecret.New(secret), baseURL, provider.AuthStyle}, nil
}
