package agentrouter

import (
	"context"

	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"
	"github.com/tetrateio/agentrouter-go/internal/operations"
)

// ProvidersClient reads the catalogue of providers, and manages those that are servers of a project's own.
type ProvidersClient struct{ service service }

// List returns the providers whose keys can be registered, and what a form needs to know about each.
func (p *ProvidersClient) List(ctx context.Context) (*aikeysv1.ListProvidersResponse, error) {
	r := p.service.request(operations.ListProviders())
	return send(ctx, r, func(r *aikeysv1.ListProvidersResponse) bool { return r.Providers != nil })
}

// ListCustom returns the servers of your own that are providers of a project beside the catalogue's.
func (p *ProvidersClient) ListCustom(ctx context.Context, customerID, projectID string) (*aikeysv1.ListCustomProvidersResponse, error) {
	r := p.service.inProject(operations.ListCustomProviders(), customerID, projectID)
	return send(ctx, r, func(r *aikeysv1.ListCustomProvidersResponse) bool { return r.Providers != nil })
}

// addProviderRequest is the body of AddCustom. What is empty is left to the service.
type addProviderRequest struct {
	Slug        aikeysv1.Provider        `json:"slug"`
	BaseURL     string                   `json:"base_url"`
	DisplayName string                   `json:"display_name,omitempty"`
	Dialect     aikeysv1.Dialect         `json:"dialect,omitempty"`
	AuthStyle   aikeysv1.CustomAuthStyle `json:"auth_style,omitempty"`
	Header      string                   `json:"header,omitempty"`
}

// ProviderOption says something of a server that AddCustom adds.
type ProviderOption func(*addProviderRequest)

// DisplayName gives the server a name for people other than its slug.
func DisplayName(name string) ProviderOption {
	return func(r *addProviderRequest) { r.DisplayName = name }
}

// Speaks says whose API the server speaks, if it is not OpenAI's.
func Speaks(dialect aikeysv1.Dialect) ProviderOption {
	return func(r *addProviderRequest) { r.Dialect = dialect }
}

// KeyInHeader has the server get its key in a header, such as X-Api-Key, instead of as a bearer token.
func KeyInHeader(name string) ProviderOption {
	return func(r *addProviderRequest) { r.AuthStyle, r.Header = aikeysv1.CustomAuthStyleHeader, name }
}

// WithoutKey says that the server takes no key. A key is registered for it nevertheless, with the word none as its secret.
func WithoutKey() ProviderOption {
	return func(r *addProviderRequest) { r.AuthStyle, r.Header = aikeysv1.CustomAuthStyleNone, "" }
}

// AddCustom makes a server of your own a provider of a project. It never changes. Owners only, where the operator of the service lets them.
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

// RemoveCustom removes a server that a project's owners added. Owners only, where the operator of the service lets them. While it has keys
// that are not revoked, it returns an error of status 409.
func (p *ProvidersClient) RemoveCustom(
	ctx context.Context, customerID, projectID string, slug aikeysv1.Provider,
) (*aikeysv1.CustomProviderResponse, error) {
	r := p.service.inProject(operations.RemoveCustomProvider(), customerID, projectID, "slug", string(slug))
	return send(ctx, r, func(r *aikeysv1.CustomProviderResponse) bool { return r.Provider.Slug != "" })
}
