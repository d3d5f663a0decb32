// Package agentrouter is the Go SDK of AgentRouter AI Keys: provider keys are registered once under a project, serve its
// inference from then on, and can be read back by nobody.
//
//	client, err := agentrouter.New(ctx) // reads AGENTROUTER_BASE_URL and AGENTROUTER_API_KEY
//	reply, err := client.AIKeys().Register(ctx, "", "", "openai", "openai-prod", secret, false)
//
// An empty customer or project stands for the session's own. Optional parameters come from With:
//
//	client.AIKeys().With(agentrouter.Wait(2*time.Second)).Revoke(ctx, "", "", id)
//
// Failures are an *Error (the service's answer, told apart with errors.Is: ErrNotFound, ErrPermissionDenied, …), a
// *ConnectionError (no answer) or an *ArgumentError (nothing was sent). Requests are repeated where that is safe; see
// WithMaxRetries. Nothing in this package prints an API key or a provider's secret.
//
// It imports the standard library, the contract's types in aikeys/v1 and the operations that are generated from it.
package agentrouter

import (
	"context"
	"net/http"
	"time"

	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"
	"github.com/tetrateio/agentrouter-go/internal/operations"
)

// Client calls one installation with one credential. It is safe for concurrent use, and needs no closing.
type Client struct {
	base       string            // without a slash at its end
	authorize  func(http.Header) // holds the API key where nothing that prints a Client finds it
	http       *http.Client
	userAgent  string
	timeout    time.Duration // of one attempt
	maxRetries int
	pause      func(ctx context.Context, d time.Duration) error
}

// New returns a client. Options win over the environment's AGENTROUTER_BASE_URL and AGENTROUTER_API_KEY; an option with
// an empty value is none. It connects to nothing yet; the context is for future use.
func New(_ context.Context, options ...Option) (*Client, error) {
	s := defaults()
	for _, option := range options {
		if option != nil {
			option(&s)
		}
	}
	return s.client()
}

// String names the client by its server and shows nothing of its credential.
func (c *Client) String() string { return "agentrouter.Client(" + c.base + ")" }

// GoString is String: %#v shows no more.
func (c *Client) GoString() string { return c.String() }

// AIKeys registers, reads and revokes provider keys.
func (c *Client) AIKeys() *AIKeysClient { return &AIKeysClient{service{client: c}} }

// Policy reads and writes the project's policy on whose keys serve whom.
func (c *Client) Policy() *PolicyClient { return &PolicyClient{service{client: c}} }

// Events reads the audit trail.
func (c *Client) Events() *EventsClient { return &EventsClient{service{client: c}} }

// Members reads and writes who is in the project.
func (c *Client) Members() *MembersClient { return &MembersClient{service{client: c}} }

// Providers reads the catalogue of providers.
func (c *Client) Providers() *ProvidersClient { return &ProvidersClient{service{client: c}} }

// WhoAmI returns the session: whom the credential stands for, and the customer and project that "" means.
func (c *Client) WhoAmI(ctx context.Context) (*aikeysv1.WhoAmIResponse, error) {
	request := service{client: c}.request(operations.WhoAmI())
	return send(ctx, request, func(r *aikeysv1.WhoAmIResponse) bool { return r.UserID != "" })
}
