// Package agentrouter is the Go SDK of AgentRouter AI Keys. You register a provider's key once under a project, and it
// serves the project's inference from then on. Nobody can read it back.
//
//	client, err := agentrouter.New(ctx) // reads AGENTROUTER_BASE_URL and AGENTROUTER_API_KEY
//	reply, err := client.AIKeys().Register(ctx, "", "", "openai", "openai-prod", secret, false)
//
// An empty customer or project means the session's own. With sets optional parameters:
//
//	client.AIKeys().With(agentrouter.Wait(2*time.Second)).Revoke(ctx, "", "", id)
//
// A failed call returns an *Error (the service answered with an error; distinguish them with errors.Is: ErrNotFound,
// ErrPermissionDenied, …), a *ConnectionError (no answer) or an *ArgumentError (nothing was sent). The client retries; see
// WithMaxRetries. Nothing in this package prints an API key or a provider's secret.
//
// It imports the standard library, the API's types in aikeys/v1 and the generated operations.
package agentrouter

import (
	"context"
	"net/http"
	"runtime"
	"time"

	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"
	"github.com/tetrateio/agentrouter-go/internal/operations"
)

// Client calls one installation with one credential. It is safe for concurrent use and need not be closed.
type Client struct {
	base       string            // the base URL without a trailing slash
	authorize  func(http.Header) // a closure over the API key, so that printing a Client can't show it
	http       *http.Client
	userAgent  string
	timeout    time.Duration // for one attempt
	maxRetries int
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

// AIKeys registers, reads and revokes provider keys.
func (c *Client) AIKeys() *AIKeysClient { return &AIKeysClient{service{client: c}} }

// Policy reads and writes the project's policy on whose keys serve whom.
func (c *Client) Policy() *PolicyClient { return &PolicyClient{service{client: c}} }

// Events reads the audit trail.
func (c *Client) Events() *EventsClient { return &EventsClient{service{client: c}} }

// Usage reads how often which key served whom.
func (c *Client) Usage() *UsageClient { return &UsageClient{service{client: c}} }

// Fetches reads which data planes fetched which keys.
func (c *Client) Fetches() *FetchesClient { return &FetchesClient{service{client: c}} }

// Members reads and writes the project's members.
func (c *Client) Members() *MembersClient { return &MembersClient{service{client: c}} }

// Projects reads in which projects the caller may act.
func (c *Client) Projects() *ProjectsClient { return &ProjectsClient{service{client: c}} }

// Tokens makes, lists and revokes API keys of the service.
func (c *Client) Tokens() *TokensClient { return &TokensClient{service{client: c}} }

// Providers reads the catalogue of providers.
func (c *Client) Providers() *ProvidersClient { return &ProvidersClient{service{client: c}} }

// WhoAmI returns the session: the credential's user, and the customer and project that "" means.
func (c *Client) WhoAmI(ctx context.Context) (*aikeysv1.WhoAmIResponse, error) {
	request := service{client: c}.request(operations.WhoAmI())
	return send(ctx, request, func(r *aikeysv1.WhoAmIResponse) bool { return r.UserID != "" })
}

// Version is the SDK's version.
const Version = "0.1.1"

func defaultUserAgent() string { return "agentrouter-go/" + Version + " (" + runtime.Version() + ")" }
