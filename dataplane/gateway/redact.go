package gateway

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/agentrouter/aikeys/internal/secret"
)

// maxShown is how many bytes at the beginning of a secret may be passed on before the rest arrives. So a message is not
// delayed if it happens to end with the secret's first bytes. This is about the length of the prefix that all keys of a
// provider share.
const maxShown = 8

// redactor masks a provider's key in what the provider sends back: error messages quote keys, and servers in debug mode
// send requests back. It serves one request.
type redactor struct {
	// forms are the spellings of the key to look for: unescaped, and escaped for JSON and for URLs.
	forms [][]byte
	// found reports whether the key was found.
	found atomic.Bool
}

func newRedactor(s secret.Text) *redactor {
	plain := s.Reveal()
	if plain == "" {
		return &redactor{}
	}
	r := &redactor{forms: [][]byte{[]byte(plain)}}
	if strings.IndexFunc(plain, isEscapable) < 0 {
		return r
	}
	quoted, _ := json.Marshal(plain) // a string can be encoded
	inJSON := string(quoted[1 : len(quoted)-1])
	var unquoted bytes.Buffer
	encoder := json.NewEncoder(&unquoted)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(plain) // into memory
	plainJSON := strings.TrimSuffix(unquoted.String(), "\"\n")[1:]
	for _, form := range []string{
		inJSON, plainJSON, strings.ReplaceAll(inJSON, "/", `\/`), strings.ReplaceAll(plainJSON, "/", `\/`),
		url.QueryEscape(plain), url.PathEscape(plain), lowerEscapes(url.QueryEscape(plain)), lowerEscapes(url.PathEscape(plain)),
	} {
		if !slices.ContainsFunc(r.forms, func(known []byte) bool { return string(known) == form }) {
			r.forms = append(r.forms, []byte(form))
		}
	}
	return r
}

// redact returns the redactor of the request's key. The reverse proxy's lock orders its calls.
func (p *proxiedRequest) redact() *redactor {
	if p.redactor == nil {
		p.redactor = newRedactor(p.key.Secret())
	}
	return p.redactor
}

// cleanHeader prepares headers for the caller: those of the provider's final answer or of a 1xx answer, or the
// trailers. sent is the URL that the request went to.
func (p *proxiedRequest) cleanHeader(header http.Header, sent *url.URL) {
	stripResponse(header)
	p.redact().header(header)
	p.rewriteLinks(header, sent)
}

// isEscapable reports whether a character is written differently in JSON or in a URL.
func isEscapable(c rune) bool {
	return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.' || c == '~')
}

// lowerEscapes returns the text with the digits of its percent-escapes in lower case.
func lowerEscapes(escaped string) string {
	out := []byte(escaped)
	for i := 0; i+2 < len(out); i++ {
		if out[i] == '%' {
			copy(out[i+1:i+3], bytes.ToLower(out[i+1:i+3]))
		}
	}
	return string(out)
}

// mask overwrites the secret in b.
func (r *redactor) mask(b []byte) {
	for _, form := range r.forms {
		for at := 0; ; at += len(form) {
			next := bytes.Index(b[at:], form)
			if next < 0 {
				break
			}
			at += next
			r.found.Store(true)
			for i := range form {
				b[at+i] = '*'
			}
		}
	}
}

// begun returns how many bytes at the end of b may be the beginning of the secret.
func (r *redactor) begun(b []byte) (longest int) {
	for _, form := range r.forms {
		tail := b[max(0, len(b)-len(form)+1):]
		for len(tail) > longest {
			if bytes.HasPrefix(form, tail) {
				longest = len(tail)
				break
			}
			next := bytes.IndexByte(tail[1:], form[0])
			if next < 0 {
				break
			}
			tail = tail[1+next:]
		}
	}
	return longest
}

// header masks the secret in a header's values. It removes a header whose name contains the secret.
func (r *redactor) header(header http.Header) {
	for name, values := range header {
		for _, form := range r.forms {
			if len(name) >= len(form) && strings.Contains(strings.ToLower(name), strings.ToLower(string(form))) {
				r.found.Store(true)
				delete(header, name)
			}
		}
		for i, value := range values {
			for _, form := range r.forms {
				if strings.Contains(value, string(form)) {
					masked := []byte(value)
					r.mask(masked)
					values[i] = string(masked)
				}
			}
		}
	}
}

// errEncoded is returned for an answer that can't be searched for the provider's key.
var errEncoded = errors.New("the answer has an encoding that the gateway did not request")

// cleanResponse prepares an answer for the caller: its headers at once, its body and trailers while they are read. It
// decompresses a body in gzip. For a body in another encoding, it returns errEncoded.
func (p *proxiedRequest) cleanResponse(res *http.Response) error {
	p.cleanHeader(res.Header, res.Request.URL)
	body := &redactedBody{ReadCloser: res.Body, redactor: p.redact(), atEnd: func() { p.cleanHeader(res.Trailer, res.Request.URL) }}
	if res.StatusCode == http.StatusSwitchingProtocols {
		if stream, ok := res.Body.(io.ReadWriteCloser); ok {
			res.Body = redactedStream{body, stream}
		}
		return nil
	}
	switch encoding := strings.ToLower(strings.Join(res.Header["Content-Encoding"], ",")); {
	case encoding == "", encoding == "identity", res.Body == http.NoBody, res.Request.Method == http.MethodHead,
		res.StatusCode == http.StatusNoContent, res.StatusCode == http.StatusNotModified:
	case encoding == "gzip", encoding == "x-gzip":
		body.source = &unpacker{packed: res.Body}
		delete(res.Header, "Content-Encoding")
		delete(res.Header, "Content-Length")
		res.ContentLength = -1
	default:
		return errEncoded
	}
	res.Body = body
	if hasLinks(res) {
		sent := res.Request.URL
		res.Body = &linkedBody{ReadCloser: body, rewrite: func(document []byte) []byte { return p.rewriteLinksIn(document, sent) }}
		delete(res.Header, "Content-Length")
		res.ContentLength = -1
	}
	return nil
}

