package agentrouter

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"
	"github.com/tetrateio/agentrouter-go/internal/operations"
)

// The API's header parameters.
const (
	idempotencyHeader = "Idempotency-Key"
	ifMatchHeader     = "If-Match"
)

// requestIDHeader is the response header with the request's id.
const requestIDHeader = "X-Request-Id"

// CallOption is an optional parameter of a call, for With. A method that does not take it returns an ArgumentError.
type CallOption func(*service)

// IdempotencyKey makes a Register or a Rotate safe to repeat within 24 hours, also from another process. Identical
// requests with the same idempotency key register only one key, or make only one version. Without this option, each
// call has a random idempotency key, so that only its own retries are safe.
func IdempotencyKey(key string) CallOption {
	return func(s *service) { s.idempotencyKey, s.hasIdempotencyKey = key, true }
}

// Verify has Register test the secret at its provider first. If the provider rejects it, Register stores nothing and returns an error
// with status 422.
func Verify() CallOption { return func(s *service) { s.verify = true } }

// Force has Register with Verify store a key even if its provider rejects it.
func Force() CallOption { return func(s *service) { s.force = true } }

// ExpiresAt registers a key that stops serving at a time, which must be in the future.
func ExpiresAt(t time.Time) CallOption {
	return func(s *service) { s.expiresAt = t.UTC() }
}

// AtOrder registers a key with a place among the keys of its scope and provider. The lowest serves; the default is 0.
func AtOrder(order int) CallOption { return func(s *service) { s.order = &order } }

// WithWeight registers a key that shares callers with the other keys of its order that have a weight, in proportion to their weights.
func WithWeight(weight int) CallOption { return func(s *service) { s.weight = &weight } }

// Restricted registers a key that serves only these users, models and operations.
func Restricted(r aikeysv1.Restrictions) CallOption { return func(s *service) { s.restrict = &r } }

// Limited registers a key that serves at most so many requests.
func Limited(l aikeysv1.KeyLimit) CallOption { return func(s *service) { s.limit = &l } }

// Explained has Resolve list all keys that could serve, with the reason why each does or does not, in Candidates.
func Explained() CallOption { return func(s *service) { s.setQuery("explain", "true") } }

// WhileLimited asks Resolve which key would serve while the key with this id is at a limit.
func WhileLimited(keyID string) CallOption { return func(s *service) { s.setQuery("limited", keyID) } }

// OnLimited has Policy().Set decide what happens when a key is at a limit. Without this option, Set restores the
// default.
func OnLimited(choice aikeysv1.OnLimited) CallOption {
	return func(s *service) { s.onLimited = choice }
}

// RemovalGraceDays has Policy().Set decide for how many days the removal of a member can be undone. With 0, a removal
// can't be undone. The option GraceDays of a removal overrides the policy. Without RemovalGraceDays, Set restores the
// default, 30 days.
func RemovalGraceDays(days int) CallOption {
	return func(s *service) { s.removalGraceDays = &days }
}

// IfMatch has Update, and the methods that change versions, fail with status 412 if the key's Etag is no longer this one.
func IfMatch(etag string) CallOption {
	return func(s *service) { s.ifMatch, s.hasIfMatch = etag, true }
}

// Wait has the service answer a call only when every data plane has confirmed the change, or when the time is up. Use
// it for calls that return a receipt, such as calls that revoke, disable or rotate a key. The time is sent in whole
// milliseconds, and may be at most 30 seconds.
func Wait(d time.Duration) CallOption {
	text := strconv.FormatInt(d.Milliseconds(), 10) + "ms"
	if d%time.Second == 0 {
		text = strconv.FormatInt(int64(d/time.Second), 10) + "s"
	}
	return func(s *service) {
		s.setQuery("wait", text)
		s.wait = max(0, d)
	}
}

// PageSize sets how many items a page has at most.
func PageSize(n int) CallOption {
	return func(s *service) { s.setQuery("page_size", strconv.Itoa(n)) }
}

// PageToken asks for the page that a NextPageToken names.
func PageToken(token string) CallOption { return func(s *service) { s.setQuery("page_token", token) } }

// OfProvider lists only that provider's keys, or entries about them.
func OfProvider(provider aikeysv1.Provider) CallOption {
	return func(s *service) { s.setQuery("provider", string(provider)) }
}

// InState lists only keys in that state.
func InState(state aikeysv1.KeyState) CallOption {
	return func(s *service) { s.setQuery("state", string(state)) }
}

// OfKey lists only entries about that key.
func OfKey(id string) CallOption { return func(s *service) { s.setQuery("key_id", id) } }

// OfUser lists only entries about that user. With Resolve, it shows an owner which key serves that user.
func OfUser(id string) CallOption { return func(s *service) { s.setQuery("user_id", id) } }

// OfDataPlane lists only fetches by the data plane with that name or id.
func OfDataPlane(nameOrID string) CallOption {
	return func(s *service) { s.setQuery("data_plane", nameOrID) }
}

