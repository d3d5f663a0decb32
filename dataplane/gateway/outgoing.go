package gateway

import (
	"cmp"
	"encoding/base64"
	"errors"
	"io"
	"iter"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/internal/netaddr"
)

// rewrite turns the caller's request into the request for the provider: it sets the URL, removes private headers and
// adds the provider's key. The reverse proxy has already removed hop-by-hop headers. rewrite stores an error in p.err,
// and RoundTrip returns it.
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
	if p.key.Restrictions != nil {
		if p.err = p.checkRestrictions(pr); p.err != nil {
			return
		}
	}
	pr.Out.URL.RawQuery = withoutCredential(pr.In.URL.RawQuery, p.caller.Provider, p.caller.Credential)
	pr.Out.Host = ""
	if pr.Out.Header["Upgrade"] != nil && !isWebSocket(pr.Out.Header) {
		delete(pr.Out.Header, "Upgrade")
		delete(pr.Out.Header, "Connection")
	}
	stripRequest(pr.Out.Header, p.caller.Credential)
	// Answers are searched for the provider's key, so they must not be compressed.
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

// destinationRule describes the URLs to which a provider's key may be sent.
const destinationRule = "must be https, or http on this machine, without user, query and fragment, and without empty and dot segments in its path"

var errDestination = errors.New("a destination " + destinationRule)

