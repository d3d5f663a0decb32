package docsite

import (
	"bytes"
	"compress/gzip"
	_ "embed"
	"net/http"
	"net/url"
	"strings"
	"sync"
)

// The console's files, which "make console" builds from console/. A slice that go:embed fills is not copied into the heap.
var (
	//go:embed console/index.html
	consoleHTML []byte
	//go:embed console/app.js
	consoleJS []byte
	//go:embed console/app-more.js
	consoleMoreJS []byte
	//go:embed console/app.css
	consoleCSS []byte
	//go:embed console/licences.txt
	consoleLicences []byte
)

// consolePolicy returns the console's Content-Security-Policy: only the console's own script runs, no text becomes HTML, and only our own
// server is asked. Where people sign in at an issuer, the script asks that too, for the session token.
func consolePolicy(issuer string) string {
	servers := "'self'"
	if u, err := url.Parse(issuer); err == nil && u.Host != "" {
		servers += " " + u.Scheme + "://" + u.Host
	}
	return "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src " + servers + "; " +
		"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
}

const consolePath = "/console"

// addConsole adds the console's files. Its page is at every path below consolePath that names no file: the script reads the path.
func (s *Site) addConsole(issuer string) {
	for _, file := range []struct {
		name, contentType string
		body              []byte
	}{
		// The two scripts import each other by these names, so they have no versions: a browser would run one of them twice.
		{"app.js", "text/javascript; charset=utf-8", consoleJS},
		{"app-more.js", "text/javascript; charset=utf-8", consoleMoreJS},
		{"app.css", "text/css; charset=utf-8", consoleCSS},
	} {
		s.handlers[consolePath+"/"+file.name] = compressedOnDemand(resource{contentType: file.contentType, body: newContent(file.body)})
	}
	s.handlers[consolePath+"/licences.txt"] = resource{contentType: "text/plain; charset=utf-8", body: newContent(consoleLicences)}
	s.console = resource{contentType: "text/html; charset=utf-8", body: newContent(consoleHTML), policy: consolePolicy(issuer)}
}

// isConsole reports whether a path is one of the console's pages. The last part of a page's path has no dot.
func isConsole(path string) bool {
	rest, ok := strings.CutPrefix(path, consolePath)
	return ok && (rest == "" || rest[0] == '/') && !strings.Contains(rest, ".")
}

// compressedOnDemand compresses the resource when a client first accepts that, so a service that nobody opens the console of
// spends nothing on it.
func compressedOnDemand(res resource) http.Handler {
	compressed := sync.OnceValue(func() content {
		var out bytes.Buffer
		w, _ := gzip.NewWriterLevel(&out, gzip.BestCompression) // the level is a valid one
		_, _ = w.Write(res.body.bytes)                          // a buffer takes everything
		_ = w.Close()
		return newContent(out.Bytes())
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Vary", "Accept-Encoding")
		res := res
		if acceptsGzip(r) {
			res.gzipped = compressed()
		}
		res.ServeHTTP(w, r)
	})
}
