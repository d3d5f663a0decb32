package gateway

import (
	"bytes"
	"io"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/agentrouter/aikeys/internal/netaddr"
)

// linkHeaders are the headers of answers that hold a URL for the caller's next request.
var linkHeaders = [...]string{
	"Location", "Content-Location",
	"Operation-Location", "Azure-Asyncoperation", // Azure's long-running operations
	"X-Goog-Upload-Url", "X-Goog-Upload-Control-Url", // Google's resumable uploads
}

// linkTarget is a URL in a Link header (RFC 8288, section 3).
var linkTarget = regexp.MustCompile(`<[^<>]*>`)

// rewriteLinks changes links to the provider's own host so that they lead back through the gateway. The caller's
// credential is valid at the gateway, and must not go to the provider. A link to a place on that host that the gateway
// does not serve is removed. Links to other hosts, such as signed links to a file store, stay unchanged, unless a
// custom provider has sent them. A custom provider's links to other hosts are removed: many clients follow a redirect
// with the caller's credential, and the people who run a custom provider may want that credential.
func (p *proxiedRequest) rewriteLinks(header http.Header, sent *url.URL) {
	for _, name := range linkHeaders {
		for i, value := range header[name] {
			link := p.rewriteLink(value, sent)
			if link == "" {
				delete(header, name)
				break
			}
			if strings.HasPrefix(name, "X-Goog-Upload-") && p.provider == QueryKeyProvider && link != value {
				link = withKey(link, p.caller.Credential)
			}
			header[name][i] = link
		}
	}
	for i, value := range header["Link"] {
		header["Link"][i] = linkTarget.ReplaceAllStringFunc(value, func(target string) string {
			return "<" + p.rewriteLink(target[1:len(target)-1], sent) + ">"
		})
	}
}

// rewriteLink returns the link that the caller gets in place of a provider's link, or "" if the gateway does not serve
// the link's target. sent is the URL that relative links are resolved against.
func (p *proxiedRequest) rewriteLink(link string, sent *url.URL) string {
	d := p.destination
	reference, err := url.Parse(link)
	if err != nil {
		return ""
	}
	target := sent.ResolveReference(reference)
	base, onHost := d.base, d.pathOnHost(target)
	if !isSameHost(target, d.base) && !isSameHost(target, sent) {
		if !isSameHost(target, d.own) { // an upstream may link to the provider that it stands for
			if d.key.IsCustom() {
				return ""
			}
			return link
		}
		base, onHost = d.own, target.EscapedPath()
	}
	rest, below := strings.CutPrefix(target.EscapedPath(), strings.TrimRight(base.EscapedPath(), "/"))
	if !below || rest != "" && rest[0] != '/' {
		rest = onHost
		if _, ok := d.key.Route(rest); !ok {
			return ""
		}
	}
	target.Scheme, target.User, target.Host, target.Path, target.RawPath = "", nil, "", "", ""
	return originOf(p.incoming) + "/" + p.provider + rest + target.String() // target has only a query and a fragment left
}

// maxLinked bounds the JSON documents in which links are looked for.
const maxLinked = 1 << 20

// hasLinks reports whether an answer may be a document that names URLs for the caller's next requests: the next page of
// a list, or a download. Only the answer to a GET can be such a document; inference requests are never GETs. Files are
// marked as attachments, and pass unchanged.
func hasLinks(res *http.Response) bool {
	if res.Request.Method != http.MethodGet || res.StatusCode != http.StatusOK || res.Header["Content-Disposition"] != nil {
		return false
	}
	media, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type"))
	return media == "application/json" || strings.HasSuffix(media, "+json")
}

// linkedBody is an answer's body: a JSON document whose links are changed to lead back through the gateway. It reads
// the whole document before it passes any of it on. In a document of more than maxLinked bytes, links stay unchanged.
type linkedBody struct {
	io.ReadCloser
	rewrite func(document []byte) []byte
	ready   io.Reader // nil until the document was read
}

