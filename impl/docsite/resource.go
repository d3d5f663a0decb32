package docsite

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// The policies of the site. A page runs our scripts and no others, asks nobody else for anything, and stands in no frame.
const (
	pagePolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; " +
		"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
	// The reference's library writes its styles into the page, and reads the document.
	referencePolicy = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; " +
		"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
	// What is no page shows and runs nothing.
	filePolicy = "default-src 'none'; frame-ancestors 'none'"
)

// resource is something to be served under one path.
type resource struct {
	contentType string
	content     content
	// bases puts the reader's own base URL into the content; nil leaves it as it is.
	bases *bases
	// zipped tells that the content is compressed; plain then makes what goes to those who don't take that.
	zipped bool
	plain  func() (content, error)
	// policy is the Content-Security-Policy; empty is filePolicy.
	policy string
	// version is what ?v= says where the answer may be kept for good: it is part of the links in our pages.
	version string
	// attachment is the name to save it under.
	attachment string
}

// content is bytes and their entity tag.
type content struct {
	bytes []byte
	tag   string
}

func contentOf(body []byte) content {
	sum := sha256.Sum256(body)
	return content{body, `"` + hex.EncodeToString(sum[:16]) + `"`}
}

// ServeHTTP answers GET and HEAD.
func (f resource) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	body, zipped := f.content, f.zipped && takesGzip(r)
	switch {
	case f.zipped && !zipped:
		var err error
		if body, err = f.plain(); err != nil {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
	case f.bases != nil:
		body = contentOf(bytes.ReplaceAll(body.bytes, []byte(baseMark), []byte(f.bases.of(r))))
	}
	f.describe(header, r)
	header.Set("ETag", body.tag)
	if matches(r.Header.Values("If-None-Match"), body.tag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	if zipped {
		header.Set("Content-Encoding", "gzip")
	}
	header.Set("Content-Type", f.contentType)
	header.Set("Content-Length", strconv.Itoa(len(body.bytes)))
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body.bytes) // a reader that is gone can be told nothing more
	}
}

// describe sets the headers that 200 and 304 have in common.
func (f resource) describe(header http.Header, r *http.Request) {
	switch {
	case f.version != "" && r.URL.RawQuery == "v="+f.version:
		header.Set("Cache-Control", "public, max-age=31536000, immutable")
	case f.bases != nil:
		header.Set("Cache-Control", "private, no-cache") // it differs by who asks
	default:
		header.Set("Cache-Control", "no-cache")
	}
	if f.zipped {
		header.Set("Vary", "Accept-Encoding")
	}
	policy := f.policy
	if policy == "" {
		policy = filePolicy
	}
	header.Set("Content-Security-Policy", policy)
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("Cross-Origin-Opener-Policy", "same-origin")
	if f.attachment != "" {
		header.Set("Content-Disposition", fmt.Sprintf("attachment; filename=%q", f.attachment))
	}
}

// matches compares entity tags as If-None-Match asks (RFC 9110, section 13.1.2).
func matches(headers []string, tag string) bool {
	for candidate := range strings.SplitSeq(strings.Join(headers, ","), ",") {
		candidate = strings.TrimSpace(candidate)
		if candidate == "*" || strings.TrimPrefix(candidate, "W/") == tag {
			return true
		}
	}
	return false
}

// takesGzip reads Accept-Encoding (RFC 9110, section 12.5.3).
func takesGzip(r *http.Request) bool {
	for coding := range strings.SplitSeq(strings.Join(r.Header.Values("Accept-Encoding"), ","), ",") {
		name, parameters, _ := strings.Cut(coding, ";")
		if !strings.EqualFold(strings.TrimSpace(name), "gzip") {
			continue
		}
		quality, found := strings.CutPrefix(strings.ToLower(strings.TrimSpace(parameters)), "q=")
		weight, err := strconv.ParseFloat(quality, 64)
		return !found || err == nil && weight > 0
	}
	return false
}

func unzip(zipped []byte) (content, error) {
	reader, err := gzip.NewReader(bytes.NewReader(zipped))
	if err != nil {
		return content{}, fmt.Errorf("unzip: %w", err)
	}
	body, err := io.ReadAll(reader)
	return contentOf(body), err
}
