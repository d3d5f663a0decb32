package gateway

import (
	"cmp"
	"context"
	"hash/maphash"
	"iter"
	"log/slog"
	"math"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/maypok86/otter/v2"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/internal/netaddr"
	"github.com/agentrouter/aikeys/internal/problem"
	"github.com/agentrouter/aikeys/internal/ratelimit"
)

// The gateway's own headers. None of them is passed on to a provider.
const (
	// HeaderProject, in requests, selects another project than that of the caller's session.
	HeaderProject = "Agentrouter-Project"
	// HeaderKeyID, in answers, is the id of the key that served the request.
	HeaderKeyID = "Agentrouter-Key-Id"
	// HeaderReason, in answers, is the rule that chose the key.
	HeaderReason = "Agentrouter-Reason"
	// HeaderLimit, in refusals with 429, names the limit that the key has reached. A provider's 429 does not have this
	// header.
	HeaderLimit = "Agentrouter-Limit"
	// HeaderRequestID, in answers, is the request's id in the gateway's log. X-Request-Id is the provider's.
	HeaderRequestID = "Agentrouter-Request-Id"

	ownPrefix = "Agentrouter-"
)

// The headers in which callers send credentials and providers take keys.
const (
	headerAuthorization = "Authorization"
	headerXAPIKey       = "X-Api-Key"      //nolint:gosec // the name of a header
	headerXGoogAPIKey   = "X-Goog-Api-Key" //nolint:gosec // the name of a header
	headerAPIKey        = "Api-Key"
)

// The control plane's own limits.
const (
	maxCredential = 8192
	maxName       = 64
)

const (
	// QueryKeyProvider is the only provider whose clients may send their key in the query.
	QueryKeyProvider = "gemini"
	// QueryKey is the parameter of that key.
	QueryKey = "key"
)

// CredentialHeaders returns the headers in which callers send credentials and providers take keys.
func CredentialHeaders() []string {
	return []string{headerAuthorization, headerXAPIKey, headerXGoogAPIKey, headerAPIKey}
}

// Head is the head of a request to a provider, as every way into the gateway checks it.
type Head struct {
	Provider string
	// Methods and Paths hold every value that a proxy names. There may be several, in several headers, and some of
	// these headers may come from the caller. Each value is checked. Paths are escaped.
	Methods, Paths []string
	RawQuery       string
	Header         http.Header
	// Model is the model that the body names, if the program that asks has read it.
	Model string

	// queries are the queries of the Paths. A credential in them is ignored. If nil, RawQuery is used.
	queries []string
}

// check returns the caller of a request, or why no key could serve it.
func (h Head) check() (dataplane.Request, error) {
	if slices.ContainsFunc(h.Methods, isForbiddenMethod) {
		return dataplane.Request{}, errMethod
	}
	caller, err := CallerOf(h.Header, h.RawQuery, h.Provider)
	for _, path := range h.Paths {
		if err == nil {
			_, err = parsePath(path)
		}
	}
	return caller, err
}

// belowProvider returns one of the Paths without the provider's slug. The proxies of the sample configurations remove
// the slug, too.
func (h Head) belowProvider(path string) string { return strings.TrimPrefix(path, "/"+h.Provider) }

// queryOf returns the query that came with one of the Paths.
func (h Head) queryOf(path int) string {
	if h.queries != nil {
		return h.queries[path]
	}
	return h.RawQuery
}

// dialect returns the dialect of the API that the request is for.
func (h Head) dialect() Dialect {
	path := ""
	if len(h.Paths) == 1 {
		path = h.belowProvider(h.Paths[0])
	}
	return dialectOf(h.Provider, path, h.Header)
}

// findKey reads the caller, the provider and the path from the head of a request to /{provider}/…, and finds the key
// that serves it.
func (g *Gateway) findKey(r *http.Request, p *proxiedRequest) (err error) {
	provider, rest, ok := splitPath(r.URL.EscapedPath())
	if !ok && !isForbiddenMethod(r.Method) {
		return errNoRoute
	}
	p.caller, err = Head{
		Provider: provider, Methods: []string{r.Method}, Paths: []string{rest}, RawQuery: r.URL.RawQuery, Header: r.Header,
	}.check()
	if err != nil {
		return err
	}
	p.path = safePath(rest)
	if p.key, err = g.guard.resolve(r.Context(), g.resolver, p.caller, r.RemoteAddr, r.Header); err != nil {
		p.provider = loggedProvider(provider, err)
		return err
	}
	p.provider = provider
	return nil
}

// isForbiddenMethod reports whether the method can make a server send the request back, with the key in it, or open a
// tunnel. Some servers also accept methods in lower case.
func isForbiddenMethod(method string) bool {
	return strings.EqualFold(method, http.MethodTrace) || strings.EqualFold(method, "TRACK") ||
		strings.EqualFold(method, http.MethodConnect)
}