// Read implements io.Reader.
func (b *linkedBody) Read(p []byte) (int, error) {
	if b.ready == nil {
		document, err := io.ReadAll(io.LimitReader(b.ReadCloser, maxLinked+1))
		switch {
		case err != nil:
			return 0, err
		case len(document) > maxLinked:
			b.ready = io.MultiReader(bytes.NewReader(document), b.ReadCloser)
		default:
			b.ready = bytes.NewReader(b.rewrite(document))
		}
	}
	return b.ready.Read(p)
}

// rewriteLinksIn rewrites the texts of a JSON document that are links to the provider's own host, as rewriteLink does.
// Links to places that the gateway does not serve stay unchanged, and so do URLs that callers send back as names in
// later requests.
func (p *proxiedRequest) rewriteLinksIn(document []byte, sent *url.URL) []byte {
	var out []byte
	copied := 0
	names := readCatalogue().bySlug[p.provider].namedByURL
	d := jsontext.NewDecoder(bytes.NewReader(document), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	for {
		kind, length := d.StackIndex(d.StackDepth())
		if isName := kind == '{' && length%2 == 0; isName || d.PeekKind() != '"' {
			if _, err := d.ReadToken(); err != nil {
				return append(out, document[copied:]...) // the document has ended, or is not JSON
			}
			continue
		}
		text, err := d.ReadValue()
		if err != nil {
			return append(out, document[copied:]...)
		}
		unquoted, _ := jsontext.AppendUnquote(nil, text) // ReadValue has checked it
		link := string(unquoted)
		target, err := url.Parse(link)
		if err != nil || target.Scheme != "https" && target.Scheme != "http" || names != nil && names.MatchString(target.Path) {
			continue
		}
		if rewritten := p.rewriteLink(link, sent); rewritten != "" && rewritten != link {
			end := int(d.InputOffset())
			out = append(out, document[copied:end-len(text)]...)
			out, _ = jsontext.AppendQuote(out, rewritten) // a URL is valid UTF-8
			copied = end
		}
	}
}

// withKey adds the caller's credential to the link for an upload. Google's SDKs send no credential to an upload URL,
// because the URL itself authorizes the upload. The gateway needs a credential. Only the caller gets the link. A link
// to another machine without TLS stays unchanged.
func withKey(link, credential string) string {
	if u, err := url.Parse(link); err != nil || u.Scheme != "https" && !netaddr.IsLoopback(u.Hostname()) {
		return link
	}
	key := QueryKey + "=" + url.QueryEscape(credential)
	link, _, _ = strings.Cut(link, "#")
	if before, query, ok := strings.Cut(link, "?"); ok {
		if query = withoutCredential(query, QueryKeyProvider, credential); query != "" {
			query += "&"
		}
		return before + "?" + query + key
	}
	return link + "?" + key
}

// isSameHost reports whether two URLs are of the same host, whether or not they spell out the port or the root of the name.
func isSameHost(a, b *url.URL) bool {
	name := func(u *url.URL) string { return strings.TrimSuffix(u.Hostname(), ".") }
	port := func(u *url.URL) string {
		if isDefault := u.Port() == "443" && u.Scheme == "https" || u.Port() == "80" && u.Scheme == "http"; isDefault {
			return ""
		}
		return u.Port()
	}
	return strings.EqualFold(name(a), name(b)) && port(a) == port(b)
}

// originOf returns the scheme and host at which the caller reached the gateway, perhaps through a proxy that ends TLS.
// The caller may have made up the headers that name them. This does no harm, because only the caller gets the result.
func originOf(r *http.Request) string {
	outermost, _, _ := strings.Cut(r.Header.Get("X-Forwarded-Proto"), ",") // each proxy in a row may add its own
	if r.TLS != nil || strings.EqualFold(strings.TrimSpace(outermost), "https") {
		return "https://" + r.Host
	}
	return "http://" + r.Host
}
