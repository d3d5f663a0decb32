package dataplane

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/agentrouter/aikeys/internal/position"
	"github.com/agentrouter/aikeys/internal/secret"
	"github.com/agentrouter/aikeys/internal/verdict"
)

// AuthStyle is how a provider takes its key. A control plane may send other values than these; they are unsupported.
type AuthStyle string

// How providers take their keys.
const (
	AuthBearer      AuthStyle = "bearer"
	AuthXAPIKey     AuthStyle = "x_api_key"
	AuthXGoogAPIKey AuthStyle = "x_goog_api_key" //nolint:gosec // the name of a style
	AuthAPIKey      AuthStyle = "api_key"
	AuthAWSSigV4    AuthStyle = "aws_sigv4"
	AuthGCPOAuth    AuthStyle = "gcp_oauth"
	AuthAzureEntra  AuthStyle = "azure_entra"
	AuthHeader      AuthStyle = "header" // for custom providers: in the header that the control plane names
	AuthNone        AuthStyle = "none"   // for custom providers: not at all
)

// Key is a provider's key and how to use it. Callers that resolve to the same key share it: do not change it, and do
// not keep it; resolve again for each request. It prints without the secret.
type Key struct {
	// ID is the key's id, and Version the number of secrets it has had.
	ID      string
	Version int
	// CustomerID and ProjectID are the key's owner, and Provider is its provider.
	CustomerID string
	ProjectID  string
	Provider   string
	// Scope is project or user; Reason is the rule that chose the key.
	Scope  string
	Reason string
	// BaseURL is the only place to which the key may be sent.
	BaseURL   string
	AuthStyle AuthStyle
	// Dialect is the form of errors that callers of a custom provider expect: openai or anthropic.
	Dialect string
	// Routes are the other parts of BaseURL's host that are served.
	Routes []Route
	// AllOperations reports whether the project's policy lets the key serve the paths of Administration.
	AllOperations bool
	// Administration lists the paths below BaseURL that are not inference. Each stands for everything below it, too; *
	// matches one segment.
	Administration []string
	// Restrictions are what the key may be used for; nil for anything.
	Restrictions *Restrictions
	// Limits are how many requests the key may serve; nil for any number. See Resolver.Begin.
	Limits *Limits
	// NextIfLimited reports whether the project's policy lets the next key serve while this key is at a limit: see
	// Resolver.SetAside.
	NextIfLimited bool
	// Answers are the rules that decide from the provider's answers whether it accepts the key.
	Answers verdict.Rules
	// Caller is the user served; nil if the key was requested by its id, or for no particular user.
	Caller *Caller

	base   *url.URL // BaseURL, parsed; nil for a key that was not fetched
	secret secret.Text
	// ended reports whether an event has ended the key for its caller: see Resolver.Watch. It is nil for a key that was
	// not fetched.
	ended *atomic.Bool
	// asOf is the position of the answer. endsAt is when the key expires, by the Clock; 0 means never.
	asOf   position.Position
	endsAt time.Duration
	// headers returns the headers that carry the key in a style; there are none if the style can't carry it. headers is
	// nil for a key that was not fetched.
	headers func(AuthStyle) []injectedHeader
}

// Restrictions are what a key may be used for. Refuse every other request, and every request whose model or operation can't
// be determined. An empty list restricts nothing.
type Restrictions struct {
	// Models are names of models. A * at the end matches any rest.
	Models []string
	// Operations are paths below BaseURL or on its host; each allows everything below it, too. * matches one segment,
	// and *:name matches a segment that ends in :name.
	Operations []string
}

// AllowsModel reports whether the key may serve a model.
func (r *Restrictions) AllowsModel(name string) bool {
	return slices.ContainsFunc(r.Models, func(allowed string) bool {
		prefix, isPrefix := strings.CutSuffix(allowed, "*")
		return name == allowed || isPrefix && strings.HasPrefix(name, prefix)
	})
}

// injectedHeader is a header that carries a key. It replaces the caller's header of that name, or is added after it.
type injectedHeader struct {
	name, value string
	follows     bool
}

// Route is a part of a provider's API that is not below BaseURL. A request whose path begins with Path goes to the same path
// on BaseURL's host, or on Host.
type Route struct {
	// Path has no escapes and no slash at the end; * is one segment.
	Path string
	// Host is empty for BaseURL's host. A * in it stands for the segment that the path's last * matches. That segment
	// must be one label of a host name.
	Host      string
	AuthStyle AuthStyle
}

// match returns how many bytes of the pattern match a path literally, and the segment at the last *. ok is false if the path does not
// begin with the pattern.
func (r Route) match(path string) (literal int, last string, ok bool) {
	if !strings.Contains(r.Path, "*") {
		rest, begins := strings.CutPrefix(path, r.Path)
		return len(r.Path), "", begins && (rest == "" || rest[0] == '/')
	}
	path = strings.TrimPrefix(path, "/")
	for part := range strings.SplitSeq(strings.TrimPrefix(r.Path, "/"), "/") {
		segment, rest, _ := strings.Cut(path, "/")
		switch {
		case part == "*" && segment != "":
			last = segment
		case part == segment && segment != "":
			literal += len(segment)
		default:
			return 0, "", false
		}
		path = rest
	}
	return literal, last, true
}

// Caller is the user that a key serves.
type Caller struct {
	UserID string
	// TokenID is the id of the caller's API key; empty for a session token or without a credential.
	TokenID string
}

// customPrefix begins the slugs of custom providers.
const customPrefix = "x-"

