package docsite

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/agentrouter/aikeys/impl/docsite/apiref"
)

// The Content-Security-Policies of the site: only our own scripts run, pages send requests only to our own server, and
// no page is framed.
const (
	pagePolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; " +
		"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
	// The reference sends requests that readers try, with their API keys. So its policy forbids that text becomes HTML.
	referencePolicy = pagePolicy + "; connect-src 'self'; require-trusted-types-for 'script'; trusted-types 'none'"
	// filePolicy is for everything that is not a page.
	filePolicy = "default-src 'none'; frame-ancestors 'none'"
)

// resource is the content of one path, and how to serve it.
type resource struct {
	contentType string
	body        content
	gzipped     func() content // returns the body compressed; nil if it is never compressed
	base        *baseURL       // if set, the placeholder in the body becomes the reader's base URL
	policy      string         // the Content-Security-Policy; empty means filePolicy
	version     string         // with ?v=version, as our pages link to it, the response can be cached forever
	attachment  string         // the file name to save it under
}

// content is bytes and their entity tag.
type content struct {
	bytes []byte
	etag  string
}

func newContent(body []byte) content {
	sum := sha256.Sum256(body)
	return content{body, `"` + hex.EncodeToString(sum[:16]) + `"`}
}

// ServeHTTP answers GET and HEAD.
func (f resource) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	body := f.body
	switch {
	case f.version != "" && r.URL.RawQuery == "v="+f.version:
		header.Set("Cache-Control", "public, max-age=31536000, immutable")
	case f.base != nil:
		body = newContent(bytes.ReplaceAll(body.bytes, []byte(apiref.Placeholder), []byte(f.base.forRequest(r))))
		header.Set("Cache-Control", "private, no-cache") // it depends on the request's host
	default:
		header.Set("Cache-Control", "no-cache")
	}
	if f.gzipped != nil {
		header.Set("Vary", "Accept-Encoding")
		if acceptsGzip(r) {
			header.Set("Content-Encoding", "gzip")
			body = f.gzipped()
		}
	}
	header.Set("Content-Type", f.contentType)
	header.Set("ETag", body.etag)
	setSafetyHeaders(header, cmp.Or(f.policy, filePolicy))
	if f.attachment != "" {
		header.Set("Content-Disposition", fmt.Sprintf("attachment; filename=%q", f.attachment))
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body.bytes))
}

// setSafetyHeaders sets the security headers of every page and file of the site.
func setSafetyHeaders(header http.Header, policy string) {
	header.Set("Content-Security-Policy", policy)
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("Cross-Origin-Opener-Policy", "same-origin")
}

// acceptsGzip reports whether Accept-Encoding names gzip with a weight above 0 (RFC 9110, section 12.5.3).
func acceptsGzip(r *http.Request) bool {
	for coding := range strings.SplitSeq(strings.Join(r.Header.Values("Accept-Encoding"), ","), ",") {
		name, weight, _ := strings.Cut(strings.ToLower(strings.ReplaceAll(coding, " ", "")), ";q=")
		if name == "gzip" {
			q, err := strconv.ParseFloat(cmp.Or(weight, "1"), 64)
			return err == nil && q > 0
		}
	}
	return false
}

//go:embed assets
var assetFiles embed.FS

// asset is a script, a style or an image of the pages.
type asset struct {
	path     string
	resource resource
}

// URL returns the URL that pages link to. It has a version, so browsers can cache the file forever and still get the
// next version.
func (a asset) URL() string { return a.path + "?v=" + a.resource.version }

// loadAssets returns the assets by the names that templates use.
func loadAssets(m *material) (map[string]asset, error) {
	index, err := searchIndex(m)
	if err != nil {
		return nil, fmt.Errorf("docsite: %w", err)
	}
	assets := map[string]asset{}
	for name, contentType := range map[string]string{
		"site.css": "text/css; charset=utf-8", "reference.css": "text/css; charset=utf-8", "icon.svg": "image/svg+xml",
		"site.js": "text/javascript; charset=utf-8", "reference.js": "text/javascript; charset=utf-8", "search.js": "text/javascript; charset=utf-8",
	} {
		file := index
		if name != "search.js" {
			if file, err = assetFiles.ReadFile("assets/" + name); err != nil {
				return nil, fmt.Errorf("docsite: %w", err)
			}
		}
		res := resource{contentType: contentType, body: newContent(file)}
		res.version = strings.Trim(res.body.etag, `"`)[:12]
		assets[name] = asset{"/docs/assets/" + name, res}
	}
	return assets, nil
}
