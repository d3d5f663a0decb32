// Package fakeprovider imitates LLM providers for demonstrations and tests: an http.Handler that implements enough of the
// APIs of OpenAI, Azure OpenAI, Anthropic, Gemini, Vertex AI and Bedrock for their own SDKs to work with it, streaming and not. Providers
// with OpenAI's or Anthropic's API are imitated below the paths of their base URLs.
//
// It looks for the credential where the imitated provider does. It accepts a set of secrets, which can change while it
// serves, and refuses any other credential in that provider's own error format. It stores nothing of a request and logs
// nothing.
//
// Package gatewaytest serves it on a socket for tests. Package fakeprovider imports nothing of ours, and must not.
package fakeprovider

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Options are the settings of a Handler. The zero value accepts no secret, and sends its pieces without a pause.
type Options struct {
	// Secrets are accepted from the start.
	Secrets []string
	// AnySecret accepts all other secrets too, unless they are rejected.
	AnySecret bool
	// Pieces make up the text of every answer; a streamed answer sends each as a separate event. If empty, DefaultPieces.
	Pieces []string
	// Pace is called before each piece of a streamed answer and may delay it; if it returns an error, the connection is
	// cut. The events before the first piece have been sent by then. If nil, there is no pause.
	Pace func(ctx context.Context, piece int) error
}

// DefaultPieces returns the pieces of the default answer.
func DefaultPieces() []string { return []string{"Hello", " from", " the", " fake", " provider", "."} }

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

// Handler imitates the providers. It is safe for concurrent use.
type Handler struct {
	pieces []string
	any    bool // Options.AnySecret
	pace   func(ctx context.Context, piece int) error
	mux    *http.ServeMux

	mu      sync.RWMutex
	answers map[string]int // secret → status of the answer, http.StatusOK if it is accepted; guarded by mu
}

// New returns a Handler.
func New(options Options) *Handler {
	h := &Handler{pieces: options.Pieces, any: options.AnySecret, pace: options.Pace, mux: http.NewServeMux(), answers: map[string]int{}}
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

// routes registers each path with and without the version in the provider's base URL, so that either base URL works.
func (h *Handler) routes() {
	// The bases of OpenAI and others, Groq and Azure, DeepInfra, Fireworks, OpenRouter, and Cohere.
	for _, base := range []string{"", "/v1", "/openai/v1", "/v1/openai", "/inference/v1", "/api/v1", "/compatibility/v1"} {
		h.mux.HandleFunc("POST "+base+"/chat/completions", h.completion(openAI()))
		h.mux.HandleFunc("GET "+base+"/models", h.models(openAI()))
	}
	h.mux.HandleFunc("POST /openai/deployments/{deployment}/chat/completions", h.completion(azure()))
	for _, base := range []string{"", "/anthropic"} {
		h.mux.HandleFunc("POST "+base+"/v1/messages", h.completion(anthropic()))
	}
	for _, version := range []string{"/v1", "/v1beta1"} {
		publishers := "POST " + version + "/projects/{project}/locations/{location}/publishers"
		h.mux.HandleFunc(publishers+"/google/models/{call}", h.completion(vertex()))
		h.mux.HandleFunc(publishers+"/anthropic/models/{call}", h.completion(vertexAnthropic()))
	}
	h.mux.HandleFunc("POST /model/{model}/invoke", h.completion(invoke(false)))
	h.mux.HandleFunc("POST /model/{model}/invoke-with-response-stream", h.completion(invoke(true)))
	h.mux.HandleFunc("POST /model/{model}/converse", h.completion(converse(false)))
	h.mux.HandleFunc("POST /model/{model}/converse-stream", h.completion(converse(true)))
	for _, base := range []string{"", "/v1", "/v1alpha", "/v1beta"} {
		h.mux.HandleFunc("POST "+base+"/models/{call}", h.completion(gemini()))
	}
	h.mux.HandleFunc("POST /v1beta/openai/chat/completions", h.completion(geminiOpenAI()))
	h.mux.HandleFunc("POST /upload/{version}/files", h.upload)
	h.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { openAI().refuse(w, http.StatusNotFound) })
}

// ServeHTTP answers as the provider to which the path belongs. Unknown paths get OpenAI's 404.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.mux.ServeHTTP(w, r) }

// Accept makes the handler accept the secret from the next request on.
func (h *Handler) Accept(secret string) { h.set(secret, http.StatusOK) }

// Reject makes the handler refuse the secret with a status, 401 or 403, from the next request on. Running streams
// continue. An unknown secret gets 401.
func (h *Handler) Reject(secret string, status int) { h.set(secret, status) }

