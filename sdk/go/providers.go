package agentrouter

import (
	"context"

	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"
	"github.com/tetrateio/agentrouter-go/internal/operations"
)

// ProvidersClient reads the catalogue of providers.
type ProvidersClient struct{ service service }

// List returns the providers whose keys can be registered, and what a form needs to know about each.
func (p *ProvidersClient) List(ctx context.Context) (*aikeysv1.ListProvidersResponse, error) {
	r := p.service.request(operations.ListProviders())
	return send(ctx, r, func(r *aikeysv1.ListProvidersResponse) bool { return r.Providers != nil })
}