// WithDecision lists only fetches with that decision.
func WithDecision(decision aikeysv1.FetchDecision) CallOption {
	return func(s *service) { s.setQuery("decision", string(decision)) }
}

// ByActor lists only what that user or operator did.
func ByActor(user string) CallOption { return func(s *service) { s.setQuery("actor", user) } }

// OfType lists only events of that type, such as aikeysv1.EventTypeKeyRevoked.
func OfType(eventType aikeysv1.EventType) CallOption {
	return func(s *service) { s.setQuery("type", string(eventType)) }
}

// WithOutcome lists only events with that outcome.
func WithOutcome(outcome aikeysv1.EventOutcome) CallOption {
	return func(s *service) { s.setQuery("outcome", string(outcome)) }
}

// From lists only what happened at that time or later.
func From(t time.Time) CallOption {
	return func(s *service) { s.setQuery("from", t.UTC().Format(time.RFC3339Nano)) }
}

// To lists only what happened before that time.
func To(t time.Time) CallOption {
	return func(s *service) { s.setQuery("to", t.UTC().Format(time.RFC3339Nano)) }
}

// Timeout sets how long one attempt of these calls may take, in place of WithTimeout. The time of Wait is added to it.
func Timeout(d time.Duration) CallOption { return func(s *service) { s.timeout = d } }

// MaxRetries sets how often these calls are repeated, in place of WithMaxRetries.
func MaxRetries(n int) CallOption { return func(s *service) { s.retries = &n } }

// Header adds a header to these calls, such as one that a proxy asks for. The SDK's own headers win.
func Header(name, value string) CallOption {
	return func(s *service) {
		s.headers = maps.Clone(s.headers)
		if s.headers == nil {
			s.headers = map[string]string{}
		}
		s.headers[name] = value
	}
}

// ResponseInto stores the last response to these calls, even if a call fails: status, headers, request id and body.
func ResponseInto(into *Response) CallOption { return func(s *service) { s.into = into } }

// Response is a response of the service. It prints without headers and body: the body of Tokens().Create has an API key.
type Response struct {
	Status int
	Header http.Header
	// RequestID names the request in the service's log.
	RequestID string

	body []byte
}

// Body returns the unchanged body.
func (r *Response) Body() []byte { return r.body }

// String returns the status and the request id.
func (r Response) String() string {
	return fmt.Sprintf("agentrouter.Response(%d, request %s)", r.Status, r.RequestID)
}

// GoString returns the same as String.
func (r Response) GoString() string { return r.String() }

// service is a client with the options of its calls. It is copied, not changed.
type service struct {
	client            *Client
	query             [][2]string
	idempotencyKey    string
	hasIdempotencyKey bool
	verify, force     bool
	expiresAt         time.Time
	order, weight     *int
	restrict          *aikeysv1.Restrictions
	limit             *aikeysv1.KeyLimit
	onLimited         aikeysv1.OnLimited
	removalGraceDays  *int
	ifMatch           string
	hasIfMatch        bool
	wait              time.Duration
	token             tokenOptions
	timeout           time.Duration
	retries           *int
	headers           map[string]string
	into              *Response
}

func (s *service) maxRetries() int {
	if s.retries != nil {
		return *s.retries
	}
	return s.client.maxRetries
}

func (s *service) setQuery(name, value string) {
	s.query = slices.DeleteFunc(s.query, func(p [2]string) bool { return p[0] == name })
	s.query = append(s.query, [2]string{name, value})
}

func (s *service) hasQuery(name string) bool {
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

// request is one call. It may hold a provider's secret, so it is never printed.
type request struct {
	service
	op             operations.Operation
	path           string
	body           any
	err            error // the first error in the arguments
	idempotencyKey string
}

// request returns a call of an operation. params are the names and values of the path's parameters, alternating.
func (s service) request(op operations.Operation, params ...string) *request {
	r := &request{service: s, op: op, path: op.Path}
	for pair := range slices.Chunk(params, 2) {
		r.setPathParameter(pair[0], pair[1])
	}
	for _, p := range s.query {
		if !slices.Contains(op.Query, p[0]) {
			r.setError(p[0], "is not a parameter of this method")
		}
	}
	r.checkOptions()
	r.checkSendOptions()
	r.setIdempotencyKey()
	return r
}

// inProject returns a call of an operation under a project.
func (s service) inProject(op operations.Operation, customerID, projectID string, params ...string) *request {
	return s.request(op, append([]string{"customer_id", orSessionDefault(customerID), "project_id", orSessionDefault(projectID)},
		params...)...)
}

func orSessionDefault(id string) string { return cmp.Or(id, "-") }

// setPathParameter fills in one segment of the path. It refuses "." and "..", which clients and proxies would resolve.
func (r *request) setPathParameter(name, value string) {
	switch value {
	case "":
		r.setError(name, "is required")
	case ".", "..":
		r.setError(name, "must not be . or ..")
	}
	r.path = strings.Replace(r.path, "{"+name+"}", url.PathEscape(value), 1)
}

// checkOptions refuses options that the method does not take, and an If-Match that can't be an entity tag.
func (r *request) checkOptions() {
	registers := slices.Contains(r.op.Header, idempotencyHeader)
	takesIfMatch := slices.Contains(r.op.Header, ifMatchHeader)
	for _, option := range []struct {
		name         string
		given, taken bool
	}{
		{"verify", r.verify || r.force, registers},
		{"expires_at", !r.expiresAt.IsZero(), registers},
		{"restrict", r.restrict != nil, registers},
		{"limit", r.limit != nil, registers},
		{"order", r.order != nil || r.weight != nil, registers},
		{"on_limited", r.onLimited != "", r.op.ID == operations.SetPolicy().ID},
		{"removal_grace_days", r.removalGraceDays != nil, r.op.ID == operations.SetPolicy().ID},
		{"projects", len(r.token) > 0, r.op.ID == operations.CreateToken().ID},
		{ifMatchHeader, r.hasIfMatch, takesIfMatch},
	} {
		if option.given && !option.taken {
			r.setError(option.name, "is not a parameter of this method")
		}
	}
	if r.hasIfMatch && takesIfMatch && !isPrintableASCII(r.ifMatch) {
		r.setError(ifMatchHeader, "must be a key's Etag")
	}
}

// isPrintableASCII reports whether a text has printable ASCII characters only, and at least one.
func isPrintableASCII(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c > '~' })
}