// checkBase returns errDestination for a URL that breaks destinationRule. inClear also allows http to other machines.
func checkBase(u *url.URL, inClear bool) error {
	local := u.Scheme == "http" && (inClear || netaddr.IsLoopback(u.Hostname()))
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

// destination is where requests with a key go: below a base URL, or to the routes of its host.
type destination struct {
	key *dataplane.Key
	own *url.URL // the key's base URL
	// base is the key's base URL, or the URL of the upstream that replaces it.
	base *url.URL
	// root is the escaped path on base's host that stands for the root of the provider's own host. It has no slash at
	// the end.
	root string
}

// newDestination returns the destination of requests with a key; upstream replaces the key's own base URL unless it is
// nil. The addresses of a custom provider's host are checked when the connection is made.
func newDestination(key *dataplane.Key, upstream *url.URL) (destination, error) {
	own, err := key.Base()
	if err != nil || upstream == nil && checkBase(own, key.IsCustom()) != nil { // New has checked upstreams
		return destination{}, errDestination
	}
	d := destination{key: key, own: own, base: own}
	if upstream != nil {
		d.base = upstream
	}
	path := strings.TrimRight(d.base.EscapedPath(), "/")
	d.root = strings.TrimSuffix(path, strings.TrimRight(own.EscapedPath(), "/"))
	return d, nil
}

// join returns the URL for a caller's path. A path on one of the provider's routes goes below root, any other path
// below the base URL. If the path begins with the last segments of the base URL, the result has these segments only
// once, so clients may send /v1 or leave it out.
func (d destination) join(path safePath) *url.URL {
	joined := d.root + string(path)
	if _, ok := d.key.Route(string(path)); !ok {
		base := strings.TrimRight(d.base.EscapedPath(), "/")
		joined = base + string(path)[overlap(base, string(path)):]
	}
	out := &url.URL{Scheme: d.base.Scheme, Host: d.base.Host, Path: joined}
	if strings.IndexByte(joined, '%') >= 0 {
		out.Path, _ = url.PathUnescape(joined) // url.Parse and parsePath have checked it
		out.RawPath = joined
	}
	return out
}

// target returns the URL to which a request for a caller's path goes: the URL that join returns, on the host that
// serves the path. An upstream stands for all hosts of the provider.
func (d destination) target(path safePath) (*url.URL, error) {
	out := d.join(path)
	if d.base != d.own {
		return out, nil
	}
	host, ok := d.key.HostAt(d.pathOnHost(out))
	if !ok {
		return out, errLocation
	}
	out.Host = cmp.Or(host, out.Host)
	return out, nil
}

// pathOnHost returns the path that the target of a request has on the provider's own host. An upstream may stand for
// the whole host, with the provider's routes, or only for the base URL.
func (d destination) pathOnHost(target *url.URL) string {
	onHost := strings.TrimPrefix(target.EscapedPath(), d.root)
	if _, ok := d.key.Route(onHost); ok {
		return onHost
	}
	if d.base != d.own {
		if rest, below := strings.CutPrefix(target.EscapedPath(), strings.TrimRight(d.base.EscapedPath(), "/")); below {
			return strings.TrimRight(d.own.EscapedPath(), "/") + rest
		}
	}
	return onHost
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

// The classes of operations.
const (
	operationInference      = "inference"
	operationAdministration = "administration"
)

// checkOperation returns the class of an operation by the path of its URL. For a path that the key lists as
// administration, in any spelling, it returns errAdministration, unless the policy lets the key serve all operations.
// For an API that no gateway can serve, it returns *unservedAPI.
func checkOperation(d destination, target *url.URL) (class string, err error) {
	unserved := readCatalogue().bySlug[d.key.Provider].unserved
	if len(d.key.Administration) == 0 && len(unserved) == 0 {
		return operationInference, nil
	}
	segments, first := segmentsOf(target.EscapedPath()), len(segmentsOf(d.base.EscapedPath()))
	last := first
	if route, ok := d.key.Route(d.pathOnHost(target)); ok {
		first = len(segmentsOf(d.root))
		last = first + len(segmentsOf(route.Path))
	} else if d.base != d.own {
		// An upstream's base path may be shorter than the provider's, and callers send the rest. It may also be longer.
		if path := segmentsOf(d.own.EscapedPath()); !slices.EqualFunc(path, segments[max(0, first-len(path)):first], strings.EqualFold) {
			last += len(path)
		}
	}
	for i := range unserved {
		if hasBelow(segments, strings.Trim(unserved[i].Path, "/"), first, last) {
			return operationInference, &unserved[i]
		}
	}
	for _, pattern := range d.key.Administration {
		if hasBelow(segments, strings.Trim(pattern, "/"), first, last) {
			if !d.key.AllOperations {
				err = errAdministration
			}
			return operationAdministration, err
		}
	}
	return operationInference, nil
}

// segmentsOf returns a path's segments as a lenient server may read them: unescaped and without parameters.
func segmentsOf(path string) []string {
	for range maxEscapes {
		path, _ = unescape(path)
	}
	path = strings.Trim(path, "/")
	if path == "" {
		return nil
	}
	segments := strings.Split(path, "/")
	for i, segment := range segments {
		segments[i], _, _ = strings.Cut(segment, ";")
	}
	return segments
}

// hasBelow reports whether some of the segments match the pattern. The match must end after the first base segments,
// and begin at or before the index last.
func hasBelow(segments []string, pattern string, base, last int) bool {
	for i := max(0, base-strings.Count(pattern, "/")); i <= min(last, len(segments)); i++ {
		if hasPrefix(segments[i:], pattern) {
			return true
		}
	}
	return false
}

// hasPrefix reports whether the segments begin with those of the pattern, in any case, as a lenient server may read them.
func hasPrefix(segments []string, pattern string) bool {
	i := 0
	for part := range strings.SplitSeq(pattern, "/") {
		if i == len(segments) {
			return false
		}
		// After a colon, Google's APIs name a method: /auth_tokens:batch is below /auth_tokens.
		name, method, _ := strings.Cut(segments[i], ":")
		part, onlyMethod, _ := strings.Cut(part, ":")
		if part != "*" && !strings.EqualFold(part, name) || onlyMethod != "" && !strings.EqualFold(onlyMethod, method) {
			return false
		}
		i++
	}
	return true
}

// requestBody is a request's body on its way to the provider. At the end of the body, requestBody strips the trailers,
// because they are not known earlier.
type requestBody struct {
	io.ReadCloser
	request *proxiedRequest
	trailer http.Header
}

// withoutCredential returns the query without the parameters that contain the caller's credential.
func withoutCredential(rawQuery, provider, credential string) string {
	if rawQuery == "" {
		return ""
	}
	kept := make([]string, 0, 4)
	for pair := range parameters(rawQuery) {
		if !hasCredential(pair, provider, credential) {
			kept = append(kept, pair)
		}
	}
	return strings.Join(kept, "&")
}

// credentialParameters returns the names of the parameters that contain the caller's credential. Each name appears once
// and is spelled as sent, because a proxy that removes parameters by name may not decode names. Such a proxy also
// removes other parameters of the same name.
func credentialParameters(rawQuery, provider, credential string) (names []string) {
	for pair := range parameters(rawQuery) {
		name, _, _ := strings.Cut(pair, "=")
		if hasCredential(pair, provider, credential) && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// googleParameters are the query parameters in which Google's APIs take a credential, or headers and a method that replace
// the request's. Some may begin with a dollar sign.
var googleParameters = []string{QueryKey, "access_token", "oauth_token", "httpHeaders", "httpMethod"}

// credentialQuery has the query parameters in which providers also take a credential. If a caller could send a wrong
// credential there, the provider's refusal would count as a refusal of the key. Names match in any case, because Azure
// reads them in any case.
var credentialQuery = map[string][]string{
	QueryKeyProvider: googleParameters, "vertex": googleParameters, "vertexanthropic": googleParameters,
	"azure_openai": {"api-key", "subscription-key"},
	"bedrock": { // the parameters of a presigned URL
		"X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-Security-Token", "X-Amz-Signature", "X-Amz-SignedHeaders",
	},
}

// hasCredential reports whether a parameter contains the caller's credential, or may hold a credential for the provider.
func hasCredential(pair, provider, credential string) bool {
	name, value, _ := strings.Cut(pair, "=")
	read := strings.TrimPrefix(parameterName(pair), "$")
	return contains(name, credential) || contains(value, credential) ||
		slices.ContainsFunc(credentialQuery[provider], func(known string) bool { return strings.EqualFold(known, read) })
}

// parameters returns the parameters of a query, as they were sent.
func parameters(rawQuery string) iter.Seq[string] {
	return func(visit func(string) bool) {
		for pair := range strings.SplitSeq(rawQuery, "&") {
			if pair != "" && !visit(pair) {
				return
			}
		}
	}
}

// parameterName returns a parameter's name as providers read it: %6bey is key.
func parameterName(pair string) string {
	name, _, _ := strings.Cut(pair, "=")
	if decoded, err := url.QueryUnescape(name); err == nil {
		return decoded
	}
	return name
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
		"X-Amz-Date", "X-Amz-Security-Token", "X-Amz-Content-Sha256", // of the signature of the caller's request
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

// toStandardBase64 turns base64 in the alphabet for URLs into standard base64.
var toStandardBase64 = strings.NewReplacer("-", "+", "_", "/")

// contains reports whether text contains the credential: plain, percent-encoded, or in base64.
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

// isWebSocket reports whether the header asks for an upgrade to WebSocket, the only protocol that may pass. Any other
// protocol, such as h2c, would be a tunnel to the whole host of the provider.
func isWebSocket(header http.Header) bool {
	upgrades := header["Upgrade"]
	return len(upgrades) == 1 && strings.EqualFold(upgrades[0], "websocket")
}

// outbound sends the requests of a gateway to providers.
type outbound struct{ *Gateway }

// RoundTrip implements http.RoundTripper. It counts the request against the limits of its key.
func (o outbound) RoundTrip(r *http.Request) (*http.Response, error) {
	p := proxiedRequestOf(r.Context())
	if p.err == nil && p.key.Limits != nil { // otherwise rewrite has set p.err
		p.end, p.err = o.resolver.Begin(p.key)
	}
	if p.err != nil {
		if r.Body != nil {
			_ = r.Body.Close() // nothing has been read from it
		}
		return nil, p.err
	}
	p.sentAt = time.Now()
	return o.send(p.key, r)
}

// send sends a request with a key through the transport for the key's provider.
func (g *Gateway) send(key *dataplane.Key, r *http.Request) (*http.Response, error) {
	if key.IsCustom() {
		return g.custom.RoundTrip(r)
	}
	return g.transport.RoundTrip(r)
}

// SendTest sends a request that tests a key to the provider with this base URL. It sends the request to the provider's
// upstream if there is one. For a custom provider, it connects only to addresses that are allowed for callers'
// requests. It follows no redirects. It implements SendTest of dataplane.Config.
func (g *Gateway) SendTest(provider, baseURL string, request *http.Request) (*http.Response, error) {
	key := &dataplane.Key{Provider: provider, BaseURL: baseURL}
	upstream := g.upstreams[provider]
	d, err := newDestination(key, upstream)
	if err != nil {
		return nil, err
	}
	target := *request.URL
	target.RawQuery = ""
	if checkBase(&target, key.IsCustom()) != nil || key.IsCustom() && (target.Scheme != d.own.Scheme || target.Host != d.own.Host) {
		return nil, errDestination
	}
	if upstream != nil {
		request.URL.Scheme, request.URL.Host, request.URL.Path = upstream.Scheme, upstream.Host, d.root+request.URL.Path
		request.Host = upstream.Host
	}
	return g.send(key, request)
}