// splitPath splits an escaped path into the provider's slug and the rest, which is empty or begins with a slash.
func splitPath(path string) (provider, rest string, ok bool) {
	provider, ok = strings.CutPrefix(path, "/")
	if i := strings.IndexByte(provider, '/'); i >= 0 {
		provider, rest = provider[:i], provider[i:]
	}
	return provider, rest, ok
}

// safePath is the part of a request's path below a provider's base URL, in escaped form. parsePath has accepted it. It
// is empty or begins with a slash.
type safePath string

// parsePath returns errPath for a path that some server may read as leading out of the base URL: a path with a dot
// segment or an empty segment, plain or escaped any number of times, or with a character that some servers take for a
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

// unescape decodes the valid escapes once and leaves invalid ones unchanged, as lenient servers do.
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

// CallerOf reads the caller's credential and the project from the head of a request to a provider. The credential may be among the
// protocols of a WebSocket, as OpenAI's clients in browsers send it. rawQuery is read for QueryKeyProvider only.
//
// The same credential may be sent twice. If a request has several credentials, CallerOf takes the AgentRouter API key,
// and the gateway removes the others: clients add credentials that they find in their environment. CallerOf refuses a
// request that has two AgentRouter API keys, or that has several other credentials and no AgentRouter API key.
func CallerOf(header http.Header, rawQuery, provider string) (dataplane.Request, error) {
	if !isName(provider, false) {
		return dataplane.Request{}, errNoRoute
	}
	credential, err := credentialOf(header, rawQuery, provider)
	if err != nil {
		return dataplane.Request{}, err
	}
	request := dataplane.ForCaller(credential, provider)
	switch projects := header[HeaderProject]; {
	case len(projects) == 1 && isName(projects[0], true):
		request.ProjectID = projects[0]
	case len(projects) > 0:
		return dataplane.Request{}, errProject
	}
	return request, nil
}

func credentialOf(header http.Header, rawQuery, provider string) (string, error) {
	var found foundCredentials
	for _, value := range header[headerAuthorization] {
		scheme, token, _ := strings.Cut(strings.TrimSpace(value), " ")
		switch {
		case strings.EqualFold(scheme, "bearer"):
			found.add(strings.TrimSpace(token))
		case scheme == "AWS4-HMAC-SHA256":
			found.add(accessKeyOf(token))
		default:
			return "", errScheme
		}
	}
	for _, name := range [...]string{headerXAPIKey, headerXGoogAPIKey, headerAPIKey} {
		for _, value := range header[name] {
			found.add(strings.TrimSpace(value))
		}
	}
	for protocol := range eachProtocol(header) {
		if key, ok := strings.CutPrefix(protocol, webSocketKeyPrefix); ok {
			found.add(key)
		}
	}
	if provider == QueryKeyProvider {
		for pair := range parameters(rawQuery) {
			if parameterName(pair) == QueryKey {
				_, value, _ := strings.Cut(pair, "=")
				value, _ = url.QueryUnescape(value)
				found.add(value)
			}
		}
	}
	counts := found.others
	if found.ours.value != "" {
		counts = found.ours
	}
	switch {
	case counts.several:
		return "", errTwoCredentials
	case counts.value == "":
		return "", errNoCredential
	case len(counts.value) > maxCredential:
		return "", dataplane.ErrCallerUnauthenticated
	}
	return counts.value, nil
}

// foundCredentials holds the credentials of a request: ours are AgentRouter API keys; others are session tokens and providers' keys.
type foundCredentials struct{ ours, others singleValue }

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

func (f *foundCredentials) add(value string) {
	if apiKeyPattern.MatchString(value) {
		f.ours.add(value)
	} else {
		f.others.add(value)
	}
}

// apiKeyPattern matches the form of the API keys that the control plane makes.
var apiKeyPattern = regexp.MustCompile(`^ak_[0-9A-Z]{26}_`)

// accessKeyOf returns the access key id of a signature
// (docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html), for clients of Bedrock that
// always sign their requests. Such a client uses the caller's credential as its access key id. The signature itself is
// not checked.
func accessKeyOf(signature string) string {
	_, scope, _ := strings.Cut(signature, "Credential=")
	id, _, _ := strings.Cut(scope, "/")
	return strings.TrimSpace(id)
}

// singleValue keeps a value, and records whether a second, different value was added. Empty values are ignored.
type singleValue struct {
	value   string
	several bool
}

func (v *singleValue) add(value string) {
	v.several = v.several || (v.value != "" && value != "" && value != v.value)
	if value != "" {
		v.value = value
	}
}

