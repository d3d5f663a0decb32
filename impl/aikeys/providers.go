package aikeys

import (
	"context"
	"strings"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/providers"
	"github.com/agentrouter/aikeys/internal/problem"
)

// ListProviders returns the catalogue. It asks for the caller's role only to see that the session is still good.
func (s *server) ListProviders(ctx context.Context, _ gen.ListProvidersRequestObject) (gen.ListProvidersResponseObject, error) {
	if _, err := s.ownRole(ctx); err != nil {
		return nil, err
	}
	return gen.ListProviders200JSONResponse{Providers: convert(s.providers.All(), wireProvider)}, nil
}

// provider looks a slug up in the catalogue.
func (s *server) provider(slug string) (providers.Provider, error) {
	p, ok := s.providers.Lookup(slug)
	if !ok {
		return p, problem.Invalid("provider", "is not a provider that we know; known are "+s.knownProviders())
	}
	return p, nil
}

func (s *server) knownProviders() string { return strings.Join(s.providers.Slugs(), ", ") }