func (h *Handler) set(secret string, status int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.answers[secret] = status
}

// statusFor returns the status for the credential in the request.
func (h *Handler) statusFor(api dialect, r *http.Request) int {
	secret := api.credential(r.Header)
	h.mu.RLock()
	defer h.mu.RUnlock()
	status, known := h.answers[secret]
	switch {
	case secret == "" || !known && !h.any:
		return http.StatusUnauthorized
	case !known:
		return http.StatusOK
	}
	return status
}

// maxBody bounds the body of a request; providers accept some tens of megabytes.
const maxBody = 64 << 20

// dialect holds the differences between the providers' APIs.
type dialect struct {
	// credential returns the caller's secret, or "".
	credential func(http.Header) string
	// problem returns the body of a refusal.
	problem func(status int) any
	// parse reads a request for a completion, and reports whether it is one.
	parse func(r *http.Request) (completionRequest, bool)
	// whole returns the body of an answer that is not streamed.
	whole func(c completionRequest, text string) any
	// begin, piece and end return the events of a streamed answer.
	begin func(c completionRequest) []event
	piece func(c completionRequest, text string) event
	end   func(c completionRequest, pieces int) []event
	// write writes an event of a streamed answer, and media is the answer's type. If write is nil and media is empty,
	// the events are server-sent events.
	write func(w io.Writer, e event) error
	media string
}

// completionRequest is a request for a completion.
type completionRequest struct {
	Model         string `json:"model"`
	Stream        bool   `json:"stream"`
	StreamOptions struct {
		IncludeUsage bool `json:"include_usage"`
	} `json:"stream_options"`
}

// object is a JSON object.
type object = map[string]any

// parseBody reads the request of a provider that puts everything in the body.
func parseBody(r *http.Request) (completionRequest, bool) {
	var c completionRequest
	err := json.NewDecoder(r.Body).Decode(&c)
	return c, err == nil && c.Model != ""
}

// completion returns the handler for completions.
func (h *Handler) completion(api dialect) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if status := h.statusFor(api, r); status != http.StatusOK {
			api.refuse(w, status)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		c, ok := api.parse(r)
		switch {
		case !ok:
			api.refuse(w, http.StatusBadRequest)
		case c.Stream:
			h.stream(w, r, api, c)
		default:
			reply(w, http.StatusOK, api.whole(c, strings.Join(h.pieces, "")))
		}
	}
}

// stream sends the answer as server-sent events, each piece when pace allows it.
func (h *Handler) stream(w http.ResponseWriter, r *http.Request, api dialect, c completionRequest) {
	w.Header().Set("Content-Type", cmp.Or(api.media, "text/event-stream"))
	w.Header().Set("Cache-Control", "no-cache")
	write := api.write
	if write == nil {
		write = writeEvent
	}
	if send(w, write, api.begin(c)...) != nil {
		return // the client is gone
	}
	for i, text := range h.pieces {
		if h.pace(r.Context(), i) != nil {
			panic(http.ErrAbortHandler) // cuts the connection, so that no client takes this for the end of the stream
		}
		if send(w, write, api.piece(c, text)) != nil {
			return
		}
	}
	_ = send(w, write, api.end(c, len(h.pieces))...)
}

// models returns the handler for the list of models.
func (h *Handler) models(api dialect) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if status := h.statusFor(api, r); status != http.StatusOK {
			api.refuse(w, status)
			return
		}
		reply(w, http.StatusOK, object{"object": "list", "data": []object{
			{"id": "fake-1", "object": "model", "created": created, "owned_by": "fakeprovider"},
		}})
	}
}

func (api dialect) refuse(w http.ResponseWriter, status int) { reply(w, status, api.problem(status)) }

func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client may be gone
}

// event is an event of a stream: a name, which some providers omit, and data, which is sent as JSON, or unchanged if it is
// a string.
type event struct {
	name string
	data any
}

// send writes events and flushes them.
func send(w http.ResponseWriter, write func(io.Writer, event) error, events ...event) error {
	var out bytes.Buffer
	for _, e := range events {
		if err := write(&out, e); err != nil {
			return err
		}
	}
	if _, err := w.Write(out.Bytes()); err != nil {
		return err
	}
	return http.NewResponseController(w).Flush()
}

// writeEvent writes a server-sent event.
func writeEvent(w io.Writer, e event) error {
	name := ""
	if e.name != "" {
		name = "event: " + e.name + "\n"
	}
	data, isText := e.data.(string)
	if !isText {
		encoded, err := json.Marshal(e.data)
		if err != nil {
			return err
		}
		data = string(encoded)
	}
	_, err := io.WriteString(w, name+"data: "+data+"\n\n")
	return err
}
