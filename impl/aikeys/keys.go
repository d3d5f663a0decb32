package aikeys

import (
	"context"
	"errors"
	"strings"
	"unicode"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/providers"
	"github.com/agentrouter/aikeys/internal/problem"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/sealer"
)

// RegisterKey seals a provider key and stores it.
func (s *server) RegisterKey(ctx context.Context, req gen.RegisterKeyRequestObject) (gen.RegisterKeyResponseObject, error) {
	caller, err := s.caller(ctx, req.CustomerID, req.ProjectID)
	if err != nil {
		return nil, err
	}
	provider, err := s.checkRegister(req.Body)
	if err != nil {
		return nil, err
	}
	registration, err := s.seal(ctx, caller, provider, req)
	if err != nil {
		return nil, err
	}
	key, err := s.store.RegisterKey(ctx, caller, roleToWrite(registration.Key), registration, s.now().UnixMicro())
	if err != nil {
		return nil, takenName(s.refused(ctx, err, registration.Event))
	}
	location := keyPath(key)
	return gen.RegisterKey201JSONResponse{
		Body:    gen.RegisterResponse{Key: wireKey(key)},
		Headers: gen.RegisterKey201ResponseHeaders{Location: &location},
	}, nil
}

// checkRegister refuses what the document can't describe.
func (s *server) checkRegister(body *gen.RegisterRequest) (providers.Provider, error) {
	provider, err := s.provider(body.Provider)
	if err != nil {
		return provider, err
	}
	if refusal := (*providers.Refusal)(nil); errors.As(s.providers.CheckSecret(provider, body.Secret.Reveal()), &refusal) {
		return provider, problem.Invalid("secret", refusal.Reason)
	}
	if unprintable(body.Name) {
		return provider, problem.Invalid("name", "must not begin or end with a space, nor hold control characters")
	}
	if s.providers.Reveals(body.Name, body.Secret.Reveal()) {
		return provider, problem.Invalid("name", "looks like a secret; names are shown to people, choose another")
	}
	return provider, nil
}

// unprintable tells a name that could pass for another one, or do something to the terminal that it is printed on. The
// document's pattern knows ASCII's spaces and controls only: OpenAPI has no portable way to write Unicode's.
func unprintable(name string) bool {
	return strings.TrimSpace(name) != name || strings.ContainsFunc(name, func(r rune) bool {
		return unicode.In(r, unicode.Cc, unicode.Zl, unicode.Zp, unicode.Bidi_Control)
	})
}

// seal builds all that the register writes. The plaintext ends here.
func (s *server) seal(ctx context.Context, caller models.Caller, provider providers.Provider, req gen.RegisterKeyRequestObject) (models.Registration, error) {
	now := s.now()
	key := models.Key{
		ID: s.ids.Next(models.KeyIDPrefix, now), CustomerID: caller.CustomerID, ProjectID: caller.ProjectID,
		Provider: provider.Slug, Name: req.Body.Name, Version: 1, CreatedAt: now.UnixMicro(), CreatedBy: caller.UserID,
	}
	if req.Body.UserScope != nil && *req.Body.UserScope {
		key.UserID = caller.UserID
	}
	key.DisplaySuffix = providers.DisplaySuffix(req.Body.Secret.Reveal())
	idempotency, err := s.idempotency(ctx, caller, key, req)
	if err != nil {
		return models.Registration{}, err
	}
	secret := sealer.NewSecret([]byte(req.Body.Secret.Reveal()))
	defer secret.Wipe()
	envelope, err := s.sealer.Seal(ctx, sealer.Binding{
		CustomerID: key.CustomerID, ProjectID: key.ProjectID, KeyID: key.ID, Provider: key.Provider, Version: key.Version,
	}, secret)
	if err == nil {
		err = s.canary.CheckKEKs(ctx, envelope.KEKID)
	}
	if err != nil {
		return models.Registration{}, err
	}
	key.Envelope, key.KEKID = envelope.Bytes, envelope.KEKID
	return models.Registration{Key: key, Event: s.keyEvent(ctx, models.EventKeyRegistered, caller, key), Idempotency: idempotency}, nil
}

// GetKey returns one key's metadata.
func (s *server) GetKey(ctx context.Context, req gen.GetKeyRequestObject) (gen.GetKeyResponseObject, error) {
	caller, err := s.caller(ctx, req.CustomerID, req.ProjectID)
	if err != nil {
		return nil, err
	}
	key, err := s.store.GetKey(ctx, caller, keyID(req.ID), s.now().UnixMicro())
	if err != nil {
		return nil, err
	}
	wire := wireKey(key)
	if key.RevokedAt != 0 {
		receipt, err := s.receipts.Receipt(ctx, key)
		if err != nil {
			return nil, err
		}
		wire.Receipt = new(s.wireReceipt(key, receipt))
	}
	return gen.GetKey200JSONResponse{Key: wire}, nil
}

// ListKeys returns the project's keys and the caller's own.
func (s *server) ListKeys(ctx context.Context, req gen.ListKeysRequestObject) (gen.ListKeysResponseObject, error) {
	caller, err := s.caller(ctx, req.CustomerID, req.ProjectID)
	if err != nil {
		return nil, err
	}
	page, err := keyPage(req.Params.PageSize, req.Params.PageToken)
	if err != nil {
		return nil, err
	}
	if page.size == 0 {
		leave, err := s.wholeLists.Enter(caller.CustomerID + "/" + caller.UserID)
		if err != nil {
			return nil, err
		}
		defer leave()
	}
	filter := models.KeyFilter{Before: page.after, Limit: page.limit()}
	if req.Params.Provider != nil {
		if _, err := s.provider(*req.Params.Provider); err != nil {
			return nil, err
		}
		filter.Provider = *req.Params.Provider
	}
	if req.Params.State != nil {
		filter.State = models.KeyState(*req.Params.State)
	}
	keys, err := s.store.ListKeys(ctx, caller, filter, s.now().UnixMicro())
	if err != nil {
		return nil, err
	}
	keys, next := cut(keys, page, func(k models.Key) string { return k.ID })
	return gen.ListKeys200JSONResponse{Keys: convert(keys, wireKey), NextPageToken: next}, nil
}

// takenName names the field behind a conflict.
func takenName(err error) error {
	if errors.Is(err, models.ErrAlreadyExists) {
		return &problem.Error{Kind: err, Fields: []problem.Field{{Field: "name", Message: "is taken by an active key"}}}
	}
	return err
}

// roleToWrite is the access rule for registering and revoking: a member's own key needs no more than membership, a
// project-level key its owner.
func roleToWrite(key models.Key) models.Role {
	if key.UserID != "" {
		return models.RoleMember
	}
	return models.RoleOwner
}