// IsCustom reports whether a slug is a custom provider's.
func IsCustom(slug string) bool { return strings.HasPrefix(slug, customPrefix) }

// IsCustom reports whether the key is for a custom provider: check each address that BaseURL leads to when you connect.
func (k *Key) IsCustom() bool { return IsCustom(k.Provider) }

// Secret is the provider's key in plain text. It prints as [redacted]; keep it in memory only.
func (k *Key) Secret() secret.Text { return k.secret }

// Base returns BaseURL, parsed. All callers get the same URL and must not change it.
func (k *Key) Base() (*url.URL, error) {
	if k.base != nil {
		return k.base, nil
	}
	base, err := url.Parse(k.BaseURL)
	if err != nil {
		return nil, errors.New("the key's base URL can't be parsed") // err quotes the URL
	}
	return base, nil
}

// Route returns the route with the longest match for a path on BaseURL's host.
func (k *Key) Route(path string) (longest Route, ok bool) {
	most := -1
	for _, r := range k.Routes {
		if literal, _, matches := r.match(path); matches && literal > most {
			longest, ok, most = r, true, literal
		}
	}
	return longest, ok
}

// HostAt returns the host that serves a path, or "" for BaseURL's host. ok is false if the route takes the host from
// the path and the result is no valid host name.
func (k *Key) HostAt(path string) (host string, ok bool) {
	route, _ := k.Route(path)
	domain, isLabel := strings.CutPrefix(route.Host, "*")
	if !isLabel {
		return route.Host, true
	}
	_, last, _ := route.match(path)
	return last + domain, isHostLabel(last)
}

// isHostLabel reports whether text is a label of a host name in lower case (RFC 1123, section 2.1).
func isHostLabel(text string) bool {
	for i := range len(text) {
		if c := text[i]; !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-') {
			return false
		}
	}
	return text != "" && len(text) < 64 && text[0] != '-' && text[len(text)-1] != '-'
}

// Header returns the header that Authorize sets. It is for gateways that let another proxy set the header.
func (k *Key) Header() (name, value string, err error) { return k.HeaderAt("") }

// HeaderAt returns the header that AuthorizeAt sets. If the style is not supported, or if AuthorizeAt sets several
// headers, the error wraps ErrUnsupportedAuth.
func (k *Key) HeaderAt(path string) (name, value string, err error) {
	headers, err := k.headersAt(path)
	switch {
	case err != nil || len(headers) == 0:
		return "", "", err
	case len(headers) > 1 || headers[0].follows:
		return "", "", fmt.Errorf("%w: the key needs more than one header", ErrUnsupportedAuth)
	}
	return headers[0].name, headers[0].value, nil
}

// headersAt returns the headers that carry the key: at least one, unless the provider takes none.
func (k *Key) headersAt(path string) ([]injectedHeader, error) {
	style := k.AuthStyle
	if r, ok := k.Route(path); ok {
		style = r.AuthStyle
	}
	if style == AuthNone {
		return nil, nil
	}
	if k.headers != nil {
		if headers := k.headers(style); len(headers) > 0 {
			return headers, nil
		}
	}
	return nil, fmt.Errorf("%w: %s", ErrUnsupportedAuth, style)
}

// Authorize replaces every credential of the caller in h by the key, for a request below BaseURL. It removes them even if it returns
// an error, which wraps ErrUnsupportedAuth.
func (k *Key) Authorize(h http.Header) error { return k.AuthorizeAt(h, "") }

// AuthorizeAt is Authorize for a path of BaseURL's host, which may be on one of the Routes.
func (k *Key) AuthorizeAt(h http.Header, path string) error {
	for name := range h {
		switch http.CanonicalHeaderKey(name) {
		case "Authorization", "X-Api-Key", "X-Goog-Api-Key", "Api-Key", "Proxy-Authorization", "Cookie":
			delete(h, name)
		}
	}
	headers, err := k.headersAt(path)
	if err != nil {
		return err
	}
	for _, injected := range headers {
		if !injected.follows {
			h.Del(injected.name)
		}
		h.Add(injected.name, injected.value)
	}
	return nil
}

// setSecret keeps the secret in a closure, which fmt can't look into, and in memory that is cleared when the key is no
// longer in use. If injected is not empty, these headers carry the key in every style.
func (k *Key) setSecret(plain secret.Text, injected []injectedHeader) {
	k.secret = plain
	if len(injected) > 0 {
		k.headers = func(AuthStyle) []injectedHeader { return injected }
		return
	}
	one := func(name, value string) []injectedHeader { return []injectedHeader{{name: name, value: value}} }
	bearer, own := one("Authorization", secret.Cleared("Bearer ", plain.Reveal())), plain.Reveal()
	k.headers = func(style AuthStyle) []injectedHeader {
		switch style {
		case AuthBearer:
			return bearer
		case AuthXAPIKey:
			return one("X-Api-Key", own)
		case AuthXGoogAPIKey:
			return one("X-Goog-Api-Key", own)
		case AuthAPIKey:
			return one("Api-Key", own)
		default:
			return nil
		}
	}
}

// Format prints what the key is, and never the secret, whatever the verb.
func (k Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.String()) }

// String prints what the key is, without the secret.
func (k Key) String() string {
	return fmt.Sprintf("%s v%d of %s/%s for %s (%s, %s)",
		k.ID, k.Version, k.CustomerID, k.ProjectID, k.Provider, k.Scope, k.Reason)
}

// LogValue logs what the key is, without the secret.
func (k Key) LogValue() slog.Value { return slog.StringValue(k.String()) }
