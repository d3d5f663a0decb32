// Package agentrouter is the Go SDK of AgentRouter AI Keys. You register a provider's key once under a project, and it
// serves the project's inference from then on. Nobody can read it back.
//
//	client, err := agentrouter.New(ctx) // reads AGENTROUTER_BASE_URL and AGENTROUTER_API_KEY
//	reply, err := client.AIKeys().RegisterKey(ctx, agentrouter.RegisterParams{
//		Provider: aikeysv1.ProviderOpenai, Name: "openai-prod", Secret: agentrouter.Secret(key),
//	})
//
// An empty customer or project means the session's own. With sets optional parameters, either for one group of calls or
// for all calls:
//
//	client.AIKeys().With(agentrouter.Wait(2*time.Second)).Revoke(ctx, "", "", id)
//	client.With(agentrouter.Timeout(5*time.Second)).WhoAmI(ctx)
//
// A failed call returns an *Error if the service answered with an error; use errors.Is to compare it with ErrNotFound,
// ErrPermissionDenied and the others. It returns a *ConnectionError if there was no answer, an *ArgumentError if an
// argument is invalid and nothing was sent, or a *CredentialError if WithAPIKeySource gave no API key. The client
// retries; see WithMaxRetries. Nothing in this package prints an API key or a provider's secret.
//
// The package imports the standard library, the API's types in aikeys/v1 and the generated operations.
package agentrouter

import (
	"context"
	"log/slog"
	"net/http"
	"runtime"
	"slices"
	"time"

	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"
	"github.com/tetrateio/agentrouter-go/internal/operations"
)

// Client calls one installation with one credential. It is safe for concurrent use and need not be closed.
type Client struct {
	base       string                                            // the base URL without a trailing slash
	apiKey     func(ctx context.Context) (key string, err error) // a func, so that printing a Client can't show the API key
	http       *http.Client
	userAgent  string
	timeout    time.Duration // for one attempt
	maxRetries int
	log        *slog.Logger // nil logs nothing
	options    []CallOption // of all calls
	sleep      func(ctx context.Context, d time.Duration) error
}

// New returns a client. Options win over the environment variables AGENTROUTER_BASE_URL and AGENTROUTER_API_KEY; options
// with an empty value are ignored. New makes no connection; the context is for future use.
func New(_ context.Context, options ...Option) (*Client, error) {
	s := defaults()
	for _, option := range options {
		if option != nil {
			option(&s)
		}
	}
	return s.newClient()
}

// String returns the client's base URL and nothing of its credential.
func (c *Client) String() string { return "agentrouter.Client(" + c.base + ")" }

// GoString returns the same as String.
func (c *Client) GoString() string { return c.String() }

// With returns a client that adds options to all of its calls: Timeout, MaxRetries, Header or ResponseInto.
func (c *Client) With(options ...CallOption) *Client {
	copied := *c
	copied.options = slices.Concat(c.options, options)
	return &copied
}

// service returns the client as a service, with the options of all calls.
func (c *Client) service() service { return service{client: c}.with(c.options) }

// AIKeys registers, reads and revokes provider keys.
func (c *Client) AIKeys() *AIKeysClient { return &AIKeysClient{c.service()} }

// Policy reads and writes the project's policy.
func (c *Client) Policy() *PolicyClient { return &PolicyClient{c.service()} }

// Events reads the audit trail.
func (c *Client) Events() *EventsClient { return &EventsClient{c.service()} }

// Usage reads how often each key served each user.
func (c *Client) Usage() *UsageClient { return &UsageClient{c.service()} }

// Fetches reads which data planes fetched which keys.
func (c *Client) Fetches() *FetchesClient { return &FetchesClient{c.service()} }

// Members reads and writes the project's members.
func (c *Client) Members() *MembersClient { return &MembersClient{c.service()} }

// Leaks finds and revokes keys that have leaked.
func (c *Client) Leaks() *LeaksClient { return &LeaksClient{c.service()} }

// Projects lists the projects in which the caller may act.
func (c *Client) Projects() *ProjectsClient { return &ProjectsClient{c.service()} }

// Tokens creates, lists and revokes API keys of this service.
func (c *Client) Tokens() *TokensClient { return &TokensClient{c.service()} }

// Providers reads the catalogue of providers, and manages a project's own servers.
func (c *Client) Providers() *ProvidersClient { return &ProvidersClient{c.service()} }

// WhoAmI returns the session: the credential's user, and the customer and project that "" means.
func (c *Client) WhoAmI(ctx context.Context) (*aikeysv1.WhoAmIResponse, error) {
	request := c.service().request(operations.WhoAmI())
	return send(ctx, request, func(r *aikeysv1.WhoAmIResponse) bool { return r.UserID != "" })
}

// SignInOptions returns which credentials the service accepts, and how people get a session token from its OpenID Connect issuer.
func (c *Client) SignInOptions(ctx context.Context) (*aikeysv1.SignInOptionsResponse, error) {
	request := c.service().request(operations.GetSignInOptions())
	return send(ctx, request, func(r *aikeysv1.SignInOptionsResponse) bool { return len(r.Methods) > 0 })
}

// Version is the SDK's version.
const Version = "0.1.1"

func defaultUserAgent() string { return "agentrouter-go/" + Version + " (" + runtime.Version() + ")" }
