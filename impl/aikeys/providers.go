package aikeys

import (
	"cmp"
	"context"
	"errors"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/impl/providers"
	"github.com/agentrouter/aikeys/internal/problem"
	"github.com/agentrouter/aikeys/models"
)

// maxProviders is how many servers the owners of a project may add.
const maxProviders = 20

// ListProviders returns the catalogue. It looks up the caller's role only to check that the session is still live.
func (s *server) ListProviders(ctx context.Context, _ gen.ListProvidersRequestObject) (gen.ListProvidersResponseObject, error) {
	if _, err := s.ownRole(ctx); err != nil {
		return nil, err
	}
	reply := gen.ListProviders200JSONResponse{Providers: convert(s.Providers.All(), wireProvider)}
	for i, p := range s.Providers.All() {
		if p.HasRoles() {
			reply.Providers[i].ExternalID = new(providers.ExternalID(auth.PrincipalFrom(ctx).CustomerID))
		}
	}
	return reply, nil
}

// ListCustomProviders returns the customer's own servers that the project can use.
func (s *server) ListCustomProviders(ctx context.Context, req gen.ListCustomProvidersRequestObject) (gen.ListCustomProvidersResponseObject, error) {
	caller, _, err := s.member(ctx, req.CustomerID, req.ProjectID)
	if err != nil {
		return nil, err
	}
	var all []models.CustomProvider
	if s.CustomProviders {
		if all, err = s.Store.ListCustomProviders(ctx, caller.CustomerID, caller.ProjectID); err != nil {
			return nil, err
		}
	}
	return gen.ListCustomProviders200JSONResponse{Providers: convert(all, wireCustom), OwnersMayAdd: s.OwnersAddProviders}, nil
}

// AddCustomProvider makes a server a provider of the project.
func (s *server) AddCustomProvider(ctx context.Context, req gen.AddCustomProviderRequestObject) (gen.AddCustomProviderResponseObject, error) {
	caller, err := s.caller(ctx, req.CustomerID, req.ProjectID)
	if err != nil {
		return nil, err
	}
	custom, err := s.parseCustom(req.Body)
	if err != nil {
		return nil, err
	}
	added := models.CustomProvider{
		CustomerID: caller.CustomerID, ProjectID: caller.ProjectID, Slug: custom.Slug, Name: custom.Name, BaseURL: custom.BaseURL,
		Dialect: string(custom.Dialect), Auth: string(custom.Auth), Header: custom.Header, Digest: custom.Digest(), CreatedBy: caller.UserID,
	}
	err = s.changeProviders(ctx, caller, models.EventProviderCreated, custom.Slug, func(tx *models.Tx, event models.Event) error {
		return tx.AddProjectProvider(&added, maxProviders, event)
	})
	switch {
	case errors.Is(err, models.ErrAlreadyExists):
		return nil, &problem.Error{Kind: errSlugTaken, Fields: []problem.Field{{Field: "slug", Message: "is taken"}}}
	case errors.Is(err, models.ErrQuotaExceeded):
		return nil, errProviderQuota
	case err != nil:
		return nil, err
	}
	return gen.AddCustomProvider201JSONResponse{Provider: wireCustom(added)}, nil
}

// RemoveCustomProvider removes a server that the project's owners added.
func (s *server) RemoveCustomProvider(ctx context.Context, req gen.RemoveCustomProviderRequestObject) (gen.RemoveCustomProviderResponseObject, error) {
	caller, err := s.caller(ctx, req.CustomerID, req.ProjectID)
	if err != nil {
		return nil, err
	}
	var removed models.CustomProvider
	err = s.changeProviders(ctx, caller, models.EventProviderDeleted, req.Slug, func(tx *models.Tx, event models.Event) (err error) {
		removed, err = tx.RemoveProjectProvider(caller, req.Slug, event)
		return err
	})
	if err != nil {
		return nil, err
	}
	return gen.RemoveCustomProvider200JSONResponse{Provider: wireCustom(removed)}, nil
}

// changeProviders changes the project's own servers, for an owner. The operator must allow that.
func (s *server) changeProviders(
	ctx context.Context, caller models.Caller, what models.EventType, slug string, change func(*models.Tx, models.Event) error,
) error {
	event := s.event(ctx, what, caller)
	event.Provider = slug
	return s.asOwner(ctx, caller, event, func(tx *models.Tx) error {
		if !s.OwnersAddProviders {
			return errOperatorsAdd
		}
		return change(tx, event)
	})
}

// parseProvider returns a provider's slug, or "" if the request names none. It refuses a slug that is not in the
// catalogue and does not have the form of a custom provider's. A custom provider need not exist: lists can be filtered
// by a deleted one.
func (s *server) parseProvider(given *string) (string, error) {
	slug := orZero(given)
	if given == nil || s.CustomProviders && providers.IsCustom(slug) {
		return slug, nil
	}
	if _, known := s.Providers.Lookup(slug); !known {
		return "", problem.Invalid("provider", s.Providers.UnknownReason())
	}
	return slug, nil
}

// parseCustom returns the server that a request describes. It makes the checks that the document can't express.
func (s *server) parseCustom(body *gen.AddCustomProviderRequest) (providers.Custom, error) {
	custom := providers.Custom{
		Slug: body.Slug, Name: cmp.Or(orZero(body.DisplayName), body.Slug), BaseURL: body.BaseURL,
		Dialect: cmp.Or(providers.Dialect(orZero(body.Dialect)), providers.DialectOpenAI),
		Auth:    cmp.Or(providers.AuthStyle(orZero(body.AuthStyle)), providers.AuthBearer), Header: orZero(body.Header),
	}
	faults := custom.Check()
	for i := range faults {
		if faults[i].Field == "name" {
			faults[i].Field = "display_name"
		}
	}
	for _, shown := range [...]problem.Field{{Field: "display_name", Message: custom.Name}, {Field: "base_url", Message: custom.BaseURL}} {
		if s.Providers.Reveals(shown.Message, providers.Provider{}, "") {
			faults = append(faults, problem.Field{Field: shown.Field, Message: "looks like it holds a secret; it is shown to people"})
		}
	}
	if len(faults) > 0 {
		return custom, &problem.Error{Kind: problem.ErrInvalid, Fields: faults}
	}
	return custom, nil
}

func wireProvider(p providers.Provider) gen.Provider {
	return gen.Provider{
		Slug: p.Slug, DisplayName: p.DisplayName, BaseURL: p.BaseURL, AuthStyle: string(p.AuthStyle),
		SecretFormat: string(p.SecretFormat), Prefixes: p.KnownPrefixes(), RequiredFields: p.RequiredFields(),
		AlternativeFields: p.Alternatives, KeyPageURL: p.KeyPage, EndpointHosts: p.CloudHosts(),
	}
}

func wireCustom(p models.CustomProvider) gen.CustomProvider {
	return gen.CustomProvider{
		Slug: p.Slug, DisplayName: p.Name, BaseURL: p.BaseURL, Dialect: p.Dialect, AuthStyle: p.Auth, Header: optional(p.Header),
		ProjectID: optional(p.ProjectID), CreatedAt: wireTime(p.CreatedAt), CreatedBy: p.CreatedBy,
	}
}
