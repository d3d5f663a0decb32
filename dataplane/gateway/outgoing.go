package gateway

import (
	"encoding/base64"
	"errors"
	"io"
	"iter"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"
)

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
	p.incoming = pr.In
	if p.destination, p.err = newDestination(p.key, g.upstreams[p.key.Provider]); p.err != nil {
		return
	}
	if pr.Out.URL, p.err = p.destination.target(p.path); p.err != nil {
		return
	}
	p.sentTo = pr.Out.URL
	if p.operation, p.err = checkOperation(p.destination, pr.Out.URL); p.err != nil {
		return
	}
	if p.err = p.checkRestrictions(pr); p.err != nil {
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
	p.err = p.key.AuthorizeAt(pr.Out.Header, p.destination.pathOnHost(pr.Out.URL))
}

// checkRestrictions refuses a request that its key may not be used for.
func (p *proxiedRequest) checkRestrictions(pr *httputil.ProxyRequest) error {
	inBody, err := checkRestrictions(p.destination, pr.Out.URL, pr.In.Header, pr.In.URL.RawQuery)
	if inBody {
		pr.Out.Body, err = checkModel(p.destination, pr.In.Header, pr.Out.Body)
	}
	return err
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
		b.request.bodyRead.Store(!errors.Is(err, errModelUnreadable))
	}
	return n, err
}

const (
	webSocketProtocols = "Sec-Websocket-Protocol"
	// Browsers can't set headers on WebSockets, so they send the key as a protocol with this prefix.
	webSocketKeyPrefix = "openai-insecure-api-key."
)

// stripRequest removes the headers that are not for the provider: see isPrivate.
func stripRequest(header http.Header, credential string) {
	if header[webSocketProtocols] != nil {
		stripProtocols(header, credential)
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
	// net/http has made the name canonical. Some servers read an underscore as a hyphen.
	if strings.IndexByte(name, '_') >= 0 {
		name = http.CanonicalHeaderKey(strings.ReplaceAll(name, "_", "-"))
	}
	switch name {
	case headerAuthorization, headerXAPIKey, headerXGoogAPIKey, headerAPIKey, "Proxy-Authorization", "Cookie",
		"Ocp-Apim-Subscription-Key", // Azure's other name for Api-Key
		"Via", "Forwarded", "X-Real-Ip", "True-Client-Ip", "X-Client-Ip", "X-Cluster-Client-Ip", "Cf-Connecting-Ip", "Fastly-Client-Ip",
		"X-Original-Url", "X-Original-Uri", "X-Rewrite-Url",
		"X-Amz-Date", "X-Amz-Security-Token", "X-Amz-Content-Sha256", // of a signature with the caller's credential
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

// eachProtocol returns the protocols that a WebSocket's client offers.
func eachProtocol(header http.Header) iter.Seq[string] {
	return func(visit func(string) bool) {
		for _, line := range header[webSocketProtocols] {
			for protocol := range strings.SplitSeq(line, ",") {
				if protocol = strings.TrimSpace(protocol); protocol != "" && !visit(protocol) {
					return
				}
			}
		}
	}
}

// stripProtocols removes the WebSocket protocols that carry a key.
func stripProtocols(header http.Header, credential string) {
	var kept []string
	for protocol := range eachProtocol(header) {
		if !strings.HasPrefix(protocol, webSocketKeyPrefix) && !contains(protocol, credential) {
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
