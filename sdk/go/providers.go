package agentrouter

import (
	"context"

	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"
	"github.com/tetrateio/agentrouter-go/internal/operations"
)

// ProvidersClient reads the catalogue of providers, and manages a project's own servers.
type ProvidersClient struct{ service service }

// List returns the providers whose keys can be registered, with what a registration form needs to know about each.
func (p *ProvidersClient) List(ctx context.Context) (*aikeysv1.ListProvidersResponse, error) {
	r := p.service.request(operations.ListProviders())
	return send(ctx, r, func(r *aikeysv1.ListProvidersResponse) bool { return r.Providers != nil })
}

// ListCustom returns the project's own servers. They are its providers in addition to those of the catalogue.
func (p *ProvidersClient) ListCustom(ctx context.Context, customerID, projectID string) (*aikeysv1.ListCustomProvidersResponse, error) {
	r := p.service.inProject(operations.ListCustomProviders(), customerID, projectID)
	return send(ctx, r, func(r *aikeysv1.ListCustomProvidersResponse) bool { return r.Providers != nil })
}

// addProviderRequest is the body of AddCustom. The service fills in empty fields.
type addProviderRequest struct {
	Slug        aikeysv1.Provider        `json:"slug"`
	BaseURL     string                   `json:"base_url"`
	DisplayName string                   `json:"display_name,omitempty"`
	Dialect     aikeysv1.Dialect         `json:"dialect,omitempty"`
	AuthStyle   aikeysv1.CustomAuthStyle `json:"auth_style,omitempty"`
	Header      string                   `json:"header,omitempty"`
}

// ProviderOption is an optional property of a server that AddCustom adds.
type ProviderOption func(*addProviderRequest)

// DisplayName sets the name that people see, in place of the slug.
func DisplayName(name string) ProviderOption {
	return func(r *addProviderRequest) { r.DisplayName = name }
}

// Speaks sets whose API the server speaks, if it is not OpenAI's.
func Speaks(dialect aikeysv1.Dialect) ProviderOption {
	return func(r *addProviderRequest) { r.Dialect = dialect }
}

// KeyInHeader sends the key in a header, such as X-Api-Key, instead of as a bearer token.
func KeyInHeader(name string) ProviderOption {
	return func(r *addProviderRequest) { r.AuthStyle, r.Header = aikeysv1.CustomAuthStyleHeader, name }
}

// WithoutKey means that the server takes no key. Register a key for it all the same, with the word none as its secret.
func WithoutKey() ProviderOption {
	return func(r *addProviderRequest) { r.AuthStyle, r.Header = aikeysv1.CustomAuthStyleNone, "" }
}

// AddCustom adds a server of your own to a project's providers. The server's settings can't be changed later. Owners
// only, if the service's operator allows it.
func (p *ProvidersClient) AddCustom(
	ctx context.Context, customerID, projectID string, slug aikeysv1.Provider, baseURL string, options ...ProviderOption,
) (*aikeysv1.CustomProviderResponse, error) {
	r := p.service.inProject(operations.AddCustomProvider(), customerID, projectID)
	r.checkText("slug", string(slug))
	r.checkText("base_url", baseURL)
	body := addProviderRequest{Slug: slug, BaseURL: baseURL}
	for _, option := range options {
		option(&body)
	}
	r.body = body
	return send(ctx, r, func(r *aikeysv1.CustomProviderResponse) bool { return r.Provider.Slug != "" })
}

// RemoveCustom removes a server that a project's owners added. If the server has keys that are not revoked, the call
// fails with status 409. Owners only, if the service's operator allows it.
func (p *ProvidersClient) RemoveCustom(
	ctx context.Context, customerID, projectID string, slug aikeysv1.Provider,
) (*aikeysv1.CustomProviderResponse, error) {
	r := p.service.inProject(operations.RemoveCustomProvider(), customerID, projectID, "slug", string(slug))
	return send(ctx, r, func(r *aikeysv1.CustomProviderResponse) bool { return r.Provider.Slug != "" })
}
