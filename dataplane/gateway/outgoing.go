package gateway

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/agentrouter/aikeys/dataplane"
	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/internal/netaddr"
)

// destinationRule describes the URLs to which a provider's key may be sent.
const destinationRule = "must be https, or http on this machine, without user, query and fragment, and without empty and dot segments in its path"

var errDestination = errors.New("a destination " + destinationRule)

// checkDestination returns errDestination unless a provider's key may be sent to the URL.
func checkDestination(u *url.URL) error {
	local := u.Scheme == "http" && netaddr.IsLoopback(u.Hostname())
	plain := u.User == nil && u.Opaque == "" && u.RawQuery == "" && !u.ForceQuery && u.Fragment == ""
	if (u.Scheme != "https" && !local) || u.Hostname() == "" || !plain || !isPort(u.Port()) || !isBasePath(u.EscapedPath()) {
		return errDestination
	}
	return nil
}

func isPort(port string) bool {
	number, err := strconv.ParseUint(port, 10, 16)
	return port == "" || err == nil && number > 0
}

func isBasePath(path string) bool { return path == "" || path[0] == '/' && isSafePath(path) }

// safePath is the part of a request's path below a provider's base URL, escaped, as parsePath accepted it: empty, or
// beginning with a slash.
type safePath string

// parsePath returns errPath for a path that could lead out of the base URL, however the provider's servers read it: one
// with a dot segment or an empty segment, plain or escaped any number of times, or with what some servers take for a
// slash.
func parsePath(rest string) (safePath, error) {
	if rest != "" && (rest[0] != '/' || !isSafePath(rest)) {
		return "", errPath
	}
	if strings.IndexByte(rest, '%') >= 0 {
		if _, err := url.PathUnescape(rest); err != nil {
			return "", errPath
		}
	}
	return safePath(rest), nil
}

// rewrite turns the caller's request into the one for the provider: its URL, its headers without what is private, and the provider's
// key among them. Hop-by-hop headers have been removed by then. An error goes to p.err, which RoundTrip returns.
func (g *Gateway) rewrite(pr *httputil.ProxyRequest) {
	p := proxiedRequestOf(pr.In.Context())
	if p.base, p.err = g.baseOf(p.key); p.err != nil {
		return
	}
	p.incoming = pr.In
	pr.Out.URL = joinURL(p.base, p.path)
	if p.operation, p.err = g.operations.check(p.key, p.base, pr.Out.URL); p.err != nil {
		return
	}
	pr.Out.URL.RawQuery = withoutCredential(pr.In.URL.RawQuery, p.caller.Provider, p.caller.Credential)
	pr.Out.Host = ""
	if pr.Out.Header["Upgrade"] != nil && !isWebSocket(pr.Out.Header) {
		delete(pr.Out.Header, "Upgrade")
		delete(pr.Out.Header, "Connection")
	}
	stripRequest(pr.Out.Header, p.caller.Credential)
	// Answers are searched for the provider's key, so nothing may pack them.
	pr.Out.Header["Accept-Encoding"] = []string{"identity"}
	delete(pr.Out.Header, "Sec-Websocket-Extensions")
	if pr.Out.Body != nil {
		// The server fills in the trailers of the incoming request once its body has been read, so the outgoing request
		// shares them.
		stripRequest(pr.In.Trailer, p.caller.Credential)
		pr.Out.Trailer = pr.In.Trailer
		pr.Out.Body = &requestBody{pr.Out.Body, p, pr.In.Trailer}
	}
	p.err = p.key.Authorize(pr.Out.Header)
}

// requestBody is a request's body on its way to the provider. When it ends, it strips the trailers, which are known only
// then.
type requestBody struct {
	io.ReadCloser
	request *proxiedRequest
	trailer http.Header
}

// Read implements io.Reader.
func (b *requestBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		stripRequest(b.trailer, b.request.caller.Credential)
		b.request.bodyRead.Store(true)
	}
	return n, err
}

// baseOf returns the base URL for requests with a key: the key's own, or that of the upstream which replaces it.
func (g *Gateway) baseOf(key *dataplane.Key) (*url.URL, error) {
	if upstream, ok := g.upstreams[key.Provider]; ok {
		return upstream, nil // New has checked it
	}
	base, err := key.Base()
	if err != nil || checkDestination(base) != nil {
		return nil, errDestination
	}
	return base, nil
}

