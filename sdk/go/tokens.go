package agentrouter

import (
	"context"
	"time"

	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"
	"github.com/tetrateio/agentrouter-go/internal/operations"
)

// ProjectsClient lists the projects in which the caller may act.
type ProjectsClient struct{ service service }

// With returns a client that adds options to its calls: PageSize and PageToken.
func (p *ProjectsClient) With(options ...CallOption) *ProjectsClient {
	return &ProjectsClient{p.service.with(options)}
}

// List returns the projects with the caller's role, sorted by id: all of them, or one page with PageSize or PageToken.
func (p *ProjectsClient) List(ctx context.Context) (*aikeysv1.ListProjectsResponse, error) {
	return pages[aikeysv1.ListProjectsResponse, aikeysv1.Project]{
		p.service, func(s service) *request { return s.request(operations.ListProjects()) },
		func(r *aikeysv1.ListProjectsResponse) (*[]aikeysv1.Project, *string) {
			return &r.Projects, &r.NextPageToken
		},
	}.list(ctx)
}

// TokensClient creates, lists and revokes API keys of this service.
type TokensClient struct{ service service }

// With returns a client that adds options to its calls. List and ListInProject take ActiveTokens, PageSize and PageToken; Create takes
// ForProjects, TokenExpiresAt and TokenNeverExpires; Revoke and RevokeInProject take Wait and Cascade.
func (t *TokensClient) With(options ...CallOption) *TokensClient {
	return &TokensClient{t.service.with(options)}
}

// ActiveTokens lists only API keys that are neither revoked nor expired.
func ActiveTokens() CallOption { return func(s *service) { s.setQuery("state", "active") } }

// Cascade also revokes the API keys that were created with the revoked one.
func Cascade() CallOption { return func(s *service) { s.setQuery("cascade", "true") } }

// ForProjects creates an API key that can act only in these projects.
func ForProjects(ids ...string) CallOption {
	return func(s *service) { s.token.set("projects", ids) }
}

// TokenExpiresAt creates an API key that expires at a time, instead of after 90 days.
func TokenExpiresAt(t time.Time) CallOption {
	return func(s *service) { s.token.set("expires_at", t.UTC()) }
}

// TokenNeverExpires creates an API key that does not expire.
func TokenNeverExpires() CallOption {
	return func(s *service) { s.token.set("expires_at", nil) }
}

// tokenOptions are the members of Create's body beside the name. It is copied, not changed.
type tokenOptions map[string]any

func (o *tokenOptions) set(name string, value any) {
	changed := tokenOptions{name: value}
	for other, value := range *o {
		if other != name {
			changed[other] = value
		}
	}
	*o = changed
}

// List returns the caller's own API keys, newest first: all of them, or one page with PageSize or PageToken.
func (t *TokensClient) List(ctx context.Context) (*aikeysv1.ListTokensResponse, error) {
	return pages[aikeysv1.ListTokensResponse, aikeysv1.Token]{
		t.service, func(s service) *request { return s.request(operations.ListTokens()) }, tokensOf,
	}.list(ctx)
}

// ListInProject returns the API keys with which members may act in a project, newest first. Owners only.
func (t *TokensClient) ListInProject(ctx context.Context, customerID, projectID string) (*aikeysv1.ListTokensResponse, error) {
	return pagesInProject(t.service, operations.ListProjectTokens(), customerID, projectID, tokensOf).list(ctx)
}

func tokensOf(r *aikeysv1.ListTokensResponse) (items *[]aikeysv1.Token, next *string) {
	return &r.Tokens, &r.NextPageToken
}

// NewToken is a new API key: its metadata, and its text.
type NewToken struct {
	Token  aikeysv1.Token `json:"token"`
	APIKey APIKey         `json:"api_key"`
}

// Create creates an API key for the caller. The service returns the API key's text only in this response, and a
// repeated call creates another API key. Without ForProjects, the API key can act in all of the caller's projects.
// Without TokenExpiresAt and TokenNeverExpires, it expires after 90 days.
func (t *TokensClient) Create(ctx context.Context, name string) (*NewToken, error) {
	r := t.service.request(operations.CreateToken())
	r.checkText("name", name)
	body := map[string]any{"name": name}
	for option, value := range t.service.token {
		body[option] = value
	}
	r.body = body
	return send(ctx, r, func(n *NewToken) bool { return n.Token.TokenID != "" && n.APIKey.Reveal() != "" })
}

// Revoke permanently revokes an API key of the caller, even the API key that this client uses. The receipt says how
// many data planes have confirmed the revocation; with Wait, the service answers when all data planes have confirmed.
// Revoking again is safe.
func (t *TokensClient) Revoke(ctx context.Context, id string) (*aikeysv1.RevokeTokenResponse, error) {
	return revokeToken(ctx, t.service.request(operations.RevokeToken(), "token_id", id))
}

// RevokeInProject permanently bars a member's API key from a project. Owners only.
func (t *TokensClient) RevokeInProject(ctx context.Context, customerID, projectID, id string) (*aikeysv1.RevokeTokenResponse, error) {
	return revokeToken(ctx, t.service.inProject(operations.RevokeProjectToken(), customerID, projectID, "token_id", id))
}

func revokeToken(ctx context.Context, r *request) (*aikeysv1.RevokeTokenResponse, error) {
	return send(ctx, r, func(r *aikeysv1.RevokeTokenResponse) bool { return r.Token.TokenID != "" && r.Receipt.State != "" })
}
