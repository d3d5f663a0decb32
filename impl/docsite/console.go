package docsite

import (
	"bytes"
	"compress/gzip"
	"context"
	_ "embed"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
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

// consolePolicy returns the console's Content-Security-Policy: only the console's own script runs, no text becomes
// HTML, and the script sends requests only to our own server. If people sign in at an issuer, it also requests the
// session token from the issuer's servers.
func consolePolicy(signIn []string) string {
	servers := []string{"'self'"}
	for _, text := range signIn {
		u, err := url.Parse(text)
		if err != nil || !hostPattern.MatchString(u.Host) {
			continue
		}
		if origin := u.Scheme + "://" + u.Host; !slices.Contains(servers, origin) {
			servers = append(servers, origin)
		}
	}
	return "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src " + strings.Join(servers, " ") + "; " +
		"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
}

const (
	consolePath = "/console"
	// signInTimeout bounds how long the console's page waits for the issuer to name its servers. People can use an API
	// key in the console without these servers.
	signInTimeout = 2 * time.Second
)

// addConsole adds the console's files. The console's page is at every path below consolePath that does not name a file.
// The script reads the path.
func (s *Site) addConsole(signInServers func(context.Context) []string) {
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
	s.console = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var servers []string
		if signInServers != nil {
			ctx, cancel := context.WithTimeout(r.Context(), signInTimeout)
			defer cancel()
			servers = signInServers(ctx)
		}
		page := resource{contentType: "text/html; charset=utf-8", policy: consolePolicy(servers)}
		// The entity tag covers the policy, so a browser that has the page with another policy gets it again.
		page.body = content{consoleHTML, newContent(append([]byte(page.policy), consoleHTML...)).etag}
		page.ServeHTTP(w, r)
	})
}

// isConsole reports whether a path is one of the console's pages. The last part of a page's path has no dot.
func isConsole(path string) bool {
	rest, ok := strings.CutPrefix(path, consolePath)
	return ok && (rest == "" || rest[0] == '/') && !strings.Contains(rest, ".")
}

// compressedOnDemand returns the resource with a compressed form. The form is made when a client first accepts it. So a
// service whose pages nobody opens spends nothing on compression.
func compressedOnDemand(res resource) resource {
	res.gzipped = sync.OnceValue(func() content {
		var out bytes.Buffer
		w, _ := gzip.NewWriterLevel(&out, gzip.BestCompression) // the level is a valid one
		_, _ = w.Write(res.body.bytes)                          // a buffer takes everything
		_ = w.Close()
		return newContent(out.Bytes())
	})
	return res
}