const (
	webSocketProtocols = "Sec-Websocket-Protocol"
	// Browsers can't set headers on WebSockets, so they send the key as a protocol with this prefix.
	webSocketKeyPrefix = "openai-insecure-api-key."
)

// stripRequest removes the headers that are not for the provider: see isPrivate.
func stripRequest(header http.Header, credential string) {
	if protocols, ok := header[webSocketProtocols]; ok {
		stripProtocols(header, protocols, credential)
	}
	for name, values := range header {
		if isPrivate(name, values, credential) {
			delete(header, name)
		}
	}
}

// isPrivate reports whether a header is never passed on to a provider: credentials of every style, anything that contains the
// caller's credential, cookies, the gateway's own headers, those that identify the caller, and those that replace the method or
// the path on some servers.
func isPrivate(name string, values []string, credential string) bool {
	// Some servers read an underscore as a hyphen.
	switch name := http.CanonicalHeaderKey(strings.ReplaceAll(name, "_", "-")); name {
	case headerAuthorization, headerXAPIKey, headerXGoogAPIKey, headerAPIKey, "Proxy-Authorization", "Cookie",
		"Via", "Forwarded", "X-Real-Ip", "True-Client-Ip", "X-Client-Ip", "X-Cluster-Client-Ip", "Cf-Connecting-Ip", "Fastly-Client-Ip",
		"X-Original-Url", "X-Original-Uri", "X-Rewrite-Url",
		"X-Http-Method", "X-Http-Method-Override", "X-Method-Override":
		return true
	default:
		for _, prefix := range [...]string{"X-Forwarded-", "X-Envoy-", ownPrefix} {
			if strings.HasPrefix(name, prefix) {
				return true
			}
		}
	}
	return slices.ContainsFunc(values, func(value string) bool { return contains(value, credential) })
}

// toStandardBase64 turns base64 in the alphabet for URLs into that in the standard one.
var toStandardBase64 = strings.NewReplacer("-", "+", "_", "/")

// contains reports whether text has the credential in it: as it is, percent-encoded, or in base64.
func contains(text, credential string) bool {
	if strings.Contains(text, credential) {
		return true
	}
	if decoded, changed := unescape(text); changed && strings.Contains(decoded, credential) {
		return true
	}
	if len(text) < len(credential)*4/3 {
		return false // too short for the credential in base64
	}
	for word := range strings.FieldsFuncSeq(text, func(c rune) bool { return c == ' ' || c == ',' || c == ';' || c == '.' || c == ':' }) {
		if len(word) < len(credential)*4/3 {
			continue
		}
		word = toStandardBase64.Replace(strings.TrimRight(word, "="))
		if decoded, err := base64.RawStdEncoding.DecodeString(word); err == nil && strings.Contains(string(decoded), credential) {
			return true
		}
	}
	return false
}

// stripProtocols removes the WebSocket protocols that carry a key.
func stripProtocols(header http.Header, protocols []string, credential string) {
	var kept []string
	for protocol := range strings.SplitSeq(strings.Join(protocols, ","), ",") {
		protocol = strings.TrimSpace(protocol)
		if protocol != "" && !strings.HasPrefix(protocol, webSocketKeyPrefix) && !contains(protocol, credential) {
			kept = append(kept, protocol)
		}
	}
	if len(kept) == 0 {
		delete(header, webSocketProtocols)
		return
	}
	header[webSocketProtocols] = []string{strings.Join(kept, ", ")}
}

// isWebSocket reports whether an upgrade may pass. Any other protocol, such as h2c, would be a tunnel to the whole host
// of the provider.
func isWebSocket(header http.Header) bool {
	upgrades := header["Upgrade"]
	return len(upgrades) == 1 && strings.EqualFold(upgrades[0], "websocket")
}

// joinURL returns the URL of a path below base. Segments that base ends with and the path begins with appear once, so
// that it works both for clients whose own base URL ends in /v1 and for clients that add /v1 themselves.
func joinURL(base *url.URL, path safePath) *url.URL {
	root := strings.TrimRight(base.EscapedPath(), "/")
	joined := root + string(path)[overlap(root, string(path)):]
	out := &url.URL{Scheme: base.Scheme, Host: base.Host, Path: joined}
	if strings.IndexByte(joined, '%') >= 0 {
		out.Path, _ = url.PathUnescape(joined) // url.Parse and parsePath have checked it
		out.RawPath = joined
	}
	return out
}

