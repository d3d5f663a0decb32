package fakeprovider

import (
	"encoding/json"
	"net/http"
	"strings"
)

// maxBody bounds what is read of a request; providers take some tens of megabytes.
const maxBody = 64 << 20

// dialect is what differs between providers.
type dialect struct {
	// credential finds the caller's secret, "" when there is none.
	credential func(http.Header) string
	// problem is the body of a refusal.
	problem func(status int) any
	// asks reads a request for a completion; not ok when it is not one.
	asks func(r *http.Request) (ask, bool)
	// whole is the body of an answer that is not streamed.
	whole func(a ask, text string) any
	// begin, piece and end are the events of a streamed answer.
	begin func(a ask) []event
	piece func(a ask, text string) event
	end   func(a ask, pieces int) []event
}

// ask is a request for a completion.
type ask struct {
	Model         string `json:"model"`
	Stream        bool   `json:"stream"`
	StreamOptions struct {
		IncludeUsage bool `json:"include_usage"`
	} `json:"stream_options"`
}

// object is a JSON object.
type object = map[string]any

// bodyAsks reads the ask of the providers whose body says it all.
func bodyAsks(r *http.Request) (ask, bool) {
	var a ask
	err := json.NewDecoder(r.Body).Decode(&a)
	return a, err == nil && a.Model != ""
}

// completion answers requests for a completion.
func (h *Handler) completion(api dialect) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if status := h.admit(api, r); status != http.StatusOK {
			api.refuse(w, status)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		a, ok := api.asks(r)
		switch {
		case !ok:
			api.refuse(w, http.StatusBadRequest)
		case a.Stream:
			h.stream(w, r, api, a)
		default:
			reply(w, http.StatusOK, api.whole(a, strings.Join(h.pieces, "")))
		}
	}
}

// stream sends the answer as server-sent events, each piece when its time has come.
func (h *Handler) stream(w http.ResponseWriter, r *http.Request, api dialect, a ask) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-cache")
	if send(w, api.begin(a)...) != nil {
		return // the client is gone
	}
	for i, text := range h.pieces {
		if h.pace(r.Context(), i) != nil {
			panic(http.ErrAbortHandler) // net/http's way to cut a connection, so that no client takes this for the end
		}
		if send(w, api.piece(a, text)) != nil {
			return
		}
	}
	_ = send(w, api.end(a, len(h.pieces))...)
}

// models answers requests for the list of models.
func (h *Handler) models(api dialect) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if status := h.admit(api, r); status != http.StatusOK {
			api.refuse(w, status)
			return
		}
		reply(w, http.StatusOK, object{"object": "list", "data": []object{
			{"id": "stand-in-1", "object": "model", "created": created, "owned_by": "stand-in"},
		}})
	}
}

func (api dialect) refuse(w http.ResponseWriter, status int) { reply(w, status, api.problem(status)) }

func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client may be gone
}
