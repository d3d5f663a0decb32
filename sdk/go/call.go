package agentrouter

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"
	"github.com/tetrateio/agentrouter-go/internal/operations"
)

// idempotencyHeader is the one header parameter of the contract.
const idempotencyHeader = "Idempotency-Key"

// CallOption is an optional parameter of calls, for With. A method that does not take it answers with an ArgumentError.
type CallOption func(*service)

// IdempotencyKey makes a Register safe to repeat for 24 hours by another process too: the same request with the same key
// makes one provider key alone. Without it each call has a fresh one, which covers its own retries.
func IdempotencyKey(key string) CallOption {
	return func(s *service) { s.idempotencyKey, s.hasIdempotencyKey = key, true }
}

// Wait holds Revoke's answer until every data plane has confirmed, or the time is up. It is sent in whole milliseconds,
// 30 seconds at the most.
func Wait(d time.Duration) CallOption {
	text := strconv.FormatInt(d.Milliseconds(), 10) + "ms"
	if d%time.Second == 0 {
		text = strconv.FormatInt(int64(d/time.Second), 10) + "s"
	}
	return func(s *service) {
		s.set("wait", text)
		s.wait = max(0, d)
	}
}

// PageSize sets how many items a page has at the most.
func PageSize(n int) CallOption {
	return func(s *service) { s.set("page_size", strconv.Itoa(n)) }
}

// PageToken asks for the page that a NextPageToken names.
func PageToken(token string) CallOption { return func(s *service) { s.set("page_token", token) } }

// OfProvider lists keys of that provider alone.
func OfProvider(provider aikeysv1.Provider) CallOption {
	return func(s *service) { s.set("provider", string(provider)) }
}

// InState lists keys in that state alone.
func InState(state aikeysv1.KeyState) CallOption {
	return func(s *service) { s.set("state", string(state)) }
}

// service is a client with the optional parameters of the calls to come. It is copied, never changed.
type service struct {
	client            *Client
	query             [][2]string
	idempotencyKey    string
	hasIdempotencyKey bool
	wait              time.Duration
}

func (s *service) set(name, value string) {
	s.query = slices.DeleteFunc(s.query, func(p [2]string) bool { return p[0] == name })
	s.query = append(s.query, [2]string{name, value})
}

func (s *service) has(name string) bool {
	return slices.ContainsFunc(s.query, func(p [2]string) bool { return p[0] == name })
}

func (s service) with(options []CallOption) service {
	s.query = slices.Clone(s.query)
	for _, option := range options {
		if option != nil {
			option(&s)
		}
	}
	return s
}

// request is one call on its way. It holds the secret of a Register, so it is never printed.
type request struct {
	service
	op             operations.Operation
	path           string
	body           any
	err            error // what is wrong with the arguments
	idempotencyKey string
}

// request begins a call of an operation on what the path's parameters name: name and value by turns.
func (s service) request(op operations.Operation, params ...string) *request {
	r := &request{service: s, op: op, path: op.Path}
	for i := 0; i < len(params); i += 2 {
		r.place(params[i], params[i+1])
	}
	for _, p := range s.query {
		if !slices.Contains(op.Query, p[0]) {
			r.refuse(p[0], "is no parameter of this method")
		}
	}
	r.setIdempotencyKey()
	return r
}

// inProject is request for the operations under a project.
func (s service) inProject(op operations.Operation, customerID, projectID string, params ...string) *request {
	return s.request(op, append([]string{"customer_id", orSessions(customerID), "project_id", orSessions(projectID)},
		params...)...)
}

func orSessions(id string) string { return firstOf(id, "-") }

// place puts a parameter into the path as one segment of it. A segment of dots would be resolved away on the way.
func (r *request) place(name, value string) {
	switch value {
	case "":
		r.refuse(name, "is required")
	case ".", "..":
		r.refuse(name, "must not be a dot or two")
	}
	r.path = strings.Replace(r.path, "{"+name+"}", url.PathEscape(value), 1)
}

func (r *request) setIdempotencyKey() {
	takes := slices.Contains(r.op.Header, idempotencyHeader)
	switch {
	case takes && !r.hasIdempotencyKey:
		r.idempotencyKey = newUUID()
	case !takes && r.hasIdempotencyKey:
		r.refuse(idempotencyHeader, "is no parameter of this method")
	case r.hasIdempotencyKey && (r.service.idempotencyKey == "" || !visible(r.service.idempotencyKey)):
		r.refuse(idempotencyHeader, "must be visible ASCII characters without spaces")
	default:
		r.idempotencyKey = r.service.idempotencyKey
	}
}

func (r *request) refuse(field, message string) {
	if r.err == nil {
		r.err = &ArgumentError{Field: field, Message: message}
	}
}

// checkText refuses a text that JSON could not carry as it is, and one that can't be right. It never repeats it.
func (r *request) checkText(field, text string) {
	switch {
	case text == "":
		r.refuse(field, "is required")
	case !utf8.ValidString(text):
		r.refuse(field, "must be UTF-8")
	}
}

func (r *request) url() string {
	address := r.client.base + r.path
	if len(r.query) == 0 {
		return address
	}
	values := make(url.Values, len(r.query))
	for _, p := range r.query {
		values.Set(p[0], p[1])
	}
	return address + "?" + values.Encode()
}