// redactedBody is a body with the secret masked, even if the secret arrives in several pieces. All lengths stay the
// same.
type redactedBody struct {
	io.ReadCloser
	redactor *redactor
	atEnd    func()    // called at the body's end, when the answer has all trailers, even unannounced ones
	source   io.Reader // of plain bytes; nil is the body itself

	// tail is what may be the beginning of the secret. Read has already returned its first shown bytes.
	tail  []byte
	shown int
	// ready is what Read returns next, and then err.
	ready []byte
	err   error
}

// Read implements io.Reader.
func (b *redactedBody) Read(p []byte) (n int, err error) {
	for len(b.ready) == 0 {
		if b.err != nil || len(p) == 0 {
			return 0, b.err
		}
		if b.source != nil {
			n, b.err = b.source.Read(p)
		} else {
			n, b.err = b.ReadCloser.Read(p)
		}
		if b.err != nil {
			b.atEnd()
		}
		if n = b.pass(p, n); n > 0 {
			return n, nil
		}
	}
	n = copy(p, b.ready)
	b.ready = b.ready[n:]
	return n, nil
}

// pass masks the secret in p[:n], which follows tail, and returns how many bytes of p may be returned. Bytes that do
// not fit into p go to ready.
func (b *redactedBody) pass(p []byte, n int) int {
	whole := p[:n]
	if len(b.tail) > 0 {
		whole = append(b.tail, whole...)
	}
	b.redactor.mask(whole)
	shown, end := b.shown, len(whole)
	b.tail, b.shown = nil, 0
	switch begun := b.redactor.begun(whole); {
	case begun > maxShown && b.err != nil:
		// The rest of the secret was cut off: by the provider, or by the caller, who may ask for a range of bytes. Less
		// than half of the secret does not count as found: it may be a prefix that all keys of the provider share.
		if begun >= len(b.redactor.forms[0])/2 {
			b.redactor.found.Store(true)
		}
		for i := end - begun + maxShown; i < end; i++ {
			whole[i] = '*'
		}
	case begun > 0 && b.err == nil:
		end = max(shown, end-begun+min(begun, maxShown))
		b.tail = bytes.Clone(whole[len(whole)-begun:])
		b.shown = end - (len(whole) - begun)
	}
	out := whole[shown:end]
	if shown == 0 && len(whole) == n {
		return len(out) // in p already
	}
	copied := copy(p, out)
	b.ready = out[copied:]
	return copied
}

// unpacker decompresses packed, which is in gzip. It reads nothing before the first Read, so an answer's head need not
// wait for its body.
type unpacker struct {
	packed io.Reader
	plain  *gzip.Reader
}

// Read implements io.Reader.
func (u *unpacker) Read(p []byte) (n int, err error) {
	if u.plain == nil {
		if u.plain, err = gzip.NewReader(u.packed); err != nil {
			return 0, err
		}
	}
	return u.plain.Read(p)
}

// redactedStream is what follows the head of an answer that switches protocols.
type redactedStream struct {
	*redactedBody
	stream io.ReadWriteCloser
}

// Write implements io.Writer.
func (s redactedStream) Write(p []byte) (int, error) { return s.stream.Write(p) }

// CloseWrite passes on that the caller sends no more.
func (s redactedStream) CloseWrite() error {
	if half, ok := s.stream.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// stripResponse removes the headers that are about the provider's own host, because clients would apply them to the
// gateway's host. It removes CORS headers, because the gateway's operator decides which pages may read an answer. It
// also removes headers that only the gateway sets.
func stripResponse(header http.Header) {
	delete(header, "Set-Cookie")
	delete(header, "Alt-Svc")
	delete(header, "Strict-Transport-Security")
	for name := range header {
		if strings.HasPrefix(name, "Access-Control-") || strings.HasPrefix(name, ownPrefix) {
			delete(header, name)
		}
	}
}

// answerWriter is the ResponseWriter of the reverse proxy. It cleans the headers of 1xx answers, which
// net/http/httputil passes on when they arrive. After a 1xx answer, httputil clears all headers; answerWriter then
// restores the headers that handlers around the gateway have set.
//
// answerWriter sends each piece of the body at once. The reverse proxy's FlushInterval would also do this, but it
// starts a goroutine for each answer, which often sends the head in a separate packet.
type answerWriter struct {
	http.ResponseWriter
	request *proxiedRequest
	around  http.Header // what handlers around the gateway have set
	cleared bool
}

// WriteHeader implements http.ResponseWriter.
func (w *answerWriter) WriteHeader(status int) {
	switch {
	case status >= http.StatusContinue && status < http.StatusOK:
		w.request.cleanHeader(w.Header(), w.request.sentTo)
		w.cleared = status != http.StatusSwitchingProtocols
	case w.cleared:
		for name, values := range w.around {
			w.Header()[name] = append(w.Header()[name], values...)
		}
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements io.Writer.
func (w *answerWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	if err == nil {
		err = http.NewResponseController(w.ResponseWriter).Flush()
	}
	return n, err
}

// Unwrap is for http.ResponseController.
func (w *answerWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