// isName reports whether the text has the form of a provider's slug or, if id is true, of a project's id. Ids may also
// have dots and capitals.
func isName(text string, id bool) bool {
	if text == "" || len(text) > maxName {
		return false
	}
	for i := range len(text) {
		switch c := text[i]; {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '_', c == '-':
		case id && (c == '.' || c >= 'A' && c <= 'Z'):
		default:
			return false
		}
	}
	return true
}

// maxServed bounds the number of entries in recentlyServed, which take about 50 bytes each.
const maxServed = 50_000

// Guard limits how often one address can cause look-ups with wrong credentials. It counts the failures of each address.
// For an address over its limit, only a few requests a second are looked up. A request does not wait if one with the
// same credential, project and provider was served before. So callers with good credentials behind the same address are
// still served at once. A nil Guard limits nothing.
type Guard struct {
	proxies []netip.Prefix
	guesses *ratelimit.Guesses
	seed    maphash.Seed
	// recentlyServed has the hashes of requests that were served. A collision would only skip the wait.
	recentlyServed *otter.Cache[uint64, struct{}]
}

// NewGuard returns a Guard for Config.Guard, nil if the configuration sets no limit. It uses FailedAuthLimit, TrustedProxies,
// Metrics and Log.
func NewGuard(cfg Config) (*Guard, error) {
	metrics, err := newMetrics(cfg.Metrics)
	if err != nil {
		return nil, err
	}
	return newGuard(cfg, metrics, cmp.Or(cfg.Log, slog.Default())), nil
}

// newGuard returns the configuration's Guard. If there is none, it returns a new Guard, which counts its refusals and
// logs one a minute for each address.
func newGuard(cfg Config, metrics *metrics, log *slog.Logger) *Guard {
	if cfg.Guard != nil || cfg.FailedAuthLimit <= 0 {
		return cfg.Guard
	}
	failures := ratelimit.Rate{PerSecond: cfg.FailedAuthLimit / 60, Burst: int(math.Ceil(cfg.FailedAuthLimit))}
	return &Guard{
		proxies: cfg.TrustedProxies,
		guesses: ratelimit.NewGuesses(failures, func(ctx context.Context, address netip.Addr, isFirst bool) {
			metrics.guesses.Inc()
			if isFirst {
				log.WarnContext(ctx, "too many failed authentications", slog.String("source_ip", address.String()))
			}
		}),
		seed:           maphash.MakeSeed(),
		recentlyServed: otter.Must(&otter.Options[uint64, struct{}]{MaximumSize: maxServed}),
	}
}

// resolve calls the resolver for a request that came from peer with these headers, if the guard admits it.
func (g *Guard) resolve(
	ctx context.Context, resolver Resolver, request dataplane.Request, peer string, header http.Header,
) (*dataplane.Key, error) {
	if g == nil {
		return resolver.Resolve(ctx, request)
	}
	id := g.hash(request)
	_, known := g.recentlyServed.GetIfPresent(id)
	if address := g.clientAddress(peer, header); !known && g.guesses.IsSuspect(address) {
		release, err := g.guesses.Begin(ctx, address, strings.Count(request.Credential, ".") == 2) //nolint:mnd // a JWT's
		if err != nil {
			return nil, err
		}
		if release == nil {
			return nil, g.tooManyFailures()
		}
		defer release()
	}
	key, err := resolver.Resolve(ctx, request)
	switch {
	case err == nil:
		if !known {
			g.recentlyServed.Set(id, struct{}{})
		}
	case isAny(err, dataplane.ErrCallerUnauthenticated, dataplane.ErrNotMember, dataplane.ErrInvalid):
		// Strangers can cause any number of these refusals, and each costs a look-up.
		g.recentlyServed.Invalidate(id)
		if !g.guesses.Fail(ctx, g.clientAddress(peer, header)) {
			return nil, g.tooManyFailures()
		}
	}
	return key, err
}

func (g *Guard) hash(request dataplane.Request) uint64 {
	var h maphash.Hash
	h.SetSeed(g.seed)
	for _, field := range [...]string{request.Credential, request.ProjectID, request.Provider} {
		_, _ = h.WriteString(field) // can't fail
		_ = h.WriteByte(0)          // no field contains this byte
	}
	return h.Sum64()
}

// clientAddress returns the address that failures are counted by: the peer's address or, behind trusted proxies, the
// address of the client that they name in X-Forwarded-For. For IPv6 it is the /64 network, which one host usually has
// to itself.
func (g *Guard) clientAddress(peer string, header http.Header) netip.Addr {
	return netaddr.Host(netaddr.Client(peer, header["X-Forwarded-For"], g.proxies))
}

// tooManyFailures returns errTooManyFailures with the time to wait before the next request.
func (g *Guard) tooManyFailures() error {
	return &problem.Wait{Kind: errTooManyFailures, Seconds: g.guesses.RetryAfter()}
}