// checkSendOptions refuses options with which no request can be sent.
func (r *request) checkSendOptions() {
	if r.timeout < 0 {
		r.setError("timeout", "must not be negative")
	}
	if r.maxRetries() < 0 {
		r.setError("max_retries", "must be zero or more")
	}
	for name, value := range r.headers {
		if name == "" || !isVisibleASCII(name) || !isPrintableASCII(value) {
			r.setError("header", "must have a name and a value of printable ASCII")
		}
	}
}

func (r *request) setIdempotencyKey() {
	takes := slices.Contains(r.op.Header, idempotencyHeader)
	switch {
	case takes && !r.hasIdempotencyKey:
		r.idempotencyKey = newUUID()
	case !takes && r.hasIdempotencyKey:
		r.setError(idempotencyHeader, "is not a parameter of this method")
	case r.hasIdempotencyKey && (r.service.idempotencyKey == "" || !isVisibleASCII(r.service.idempotencyKey)):
		r.setError(idempotencyHeader, "must be visible ASCII characters without spaces")
	default:
		r.idempotencyKey = r.service.idempotencyKey
	}
}

func (r *request) setError(field, message string) {
	if r.err == nil {
		r.err = &ArgumentError{Field: field, Message: message}
	}
}

// checkText refuses a text that is empty or not UTF-8, which JSON would change. The error does not repeat it.
func (r *request) checkText(field, text string) {
	switch {
	case text == "":
		r.setError(field, "is required")
	case !utf8.ValidString(text):
		r.setError(field, "must be UTF-8")
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

// pages is a list that the service returns in pages of type P, of items of type T.
type pages[P, T any] struct {
	service service
	request func(service) *request
	parts   func(*P) (items *[]T, next *string) // a page's items and its NextPageToken
}

// pagesInProject returns the list that an operation under a project returns.
func pagesInProject[P, T any](
	s service, op operations.Operation, customerID, projectID string, parts func(*P) (items *[]T, next *string),
) pages[P, T] {
	return pages[P, T]{s, func(s service) *request { return s.inProject(op, customerID, projectID) }, parts}
}

// page fetches the page that the service's options ask for.
func (l pages[P, T]) page(ctx context.Context, s service) (*P, error) {
	return send(ctx, l.request(s), func(page *P) bool {
		items, _ := l.parts(page)
		return *items != nil
	})
}

// list returns the page that PageSize or PageToken asks for. If neither is set, it reads all pages, and returns their
// items as one page.
func (l pages[P, T]) list(ctx context.Context) (*P, error) {
	all, err := l.page(ctx, l.service)
	if err != nil || l.service.hasQuery("page_size") || l.service.hasQuery("page_token") {
		return all, err
	}
	items, next := l.parts(all)
	for *next != "" {
		page, err := l.page(ctx, l.service.with([]CallOption{PageToken(*next)}))
		if err != nil {
			return nil, err
		}
		more, token := l.parts(page)
		*items, *next = append(*items, *more...), *token
	}
	return all, nil
}

// defaultPageSize is the iterators' page size unless PageSize sets it.
const defaultPageSize = 100

// all iterates over the items of all pages. It stops after an error.
func (l pages[P, T]) all(ctx context.Context) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		at := l.service
		if !at.hasQuery("page_size") {
			at = at.with([]CallOption{PageSize(defaultPageSize)})
		}
		for {
			page, err := l.page(ctx, at)
			if err != nil {
				var none T
				yield(none, err)
				return
			}
			items, next := l.parts(page)
			for _, item := range *items {
				if !yield(item, nil) {
					return
				}
			}
			if *next == "" {
				return
			}
			at = at.with([]CallOption{PageToken(*next)})
		}
	}
}
