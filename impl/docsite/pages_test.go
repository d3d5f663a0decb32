package docsite_test

import (
	"encoding/json"
	"fmt"
	"html"
	"net/http"
	"path/filepath"
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
	for path, page := range s.crawl(t, "/docs") {
		require.NotRegexp(t, inline, tags.ReplaceAllString(page, ""), path)
	}
}

// tags is text between tags, in which a guide may show code with anything.
var tags = regexp.MustCompile(`>[^<]+<`)

func TestEveryLinkLeadsSomewhere(t *testing.T) {
	s := start(t, docsite.Config{Downloads: packed(t)})
	pages := s.crawl(t, "/docs")
	require.Contains(t, pages, "/console")
	guides := 0
	for path, page := range pages {
		if strings.HasPrefix(path, "/docs/guides/") {
			guides++
		}
		for _, link := range linksOf(path, page) {
			target, anchor, _ := strings.Cut(link, "#")
			switch {
			case strings.Contains(target, "://"):
				require.Regexp(t, `^(https://|`+regexp.QuoteMeta(s.URL)+`)`, target, "%s links to it", path)
			case anchor != "":
				require.Contains(t, pages[target], ` id="`+anchor+`"`, "%s links to %s", path, link)
			default:
				require.Equal(t, http.StatusOK, s.get(t, target).StatusCode, "%s links to %s", path, link)
			}
		}
	}
	files, err := filepath.Glob("../../docs/*.md")
	require.NoError(t, err)
	require.Equal(t, len(files)-1, guides, "every page of docs/ but README.md is a guide")
}

// crawl returns the pages that a reader can come to, by their paths.
func (s service) crawl(t *testing.T, from ...string) map[string]string {
	t.Helper()
	pages := map[string]string{}
	for len(from) > 0 {
		path, _, _ := strings.Cut(from[0], "#")
		from = from[1:]
		if _, seen := pages[path]; seen || !strings.HasPrefix(path, "/") {
			continue
		}
		got := s.get(t, path)
		if !strings.HasPrefix(got.Header.Get("Content-Type"), "text/html") {
			continue
		}
		pages[path] = got.body
		from = append(from, linksOf(path, got.body)...)
	}
	require.Greater(t, len(pages), 50)
	return pages
}

// linksOf returns what a page links to and shows.
func linksOf(path, page string) (links []string) {
	for _, m := range regexp.MustCompile(`(?:href|src|data-index)="([^"]*)"`).FindAllStringSubmatch(page, -1) {
		link := html.UnescapeString(m[1])
		if strings.HasPrefix(link, "#") {
			link = path + link
		}
		links = append(links, link)
	}
	return links
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
