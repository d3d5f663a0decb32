package docsite_test

import (
	"encoding/json"
	"fmt"
	"html"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/docsite"
	"github.com/agentrouter/aikeys/internal/problem"
)

// The Content-Security-Policy forbids inline scripts and styles.
func TestPagesHaveNoInlineScriptsOrStyles(t *testing.T) {
	s := start(t, docsite.Config{Downloads: packed(t)})
	inline := regexp.MustCompile(`(?i)<script(>| [^>]*>[^<])|<style|\son[a-z]+=|\sstyle=|javascript:`)
	linked := regexp.MustCompile(`(?:href|src)="([^"]*)"`)
	for _, path := range everyPath() {
		if strings.Contains(path, "assets") || strings.Contains(path, "openapi") || strings.HasPrefix(path, "/console/app") {
			continue
		}
		got := s.get(t, path)
		require.NotRegexp(t, inline, got.body, path)
		for _, m := range linked.FindAllStringSubmatch(got.body, -1) {
			target := html.UnescapeString(m[1])
			if strings.HasPrefix(target, "#") || strings.HasPrefix(target, "https://www.rfc-editor.org/") {
				continue
			}
			require.True(t, strings.HasPrefix(target, "/"), "%s links to %s", path, target)
			require.Equal(t, http.StatusOK, s.get(t, target).StatusCode, "%s links to %s", path, target)
		}
	}
}

func TestProblemPages(t *testing.T) {
	s := start(t, docsite.Config{})
	list := s.get(t, "/docs/problems").body
	types := problem.Types(tables()...)
	require.Greater(t, len(types), 15)
	explained, err := docsite.ExplainedTypes()
	require.NoError(t, err)
	var slugs []string
	for _, p := range types {
		slugs = append(slugs, p.Slug)
	}
	require.ElementsMatch(t, slugs, explained, "the APIs' tables and impl/docsite/problems.yaml have the same types")
	for _, p := range types {
		t.Run(p.Slug, func(t *testing.T) {
			require.Contains(t, list, `<a href="/problems/`+p.Slug+`">`+p.Title+`</a>`)
			page := html.UnescapeString(s.get(t, "/problems/"+p.Slug).body)
			require.Contains(t, page, "<h1>"+p.Title+"</h1>")
			require.Contains(t, page, fmt.Sprintf("<dd>%d %s</dd>", p.Status, http.StatusText(p.Status)))
			require.Contains(t, page, "<dd><code>"+p.Code+"</code></dd>")
			for _, detail := range p.Details {
				require.Contains(t, page, "<li>"+detail+"</li>")
			}
			_, example, _ := strings.Cut(page, "<pre>")
			example, _, _ = strings.Cut(example, "</pre>")
			_, body, found := strings.Cut(example, "\n\n")
			require.True(t, found)
			var got problem.Document
			require.NoError(t, json.Unmarshal([]byte(body), &got))
			got.Errors = nil
			require.Equal(t, p.Document(got.RequestID), got)
		})
	}
}
