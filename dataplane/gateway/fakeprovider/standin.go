// Package fakeprovider is a stand-in for LLM providers, for demonstrations and tests: an http.Handler that speaks enough of
// the APIs of OpenAI, Azure OpenAI, Anthropic and Gemini for their own SDKs to work against it, streaming and not.
//
// It looks for the credential where the provider that it plays does, and takes those that it was told to accept, which
// can change while it serves. Any other is refused in that provider's own error format. It keeps nothing of a request
// and prints nothing.
//
// Package gatewaytest puts it behind a socket for tests. It imports nothing of ours, and must not.
package fakeprovider

import (
	"context"
	"net/http"
	"sync"
	"time"
)

// Options are the settings of a Handler. The zero value accepts nobody, and sends its pieces without a pause.
type Options struct {
	// Secrets are accepted from the start.
	Secrets []string
	// Pieces of the text that every answer has; a streamed answer sends each as a chunk of its own. DefaultPieces when
	// it is empty.
	Pieces []string
	// Pace is called before each piece of a streamed answer, which it may delay; the connection is cut where it
	// returns an error. What comes before the first piece has been sent by then. No pause when it is nil.
	Pace func(ctx context.Context, piece int) error
}

// DefaultPieces returns the text that a Handler answers with when it has no other.
func DefaultPieces() []string { return []string{"Hello", " from", " the", " stand-in", "."} }

// Every returns an Options.Pace that waits for d before each piece.
func Every(d time.Duration) func(ctx context.Context, piece int) error {
	return func(ctx context.Context, _ int) error {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(d):
			return nil
		}
	}
}

// Handler plays the providers. It is safe for concurrent use.
type Handler struct {
	pieces []string
	pace   func(ctx context.Context, piece int) error
	mux    *http.ServeMux

	mu      sync.RWMutex
	answers map[string]int // the status for each secret that it was told of; http.StatusOK accepts
}

// New returns a Handler.
func New(options Options) *Handler {
	h := &Handler{pieces: options.Pieces, pace: options.Pace, mux: http.NewServeMux(), answers: map[string]int{}}
	if len(h.pieces) == 0 {
		h.pieces = DefaultPieces()
	}
	if h.pace == nil {
		h.pace = func(ctx context.Context, _ int) error { return ctx.Err() }
	}
	for _, secret := range options.Secrets {
		h.Accept(secret)
	}
	h.routes()
	return h
}

// routes serves each path with and without the version that stands before it in the provider's base URL, so that a base
// URL is right with either.
func (h *Handler) routes() {
	for _, base := range []string{"", "/v1", "/openai/v1"} {
		h.mux.HandleFunc("POST "+base+"/chat/completions", h.completion(openAI()))
		h.mux.HandleFunc("GET "+base+"/models", h.models(openAI()))
	}
	h.mux.HandleFunc("POST /openai/deployments/{deployment}/chat/completions", h.completion(azure()))
	h.mux.HandleFunc("POST /v1/messages", h.completion(anthropic()))
	for _, base := range []string{"", "/v1beta"} {
		h.mux.HandleFunc("POST "+base+"/models/{call}", h.completion(gemini()))
	}
	h.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { openAI().refuse(w, http.StatusNotFound) })
}

// ServeHTTP answers as the provider whose path it is. Paths of none get OpenAI's 404.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.mux.ServeHTTP(w, r) }

// Accept makes the handler take the secret from the next request on.
func (h *Handler) Accept(secret string) { h.set(secret, http.StatusOK) }

// Reject makes the handler answer the secret with a status, 401 or 403, from the next request on. Streams that have
// begun go on. A secret that it was never told of gets 401.
func (h *Handler) Reject(secret string, status int) { h.set(secret, status) }

func (h *Handler) set(secret string, status int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.answers[secret] = status
}

// admit returns the status for the credential that the request carries.
func (h *Handler) admit(api dialect, r *http.Request) int {
	secret := api.credential(r.Header)
	h.mu.RLock()
	defer h.mu.RUnlock()
	if status, known := h.answers[secret]; known && secret != "" {
		return status
	}
	return http.StatusUnauthorized
}
