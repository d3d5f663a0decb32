package agentrouter

import (
	"context"
	"encoding/json"
	"time"

	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"
	"github.com/tetrateio/agentrouter-go/internal/operations"
)

// ProjectsClient reads in which projects the caller may act.
type ProjectsClient struct{ service service }

// With returns a client whose calls take these optional parameters: PageSize and PageToken.
func (p *ProjectsClient) With(options ...CallOption) *ProjectsClient {
	return &ProjectsClient{p.service.with(options)}
}

// List returns the projects with the caller's role, sorted by id: all of them, or one page with PageSize or PageToken.
func (p *ProjectsClient) List(ctx context.Context) (*aikeysv1.ListProjectsResponse, error) {
	return list(p.service, func(s service) (*aikeysv1.ListProjectsResponse, error) {
		r := s.request(operations.ListProjects())
		return send(ctx, r, func(r *aikeysv1.ListProjectsResponse) bool { return r.Projects != nil })
	}, func(page *aikeysv1.ListProjectsResponse) (*[]aikeysv1.Project, *string) {
		return &page.Projects, &page.NextPageToken
	})
}

// TokensClient makes, lists and revokes API keys of the service.
type TokensClient struct{ service service }

// With returns a client whose calls take these optional parameters: ActiveTokens, PageSize and PageToken for List and ListInProject;
// ForProjects, TokenExpiresAt and TokenNeverExpires for Create; Wait and Cascade for Revoke and RevokeInProject.
func (t *TokensClient) With(options ...CallOption) *TokensClient {
	return &TokensClient{t.service.with(options)}
}

// ActiveTokens lists only API keys that are neither revoked nor expired.
func ActiveTokens() CallOption { return func(s *service) { s.setQuery("state", "active") } }

// Cascade has a revocation end the API keys that were made with the revoked one, too.
func Cascade() CallOption { return func(s *service) { s.setQuery("cascade", "true") } }

// ForProjects has Create make an API key that acts in these projects alone.
func ForProjects(ids ...string) CallOption {
	return func(s *service) { s.token.set("projects", ids) }
}

// TokenExpiresAt has Create make an API key that expires at a time, instead of after 90 days.
func TokenExpiresAt(t time.Time) CallOption {
	return func(s *service) { s.token.set("expires_at", t.UTC()) }
}

// TokenNeverExpires has Create make an API key that does not expire.
func TokenNeverExpires() CallOption {
	return func(s *service) { s.token.set("expires_at", nil) }
}

// tokenOptions are what a Create asks for beside the name. It is copied, not changed.
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
	return listTokens(ctx, t.service, func(s service) *request { return s.request(operations.ListTokens()) })
}

// ListInProject returns the API keys with which members may act in a project, newest first. Owners only.
func (t *TokensClient) ListInProject(ctx context.Context, customerID, projectID string) (*aikeysv1.ListTokensResponse, error) {
	return listTokens(ctx, t.service, func(s service) *request {
		return s.inProject(operations.ListProjectTokens(), customerID, projectID)
	})
}

func listTokens(ctx context.Context, s service, newRequest func(service) *request) (*aikeysv1.ListTokensResponse, error) {
	return list(s, func(s service) (*aikeysv1.ListTokensResponse, error) {
		return send(ctx, newRequest(s), func(r *aikeysv1.ListTokensResponse) bool { return r.Tokens != nil })
	}, func(page *aikeysv1.ListTokensResponse) (*[]aikeysv1.Token, *string) {
		return &page.Tokens, &page.NextPageToken
	})
}

// NewToken is a new API key, and what it is used with.
type NewToken struct {
	Token  aikeysv1.Token `json:"token"`
	APIKey APIKey         `json:"api_key"`
}

// APIKey is the text of an API key. It prints as [redacted].
type APIKey struct{ text func() string }

// Reveal returns the text.
func (k APIKey) Reveal() string {
	if k.text == nil {
		return ""
	}
	return k.text()
}

// String returns "[redacted]".
func (APIKey) String() string { return redacted }

// GoString returns the same as String.
func (APIKey) GoString() string { return redacted }

// MarshalText returns the same as String.
func (APIKey) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// UnmarshalJSON reads what the service has sent.
func (k *APIKey) UnmarshalJSON(wire []byte) error {
	var text string
	err := json.Unmarshal(wire, &text)
	k.text = func() string { return text }
	return err
}

// Create makes an API key of the caller's. The service shows it this once; a repeat makes another. Without ForProjects it acts in every
// project of the caller's, and it expires after 90 days unless TokenExpiresAt or TokenNeverExpires says otherwise.
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

// Revoke revokes an API key of the caller's, which may be the one in use, permanently. The receipt says how many data planes have
// confirmed; with Wait, the service answers when all have. Revoking again is safe.
func (t *TokensClient) Revoke(ctx context.Context, id string) (*aikeysv1.RevokeTokenResponse, error) {
	return revokeToken(ctx, t.service.request(operations.RevokeToken(), "token_id", id))
}

// RevokeInProject keeps a member's API key from acting in a project, permanently. Owners only.
func (t *TokensClient) RevokeInProject(ctx context.Context, customerID, projectID, id string) (*aikeysv1.RevokeTokenResponse, error) {
	return revokeToken(ctx, t.service.inProject(operations.RevokeProjectToken(), customerID, projectID, "token_id", id))
}

func revokeToken(ctx context.Context, r *request) (*aikeysv1.RevokeTokenResponse, error) {
	return send(ctx, r, func(r *aikeysv1.RevokeTokenResponse) bool { return r.Token.TokenID != "" && r.Receipt.State != "" })
}