// overlap returns the length of the longest run of whole segments that base ends with and rest begins with.
func overlap(base, rest string) int {
	for i := range len(base) {
		if base[i] != '/' {
			continue
		}
		if tail := base[i:]; strings.HasPrefix(rest, tail) && (len(rest) == len(tail) || rest[len(tail)] == '/') {
			return len(tail)
		}
	}
	return 0
}

// maxEscapes bounds how often a path may be escaped: once on purpose, and perhaps once more by mistake.
const maxEscapes = 3

// isSafePath reports whether the path, which begins with a slash, stays safe each time it is unescaped.
func isSafePath(path string) bool {
	for range maxEscapes {
		if !hasSafeSegments(path) {
			return false
		}
		decoded, changed := unescape(path)
		if !changed {
			return true
		}
		path = decoded
	}
	return false
}

// hasSafeSegments reports whether a path that begins with a slash has no dot segments, empty segments or special
// characters. The last segment may be empty.
func hasSafeSegments(path string) bool {
	for i := range len(path) {
		if c := path[i]; c == '\\' || c < ' ' || c == 0x7f {
			return false
		}
	}
	if !utf8.ValidString(path) {
		return false
	}
	for segment, rest, more := strings.Cut(path[1:], "/"); ; segment, rest, more = strings.Cut(rest, "/") {
		name, _, _ := strings.Cut(segment, ";") // some servers ignore what follows, and read "..;" as ".."
		if name == "." || name == ".." || (name == "" && more) {
			return false
		}
		if !more {
			return true
		}
	}
}

// unescape decodes the valid escapes once and leaves invalid ones as they are, as lenient servers do.
func unescape(path string) (decoded string, changed bool) {
	if strings.IndexByte(path, '%') < 0 {
		return path, false
	}
	out := make([]byte, 0, len(path))
	for i := 0; i < len(path); i++ {
		if path[i] == '%' && i+2 < len(path) && isHex(path[i+1]) && isHex(path[i+2]) {
			out = append(out, fromHex(path[i+1])<<4|fromHex(path[i+2]))
			i += 2
			changed = true
			continue
		}
		out = append(out, path[i])
	}
	return string(out), changed
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

func fromHex(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c&^0x20 - 'A' + 10
}

// CheckUpstreams returns everything that is wrong with a value for Config.Upstreams, in the order of the slugs, including
// unknown providers. New accepts those, because no request can go to them, and checks only the URLs. The error repeats no
// URL, because one may hold a password.
func CheckUpstreams(upstreams map[string]*url.URL) error {
	if len(upstreams) == 0 {
		return nil
	}
	known, err := Providers()
	if err != nil {
		return err
	}
	var wrong []error
	for _, provider := range slices.Sorted(maps.Keys(upstreams)) {
		name := provider
		if !isName(provider, false) {
			name = "of that name" // the text could be anything
		}
		if !slices.Contains(known, provider) {
			wrong = append(wrong, fmt.Errorf("there is no provider %s; this release knows %s", name, strings.Join(known, ", ")))
			continue
		}
		if upstream := upstreams[provider]; upstream == nil || checkDestination(upstream) != nil {
			wrong = append(wrong, fmt.Errorf("the URL of %s %s", name, destinationRule))
		}
	}
	return errors.Join(wrong...)
}

// Providers returns the slugs of this release's provider catalogue. A newer control plane may know more.
func Providers() (slugs []string, err error) {
	document, err := gen.GetSpec()
	if err != nil {
		return nil, fmt.Errorf("data planes' API document: %w", err)
	}
	schema := document.Components.Schemas["ProviderSlug"]
	if schema == nil || schema.Value == nil {
		return nil, errors.New("data planes' API document: no ProviderSlug")
	}
	listed, _ := schema.Value.Extensions["x-extensible-enum"].([]any)
	for _, slug := range listed {
		slugs = append(slugs, fmt.Sprint(slug))
	}
	return slugs, nil
}
